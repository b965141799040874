"""What the key `auto_augment` may say: the names of MindCV and timm, as far as MindSpore's C++ operators go."""

from typing import NamedTuple

STRONGEST = 10  # magnitudes of randaug are 0 to 10
MOST = 10  # operations of randaug, one after the other


class AutoAugment(NamedTuple):
    """`policy`: randaug, autoaug or trivialaugwide; of randaug, how many operations of which magnitude (0 to 10)."""

    policy: str
    operations: int = 2
    magnitude: int = STRONGEST


def parse(text: str) -> AutoAugment:
    """Read `randaug[-mM][-nN][-inc1]`, `autoaug` or `trivialaugwide`. Raises `ValueError` that says what is wrong."""
    policy, *options = text.split("-")
    if policy not in ("randaug", "autoaug", "trivialaugwide"):
        raise ValueError("randaug-mM-nN, autoaug or trivialaugwide (MindSpore has no operator for others)")
    read = AutoAugment(policy)
    for option in options:
        name, number = option[:1], option[1:]
        if policy != "randaug":
            raise ValueError(f"{policy} without options ('{option}' is one)")
        if name == "m" and number.isdecimal() and int(number) <= STRONGEST:
            read = read._replace(magnitude=int(number))
        elif name == "n" and number.isdecimal() and 0 < int(number) <= MOST:
            read = read._replace(operations=int(number))
        elif option not in ("mstd0", "inc1"):
            raise ValueError(
                f"randaug-mM-nN, M from 0 to {STRONGEST}, N from 1 to {MOST}, without '{option}': MindSpore's operator "
                "draws no magnitudes (mstd), has no weights (w), and its operations grow with M (inc1)"
            )
    return read
