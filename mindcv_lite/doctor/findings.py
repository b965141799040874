"""What the doctor found: a line each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "failed", "not run", "noted"]


@dataclass(frozen=True)
class Finding:
    """`verdict`: "noted" is a fact without a judgement. `text`: what was found, in one sentence or value; for "failed"
    and "not run" why, and what to do. `figures`: numbers for programs."""

    name: str
    verdict: Verdict
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """What a check found wrong, and what to do."""


class NotRun(Exception):
    """Why a check was not run, and what would let it run."""
