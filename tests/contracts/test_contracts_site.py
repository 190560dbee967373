"""The built site as a reader meets it, served and looked at in a browser: nothing is wider than a phone or breaks,
and commands are copied without their prompts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1400,1000",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
LOOK = """
const pages = PAGES, seen = [];
// What sticks out of the page, unless a parent of it scrolls.
const out = (d, w, width) => [...d.querySelectorAll("body *")].filter((node) => {
  const box = node.getBoundingClientRect();
  if (box.right <= width + 1 || !box.width || w.getComputedStyle(node).position == "fixed") return false;
  for (let up = node.parentElement; up && up != d.body; up = up.parentElement) {
    const style = w.getComputedStyle(up);
    if (style.overflowX != "visible" || style.position == "fixed") return false;
  }
  return true;
}).map((node) => node.tagName + "." + node.className);
// What the button would copy of commands, where a prompt is among it.
const prompted = (d) => [...d.querySelectorAll(".highlight code")].map((node) => {
  node.setAttribute("data-md-copying", "");
  const text = node.innerText;
  node.removeAttribute("data-md-copying");
  return text;
}).filter((text) => /^\\$ /m.test(text));
onload = async () => {
  for (const page of pages) {
    f.style.width = "400px";
    await new Promise((next) => { f.onload = next; f.src = page; });
    const d = f.contentDocument, w = f.contentWindow;
    d.body.insertAdjacentHTML("beforeend", "<style>* { transition: none !important }</style>");
    for (const width of [400, 1280]) {
      f.style.width = width + "px";
      const shown = d.documentElement.scrollWidth;
      const foreign = w.performance.getEntriesByType("resource").map((one) => one.name)
        .filter((name) => !name.startsWith(location.origin) && !name.startsWith("data:"));
      const titles = d.querySelectorAll("h1").length, prompts = prompted(d);
      if (shown > width || out(d, w, width).length || foreign.length || prompts.length || titles != 1)
        seen.push([page, width, shown, titles, out(d, w, width).slice(0, 3), foreign, prompts]);
    }
  }
  fetch("/found", { method: "POST", body: JSON.stringify({ pages: pages.length, seen }) });
}
"""


class Desk(SimpleHTTPRequestHandler):
    """Serves a folder, and takes what the page that looks at it has found."""

    found: Queue[dict[str, Any]] = Queue()

    def do_POST(self) -> None:
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def look(folder: Path, profile: Path) -> tuple[dict[str, Any], list[str]]:
    """What one browser finds wrong on the pages of a folder, and what they say on its console."""
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    frame = "<!doctype html><link rel=icon href='data:,'><iframe id=f style='height:900px;border:0'></iframe>"
    (folder / "look.html").write_text(f"{frame}<script>{LOOK.replace('PAGES', json.dumps(pages))}</script>")
    log = profile.with_suffix(".log")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Desk, directory=str(folder))) as serving, log.open("w") as said:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        address = "http://{}:{}/look.html".format(*serving.server_address)
        browser = subprocess.Popen([str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", address], stderr=said)
        try:
            found = Desk.found.get(timeout=240)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
            serving.shutdown()
    return found, [line for line in log.read_text(errors="replace").splitlines() if "CONSOLE" in line]


def test_every_page_fits_a_phone_and_is_quiet(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    assert (folder / "plugins" / "verifier.html").exists()
    index = folder / "search" / "search_index.json"  # Every page would index the whole site again.
    index.write_text(json.dumps(json.loads(index.read_text()) | {"docs": []}))
    found, said = look(folder, tmp_path / "profile")
    assert found["pages"] > 100
    assert found["seen"] == []
    assert said == []


def test_what_does_not_fit_would_be_found(tmp_path: Path) -> None:
    folder = tmp_path
    head = "<!doctype html><link rel=icon href='data:,'><body style='margin:0'><h1>One</h1>"
    wide = "<pre style='width:900px'>wide</pre>"
    (folder / "fits.html").write_text(f"{head}<div style='overflow-x:auto'>{wide}</div>")
    (folder / "hidden.html").write_text(f"{head.replace('margin:0', 'margin:0;overflow-x:hidden')}{wide}")
    (folder / "loud.html").write_text(f"{head}<script>nothing.here()</script>")
    (folder / "wide.html").write_text(f"{head}{wide}")
    (folder / "prompt.html").write_text(f"{head}<div class=highlight><code>$ ls</code></div>")
    found, said = look(folder, tmp_path / "profile")
    seen = {(page, width): shown for page, width, shown, *_ in found["seen"]}
    prompt = {("prompt.html", 400), ("prompt.html", 1280)}
    assert set(seen) == {("hidden.html", 400), ("wide.html", 400), *prompt}
    assert seen["wide.html", 400] == 900
    assert len(said) == 1
    assert "nothing is not defined" in said[0]
