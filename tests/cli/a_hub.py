"""A Hugging Face hub on this machine that takes what is pushed and keeps it; for tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """What was asked of the hub, and what it holds."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.url = ""
        self.made: list[dict[str, object]] = []
        self.stored: dict[str, bytes] = {}
        """Large files by their digest."""
        self.files: dict[str, bytes | str] = {}
        """Of the last commit: a small file's bytes, a large one's digest."""


@contextmanager
def hub(token: str = "hf_right") -> Iterator[Hub]:
    """A hub that knows one token, in a thread."""
    known = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, value: object, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_PUT(self) -> None:
            known.stored[self.path.rpartition("/")[2]] = self.body()
            self.answer({})

        def do_POST(self) -> None:
            body = self.body()
            if self.headers.get("Authorization") != f"Bearer {known.token}":
                return self.answer({"error": "Invalid username or password."}, 401)
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if self.path == "/api/repos/create":
                made = json.loads(body)
                known.made.append(made)
                owner = made.get("organization") or "me"
                if owner != "me":
                    return self.answer({"error": "You don't have the rights"}, 403)
                return self.answer({"url": f"{known.url}/{owner}/{made['name']}", "name": made["name"]})
            if self.path.endswith("/preupload/main"):
                wanted = json.loads(body)["files"]
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in wanted
                ]
                return self.answer({"files": modes})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {
                        "oid": one["oid"],
                        "size": one["size"],
                        "actions": {"upload": {"href": f"{known.url}/put/{one['oid']}"}},
                    }
                    for one in json.loads(body)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            if self.path.endswith("/commit/main"):
                known.files.clear()
                for row in map(json.loads, body.decode().splitlines()):
                    value = row["value"]
                    if row["key"] == "file":
                        known.files[value["path"]] = base64.b64decode(value["content"])
                    elif row["key"] == "lfsFile":
                        known.files[value["path"]] = value["oid"]
                return self.answer({"commitUrl": f"{known.url}/me/x/commit/1", "commitOid": "1", "success": True})
            return self.answer({"error": f"no {self.path}"}, 404)

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    known.url = f"http://localhost:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield known
    server.shutdown()
