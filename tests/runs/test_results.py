"""results.csv: what is appended is read back, and a line that was cut short is nobody's result."""

import pytest

from mindcv_lite.errors import UserError
from mindcv_lite.runs.results import (
    COLUMNS,
    EpochResult,
    age_of_best,
    append_result,
    drop_results_after,
    read_results,
)
from tests.runs.earlier_results import EARLIER

FIRST = EpochResult(
    *(1, 10, 2.30259, 0.125, 0.5, 2.25, 0.05, 123.457, 0.25, 8.5, 54.21, 184.5, 8, "Ascend", "O2", 50000, 0.0625)
)
SECOND = EpochResult(2, 20, 1.5, None, None, None, 0.1, 120.0, None, 9.0, 60.0)  # not validated, on a sinking device
THIRD = EpochResult(3, 30, 1.25, 0.75, 1.0, 1.125, 0.0, 121.0, 0.0, 9.25)  # as read from an earlier version's file


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    for result in (FIRST, SECOND, THIRD):
        append_result(path, result)
    return path


def test_results_are_lines_of_six_digits_under_their_columns_and_are_read_back(results):
    first, *lines = results.read_text().splitlines()
    earlier = "epoch,step,train_loss,top1,top5,val_loss,lr,images_per_second,waited,seconds"
    assert first == f"{earlier},ms_per_step,graph_compile,devices,device,jit_level,val_images,balanced_accuracy"
    assert lines[:2] == [
        "1,10,2.30259,0.125,0.5,2.25,0.05,123.457,0.25,8.5,54.21,184.5,8,Ascend,O2,50000,0.0625",
        "2,20,1.5,,,,0.1,120,,9,60,,,,,,",
    ]
    assert read_results(results) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("cells", [0, 5, 6], ids=["ten columns", "without val_images", "without balanced_accuracy"])
def test_a_file_of_an_earlier_version_is_read_and_gone_on_with_under_the_columns_of_this_one(results, cells):
    _, *lines = EARLIER.splitlines()
    head = ",".join(COLUMNS[: 10 + cells]).replace("lr", "rate")
    results.write_text("".join(f"{line}\n" for line in (head, *(line + cells * "," for line in lines))))
    first, third = read_results(results)
    assert third == THIRD
    assert (first.seconds, first.ms_per_step, first.graph_compile, first.devices, first.jit_level) == (8.5, *4 * [None])
    drop_results_after(results, 10)
    append_result(results, SECOND)
    assert results.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert read_results(results) == [first, SECOND]


def test_columns_of_earlier_versions_are_read_by_their_new_names(results):
    results.write_text(results.read_text().replace("lr,", "rate,", 1).replace("val_images", "val_photos", 1))
    assert read_results(results) == [FIRST, SECOND, THIRD]


def test_the_network_before_it_is_trained_is_epoch_0_and_has_scores_alone(results):
    results.unlink()
    start = EpochResult(0, 0, top1=0.5, val_loss=0.75, devices=1, device="CPU", jit_level="O1")  # of two classes
    append_result(results, start)
    append_result(results, FIRST)
    assert read_results(results) == [start, FIRST]
    drop_results_after(results, 0)
    assert read_results(results) == [start]


def test_results_of_later_steps_are_made_again(results):
    before = results.read_bytes()
    drop_results_after(results, 30)
    assert results.read_bytes() == before
    drop_results_after(results, 21)
    assert read_results(results) == [FIRST, SECOND]
    drop_results_after(results, 0)
    assert results.read_text().splitlines() == [",".join(COLUMNS)]


def test_without_results_there_is_nothing_to_drop(tmp_path):
    drop_results_after(tmp_path / "results.csv", 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "torn", ["", "3", "30,3", "3,30,1.25,", "3,30,1.25,0.75,1,1.125,0,121,0,9.25,,,,,,", "\0\0\ufffd"]
)
def test_a_line_that_was_cut_short_is_passed_over_and_dropped(results, torn):
    whole = results.read_text().splitlines()
    results.write_text("\n".join([*whole[:-1], torn]))
    assert read_results(results) == [FIRST, SECOND]
    drop_results_after(results, 1000)
    append_result(results, THIRD)
    assert read_results(results) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("start", ["", "epoch,st"])
def test_a_file_that_was_cut_short_in_its_head_is_begun_anew(results, start):
    results.write_text(start)
    assert read_results(results) == []
    drop_results_after(results, 1000)
    append_result(results, FIRST)
    assert read_results(results) == [FIRST]


@pytest.mark.parametrize(
    "line",
    [
        *(
            "3,30",
            "3,30,x,0.75,1,1.125,0,121,0,9,,,,,,,",
            "3,30,1,1,1,1,1,1,1,1,1",
            "",
            "\0",
            "3.5,1" + 8 * ",1" + ",,,,,,,",
        ),
        *("3,30,1,0.75,1,1,0,121,0,nan,,,,,,,", "3,30,1,0.75,1,1,0,inf,0,9,,,,,,,", "3,30,1,0.75,1,,0,121,0,9,,,,,,,"),
        *(",30,1,0.75,1,1,0,121,0,9,,,,,,,", "3,30,1,0.75,1,1,0,121,0,9,54.2,184,8.5,CPU,O1,,"),
    ],
)
def test_a_line_that_is_damaged_is_named(results, line):
    with open(results, "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError) as error:
        read_results(results)
    assert str(error.value) == (
        f"{results}:5: damaged: expected 17 values between commas, got {line!r}; take the line out"
    )


def test_a_file_that_is_missing_or_something_else_is_named(results, tmp_path):
    with pytest.raises(UserError, match=r"no\.csv: cannot be read: No such file or directory; expected the results"):
        read_results(tmp_path / "no.csv")
    results.write_bytes(b"\xff\xfe\nname,score\n")
    with pytest.raises(UserError, match=r"results\.csv: not the results of a run: expected the columns epoch,step,"):
        read_results(results)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, (0, 0)),
        ({0: 0.5}, (0, 0)),
        ({0: 0.5, 1: 0.5, 2: 0.4}, (0, 2)),
        ({1: 0.1, 2: 0.9, 3: 0.8, 4: 0.9}, (2, 2)),
        ({3: 0.9, 4: None, 5: None}, (3, 0)),  # nothing was scored since, as with a val_interval of 3
        ({3: 0.9, 4: None, 5: None, 6: 0.8}, (3, 3)),
    ],
)
def test_the_best_score_is_as_old_as_the_latest_one_says(scores, expected):
    assert age_of_best([EpochResult(epoch, epoch, top1=top1) for epoch, top1 in scores.items()]) == expected
