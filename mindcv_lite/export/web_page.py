"""A folder with a page that runs a network in the browser, by onnxruntime-web. No photo leaves the browser."""

import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.export.exporter import export
from mindcv_lite.files import filled_whole, write_text, written_whole

log = logging.getLogger(__name__)

RUNTIME = "onnxruntime-web@1.23.2"
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")  # 12 MB; one thread, no GPU
LIMIT = 300  # seconds for a download of 25 MB


def export_page(trained: Trained, folder: Path) -> None:
    """Write the page, the network and, if npm is there, onnxruntime-web to a new or empty folder.

    Raises what `export` raises; then nothing is left in the folder.
    """
    with filled_whole(folder):
        export(trained, folder / "model.onnx", include_preprocess=True, softmax=True)
        if lack := add_runtime(folder):
            log.warning("%s: without onnxruntime-web: %s; the page says how to add it", folder, lack)
        card = model_card(trained.recipe, trained.class_names)
        card["follow_exif"] = trained.recipe.data.follow_exif  # which a card leaves out where it is usual
        write_text(folder / "index.html", page(card))
    log.info("%s: run `python3 -m http.server` there, and open http://localhost:8000", folder)


def page(card: Mapping[str, object]) -> str:
    """The whole page. Names of classes may hold anything."""
    packed = RUNTIME.replace("@", "-") + ".tgz"
    members = " ".join(f"package/dist/{name}" for name in FILES)
    parts = {
        "network": escape(f"{card['model']} for {card['num_classes']} classes"),
        "card": json.dumps(card).replace("<", "\\u003c"),  # in a script, the browser looks for tags alone
        "commands": escape(f"npm pack {RUNTIME}\ntar xzf {packed} --strip-components=2 {members}"),
    }
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(parts)


def add_runtime(folder: Path) -> str:
    """Let npm fetch onnxruntime-web, or take it from its cache. Why that did not work; nothing if it did."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    with tempfile.TemporaryDirectory() as download:
        command = [npm, "pack", RUNTIME, "--silent", "--prefer-offline", "--fetch-retries=1"]
        try:
            done = subprocess.run(command, cwd=download, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return f"npm took more than {LIMIT} s"
        packed = next(Path(download).glob("*.tgz"), None)
        if done.returncode or packed is None:
            return f"`{' '.join(['npm', *command[1:3]])}` failed with status {done.returncode}"
        with tarfile.open(packed) as archive:
            for name in FILES:
                content = archive.extractfile(f"package/dist/{name}")
                assert content  # the version is fixed
                with written_whole(folder / name) as unfinished:
                    unfinished.write_bytes(content.read())
    return ""
