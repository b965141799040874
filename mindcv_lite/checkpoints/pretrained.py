"""The weights that a run starts from; those that MindCV published are downloaded once, into the user's cache."""

import hashlib
import logging
import os
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mindcv_lite.checkpoints.model_card import MINDCV_CONVENTIONS
from mindcv_lite.checkpoints.weights import Weights, read_weights, with_input_channels
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.files import cache_folder, lock
from mindcv_lite.program import progress_bar
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)

MINDCV = "https://download-mindspore.osinfra.cn/toolkits/mindcv/mobilenet/mobilenetv3"
# The eight hex digits in a name are the first of the file's SHA-256.
PUBLISHED = {
    "mobilenet_v3_small_100": f"{MINDCV}/mobilenet_v3_small_100-6fa3c17d-910v2.ckpt",
    "mobilenet_v3_large_100": f"{MINDCV}/mobilenet_v3_large_100-bd4e7bdc-910v2.ckpt",
}
TIMEOUT = 30.0  # seconds for which a server may be silent
BLOCK = 2**16  # bytes


def starting_weights(recipe: Recipe, world: World) -> Weights | None:
    """The weights that a run starts from, a file of the user's or the published ones, for the channels of its images;
    None: none."""
    if recipe.model.pretrained:
        weights = _read_published(recipe.model.model, world)
    elif recipe.model.ckpt_path:
        weights = read_weights(recipe.model.ckpt_path)
    else:
        if recipe.optimizer.layer_decay:
            log.warning(
                "warning: the network begins with random weights, and layer_decay trains the first layers slowly; "
                "--pretrained or --ckpt_path FILE gives weights to start from"
            )
        return None
    return with_input_channels(weights, recipe.model.in_channels)


def _read_published(model: str, world: World) -> Weights:
    """The weights that MindCV published for `model`, with a card of its conventions."""
    weights = read_weights(str(world.all_or_none(lambda: published_weights(model))))
    known = {"model": model, "num_classes": weights.num_classes, "class_names": None}
    return replace(weights, card=MINDCV_CONVENTIONS | known)


def published_weights(model: str) -> Path:
    """The file of the weights that MindCV published for `model`, downloaded unless the cache holds it undamaged.

    Processes of one machine may call this at once: one downloads, the others wait for it. Raises `UserError`.
    """
    if model not in PUBLISHED:
        raise UserError(
            f"pretrained: no weights were published for {model}, only for {' and '.join(PUBLISHED)}; "
            "start from a file of yours with --ckpt_path"
        )
    url = PUBLISHED[model]
    path = cache_folder("weights") / url.rpartition("/")[2]
    try:
        if _is_whole(path):
            return path
        if path.exists():
            log.warning("warning: %s is damaged, so it is downloaded again", path)
        log.info("downloading %s to %s", url, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.parent / ".lock", "w") as lock_file:
            alone = lock(lock_file.fileno())
            if not _is_whole(path):
                mark = "unfinished" if alone else f"{os.getpid()}.unfinished"
                _download(url, path, path.with_name(f".{path.name}.{mark}"))
    except (OSError, HTTPException) as error:
        reason = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise UserError(
            f"cannot download {url} ({reason}); put that file at {path} by hand, or name another with --ckpt_path"
        ) from None
    log.info("%s: %.1f MB, complete", path, path.stat().st_size / 1e6)
    return path


def _is_whole(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest().startswith(_hash_in_name(path))


def _hash_in_name(path: Path) -> str:
    return path.name.split("-")[1]


def _download(url: str, path: Path, unfinished: Path) -> None:
    """Download to `unfinished`, which a killed download may have left, and then give it its name.

    Raises `OSError`, of which `URLError` is one, or `HTTPException`; then no file is left."""
    try:
        with urlopen(url, timeout=TIMEOUT) as response, open(unfinished, "wb") as file:
            size = response.length  # None where the server does not say
            with progress_bar(total=size, desc=path.name, unit="B", unit_scale=True) as bar:
                while block := response.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
            if size not in (None, file.tell()):
                raise URLError(f"the connection ended after {file.tell()} of {size} bytes")
            file.flush()
            os.fsync(file.fileno())
        if not _is_whole(unfinished):
            raise URLError(f"what came has another SHA-256 than {_hash_in_name(path)}...")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
