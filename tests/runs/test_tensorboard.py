"""Event files: TensorBoard's own reader finds the numbers of results.csv in them, each once."""

import io
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mindcv_lite.runs.results import EpochResult
from mindcv_lite.runs.tensorboard import EventFile, events_folder

FIRST = EpochResult(1, 10, 2.25, 0.125, 0.5, 2.5, 0.05, 120.0, 0.25, 8.5, 54.5, balanced_accuracy=0.0625)
SECOND = EpochResult(2, 20, 1.5, None, None, None, 0.1, 121.0, None, 9.0)  # not validated, on a sinking device
THIRD = EpochResult(3, 30, 1.25, 0.75, 1.0, 1.125, 0.0, 122.0, 0.0, 9.25)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag."""
    events = read(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_numbers_of_an_epoch_are_scalars_at_its_step(tmp_path):
    events = EventFile(tmp_path / "tensorboard", 0)
    for result in (FIRST, SECOND, THIRD):
        events.add_result(result)
    assert scalars(tmp_path / "tensorboard") == {
        "loss/train": [(10, 2.25), (20, 1.5), (30, 1.25)],
        "loss/val": [(10, 2.5), (30, 1.125)],
        "accuracy/top1": [(10, 0.125), (30, 0.75)],
        "accuracy/top5": [(10, 0.5), (30, 1.0)],
        "accuracy/balanced": [(10, 0.0625)],
        "lr": [(10, pytest.approx(0.05)), (20, pytest.approx(0.1)), (30, 0.0)],
        "images_per_second": [(10, 120.0), (20, 121.0), (30, 122.0)],
        "ms_per_step": [(10, 54.5)],
        "waited": [(10, 0.25), (30, 0.0)],
    }


def test_a_run_is_called_by_its_folder_and_goes_on_where_its_events_are(tmp_path):
    run = tmp_path / "run_1"
    assert events_folder(run) == run / "tensorboard/run_1"
    EventFile(events_folder(run), 0)
    renamed = run.rename(tmp_path / "good")
    assert events_folder(renamed) == renamed / "tensorboard/run_1"
    earlier = tmp_path / "earlier"
    EventFile(earlier / "tensorboard", 0)  # as versions before wrote them
    assert events_folder(earlier) == earlier / "tensorboard"


def test_what_a_run_makes_again_takes_the_place_of_what_it_made(tmp_path):
    earlier = EventFile(tmp_path, 0)
    for result in (FIRST, SECOND, THIRD):
        earlier.add_result(result)
    (first,) = tmp_path.iterdir()
    first.rename(tmp_path / "events.out.tfevents.0000000001.host.1")
    assert scalars(tmp_path)["loss/train"] == [(10, 2.25), (20, 1.5), (30, 1.25)]

    EventFile(tmp_path, 14)  # goes on from a state within the second epoch
    assert scalars(tmp_path)["loss/train"] == [(10, 2.25)]
    for path in tmp_path.glob("*.host.1"):
        assert path.stat().st_size > 0  # nothing is deleted


def test_events_go_on_after_a_file_that_was_cut_short(tmp_path):
    EventFile(tmp_path, 0).add_result(FIRST)
    (cut,) = tmp_path.iterdir()
    cut = cut.rename(tmp_path / "events.out.tfevents.0000000001.host.1")
    whole = cut.read_bytes()
    events = EventFile(tmp_path, 10)
    events.add_result(SECOND)
    cut.write_bytes(whole + whole[-40:-10])
    assert scalars(tmp_path)["loss/train"] == [(10, 2.25), (20, 1.5)]


def write_and_die(folder: Path) -> None:
    EventFile(folder, 0).add_result(FIRST)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_loses_nothing_of_a_finished_epoch(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert scalars(tmp_path)["accuracy/top1"] == [(10, 0.125)]


def test_a_recipe_is_text_and_a_batch_a_picture(tmp_path):
    events = EventFile(tmp_path, 0)
    events.add_text("recipe", "model: small\n\nscale:\n- 0.35\n", 0)
    picture = Image.effect_noise((32, 20), 50).convert("RGB")
    events.add_picture("first batch", picture, 0)
    found = read(tmp_path)
    (text,) = found.Tensors("recipe")
    assert text.tensor_proto.string_val[0].decode() == "    model: small\n    \n    scale:\n    - 0.35\n"
    assert found.SummaryMetadata("recipe").plugin_data.plugin_name == "text"
    (image,) = found.Images("first batch")
    assert (image.step, image.width, image.height) == (0, 32, 20)
    assert Image.open(io.BytesIO(image.encoded_image_string)).tobytes() == picture.tobytes()
