"""Check a folder of images before training: decode each, compare the splits, and say what training would suffer from.

Exit status 1 if there is such a fault, 0 if there is none; remarks do not change it.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_lite.errors import on_one_line
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import Data
from mindcv_lite.recipe.rules import require_splits

if TYPE_CHECKING:
    from mindcv_lite.data.tools.check import Finding, Listing, Survey

MOST_ROWS = 40  # classes of which a table can be read
EXAMPLES = 5  # of a remark; faults are listed in full, because each is to be mended


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    require_splits(Path(flags.data_dir), flags.train_split, flags.val_split)
    # NumPy and Pillow take longer to import than the command line to answer.
    from mindcv_lite.data.images.inspection import inspect_all
    from mindcv_lite.data.tools.check import Survey, findings_of, list_split, paths_of

    train, val = (list_split(flags.data_dir, split) for split in (flags.train_split, flags.val_split))
    paths = paths_of(train.images, val.images)
    with closing(inspect_all(paths)) as facts:  # a stop ends its processes at once
        survey = Survey(len(paths), facts)
    findings = findings_of(train, val, survey)
    print("\n".join(map(on_one_line, [*_overview(train, val, survey), *listed(findings)])))
    faults = sum(len(finding.lines) for finding in findings if finding.is_fault)
    if faults:
        print(f"{flags.data_dir}: {faults} fault{'s' * (faults > 1)}, from which training would suffer", flush=True)
        sys.exit(1)
    print(f"{flags.data_dir}: no fault; all {len(paths)} images can be decoded", flush=True)


def command_line() -> CommandLine:
    usage = "%(prog)s DATA_DIR [--train_split NAME] [--val_split NAME]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("data_dir", metavar="DATA_DIR", help="folder that holds the splits")
    add("--train_split", default=Data.train_split, metavar="NAME", help="folder of the training split inside it")
    add("--val_split", default=Data.val_split, metavar="NAME", help="folder of the validation split inside it")
    return parser


def _overview(train: "Listing", val: "Listing", survey: "Survey") -> Iterator[str]:
    """Images per split and class, and their sizes."""
    for listing in filter(None, (train, val)):
        ordered = sorted(listing.counts.items(), key=lambda row: row[1])
        (least, fewest), (_, middle), (most, largest) = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        counts = f"a class has {fewest} ('{least}') to {largest} ('{most}'), median {middle}"
        counts = counts if fewest < largest else f"each class has {fewest}"
        yield f"{listing.folder}: {len(listing.images)} images in {len(ordered)} classes; {counts}"
    if len(names := sorted({*train.counts, *val.counts})) <= MOST_ROWS:
        width = max(map(len, names))
        yield f"  {'class':<{width}} {train.folder.name:>8} {val.folder.name:>8}"
        for name in names:
            yield f"  {name:<{width}} {train.counts.get(name, '-'):>8} {val.counts.get(name, '-'):>8}"
    if len(sizes := survey.sizes[survey.sizes.all(1)]):
        for which, sides in (("shorter", sizes.min(1)), ("longer", sizes.max(1))):
            sides.sort()
            yield f"{which} side: {sides[0]} to {sides[-1]} pixels, median {sides[len(sides) // 2]}"


def listed(findings: list["Finding"]) -> Iterator[str]:
    """The findings, remarks first: the faults are to be the last that is read."""
    for finding in sorted(findings, key=lambda finding: finding.is_fault):
        yield f"{'fault' if finding.is_fault else 'remark'}: {finding.title}: {len(finding.lines)}"
        shown = finding.lines if finding.is_fault else finding.lines[:EXAMPLES]
        yield from (f"  {line}" for line in shown)
        if len(shown) < len(finding.lines):
            yield f"  and {len(finding.lines) - len(shown)} more"
