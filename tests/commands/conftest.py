"""Commands are tested in this process, as programs of ours run them; afterwards the log and the mode are as they
were."""

import logging
import sys
from collections.abc import Iterator

import pytest

from mindcv_lite import program


@pytest.fixture(autouse=True)
def program_of_ours(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(program, "_owner", [program.program_name()])
    package = logging.getLogger("mindcv_lite")
    handlers, level, propagate = package.handlers, package.level, package.propagate
    yield
    package.handlers, package.propagate = handlers, propagate
    package.setLevel(level)
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
