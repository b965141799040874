"""What is wrong with a folder of images, or odd about it: from the names in it and the facts of each image."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindcv_lite.data.datasets.image_folder import (
    FEW,
    Split,
    class_names_of,
    has_split,
    images_below,
    is_hidden,
    is_named_like_an_image,
    kinds_of,
    leads_to,
    small_classes,
)
from mindcv_lite.data.datasets.paths import Paths
from mindcv_lite.data.images.inspection import Facts
from mindcv_lite.files import composed

MOST_LOST = 0.1  # share of a class's files that may be no images


class Finding(NamedTuple):
    """Something found: a fault, from which training would suffer, or else a remark. A line for each of its paths."""

    title: str
    lines: list[str]
    is_fault: bool = False


@dataclass(frozen=True)
class Listing:
    """What is in the folder of a split: images, and paths of what training leaves out or cannot list.

    False if there is no such folder.
    """

    folder: Path
    images: Split
    left_out: list[str]
    unlisted: list[str]

    def __bool__(self) -> bool:
        return bool(self.images.class_names)

    @property
    def counts(self) -> dict[str, int]:
        """The number of images in each class, 0 if it has none."""
        names, labels = self.images.class_names, self.images.labels
        return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def list_split(data_dir: str, split: str) -> Listing:
    """List `data_dir/split`. As `read_split` of training, but there may be no such folder, and no image in a class."""
    folder = Path(data_dir) / split
    names = class_names_of(data_dir, split) if has_split(data_dir, split) else ()
    left_out = [entry.path for entry in os.scandir(folder) if not leads_to(entry.is_dir)] if names else []
    paths, counts, unlisted = Paths(), [0] * len(names), []
    for label, name in enumerate(names):
        try:
            images, others = images_below(folder / name)
        except OSError as error:
            unlisted.append(f"{error.filename}: {error.strerror}")
            continue
        paths.extend(images)
        counts[label] = len(images)
        left_out += others
    return Listing(
        folder, Split(paths, np.repeat(np.arange(len(names), dtype=np.int32), counts), names), left_out, unlisted
    )


def paths_of(train: Split, val: Split) -> Paths:
    """The paths of the images to train on, then of those to validate on."""
    return Paths(chain(train.paths, val.paths))


class Survey:
    """The facts of many images, in little memory: what is wrong or odd by the image's index, the rest as arrays."""

    def __init__(self, count: int, facts: Iterable[Facts]):
        self.flaws: dict[int, str] = {}
        self.traits: defaultdict[str, list[int]] = defaultdict(list)
        self.digests = np.zeros(count, "S16")  # empty where the image cannot be decoded
        self.sizes = np.zeros((count, 2), np.int32)
        for index, fact in enumerate(facts):
            if fact.flaw:
                self.flaws[index] = fact.flaw
            for trait in fact.traits:
                self.traits[trait].append(index)
            self.digests[index], self.sizes[index] = fact.digest, fact.size

    def same_content(self) -> Iterator[list[int]]:
        """The indices of images that are the same, byte for byte."""
        _, group, counts = np.unique(self.digests, return_inverse=True, return_counts=True)
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for index in np.flatnonzero((counts[group] > 1) & (self.digests != b"")).tolist():
            groups[group[index]].append(index)
        yield from groups.values()


def findings_of(train: Listing, val: Listing, survey: Survey) -> list[Finding]:
    """All that was found; the survey is of the images to train on, then of those to validate on."""
    findings = [*_split_findings(train, val)]
    for listing in (train, val):
        findings += [*_class_findings(listing), *_left_out_findings(listing)]
    findings += [*_image_findings(survey, paths_of(train.images, val.images))]
    findings += [*_duplicate_findings(survey, train.images, val.images)]
    return [finding for finding in findings if finding.lines]


def _class_findings(listing: Listing) -> Iterator[Finding]:
    """What the classes of a split lack."""
    folder, counts = listing.folder, listing.counts
    yield Finding("folders that cannot be listed", listing.unlisted, True)
    yield Finding("classes without an image", [str(folder / name) for name in counts if not counts[name]], True)
    few = [f"{folder / name}: {count}" for name, count in small_classes(listing.images) if count]
    yield Finding(f"classes of fewer than {FEW} images", few)


def _split_findings(train: Listing, val: Listing) -> Iterator[Finding]:
    """A split that is missing, or classes that only one of the two has."""
    yield Finding("splits missing, without which there is no training", [] if train else [str(train.folder)], True)
    yield Finding("splits missing, without which there is no validation", [] if val else [str(val.folder)])
    lone = [str(train.folder / name) for name in train.counts] if len(train.counts) == 1 else []
    yield Finding("single classes, of which nothing can be learned", lone, True)
    if train and val:
        one, other = ({*map(composed, listing.counts)} for listing in (train, val))
        yield Finding(f"classes missing in {val.folder}", sorted(one - other), True)
        yield Finding(f"classes unknown in {train.folder}", sorted(other - one), True)


def _left_out_findings(listing: Listing) -> Iterator[Finding]:
    """What training does not read, by reason."""
    hidden, beside, nothing, others = [], [], [], []
    for path in listing.left_out:
        if is_hidden(path):
            hidden.append(path)
        elif not is_named_like_an_image(path):
            others.append(path)
        else:
            (beside if Path(path).parent == listing.folder else nothing).append(path)
    poor = list(_poor_classes(listing, others))
    yield Finding("classes of which more than a tenth of the files are no images", poor, True)
    yield Finding("named like images, but no files (such as links to nothing), left out", nothing, True)
    yield Finding("images beside the class folders, left out", beside)
    yield Finding("hidden files, left out", hidden)
    yield Finding(f"files that are no images ({kinds_of(others)}), left out", others)


def _poor_classes(listing: Listing, others: list[str]) -> Iterator[str]:
    """The classes that lose more than a tenth of their files, with the kinds of these."""
    lost: defaultdict[str, list[str]] = defaultdict(list)
    for path in others:
        lost[Path(path).relative_to(listing.folder).parts[0]].append(path)
    for name, count in listing.counts.items():
        if len(lost[name]) > MOST_LOST * (count + len(lost[name])):
            yield f"{listing.folder / name}: {count} images, and {kinds_of(lost[name])}"


def _image_findings(survey: Survey, paths: Sequence[str]) -> Iterator[Finding]:
    """Images that cannot be decoded, and those that may not look as expected."""
    yield Finding(
        "images that cannot be decoded", [f"{paths[index]}: {why}" for index, why in survey.flaws.items()], True
    )
    for trait, indices in sorted(survey.traits.items()):
        yield Finding(f"images {trait}", [paths[index] for index in indices])


def _duplicate_findings(survey: Survey, train: Split, val: Split) -> Iterator[Finding]:
    """Images that are there twice: in both splits, under two classes, or in one class."""
    paths = paths_of(train, val)
    classes = [images.class_names[label] for images in (train, val) for label in images.labels.tolist()]
    leaks, contradictions, copies = [], [], []
    for indices in survey.same_content():  # each in ascending order
        line = " = ".join(paths[index] for index in indices)
        leaked, contradictory = indices[0] < len(train) <= indices[-1], len({classes[index] for index in indices}) > 1
        if leaked:
            leaks.append(line)
        if contradictory:
            contradictions.append(line)
        if not (leaked or contradictory):
            copies.append(line)
    yield Finding("images both to train on and to validate on", leaks, True)
    yield Finding("images under more than one class", contradictions, True)
    yield Finding("images more than once in their class", copies)
