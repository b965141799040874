"""Commands are tested in this process, as programs of ours would run them."""

import pytest

from mindcv_lite import program


@pytest.fixture(autouse=True)
def program_of_ours(monkeypatch) -> None:
    monkeypatch.setattr(program, "_owner", [program.program_name()])
