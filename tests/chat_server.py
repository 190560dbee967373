"""A real HTTP server that speaks the chat protocol of OpenAI and writes down what it was asked.

It is no model: it answers with a short solution that ends like the one it was given, so every answer is known.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any]]


def concise(asked: str) -> str:
    """What the server answers to a request: depends on it alone."""
    answer = re.findall(r"#### (\S+)", asked)[-1]
    return f"Counting gives {answer}.\n#### {answer}"


def completion(text: str, finish_reason: str = "stop") -> Reply:
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


class ChatServer:
    """Answers until the end of the with block; `asked` holds the contents of all requests, in order."""

    def __init__(self, reply: Callable[[str, int], Reply] | None = None, seconds: float = 0.0) -> None:
        self.asked: list[str] = []
        self.most_at_a_time = 0
        self._open = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = body["messages"][0]["content"]
                with outer._lock:
                    outer.asked.append(asked)
                    number = outer.asked.count(asked)
                    outer._open += 1
                    outer.most_at_a_time = max(outer.most_at_a_time, outer._open)
                time.sleep(seconds)
                status, answer = reply(asked, number) if reply else completion(concise(asked))
                with outer._lock:
                    outer._open -= 1
                content = json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("retry-after-ms", "20")  # Read where the status is an error.
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # The client was killed.

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://localhost:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
