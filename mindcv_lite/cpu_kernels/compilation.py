"""The compiled CPU kernels: made on this machine when they are first needed, and kept in the user's cache."""

import ctypes
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

from mindcv_lite.files import cache_folder

log = logging.getLogger(__name__)

SOURCES = sorted(Path(__file__).parent.glob("*.cc"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
# g++ assumes that a comparison may trap, and without AVX-512 it does not vectorise a loop that has one: a training step
# of small took 661 ms on AVX2, and takes 431 ms with -fno-trapping-math. NaN stays NaN.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")


def compiled_library() -> Path | None:
    """The shared library of the operators; None, and a line in the log that says why, where it cannot be made."""
    try:
        library = _found_or_compiled()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.info("CPU kernels are MindSpore's own, which are slower: %s", _reason_of(error))
        return None
    log.info("CPU kernels are those of %s", library)
    return library


def use_processors(library: Path, count: int) -> None:
    """Let the operators share their work out among so many processors; else they take those the process is bound to."""
    ctypes.CDLL(str(library)).use_processors(count)


def _found_or_compiled() -> Path:
    """Raises an error that says why there is no library that can be loaded."""
    if platform.system() != "Linux":
        raise RuntimeError("faster ones are for Linux")
    compiler = find_compiler(os.environ)
    folder = cache_folder("cpu").absolute()
    if ":" in str(folder):
        raise RuntimeError(f"{folder}: MindSpore takes no library with a colon in its path")
    name = f"operators-{key_of(compiler)}"
    library = next(filter(is_whole, folder.glob(f"{name}-*.so")), None) or _compile_to(folder, name, compiler)
    ctypes.CDLL(str(library))  # raises OSError where libraries must not be run, for one
    return library


def find_compiler(environment: Mapping[str, str]) -> list[str]:
    """The command that CXX names, or else the first of the usual compilers that is there. Raises `RuntimeError`."""
    given = environment.get("CXX")
    for command in [[given], given.split()] if given else [["g++"], ["clang++"]]:
        if command and (path := shutil.which(command[0])):
            return [path, *command[1:]]
    raise RuntimeError(
        f"CXX is {given!r}, which is no C++ compiler"
        if given
        else "a C++ compiler (g++ or clang++, or what CXX names) makes faster ones"
    )


def key_of(compiler: list[str]) -> str:
    """A short digest of all that the library depends on: sources, flags, compiler, and what the processor can do."""
    version = run([*compiler, "--version"])
    sources = (path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS))
    return digest("\n".join((*sources, *FLAGS, *compiler, version, instruction_set())).encode())


def instruction_set() -> str:
    """The machine's architecture, and the instructions of its processor as far as the system lists them."""
    lines = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile_to(folder: Path, name: str, compiler: list[str]) -> Path:
    """Compile elsewhere, then move the library to its name, which ends with its digest: several processes may do so at
    once."""
    log.info("compiling CPU kernels for this processor, once; it takes some seconds")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="compiling-", ignore_cleanup_errors=True) as work_folder:
        made = Path(work_folder, f"{name}.so")
        run([*compiler, *FLAGS, "-o", str(made), *map(str, SOURCES)], TMPDIR=work_folder)  # if we are killed, all goes
        ctypes.CDLL(str(made))
        return made.replace(folder / f"{name}-{digest(made.read_bytes())}.so")


def is_whole(library: Path) -> bool:
    """Whether its content is that which its name was made of: to load half a library ends the process."""
    return library.stem.endswith(digest(library.read_bytes()))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def run(command: list[str], **environment: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=120,
    )
    return done.stdout


def _reason_of(error: Exception) -> str:
    """What went wrong, in a line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} took more than {error.timeout:.0f} s"
    said = str(getattr(error, "stderr", None) or error).strip().splitlines()
    return next((line.strip() for line in said if "error: " in line), said[0])
