"""The curves of runs: on the axes are the numbers of results.csv, and a drawing that fails stops nothing."""

import itertools
import os
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mindcv_lite.errors import UserError
from mindcv_lite.runs import curves
from mindcv_lite.runs.curves import Curves, draw, figure_of
from mindcv_lite.runs.results import EpochResult, append_result


def results(*scores: float | None, rate: float = 0.1) -> list[EpochResult]:
    """An epoch for each top-1; None: not validated."""
    return [
        EpochResult(
            epoch=epoch,
            step=10 * epoch,
            train_loss=2 / epoch,
            top1=top1,
            top5=None if top1 is None else top1 + 0.1,
            val_loss=None if top1 is None else 3 / epoch,
            lr=rate / epoch,
            images_per_second=100.0 + epoch,
            waited=None,
            seconds=5.0,
        )
        for epoch, top1 in enumerate(scores, 1)
    ]


def lines_of(axes) -> list[tuple[list, list]]:
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]


def legend_of(axes) -> list[str]:
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_one_run_has_a_panel_for_loss_accuracy_rate_and_speed():
    figure = figure_of({"ckpt": results(0.25, 0.75, 0.5)})
    figure.draw_without_rendering()
    loss, accuracy, rate, speed = figure.axes
    epochs = [1, 2, 3]
    assert lines_of(loss) == [(epochs, [2, 1, 2 / 3]), (epochs, [3, 1.5, 1])]
    assert lines_of(accuracy) == [(epochs, [0.25, 0.75, 0.5]), (epochs, [0.35, 0.85, 0.6])]
    assert lines_of(rate) == [(epochs, [0.1, 0.05, 0.1 / 3])]
    assert lines_of(speed) == [(epochs, [101, 102, 103])]
    assert legend_of(loss) == ["training", "validation"]
    assert legend_of(accuracy) == ["top-1, best 75.00% in epoch 2", "top-5"]
    assert accuracy.yaxis.get_major_formatter()(0.25) == "25%"
    assert speed.get_ylim()[0] == 0


def test_epochs_that_were_not_validated_have_no_point():
    loss, accuracy, *_ = figure_of({"ckpt": results(None, 0.5, None, 0.75)}).axes
    assert lines_of(loss) == [([1, 2, 3, 4], [2, 1, 2 / 3, 0.5]), ([2, 4], [1.5, 0.75])]
    assert lines_of(accuracy) == [([2, 4], [0.5, 0.75]), ([2, 4], [0.6, 0.85])]


def test_a_run_that_is_never_validated_says_so():
    figure = figure_of({"ckpt": results(None, None)})
    figure.draw_without_rendering()
    loss, accuracy, *_ = figure.axes
    assert [text.get_text() for text in accuracy.texts] == ["not validated"]
    assert legend_of(accuracy) == []
    assert legend_of(loss) == ["training"]


def test_a_single_epoch_is_seen_and_many_run_into_one_line():
    (line,) = figure_of({"ckpt": results(0.5)}).axes[2].lines
    assert line.get_marker() == "o"
    (line,) = figure_of({"ckpt": results(*np.linspace(0, 1, 470))}).axes[2].lines
    assert line.get_marker() == "None"
    figure = figure_of({"ckpt": results(0.5)})
    figure.draw_without_rendering()
    low, high = figure.axes[3].get_xlim()
    assert [tick for tick in figure.axes[3].get_xticks() if low <= tick <= high] == [1]


def test_several_runs_have_a_panel_for_each_column_and_a_colour_each():
    names = ["a/ckpt", "_b", "$c$", "d\udcff"]
    runs = {name: results(0.1 * number, None, 0.2 * number) for number, name in enumerate(names)}
    figure = figure_of(runs)
    figure.draw_without_rendering()
    titles = ["training loss", "validation loss", "top-1 accuracy", "top-5 accuracy", "learning rate"]
    assert [axes.get_title() for axes in figure.axes] == [*titles, "images per second"]
    top1 = figure.axes[2]
    assert lines_of(top1) == [([1, 3], [0.1 * number, 0.2 * number]) for number in range(4)]
    for axes in figure.axes:
        assert len({to_hex(line.get_color()) for line in axes.lines}) == 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a/ckpt", "_b", "$c$", "d\\udcff"]
    drawn = [line.get_color() for line in legend.get_lines()]
    assert drawn == [line.get_color() for line in top1.lines]


def test_twenty_four_runs_have_colours_of_their_own_and_names_that_fit():
    runs = {f"a rather long name of a folder of a long sweep {number}/ckpt": results(0.5) for number in range(24)}
    figure = figure_of(runs)
    figure.draw_without_rendering()
    assert len({to_hex(line.get_color()) for line in figure.axes[0].lines}) == 24
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)


def test_values_that_are_far_apart_are_drawn_on_a_logarithmic_axis():
    *_, rate, _ = figure_of({"a": results(0.5, 0.6, rate=1.0), "b": results(0.5, 0.6, rate=0.001)}).axes
    assert rate.get_yscale() == "linear"  # of two times two values the median is half the highest
    runs = {"a": results(0.5, 0.6, rate=1.0), "b": results(0.5, 0.6, rate=0.001), "c": results(0.5, rate=0.0)}
    loss, *_, rate, _ = figure_of(runs).axes
    assert (loss.get_yscale(), rate.get_yscale()) == ("linear", "log")


@pytest.mark.filterwarnings("error")
def test_a_picture_appears_whole_whatever_the_folder_is_called(tmp_path):
    draw({"_$薔薇$ \udcff <b>": results(0.5, 0.75)}, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        picture.load()
        assert picture.size == (1100, 680)
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.fixture
def run_folder(tmp_path):
    for result in results(0.5, 0.75):
        append_result(tmp_path / "results.csv", result)
    return tmp_path


def test_a_run_is_drawn_into_its_folder_and_again_after_ten_seconds_or_when_told(run_folder, monkeypatch):
    now = 100.0
    monkeypatch.setattr(curves.time, "monotonic", lambda: now)
    picture, drawing = run_folder / "curves.png", Curves(run_folder)
    pictures = []
    for epoch, (seconds, at_once) in enumerate([(0, False), (9.9, False), (0, True), (9.9, False), (0.2, False)], 2):
        now += seconds
        drawing.draw(at_once)
        pictures.append(picture.read_bytes())
        append_result(run_folder / "results.csv", results(*[0.0] * epoch, 0.9)[epoch])
    differs = [a != b for a, b in itertools.pairwise(pictures)]
    assert differs == [False, True, False, True]
    assert sorted(os.listdir(run_folder)) == ["curves.png", "results.csv"]


def test_a_drawing_that_fails_is_a_line_in_the_log(run_folder, log, monkeypatch):
    (run_folder / "curves.png").mkdir()
    Curves(run_folder).draw()
    (line,) = log.messages
    assert line.startswith(
        f"{run_folder}/curves.png is not drawn: {run_folder}/curves.png: stands there and is no file"
    )
    (run_folder / "curves.png").rmdir()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    Curves(run_folder).draw()
    assert "curves.png is not drawn: import of matplotlib.figure halted" in log.messages[1]
    assert os.listdir(run_folder) == ["results.csv"]
    (run_folder / "results.csv").unlink()  # as of a run that is stopped in its first epoch
    Curves(run_folder).draw()
    assert (len(log.messages), os.listdir(run_folder)) == (2, [])


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="none: no such folder; give another path"):
        draw({"a": results(0.5)}, tmp_path / "none" / "x.png")
