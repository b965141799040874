"""What the training loop writes besides checkpoints."""

import pytest

from mindcv_lite.training.loop import RESULTS, append_row, drop_rows_after

ROWS = [tuple(range(epoch, epoch + len(RESULTS))) for epoch in (10, 20, 30)]  # the second number is the step


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    for row in ROWS:
        append_row(path, RESULTS, row)
    return path


def lines(*rows: tuple) -> list[str]:
    return [",".join(map(str, row)) for row in (RESULTS, *rows)]


def test_rows_of_later_steps_are_made_again(results):
    drop_rows_after(results, 21)
    assert results.read_text().splitlines() == lines(*ROWS[:2])
    drop_rows_after(results, 0)
    assert results.read_text().splitlines() == lines()


def test_without_results_there_is_nothing_to_drop(tmp_path):
    drop_rows_after(tmp_path / "results.csv", 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("torn", ["", "3", "30,3", "30,31,"])
def test_a_row_that_was_cut_short_is_dropped(results, torn):
    whole = results.read_text().splitlines()
    results.write_text("\n".join([*whole[:-1], torn]))
    drop_rows_after(results, 1000)
    assert results.read_text().splitlines() == lines(*ROWS[:2])


@pytest.mark.parametrize("start", ["", "epoch,st"])
def test_a_file_that_was_cut_short_in_its_head_is_begun_anew(results, start):
    results.write_text(start)
    drop_rows_after(results, 1000)
    append_row(results, RESULTS, ROWS[0])
    assert results.read_text().splitlines() == lines(ROWS[0])
