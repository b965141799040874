"""The versions of Python, NumPy and MindSpore that this project was run on."""

import re

PYTHON = ((3, 10), (3, 12))  # oldest and newest
MINDSPORE = ((2, 7), (2, 10))  # this project was run on these two, on CPUs, and on what is between them in part
DEVELOPMENT_WHEEL = "2.6.0.dev20250323"  # and on this one


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def numpy_fault(version: str) -> str:
    """Why MindSpore cannot work with this NumPy; nothing if it can."""
    return (
        "" if numbers(version) < (2,) else f"{version}: MindSpore's operators die with NumPy 2: pip install 'numpy<2'"
    )


def was_run_on(mindspore: str) -> bool:
    """Whether this project was run on that version of MindSpore, or on an older and a newer one."""
    return MINDSPORE[0] <= numbers(mindspore)[:2] <= MINDSPORE[1] or mindspore == DEVELOPMENT_WHEEL


def tested_range() -> str:
    return " to ".join(f"{major}.{minor}" for major, minor in MINDSPORE)
