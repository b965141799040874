"""Packages: those that only some commands and keys need, and which version is installed."""

from importlib.util import find_spec

from mindcv_lite.errors import UserError


def is_installed(name: str) -> bool:
    """Without importing it; a folder that happens to have its name is no package."""
    package = find_spec(name)
    return package is not None and package.origin is not None


def version_of(*names: str) -> str:
    """The version of the first of these packages that is installed, without importing it; nothing if none is."""
    from importlib import metadata  # takes longer to import than a command line to answer

    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def mindspore_version() -> str:
    return version_of("mindspore", "mindspore-dev")  # wheels of a development state have a name of their own


def lack(who: str, extra: str, *names: str) -> str:
    """A sentence that says which of the packages that `who` needs, and that the `extra` of ours installs, are missing;
    nothing if none is."""
    missing = [name for name in names if not is_installed(name)]
    return f'{who} needs {" and ".join(missing)}, missing here: pip install -e ".[{extra}]"' if missing else ""


def require_packages(who: str, extra: str, *names: str) -> None:
    """Raise `UserError` if there is a `lack`."""
    if sentence := lack(who, extra, *names):
        raise UserError(sentence)
