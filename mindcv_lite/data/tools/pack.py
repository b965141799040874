"""Write the images of class folders into MindRecord files: a process for each core, and resumable after a kill."""

import hashlib
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, UnidentifiedImageError

from mindcv_lite.data.datasets.image_folder import Split, read_split
from mindcv_lite.data.datasets.packed import FACTS, LAYOUT, checksum_of, joined
from mindcv_lite.data.images.decoding import NOT_DECODED, READ, grey_or_rgb, is_native, opened, orientation, turned
from mindcv_lite.data.images.jpeg import LONGEST_SIDE
from mindcv_lite.errors import UserError, first_line
from mindcv_lite.files import lock, write_text
from mindcv_lite.processes import in_processes, shared_counter
from mindcv_lite.program import progress_bar

log = logging.getLogger(__name__)

IMAGES_PER_FILE = 10_000  # about 1 GB of ImageNet: what a kill may cost each process
FEWEST_FILES = 8  # for the cores to share
MOST_FILES = 128  # a reader has two handles open for each, and 1024 is a usual limit
FILES = "files"  # the folder of what is to stay, in that of an unfinished try
ROWS_AT_ONCE, BYTES_AT_ONCE = 64, 1 << 25  # MindSpore is given so much, or little more than that
SMALLEST_PAGE, LARGEST_PAGE = 1 << 22, 1 << 28  # bytes; an image must fit in a page of the file


@dataclass(frozen=True)
class Options:
    """What the user asked for: images whose shorter side is above `max_side` become JPEGs of that `quality`."""

    max_side: int | None
    quality: int
    files: int | None  # for each split


@dataclass(frozen=True)
class Share:
    """The images of one file, numbered by their index in the split. (A MindRecord file is what it calls a shard.)"""

    file: str
    first: int
    paths: list[str]
    labels: list[int]

    @property
    def done(self) -> str:
        """The file that says that the other one is whole, and what is in it."""
        return f"{self.file}.done"


def pack(data_dir: Path, target: Path, splits: list[str], options: Options) -> None:
    """Write the images of these splits to the new folder `target`, which appears when it is complete.

    Raises `UserError` if they cannot be read or written; what is finished then stays for the next try.
    """
    images = {split: read_split(str(data_dir), split) for split in splits}
    shares = {split: _shares_of(split, images[split], options.files) for split in splits}
    with work_folder(target, _fingerprint(images, options)) as folder:
        write_all(folder, [share for each in shares.values() for share in each], options)
        done = {split: [json.loads((folder / share.done).read_text()) for share in shares[split]] for split in splits}
        facts = {split: facts_of(images[split], data_dir / split, done[split]) for split in splits}
        write_text(
            folder / FILES / FACTS,
            json.dumps({"layout": LAYOUT, "checksum": checksum_of(facts), "splits": facts}, indent=1),
        )
        os.rename(folder / FILES, target)
        shutil.rmtree(folder)
    report(target, done, options)


def _shares_of(split: str, images: Split, files: int | None) -> list[Share]:
    """The images of a split, in order, by file."""
    count = min(len(images), files or min(MOST_FILES, max(FEWEST_FILES, len(images) // IMAGES_PER_FILE)))
    ends, name = np.linspace(0, len(images), count + 1).astype(int), quote(os.fsencode(split), safe="")
    return [
        Share(f"{name}-{number:05}.mindrecord", first, list(images.paths[first:end]), images.labels[first:end].tolist())
        for number, (first, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    ]


def _fingerprint(images: dict[str, Split], options: Options) -> str:
    """What must be the same for finished files of an earlier try to be of use."""
    digest = hashlib.sha256(repr(("images", LAYOUT, astuple(options))).encode())
    for split, each in images.items():
        digest.update(repr((split, each.class_names)).encode())
        for path in each.paths:
            found = os.stat(path)
            digest.update(repr((path, found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


@contextmanager
def work_folder(target: Path, key: str) -> Iterator[Path]:
    """A hidden folder beside `target`, for this process alone: as an earlier try left it, if that had the same key."""
    folder = target.with_name(f".{target.name}.unfinished")
    if folder.exists() and not (folder / "lock").exists():
        raise UserError(f"{folder}: stands where packing keeps what is not finished; remove it, or give another TARGET")
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock_file:
        try:
            lock(lock_file.fileno(), wait=False)
        except BlockingIOError:
            raise UserError(f"{target}: another process is packing images there; wait for it") from None
        if os.path.lexists(target):  # another process finished it since we looked
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"{target}: stands there already; remove it, or give another TARGET")
        same = (folder / FILES).is_dir() and (folder / "key").is_file() and (folder / "key").read_text() == key
        if not same:
            earlier = list(folder.glob("*.done"))
            if earlier:
                log.info("%d files of a try with other images or other arguments are removed", len(earlier))
            for path in (folder / "key", *earlier):
                path.unlink(missing_ok=True)
            shutil.rmtree(folder / FILES, ignore_errors=True)
            (folder / FILES).mkdir()
            write_text(folder / "key", key)
        try:
            yield folder
        except BaseException:
            log.info("what is finished stays in %s: the same command goes on from there", folder)
            raise


def facts_of(images: Split, folder: Path, done: list[dict[str, Any]]) -> dict[str, Any]:
    """What a reader must know of a split."""
    left_out = [each for share in done for each in share["left_out"]]
    classes: dict[str, list[str]] = {name: [] for name in images.class_names}
    gone = {each["number"] for each in left_out}
    for number, path in enumerate(images.paths):
        if number not in gone:
            name, image = path[len(f"{folder}/") :].split("/", 1)
            classes[name].append(image)
    files = {name: size for share in done for name, size in share["files"].items()}
    foreign = [number for share in done for number in share["foreign"]]
    names = {name: joined(images) for name, images in classes.items()}
    return {"classes": names, "files": files, "left_out": left_out, "foreign": foreign}


def report(target: Path, done: dict[str, list[dict[str, Any]]], options: Options) -> None:
    """Say what was written, and what was not."""
    for split, shares in done.items():
        kept, found, written, shrunk = (sum(s[key] for s in shares) for key in ("images", "found", "written", "shrunk"))
        size = f"{written / 1e6:.1f} MB, {written / max(found, 1):.0%} of the images' {found / 1e6:.1f} MB"
        log.info("%s: %s: %d images in %d files, %s", target, split, kept, len(shares), size)
        if options.max_side:
            text = "%s: %s: %d images are made smaller, %d kept as they are"
            log.info(text, target, split, shrunk, kept - shrunk)
        left_out = [each for share in shares for each in share["left_out"]]
        if left_out:
            log.warning("%s: %s: %d images cannot be decoded and are left out:", target, split, len(left_out))
        for each in left_out:
            log.warning("  %s: %s", each["image"], each["reason"])


# ------------------------------------------------------------------------------------------------- several processes

_seen: Any = None  # in a process that writes: how many images all of them have seen


def write_all(folder: Path, shares: list[Share], options: Options) -> None:
    """Write those of the files that are not there yet."""
    todo = [share for share in shares if not (folder / share.done).exists()]
    if len(todo) < len(shares):
        log.info("%d of %d files are there from an earlier try", len(shares) - len(todo), len(shares))
    if not todo:
        return
    seen = shared_counter()
    with in_processes(partial(_write_share, folder, options), todo, "writes", _start_counting, (seen,)) as tasks:
        _watch(tasks, seen, sum(len(share.paths) for share in todo))


def _watch(tasks: Iterable[Future[None]], seen: Any, count: int) -> None:
    """Show how far the tasks are, until all are done. Raises what one of them raises."""
    waiting: set[Future[None]] = set(tasks)
    with progress_bar(total=count, desc="pack", unit="image") as bar:
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            bar.update(seen.value - bar.n)
            for task in done:
                task.result()


def _start_counting(seen: Any) -> None:
    global _seen
    _seen = seen


def _write_share(folder: Path, options: Options, share: Share) -> None:
    """Write one file, and when it is whole on disk, the one that says so."""
    from mindspore.mindrecord import FileWriter

    path = folder / FILES / share.file
    index = path.with_name(f"{path.name}.db")
    for unfinished in (path, index):
        unfinished.unlink(missing_ok=True)
    tally: dict[str, Any] = {"images": 0, "shrunk": 0, "found": 0, "written": 0, "left_out": [], "foreign": []}
    sizes = [os.path.getsize(image) for image in share.paths]
    page = max(SMALLEST_PAGE, min(LARGEST_PAGE, 1 << (max(sizes) + 64).bit_length()))
    try:
        writer = FileWriter(str(path), shard_num=1)
        writer.set_page_size(page)
        listed = 1024 * sum(sizes) // page + len(sizes)  # bytes, at most: the header lists pages, and chunks of rows
        writer.set_header_size(max(1 << 16, 1 << listed.bit_length()))
        fields = {"image": {"type": "bytes"}, "index": {"type": "int32"}, "label": {"type": "int32"}}
        writer.add_schema(fields, "encoded images")
        for rows in _chunks(_rows(share, options, tally)):
            writer.write_raw_data(rows)
        writer.commit()
    except RuntimeError as error:
        reason = first_line(error)
        raise UserError(f"{path}: cannot be written: {reason}") from None
    for file in (path, index):
        file.chmod(0o666 & path.parent.stat().st_mode)  # MindSpore lets nobody else read it
        with open(file, "rb") as content:
            os.fsync(content.fileno())
    files = {file.name: file.stat().st_size for file in (path, index)}
    write_text(folder / share.done, json.dumps(tally | {"files": files}))


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Some rows at a time: all are too many for the memory, and each time costs a line in the file's header."""
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == ROWS_AT_ONCE or sum(len(each["image"]) for each in chunk) > BYTES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _rows(share: Share, options: Options, tally: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number, (path, label) in enumerate(zip(share.paths, share.labels, strict=True), share.first):
        content = Path(path).read_bytes()
        try:
            image = shrunk(content, options)
        except NOT_DECODED as error:
            reason = f"no {READ} inside" if isinstance(error, UnidentifiedImageError) else str(error)
            tally["left_out"].append({"number": number, "image": path, "reason": reason})
        else:
            tally["images"] += 1
            tally["shrunk"] += image is not content
            tally["found"] += len(content)
            tally["written"] += len(image)
            tally["foreign"] += [] if is_native(np.frombuffer(image, np.uint8)) else [number]
            yield {"image": image, "index": number, "label": label}
        with _seen.get_lock():
            _seen.value += 1


def shrunk(content: bytes, options: Options) -> bytes:
    """The image itself where it is small enough, or too long for a JPEG, or else a smaller JPEG.

    Raises one of `NOT_DECODED`. A smaller one is upright, whatever the EXIF data of the image ask.
    """
    with opened(content) as image:
        scale = min(1.0, (options.max_side or math.inf) / min(image.size))
        width, height = (round(side * scale) for side in image.size)
        if scale == 1 or max(width, height) > LONGEST_SIDE:
            grey_or_rgb(image).load()
            return content
        image.draft(None, (2 * width, 2 * height))  # a JPEG of many times that size need not be decoded in full
        pixels = grey_or_rgb(image).resize((width, height), Image.Resampling.LANCZOS)
        pixels = turned(pixels, orientation(image))
    encoded = io.BytesIO()
    pixels.save(encoded, "JPEG", quality=options.quality)
    return encoded.getvalue()
