"""The compiled operators: made on this machine when they are first needed, and kept in the user's cache."""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mindcv_lite.cache import cache_folder

log = logging.getLogger(__name__)

SOURCES = sorted(Path(__file__).parent.glob("*.cc"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fPIC", "-shared", "-pthread")
STOCK = "depthwise convolutions and BatchNorm are MindSpore's own, which are slower"


def compiled_operators() -> Path | None:
    """The shared library of the operators; None, and a line in the log that says why, where it cannot be made."""
    compiler = find_compiler(os.environ)
    if platform.system() != "Linux" or not compiler:
        log.info("%s: a C++ compiler (g++ or clang++, or what CXX names) on Linux makes faster ones", STOCK)
        return None
    folder = cache_folder("cpu")
    try:
        path = folder / f"operators-{key_of(compiler)}.so"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            compile_to(path, compiler)
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s: %s could not make faster ones in %s: %s", STOCK, compiler, folder, reason_of(error))
        return None
    log.info("depthwise convolutions and BatchNorm are those of %s", path)
    return path


def find_compiler(environment: Mapping[str, str]) -> str | None:
    """The compiler that CXX names, or else the first of the usual ones that is there."""
    names = [environment["CXX"]] if environment.get("CXX") else ["g++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


def key_of(compiler: str) -> str:
    """A short digest of all that the library depends on: sources, flags, compiler, and what the processor can do."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    sources = (path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS))
    parts = (*sources, *FLAGS, compiler, version, processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """The machine's architecture, and the instructions of its processor as far as the system lists them."""
    lines = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")


def compile_to(path: Path, compiler: str) -> None:
    """Compile to another name, then give it its own: several processes may do so at once."""
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *FLAGS, "-o", unfinished, *map(str, SOURCES)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def reason_of(error: OSError | subprocess.SubprocessError) -> str:
    """What went wrong, in a line."""
    said = getattr(error, "stderr", None) or getattr(error, "strerror", None) or str(error)
    return next((line.strip() for line in str(said).splitlines() if "error" in line), str(said).strip().split("\n")[0])
