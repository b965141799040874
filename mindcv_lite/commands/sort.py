"""Sort images that lie in one folder, such as those of ImageNet's validation, into a folder for each class.

Images are moved to FOLDER/<class>/. None is overwritten, and none is moved if one is missing or does not fit. Killed at
any moment, the same command goes on.
"""

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from mindcv_lite.errors import UserError, first_line
from mindcv_lite.files import composed
from mindcv_lite.program import CommandLine

HEADINGS = ("imageid", "image_id", "image", "photo", "file", "filename", "file_name", "name", "path")
NUMBERS = "data/ILSVRC2012_validation_ground_truth.txt"


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    try:
        labels = read_labels(flags.labels)
        moves, left = _planned(flags.folder, labels, flags.labels)
        for source, target in moves.items():
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    counts = Counter(labels.values()).values()
    print(f"{flags.folder}: {len(moves)} images moved, {len(labels) - len(moves)} were in their folders already")
    print(f"{len(labels)} images in {len(counts)} classes, {min(counts)} to {max(counts)} in a class")
    if left:
        print(f"{len(left)} files stay in {flags.folder}, since {flags.labels} does not name them, such as {left[0]}")


def command_line() -> CommandLine:
    parser = CommandLine(usage="%(prog)s FOLDER LABELS", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder in which the images lie")
    parser.add_argument(
        "labels",
        type=Path,
        metavar="LABELS",
        help="class of each image: a text or CSV file of lines 'image class', such as Kaggle's LOC_val_solution.csv; "
        "ImageNet's development kit, the folder ILSVRC2012_devkit_t12; or the folder of its XML annotations",
    )
    return parser


def read_labels(path: Path) -> dict[str, str]:
    """The class of each image, by its name, which may lack the extension. Raises `UserError`, `OSError`."""
    reader = _read_table if not path.is_dir() else _read_kit if (path / NUMBERS).is_file() else _read_annotations
    labels: dict[str, str] = {}
    for image, name in reader(path):
        name = composed(name)
        if name.startswith(".") or "/" in name or not 0 < len(os.fsencode(name)) < 256:
            raise UserError(f"{path}: the class of {image} is '{name}', which cannot be the name of a class folder")
        if labels.setdefault(image, name) != name:
            raise UserError(f"{path}: {image} is of two classes, {labels[image]} and {name}")
    if not labels:
        raise UserError(f"{path}: names no image; --help says what LABELS may be")
    return labels


def _read_table(path: Path) -> Iterator[tuple[str, str]]:
    """Lines `image class` or `image,class`; the first may be a heading."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected text in UTF-8: lines of an image and its class") from None
    kaggle = bool(lines) and lines[0].endswith(",PredictionString")  # the class, the corners of a box, and so on
    for number, line in enumerate(lines, 1):
        try:
            row = next(csv.reader([line])) if "," in line else line.rsplit(maxsplit=1)
        except csv.Error as error:
            raise UserError(f"{path}: line {number}: {error}") from None
        if not row or (number == 1 and row[0].lower() in HEADINGS):
            continue
        if len(row) < 2 or not row[1].strip():
            raise UserError(f"{path}: line {number}: expected an image and its class, got {line!r}")
        yield row[0].strip(), row[1].split()[0] if kaggle else row[1].strip()


def _read_kit(path: Path) -> Iterator[tuple[str, str]]:
    """ImageNet's own labels: a number for each image, in order, and the wnid of each number in meta.mat. (A number is
    not the position of its wnid among the sorted ones.)"""
    from scipy.io import loadmat  # comes with MindSpore

    try:
        synsets = loadmat(str(path / "data/meta.mat"), squeeze_me=True)["synsets"]
        wnids = dict(zip(map(int, synsets["ILSVRC2012_ID"]), map(str, synsets["WNID"]), strict=True))
        found = [wnids[int(number)] for number in (path / NUMBERS).read_text().split()]
    except OSError:
        raise
    except Exception as error:  # of a damaged file, loadmat raises errors of many kinds
        raise UserError(
            f"{path / 'data'}: not the files of ImageNet's kit: {first_line(error)}; unpack it anew"
        ) from None
    for number, wnid in enumerate(found, 1):
        yield f"ILSVRC2012_val_{number:08d}", wnid


def _read_annotations(path: Path) -> Iterator[tuple[str, str]]:
    """A file <image>.xml for each image, which names the class of each object on it."""
    for file in sorted(path.glob("*.xml")):
        try:
            classes = sorted({str(name.text) for name in ElementTree.parse(file).iterfind("object/name")})
        except ElementTree.ParseError as error:
            raise UserError(f"{file}: not XML: {error}") from None
        if len(classes) != 1:
            raise UserError(f"{file}: expected objects of one class, found {' and '.join(classes) or 'none'}")
        yield file.stem, classes[0]


def _planned(folder: Path, labels: dict[str, str], where: Path) -> tuple[dict[Path, Path], list[str]]:
    """The new path of each image that is not in the folder of its class, and the names of the files that have no label.

    Raises `UserError` if one is missing, or there already under that name; `OSError`.
    """
    loose = _files_by_name(folder)
    folders = {composed(entry.name): entry.name for entry in os.scandir(folder) if entry.is_dir()}
    labels = {image: folders.get(name, name) for image, name in labels.items()}
    names = sorted(set(labels.values()))
    if taken := [name for name in names if (folder / name).exists() and not (folder / name).is_dir()]:
        raise UserError(f"{folder / taken[0]}: a file, where the folder of a class must be; rename it")
    sorted_ones = {name: _files_by_name(folder / name) for name in names if (folder / name).is_dir()}
    moves: dict[Path, Path] = {}
    missing = []
    for image, name in labels.items():
        here, there = loose.get(image, []), sorted_ones.get(name, {}).get(image, [])
        if len(here) + len(there) > 1:
            both = [str(folder / file) for file in here] + [str(folder / name / file) for file in there]
            raise UserError(f"{where}: {image} may be {' or '.join(both)}; remove those that are not meant")
        if not here and not there:
            missing.append(image)
        for file in here:
            if (folder / file).is_symlink() and not os.path.isabs(os.readlink(folder / file)):
                raise UserError(f"{folder / file}: a relative link, which would lead nowhere from another folder")
            if moves.setdefault(folder / file, folder / name / file) != folder / name / file:
                raise UserError(f"{where}: {file} is of two classes, {moves[folder / file].parent.name} and {name}")
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of the {len(labels)} images that {where} names are missing, such as "
            f"{missing[0]}; nothing was moved: unpack them all, or take their lines out"
        )
    left = {file for files in loose.values() for file in files} - {source.name for source in moves}
    return moves, sorted(left)


def _files_by_name(folder: Path) -> dict[str, list[str]]:
    """The files in a folder by their names with and without the extension."""
    files = defaultdict(list)
    for entry in os.scandir(folder):
        if not entry.is_dir() and not entry.name.startswith("."):
            for name in {entry.name, os.path.splitext(entry.name)[0]}:
                files[name].append(entry.name)
    return files
