"""Which output of a network a class folder stands for: by the class names in its checkpoint, or by ImageNet's."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from mindcv_lite.errors import UserError
from mindcv_lite.files import composed

log = logging.getLogger(__name__)

_LINES = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
# The classes of ImageNet-1K in the order of their outputs, each with all the names that WordNet gives it.
WNIDS: tuple[str, ...] = tuple(line.split()[0] for line in _LINES)
_SYNONYMS = [line.split(" ", 1)[1].replace(" ", "_").split(",_") for line in _LINES]
# What `predict` calls them. Two names stand twice: crane (bird, machine) and maillot.
NAMES: tuple[str, ...] = tuple(names[0] for names in _SYNONYMS)


def _plain(name: str) -> str:
    return composed(name).casefold().replace(" ", "_")


def _outputs_by_name(names: Iterable[tuple[int, str]]) -> dict[str, set[int]]:
    outputs: dict[str, set[int]] = {}
    for output, name in names:
        outputs.setdefault(name, set()).add(output)
    return outputs


# How folders may be named after ImageNet's classes, and the outputs that each name may stand for.
IMAGENET = {
    "wnid (n01440764)": _outputs_by_name(enumerate(WNIDS)),
    "index (0 to 999)": _outputs_by_name((i, f"{i:0{width}}") for i in range(1000) for width in range(1, 5)),
    "name (tench)": _outputs_by_name(enumerate(NAMES)),
}
WNID, INDEX, NAME = IMAGENET
_BY_SYNONYM = _outputs_by_name((output, _plain(name)) for output, names in enumerate(_SYNONYMS) for name in names)


def _meanings(folders: Sequence[str], kind: str) -> list[set[int]]:
    """The outputs that each folder may stand for: none if no class is called so, several if several are.

    Names that are all written as `predict` writes them mean what it means; else each may be any name in any case.
    """
    if kind == NAME and not set(folders) <= IMAGENET[NAME].keys():
        return [_BY_SYNONYM.get(_plain(folder), set()) for folder in folders]
    return [IMAGENET[kind].get(folder, set()) for folder in folders]


def outputs_of(
    folders: Sequence[str],
    class_names: Sequence[str | None] | None,
    num_outputs: int,
    where: Path,
    presumed: Sequence[str] | None = None,
) -> tuple[int, ...]:
    """The output that each class folder in `where` stands for, of a network with `num_outputs`.

    `class_names`: those of the outputs, in order, where the checkpoint has them; some of them are enough. Where it has
    none, the folders may be named after ImageNet's classes, or else the classes are `presumed`, or the sorted folders.
    Raises `UserError`.
    """
    if _are_imagenets(folders, class_names, num_outputs):
        kinds = [WNID, INDEX] if class_names is None and not _are_names(folders) else [WNID, INDEX, NAME]
        return _imagenet_outputs(folders, kinds, where)
    are_known = class_names is not None
    if class_names is None:
        class_names = presumed or sorted(folders)
        first, last = class_names[0], class_names[-1]
        log.info("the checkpoint names no classes: outputs 0 to %d are '%s' to '%s'", len(class_names) - 1, first, last)
    if len(class_names) > num_outputs:
        raise UserError(f"{where}: there are {len(class_names)} classes, but the network has {num_outputs} outputs")
    return indices_of(folders, class_names, where, some_are_enough=are_known)


def output_titles(
    folders: Sequence[str], class_names: Sequence[str | None] | None, num_outputs: int
) -> tuple[str, ...]:
    """What to call each of the outputs, where `outputs_of` has found those of the folders."""
    if _are_imagenets(folders, class_names, num_outputs):
        return tuple(f"{name} {wnid}" for wnid, name in zip(WNIDS, NAMES, strict=True))
    names = list(class_names or folders)
    names += [None] * (num_outputs - len(names))
    return tuple(str(output) if name is None else name for output, name in enumerate(names))


def _are_imagenets(folders: Sequence[str], class_names: Sequence[str | None] | None, num_outputs: int) -> bool:
    if num_outputs != len(WNIDS):
        return False
    if class_names is None:
        has_wnids = bool(set(folders) & IMAGENET[WNID].keys())
        return has_wnids or set(folders) <= IMAGENET[INDEX].keys() or _are_names(folders)
    return tuple(class_names) in (WNIDS, NAMES)


def _are_names(folders: Sequence[str]) -> bool:
    """Whether all folders have names of ImageNet's classes, by which `predict` calls the outputs."""
    return all(_meanings(folders, NAME))


def indices_of(
    folders: Sequence[str], class_names: Sequence[str | None], where: Path, some_are_enough: bool = False
) -> tuple[int, ...]:
    """The index of each folder in `class_names`. Raises `UserError` if a class is unknown in `where`, or missing unless
    `some_are_enough`.

    A letter with an accent may be one character or two: systems differ in how they write a folder's name.
    """
    indices: dict[str, int] = {}
    for index, name in enumerate(class_names):
        if name is not None and indices.setdefault(composed(name), index) != index:
            first = indices[composed(name)]
            raise UserError(f"{where}: the network has two classes '{name}', outputs {first} and {index}")
    names = [composed(folder) for folder in folders]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UserError(f"{where}: two folders are called '{twice}', their accents written in two ways; join them")
    missing, unknown = sorted(indices.keys() - set(names)), sorted(set(names) - indices.keys())
    if some_are_enough and missing and not unknown:
        text = "%s: %d of the network's %d classes; without an image: %s"
        log.warning(text, where, len(names), len(indices), ", ".join(missing[:5]) + ", ..." * (len(missing) > 5))
        missing = []
    faults = [f"class '{missing[0]}' is missing"] if missing else []
    faults += [f"class '{unknown[0]}' is unknown"] if unknown else []
    more = len(missing) + len(unknown) - len(faults)
    if faults:
        near = ((name, other) for name in unknown for other in get_close_matches(name, missing, n=1))
        question = next((f"; is '{name}' what is called '{other}' there?" for name, other in near), "")
        raise UserError(
            f"{where}: {' and '.join(faults)}{f' ({more} more differ)' if more else ''}; "
            f"expected the {len(indices)} classes that the network is trained for{question}"
        )
    return tuple(indices[name] for name in names)


def _imagenet_outputs(folders: Sequence[str], kinds: list[str], where: Path) -> tuple[int, ...]:
    """The outputs of folders that are all named in one of these kinds; some of the 1000 may be missing."""
    kind = max(kinds, key=lambda kind: sum(map(bool, _meanings(folders, kind))))
    meanings = _meanings(folders, kind)
    if unknown := [folder for folder, outputs in zip(folders, meanings, strict=True) if not outputs]:
        raise UserError(f"{where}: class '{unknown[0]}' is unknown; name all classes by {', or all by '.join(kinds)}")
    folder_of: dict[int, str] = {}
    for folder, outputs in zip(folders, map(sorted, meanings), strict=True):
        output, *others = outputs
        if others:
            which = " or ".join(f"{NAMES[each]} ({WNIDS[each]})" for each in outputs)
            raise UserError(f"{where}: '{folder}' may be {which}; name all classes by {WNID}, or all by {INDEX}")
        if other := folder_of.get(output):
            raise UserError(f"{where}: classes '{other}' and '{folder}' are both output {output}; keep one of them")
        folder_of[output] = folder
    log.info("%s: %d of ImageNet's 1000 classes, by %s", where, len(folders), kind)
    return tuple(folder_of)
