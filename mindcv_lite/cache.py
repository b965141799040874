"""The user's cache: what can be made or downloaded again."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder `name` of this project there; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindcv_lite" / name
