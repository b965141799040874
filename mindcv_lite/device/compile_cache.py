"""Compiled graphs, kept in files from one start of a program to the next.

MindSpore numbers the graphs of a process and takes a kept one by its number, unless the entry script or a module beside
it has changed: another recipe would run the wrong graph. So the graphs of each program, recipe and rank have a file of
their own here, whole and with a checksum, and each graph is taken only at the position at which it was kept.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from mindcv_lite.files import lock, read_sealed, write_sealed
from mindcv_lite.recipe.keys import NOT_IN_GRAPH, Recipe

log = logging.getLogger(__name__)

# Files of each rank in a folder, of 2 MB (small network, 64 pixels) to 4 MB (large, 224) on a CPU. On Ascend's O2 they
# hold the graph engine's compiled model (`ge_cache`), too; that size is not known here.
KEPT = 32
ORDER = "order.json"  # what the graphs are of, in the order of MindSpore's numbers
# Set anew by each msrun, or by `device` for its own use.
HARMLESS_VARIABLES = {"MS_SCHED_HOST", "MS_SCHED_PORT", "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"}


def key_of(recipe: Recipe, facts: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> str:
    """A hash of all that graphs are made of: the recipe, `facts`, MindSpore's variables, the code of this package and
    of the script that was started."""
    keys = {name: value for name, value in recipe.flat().items() if name not in NOT_IN_GRAPH}
    variables = {
        name: value for name, value in environment.items() if name.startswith("MS_") and name not in HARMLESS_VARIABLES
    }
    code = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in code_files()}
    return hashlib.sha256(json.dumps([keys, facts, variables, code], sort_keys=True).encode()).hexdigest()[:16]


def code_files() -> list[Path]:
    """The modules of this package, and the script that was started."""
    script = Path(sys.argv[0])
    return sorted(Path(__file__).parents[1].rglob("*.py")) + ([script.resolve()] if script.is_file() else [])


class KeptGraphs:
    """The graphs of this process: `known` ones of an earlier start, then those that it adds.

    MindSpore reads and writes them in `working`, a folder of this process alone, which goes when it ends.
    Raises `OSError` if nothing can be written in `folder`.
    """

    def __init__(self, folder: Path, rank: int, key: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"rank{rank}-{key}.graphs"
        with locked(folder):  # lest another process takes the new folder for one that was left behind
            _remove_left_over(folder)
            self.process = TemporaryDirectory(prefix="process-", dir=folder, ignore_cleanup_errors=True)
            self.lock = os.open(self.process.name, os.O_RDONLY)
            lock(self.lock)
        self.working = Path(self.process.name, "graphs")
        self.working.mkdir()
        self.known = self._unpacked()
        self.unpacked = {path: path.stat().st_mtime_ns for path in self.working.rglob("*")}
        self.done: list[str] = []
        self.closed = False  # nothing more is taken or kept

    def _unpacked(self) -> list[str]:
        """The names of the graphs in the file, which are in `working` now; none if it is not there or damaged."""
        content = read_sealed(self.file)
        if content is None:
            return []
        zipfile.ZipFile(io.BytesIO(content)).extractall(self.working)
        return json.loads((self.working / ORDER).read_text())

    def forget(self) -> None:
        """Start without the graphs of an earlier start."""
        shutil.rmtree(self.working)
        self.working.mkdir()
        self.known = []

    def takes(self, name: str) -> bool:
        """Whether MindSpore may look for the graph `name` now, or keep it: once, and not at another's position."""
        index = len(self.done)
        if name in self.done or self.closed:
            return False
        self.closed = self.known[index : index + 1] not in ([], [name])
        return not self.closed

    def new_graphs(self) -> list[Path]:
        """What MindSpore has just written for the graph that is the next to `add`: nothing if it took a known one."""
        written = self.working.rglob(f"*compile_cache_{len(self.done)}.mindir")
        return [path for path in written if path.stat().st_mtime_ns != self.unpacked.get(path)]

    def add(self, name: str) -> None:
        """The graph `name` is ready. A new one goes into the file with those before it."""
        is_new, is_known = bool(self.new_graphs()), len(self.done) < len(self.known)
        self.done.append(name)
        try:
            if is_new and is_known:  # MindSpore refused what was known, and will refuse the rest
                self.file.unlink(missing_ok=True)
            elif is_new:
                self._write_file()
            self.closed = is_new == is_known  # nor go on if nothing was written, on a full disk
        except OSError as error:
            log.info("compile_cache: %s; no more graphs are kept", error)
            self.closed = True

    def _write_file(self) -> None:
        (self.working / ORDER).write_text(json.dumps(self.done))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(self.working.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(self.working))
        rank = self.file.name.split("-")[0]
        write_sealed(self.file, packed.getvalue(), KEPT, f"{rank}-*.graphs")


def _remove_left_over(folder: Path) -> None:
    """Remove the folders of processes that were killed: those that no process holds."""
    for left_over in folder.glob("process-*"):
        with suppress(OSError), locked(left_over, wait=False) as held:
            if held:
                shutil.rmtree(left_over)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder; whether it is held. Raises `OSError`, without `wait` also if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield lock(descriptor, wait)
    finally:
        os.close(descriptor)
