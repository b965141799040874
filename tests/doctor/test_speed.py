"""What the doctor measures of a sinking device, and reads out of MindSpore's profiles."""

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mindcv_lite.doctor import speed as module
from mindcv_lite.doctor.findings import Failed
from mindcv_lite.doctor.recipes import Bench, recipe_of
from mindcv_lite.doctor.scripts import Run
from mindcv_lite.doctor.speed import Speed, most_expensive

# As MindSpore 2.10.0 writes it for a CPU.
CPU_TABLE = """op_type,type_occurrences,execution_frequency(per-step),total_compute_time,avg_time(ms),percent
ReLU,20,1,20.5,1.00672,0.0199485
Conv2D,40,2,989.0,24.7297,0.980051
"""
# The columns of CANN's manual; no NPU has written this.
NPU_TABLE = """Device_id,OP Type,Core Type,Count,Total Time(us),Min Time(us),Avg Time(us),Max Time(us),Ratio(%)
0,TransData,AI_VECTOR_CORE,60,1500.0,20,25,30,30.0
0,Conv2D,AI_CORE,1040,3500.0,2,3,4,70.0
"""


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("cpu_op_type_info_0.csv", CPU_TABLE, [("Conv2D", 40, 989.0), ("ReLU", 20, 20.5)]),
        ("op_statistic_20250101.csv", NPU_TABLE, [("Conv2D", 1040, 3.5), ("TransData", 60, 1.5)]),
    ],
)
def test_the_operators_of_a_profile_come_in_the_order_of_their_time(tmp_path, name, table, expected):
    folder = tmp_path / "vm_1_ascend_ms/FRAMEWORK"
    folder.mkdir(parents=True)
    (folder / name).write_text(table)
    assert most_expensive(tmp_path) == expected


def test_a_profile_without_operators_is_told(tmp_path):
    with pytest.raises(Failed, match="no table of operators in it"):
        most_expensive(tmp_path)


def test_the_table_has_ten_operators_and_their_share_of_all(tmp_path, world):
    speed = Speed(Bench(world(recipe_of(device_target="CPU")), tmp_path, distribute=False))
    speed.operators = [("Conv2D", 40, 75.0), *((f"Op{number}", 1, 1.25) for number in range(20))]
    lines = list(speed.table())
    assert [line.split() for line in lines[:2]] == [
        ["operator", "times", "ms", "share"],
        ["Conv2D", "40", "75.0", "75.0%"],
    ]
    assert len(lines) == 11


@pytest.fixture
def trained(tmp_path, world) -> Speed:
    """After a training of 40 steps on a device that sinks."""
    recipe = recipe_of(device_target="CPU")
    here = world(recipe)
    here = replace(here, settings=replace(here.settings, sink=True))
    speed = Speed(Bench(here, tmp_path, distribute=False))
    step = SimpleNamespace(step=SimpleNamespace(asnumpy=lambda: np.int32(40)))
    watch = SimpleNamespace(batches=SimpleNamespace(images=None), waited=None)
    record = SimpleNamespace(recipe=recipe, step=step, watch=watch, world=here)
    # pyrefly: ignore [bad-argument-type]
    speed.run = Run(tmp_path, record, [])
    return speed


def test_what_is_compiled_for_the_step_alone_is_not_timed(trained, monkeypatch):
    def steps_on(rows, step):
        time.sleep(0.5)  # compiles
        yield from itertools.repeat(4)

    monkeypatch.setattr(module, "steps_on", steps_on)
    monkeypatch.setattr(module, "random_batch", lambda recipe: ())
    monkeypatch.setattr(module, "batch_sizes", lambda batches: itertools.repeat(4))
    text, figures = trained.input_alone()
    assert figures["needed"] > trained.batch * module.STEPS / 0.4
    assert figures["waited_share"] is None
    assert text.endswith("how long the training waited is not known of a sinking device")


def test_a_profile_is_of_this_run_alone_and_is_stopped_whatever_happens(tmp_path, trained, monkeypatch):
    class Profiler:
        def __init__(self, output_path):
            self.path, self.stopped = output_path, 0
            made.append(self)

        def stop(self):
            self.stopped += 1

        def analyse(self):
            (tmp_path / self.path / "cpu_op_type_info_0.csv").write_text(CPU_TABLE)

    def fit(*arguments):
        raise RuntimeError("no memory")

    made: list[Profiler] = []
    folder = tmp_path / "profile"
    (folder / "earlier").mkdir(parents=True)
    (folder / "earlier/cpu_op_type_info_0.csv").write_text(CPU_TABLE)
    monkeypatch.setattr(module.mindspore, "Profiler", Profiler)
    monkeypatch.setattr(module, "TrainingBatches", lambda *arguments: None)
    monkeypatch.setattr(module, "fit", lambda *arguments: None)
    trained.profiled(folder)
    assert trained.operators == [("Conv2D", 40, 989.0), ("ReLU", 20, 20.5)]
    monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(RuntimeError, match="no memory"):
        trained.profiled(tmp_path / "other")
    assert [profiler.stopped for profiler in made] == [1, 1]


def test_operators_that_take_no_time_have_no_share(trained):
    trained.operators = [("Conv2D", 40, 0.0)]
    assert list(trained.table())[1].split() == ["Conv2D", "40", "0.0", "0.0%"]
