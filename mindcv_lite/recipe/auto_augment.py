"""What the key `auto_augment` may say: the names of MindCV and timm, as far as MindSpore's C++ operators go."""

import re
from math import inf
from typing import NamedTuple

STRONGEST = 10  # magnitudes of randaug are 0 to 10
MOST = 10  # operations of randaug, one after the other


class AutoAugment(NamedTuple):
    """`policy`: randaug, autoaug or trivialaugwide; of randaug, how many operations of which magnitude (0 to 10).

    `deviation`: of the normal distribution around `magnitude` from which each operation draws its own; infinite: evenly
    from 0 to `magnitude`.
    """

    policy: str
    operations: int = 2
    magnitude: int = STRONGEST
    deviation: float = 0.0


def parse(text: str) -> AutoAugment:
    """Read `randaug[-mM][-nN][-mstdS][-inc1]`, `autoaug` or `trivialaugwide`. Raises `ValueError`."""
    policy, *options = text.split("-")
    if policy not in ("randaug", "autoaug", "trivialaugwide"):
        raise ValueError("randaug-mM-nN, autoaug or trivialaugwide (MindSpore has no operator for others)")
    read = AutoAugment(policy)
    for option in options:
        name, number = option[:1], option[1:]
        deviation = _deviation_in(option)
        if policy != "randaug":
            raise ValueError(f"{policy} without options ('{option}' is one)")
        if name == "m" and number.isdecimal() and int(number) <= STRONGEST:
            read = read._replace(magnitude=int(number))
        elif name == "n" and number.isdecimal() and 0 < int(number) <= MOST:
            read = read._replace(operations=int(number))
        elif deviation is not None:
            read = read._replace(deviation=deviation)
        elif option != "inc1":
            raise ValueError(
                f"randaug-mM-nN-mstdS, M from 0 to {STRONGEST}, N from 1 to {MOST}, without '{option}': operations "
                "have no weights here (w), and grow with M (inc1)"
            )
    return read


def _deviation_in(option: str) -> float | None:
    """The number after `mstd`, above 100 infinity, as in timm; None if the option is another one, or no number."""
    found = re.fullmatch(r"mstd(\d+\.?\d*|\.\d+|inf)", option, re.ASCII)
    deviation = float(found[1]) if found else None
    return inf if deviation and deviation > 100 else deviation
