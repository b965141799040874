"""Pages in Chromium: a script works on them, and its value comes back."""

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT = 120  # seconds for a script

# What a script may use: `opened` loads a page of the folder, `photo` gives one of the images as a file.
DRIVER = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">
<iframe style="border: 0; width: WIDTHpx; height: 100vh"></iframe><script>
const frame = document.querySelector("iframe");
const until = async (ask) => { while (!ask()) await new Promise((go) => setTimeout(go, 10)); };
const opened = (name) => new Promise((go) => { frame.onload = () => go(frame.contentWindow); frame.src = name; });
const photo = async (number) => new File([await (await fetch("photo/" + number)).blob()], "photo " + number);
(async () => { SCRIPT })().catch((error) => String(error.stack))
  .then((value) => fetch("value", { method: "POST", body: JSON.stringify(value) }));
</script>"""


def value_of(script: str, folder: Path, photos: Sequence[Path], profile: Path) -> Any:
    """The value of a script (the body of an asynchronous function) that runs beside the pages of the folder."""
    values: queue.Queue[Any] = queue.Queue()
    with served(folder, photos, script, values) as address, chromium(profile, address):
        return values.get(timeout=LIMIT)


@contextmanager
def served(
    folder: Path, photos: Sequence[Path], script: str, values: "queue.Queue[Any]", width: int = 800
) -> Iterator[str]:
    """The address of the page that runs the script."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/driver":
                self.answer(DRIVER.replace("WIDTH", str(width)).replace("SCRIPT", script).encode())
            elif self.path.startswith("/photo/"):
                self.answer(photos[int(self.path.rpartition("/")[2])].read_bytes())
            else:
                super().do_GET()

        def do_POST(self) -> None:
            values.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"")

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/driver"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium(profile: Path, address: str) -> Iterator[None]:
    assert CHROMIUM
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([CHROMIUM, *flags, address], stdout=quiet, stderr=quiet) as browser:
        try:
            yield
        finally:
            browser.terminate()
