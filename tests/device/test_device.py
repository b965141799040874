"""What a run sets on its device, read as data: what an NPU takes is decided here and cannot be run here."""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite import program
from mindcv_lite.device import context as start
from mindcv_lite.device import targets
from mindcv_lite.device.compile_cache import KeptGraphs, key_of
from mindcv_lite.device.context import facts_of, for_evaluation, keep_graphs, start_device
from mindcv_lite.device.launcher import require_launcher, workers_started
from mindcv_lite.device.ranks import World
from mindcv_lite.device.settings import evaluation_level, settings_for
from mindcv_lite.device.targets import available_target, can_compute, chosen_npu, npus
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.training.train_step import loss_scaler
from tests.conftest import ROOT

ASCEND_RECIPES = sorted((ROOT / "configs").glob("*/*_ascend.yaml"))

# As msrun of MindSpore 2.10 sets them.
SCHEDULER = {"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "8", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "8118"}
WORKER = SCHEDULER | {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "3"}
ALONE = {"PATH": "/bin", "RANK_ID": "0"}


def ascend_recipe(*flags: str, name: str = "mobilenet_v3_small_ascend") -> Recipe:
    path = next(path for path in ASCEND_RECIPES if path.stem == name)
    return load_recipe(["--config", str(path), *flags], "")


@pytest.fixture(autouse=True)
def fresh_program(monkeypatch) -> None:
    """A program of ours that has just begun."""
    monkeypatch.setattr(program, "_owner", ["train.py"])
    monkeypatch.setattr(start, "_kept", [])
    monkeypatch.setattr("sys.argv", [str(ROOT / "train.py")])


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("name", [path.stem for path in ASCEND_RECIPES])
def test_on_eight_npus_the_published_recipes_compile_whole_graphs_sink_epochs_and_compute_in_float16(name):
    settings = settings_for(ascend_recipe(name=name), "Ascend", size=8, local_size=8, processors=192)
    assert settings.target == "Ascend"
    assert settings.jit_level == "O2"
    assert settings.sink is True
    assert settings.amp_level == "O3"
    assert settings.parallel == {
        "parallel_mode": "data_parallel",
        "gradients_mean": True,
        "parameter_broadcast": False,
        "device_num": 8,
    }
    assert settings.workers == 8
    assert settings.notes == ()


def test_the_published_recipe_scales_its_loss_by_1024_throughout():
    scaler = loss_scaler(ascend_recipe().precision)
    assert isinstance(scaler, mindspore.amp.StaticLossScaler)
    assert scaler.scale_value.asnumpy() == 1024


def test_a_dynamic_scale_starts_at_the_recipes_halves_on_overflow_and_doubles_after_2000_good_steps():
    scaler = loss_scaler(ascend_recipe("--loss_scale_type=dynamic").precision)
    assert isinstance(scaler, mindspore.amp.DynamicLossScaler)
    assert scaler.scale_value.asnumpy() == 1024
    assert (scaler.scale_factor, scaler.scale_window) == (2, 2000)


def test_one_device_is_not_set_up_for_parallel_training():
    assert settings_for(ascend_recipe(), "Ascend", size=1, processors=24).parallel == {}


def test_the_cpu_computes_in_float32_batch_by_batch_and_says_so():
    settings = settings_for(ascend_recipe("--val_amp_level=O2"), "CPU", processors=4)
    assert (settings.amp_level, settings.val_amp_level, settings.sink) == ("O0", "O0", False)
    assert settings.jit_level != "O2"  # Ascend's graph engine
    assert any("amp_level O3" in note and "float32" in note for note in settings.notes)
    assert any("dataset_sink_mode" in note for note in settings.notes)


def test_the_note_names_the_precision_that_was_asked_for():
    settings = settings_for(ascend_recipe("--amp_level=O0", "--val_amp_level=O3"), "CPU", processors=8)
    assert any("val_amp_level O3" in note for note in settings.notes)
    assert not any("amp_level O0" in note for note in settings.notes)


def test_a_recipe_for_the_cpu_needs_no_notes():
    recipe = ascend_recipe("--amp_level=O0", "--dataset_sink_mode=False", "--jit_level=O1")
    assert settings_for(recipe, "CPU", processors=8).notes == ()


def test_a_graph_level_that_nobody_asked_for_needs_no_note():
    keys = ["--model=mobilenet_v3_small_100", "--batch_size=1", "--epoch_size=1", "--lr=1", "--opt=momentum"]
    recipe = load_recipe([*keys, "--scheduler=constant", "--dataset_sink_mode=False"], "")
    settings = settings_for(recipe, "CPU", processors=8)
    assert (settings.jit_level, settings.notes) == ("O1", ())


def test_parallel_settings_do_not_depend_on_the_device():
    on_cpu = settings_for(ascend_recipe(), "CPU", size=2, local_size=2, processors=4)
    on_npu = settings_for(ascend_recipe(), "Ascend", size=2, local_size=2, processors=4)
    assert on_cpu.parallel == on_npu.parallel != {}


# ------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    ("flags", "target", "images", "level"),
    [
        ((), "Ascend", 3, "O1"),
        ((), "Ascend", 50_000, "O1"),
        ((), "Ascend", 250_000, "O2"),
        (("--jit_level=O2",), "Ascend", 3, "O2"),
        (("--jit_level=O0",), "Ascend", 3, "O0"),
        ((), "CPU", 3, "O1"),
    ],
)
def test_whole_graphs_are_compiled_for_evaluation_where_that_pays_or_the_user_asks(flags, target, images, level):
    recipe = ascend_recipe(*flags)
    chosen, reason = evaluation_level(recipe, settings_for(recipe, target), images)
    assert chosen == level
    assert bool(reason) == (target == "Ascend" and level == "O1")
    if reason:
        assert re.match(f"jit_level: O1, for {images} images a device: .*MindCV measured.*--jit_level O2", reason)


def test_a_world_for_evaluation_sinks_nothing_and_has_the_level_that_it_says(monkeypatch, log):
    set_ = {}
    monkeypatch.setattr(mindspore, "set_context", lambda **keys: set_.update(keys))
    recipe = ascend_recipe()
    world = for_evaluation(World(0, 8, settings_for(recipe, "Ascend", size=8)), recipe, 50_000)
    assert (world.settings.jit_level, world.settings.sink) == ("O1", False)
    assert set_ == {"jit_config": {"jit_level": "O1"}}
    assert "jit_level: O1, for 6250 images a device" in log.text


# --------------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize(
    ("local_size", "processors", "bound", "workers"),
    [
        (1, 2, None, 2),
        (8, 192, None, 24),
        (3, 8, None, 2),
        (8, 4, None, 1),  # more ranks than processors
        (8, 192, 24, 24),  # bound by msrun --bind_core
        (1, 64, 6, 6),  # a container
        (2, 64, 6, 6),
    ],
)
def test_auto_shares_the_processors_out_among_the_ranks_of_the_machine(local_size, processors, bound, workers):
    recipe = ascend_recipe("--num_parallel_workers=auto")
    settings = settings_for(recipe, "Ascend", 8, local_size, processors, bound)
    assert settings.workers == workers
    assert settings.notes == ()


def test_more_workers_than_processors_are_clamped_with_a_note():
    settings = settings_for(ascend_recipe("--num_parallel_workers=8"), "Ascend", processors=2)
    assert settings.workers == 2
    (note,) = settings.notes
    assert "num_parallel_workers is 8" in note
    assert "2 processors" in note


def test_a_number_of_workers_that_fits_is_kept():
    settings = settings_for(ascend_recipe("--num_parallel_workers=3"), "Ascend", local_size=8, processors=8)
    assert (settings.workers, settings.notes) == (3, ())


def test_fewer_batches_wait_for_a_cpu():
    assert [settings_for(ascend_recipe(), target).prefetch for target in ("CPU", "Ascend")] == [4, 16]


# -------------------------------------------------------------------------------------------------------- launcher


@pytest.mark.parametrize(("environment", "workers"), [(ALONE, 0), ({}, 0), (WORKER, 8), (SCHEDULER, 8)])
def test_workers_are_those_that_msrun_started(environment, workers):
    assert workers_started(environment) == workers


def test_a_program_that_fits_its_start_goes_on():
    require_launcher(False, ALONE)
    require_launcher(True, WORKER)
    require_launcher(True, SCHEDULER)
    require_launcher(True, WORKER | {"MS_WORKER_NUM": "1"})
    require_launcher(False, WORKER | {"MS_WORKER_NUM": "1"})  # one process, which disturbs no other


def test_distribute_without_msrun_is_refused_with_both_ways_out(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--config", "x.yaml"])
    with pytest.raises(UserError) as error:
        require_launcher(True, ALONE)
    assert "python train.py --config x.yaml --distribute False" in str(error.value)
    assert "msrun --bind_core=True --worker_num 8 python train.py --config x.yaml" in str(error.value)


@pytest.mark.parametrize("environment", [WORKER, SCHEDULER])
def test_msrun_without_distribute_is_refused(environment):
    with pytest.raises(UserError, match=r"msrun started 8 processes.*add --distribute True"):
        require_launcher(False, environment)


def test_the_launchers_environment_is_that_of_the_process_unless_given(monkeypatch):
    for name in SCHEDULER:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="not started by msrun"):
        require_launcher(True)
    for name, value in WORKER.items():
        monkeypatch.setitem(os.environ, name, value)
    require_launcher(True)


# ---------------------------------------------------------------------------------------------------- device, world


@pytest.fixture
def host(monkeypatch) -> Callable[..., None]:
    """A machine with so many NPUs; None: one without Ascend's software."""

    def host(count: int | None) -> None:
        monkeypatch.setattr(mindspore.hal, "is_available", lambda target: target == "CPU" or count is not None)
        monkeypatch.setattr(mindspore.hal, "device_count", lambda target: count)

    return host


def test_where_ascends_software_is_missing_auto_takes_the_cpu_without_a_word(host):
    host(None)
    assert available_target("auto") == available_target("CPU") == ("CPU", "")
    with pytest.raises(UserError, match=r"device_target is Ascend.*--device_target auto or CPU"):
        available_target("Ascend")


def test_auto_takes_the_npu_where_there_is_one(host, monkeypatch):
    host(8)
    monkeypatch.setenv("DEVICE_ID", "3")
    monkeypatch.setattr(targets, "can_compute", lambda *device: device == ("Ascend", 3))
    assert available_target("auto") == available_target("Ascend") == ("Ascend", "")
    assert available_target("CPU") == ("CPU", "")


def test_where_no_npu_can_be_taken_auto_takes_the_cpu_and_says_so(host, monkeypatch):
    host(8)
    monkeypatch.setattr(targets, "can_compute", lambda *device: False)
    target, reason = available_target("auto")
    assert target == "CPU"
    assert re.search(r"no NPU can be taken.*npu-smi info.*: taking the CPU", reason)
    assert available_target("Ascend") == ("Ascend", "")  # and the sentence comes when it is taken
    for name, value in WORKER.items():  # a rank must not decide alone
        monkeypatch.setenv(name, value)
    assert available_target("auto") == ("Ascend", "")


@pytest.mark.slow
def test_a_process_of_its_own_tells_whether_a_device_can_be_taken():
    assert can_compute("CPU", None)
    assert not can_compute("Ascend", None)
    assert not can_compute("Ascend", 3)


def no_answer(target: str) -> int:
    raise RuntimeError("drvRetCode=87")


def test_where_the_driver_does_not_answer_the_device_files_that_this_user_may_open_tell(host, monkeypatch, tmp_path):
    host(1)
    monkeypatch.setattr(mindspore.hal, "device_count", no_answer)
    for name in ("davinci0", "davinci15", "davinci_manager"):
        (tmp_path / name).touch()
    monkeypatch.setattr(targets, "NPU_FILES", str(tmp_path / Path(targets.NPU_FILES).name))
    assert npus() == 2
    monkeypatch.setattr(os, "access", lambda path, how: False)
    assert npus() == 0


@pytest.mark.parametrize("count", [lambda target: 0, no_answer])
def test_where_ascends_software_finds_no_npu_auto_takes_the_cpu_and_says_so(host, monkeypatch, count):
    host(1)
    monkeypatch.setattr(mindspore.hal, "device_count", count)
    monkeypatch.setattr(targets, "NPU_FILES", "/nowhere/davinci[0-9]*")
    target, reason = available_target("auto")
    assert target == "CPU"
    assert re.search(r"finds Ascend's software \(CANN\) here and no NPU.*: taking the CPU", reason)
    with pytest.raises(UserError, match=r"device_target is Ascend.* no NPU.*npu-smi info.*--device_target auto or CPU"):
        available_target("Ascend")


def test_on_one_device_the_variable_device_id_names_the_npu_as_in_mindcv(host):
    host(8)
    assert chosen_npu("Ascend", {"DEVICE_ID": "3"}) == 3
    assert chosen_npu("Ascend", {}) is None
    assert chosen_npu("CPU", {"DEVICE_ID": "3"}) is None
    assert chosen_npu("Ascend", WORKER | {"DEVICE_ID": "3"}) is None


@pytest.mark.parametrize("text", ["", "8", "-1", "0,1", "npu", "²"])
def test_a_variable_device_id_that_names_no_npu_is_refused(host, text):
    host(8)
    with pytest.raises(UserError, match=f"DEVICE_ID: expected an NPU from 0 to 7, got {text!r}"):
        chosen_npu("Ascend", {"DEVICE_ID": text})


@pytest.fixture
def calls(monkeypatch, host) -> list[str]:
    """What is asked of MindSpore on a machine of 8 NPUs, in order; none of it is done."""
    calls: list[str] = []

    def record(owner: object, name: str, answer: object = None) -> None:
        def called(*values: object, **keys: object) -> object:
            given = [str(value) for value in values] + [f"{key}={value}" for key, value in keys.items()]
            calls.append(f"{name}({', '.join(given)})")
            return answer

        monkeypatch.setattr(owner, name, called)

    host(8)
    for name in ("set_context", "set_device", "set_auto_parallel_context", "set_seed"):
        record(mindspore, name)
    answers = {"init": None, "get_rank": 1, "get_group_size": 8, "get_local_rank_size": 8}
    for name, answer in answers.items():
        record(mindspore.communication, name, answer)
    monkeypatch.setattr(targets, "can_compute", lambda *device: True)
    for name in ("_try_device", "start_log", "AllReduce"):
        record(start, name)
    for name in (*SCHEDULER, "MS_NODE_ID", "DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)
    for once in (start._choose_device, start._join_ranks):  # as in a new process
        monkeypatch.setattr(start, once.__name__, cache(once.__wrapped__))
    return calls


def test_mode_device_and_graph_level_are_set_before_the_ranks_are_joined(calls, monkeypatch):
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    world = start_device(ascend_recipe())
    assert (world.rank, world.size) == (1, 8)
    before = ["set_context(mode=0)", "set_device(Ascend)", "set_context(jit_config={'jit_level': 'O2'})", "init()"]
    assert calls[:4] == before
    assert [call.split("(")[0] for call in calls if "set" in call][3:] == ["set_auto_parallel_context", "set_seed"]


def test_one_npu_is_tried_when_all_is_set_and_a_second_start_sets_the_level_anew(calls, monkeypatch):
    monkeypatch.setenv("DEVICE_ID", "3")
    for level in ("O2", "O1"):
        start_device(ascend_recipe(f"--jit_level={level}"))
    mode, seed = "set_context(mode=0)", "set_seed(42)"
    levels = [f"set_context(jit_config={{'jit_level': '{level}'}})" for level in ("O2", "O1")]
    trial = ["_try_device(Ascend)", "start_log(0)", seed]
    assert calls == [mode, "set_device(Ascend, 3)", levels[0], *trial, mode, levels[1], *trial]


def test_ranks_are_joined_once_in_a_process(calls, monkeypatch):
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        start_device(ascend_recipe())
    assert calls.count("init()") == calls.count("set_device(Ascend)") == 1


def test_a_scheduler_whose_port_another_program_has_says_so_before_it_joins(calls, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in (SCHEDULER | {"MS_SCHED_PORT": str(port)}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"another program has port {port} of 127.0.0.1; .* another --master_port"):
            start_device(ascend_recipe())
    assert "init()" not in calls
    start_device(ascend_recipe())  # once it is free
    assert "init()" in calls


def test_ranks_that_cannot_be_joined_are_told_in_one_line(calls, monkeypatch):
    def init() -> None:
        raise RuntimeError("Some processes are missing. It may be one of the following reasons:\n1. A guess.")

    monkeypatch.setattr(mindspore.communication, "init", init)
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"that msrun started: Some processes are missing\.; scheduler\.log in"):
        start_device(ascend_recipe())


def test_a_device_that_another_program_holds_is_refused_with_a_sentence(monkeypatch):
    class Broken:
        def __init__(self, numbers: np.ndarray):
            raise RuntimeError("Init device failed\n\n- C++ Call Stack")

    monkeypatch.setattr(start, "Tensor", Broken)
    with pytest.raises(
        UserError, match=r"^the Ascend device cannot be used: Init device failed; .*--device_target CPU"
    ):
        start._try_device("Ascend")


def test_numpy_2_is_refused_before_it_ends_the_process(monkeypatch, recipe):
    monkeypatch.setattr(np, "__version__", "2.1.3")
    with pytest.raises(
        UserError, match=r"^NumPy 2\.1\.3: MindSpore's operators die with NumPy 2: pip install 'numpy<2'"
    ):
        start_device(recipe())


@pytest.mark.parametrize(
    ("version", "warned"), [("2.7.1", False), ("2.10.0", False), ("2.11.0", True), ("2.5.0", True)]
)
def test_a_mindspore_that_was_not_tried_is_warned_of(calls, monkeypatch, recipe, log, version, warned):
    monkeypatch.setattr(mindspore, "__version__", version)
    start_device(recipe())
    assert (f"run on MindSpore 2.7 to 2.10, not on {version}" in log.text) == warned


def test_a_rank_alone_has_itself_on_its_machine(monkeypatch):
    monkeypatch.setattr(mindspore.communication, "get_local_rank_size", lambda: 0)  # as the CPU's collectives do
    monkeypatch.setattr(mindspore.communication, "get_group_size", lambda: 1)
    assert start._local_size() == 1


class Others:
    """Stands for the collective of a world whose other ranks hold `numbers`."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers.ravel()
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, numbers: Tensor) -> Tensor:
        self.shapes.add(numbers.shape)
        padding = np.zeros(numbers.size - self.numbers.size, np.float32)
        return Tensor(numbers.asnumpy() + np.concatenate([self.numbers, padding]))


def test_gather_gives_every_ranks_numbers_a_row_to_the_last_bit():
    settings, numbers = settings_for(ascend_recipe(), "CPU"), np.array([0.1, -3e38, 1e-30], np.float32)
    alone = World(0, 1, settings).gather(numbers)
    assert (alone.shape, alone.dtype) == ((1, 3), np.float32)
    assert alone.tobytes() == numbers.tobytes()
    others = np.array([[1, 2, 3], [0, 0, 0], [7, 8, 9]], np.float32)
    gathered = World(1, 3, settings, Others(others)).gather(numbers)
    assert gathered.dtype == np.float32
    assert np.array_equal(gathered, [others[0], numbers, others[2]])


def test_sums_and_gathers_of_few_numbers_are_one_graph_and_exact():
    random, shapes = np.random.default_rng(0), set()
    for shape in [(1,), (2,), (4,), (8, 1), (8, 2), (8, 1500)]:
        others, mine = random.normal(size=(2, *shape)).astype(np.float32)
        total = World(0, 8, settings_for(ascend_recipe(), "CPU"), all_reduce := Others(others)).sum(mine)
        assert (total.shape, total.dtype) == (shape, np.float64)
        assert np.array_equal(total, others + mine)
        shapes |= all_reduce.shapes
    assert len(shapes) == 2


def test_a_lone_ranks_sums_are_its_numbers():
    numbers = np.array([2.0**24 + 1, 0.1])
    assert np.array_equal(World(0, 1, settings_for(ascend_recipe(), "CPU")).sum(numbers), numbers)


def fail(error: type[Exception] = UserError) -> None:
    raise error("no network")


@pytest.mark.parametrize("error", [UserError, TrainingError])
def test_what_all_ranks_do_gives_each_its_result_and_fails_on_all_if_it_fails_on_one(error):
    told = Others(np.zeros(1, np.float32))
    world = World(0, 2, settings_for(ascend_recipe(), "CPU"), told)
    assert world.all_or_none(lambda: 5) == 5
    told.shapes.clear()
    with pytest.raises(error, match="no network"):
        world.all_or_none(lambda: fail(error))
    assert told.shapes  # the others wait for no one


class OneOfTwo(World):
    """A rank beside another one that failed."""

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        return numbers + 1


def test_a_rank_is_told_that_another_one_failed():
    beside = OneOfTwo(0, 2, settings_for(ascend_recipe(), "CPU", size=2))
    with pytest.raises(TrainingError, match="another rank cannot go on, see its log"):
        beside.all_or_none(lambda: 5)
    with pytest.raises(UserError, match="no network"):
        beside.all_or_none(fail)


# ------------------------------------------------------------------------------------------------------ kept graphs


class Beside(World):
    """A rank of two, whose neighbour knows `theirs` graphs of an earlier start."""

    theirs = 1

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return np.array([numbers, [self.theirs]], np.float32)


@pytest.mark.parametrize("theirs", [0, 1])
def test_graphs_of_an_earlier_start_are_taken_on_all_ranks_or_on_none(tmp_path, monkeypatch, theirs):
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", "")
    recipe = ascend_recipe("--compile_cache", f"--ckpt_save_dir={tmp_path}")
    world = Beside(0, 2, settings_for(recipe, "CPU", size=2))
    monkeypatch.setattr(Beside, "theirs", theirs)
    earlier = KeptGraphs(tmp_path / "graphs", 0, key_of(recipe, facts_of(world) | {"steps": 7}))
    (earlier.working / "compile_cache_0.mindir").write_bytes(b"graph")
    earlier.add("TrainStep")
    kept = keep_graphs(world, recipe, steps=7).graphs
    assert kept
    assert kept.known == ["TrainStep"] * theirs
    assert (kept.working / "compile_cache_0.mindir").exists() == bool(theirs)
    assert os.environ["MS_COMPILER_CACHE_PATH"] == str(kept.working)


def test_without_compile_cache_nothing_is_kept_and_where_nothing_can_be_written_a_line_says_so(tmp_path, log):
    (tmp_path / "file").write_text("")
    recipe = ascend_recipe(f"--compile_cache={tmp_path / 'file/graphs'}")
    world = World(0, 1, settings_for(recipe, "CPU"))
    assert keep_graphs(world, ascend_recipe("--compile_cache=False")) is world
    assert keep_graphs(world, recipe).graphs is None
    assert f"compile_cache: {tmp_path / 'file/graphs'}: cannot be used: Not a directory; graphs are not" in log.text


@pytest.mark.parametrize(("target", "owner", "kept"), [("CPU", True, 1), ("CPU", False, 0), ("GPU", True, 0)])
def test_by_themselves_graphs_are_kept_of_programs_on_a_cpu(tmp_path, monkeypatch, target, owner, kept):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", "")
    monkeypatch.setattr(start, "owns_process", lambda: owner)
    recipe = ascend_recipe("--dataset_sink_mode=False")
    graphs = keep_graphs(World(0, 1, settings_for(recipe, target)), recipe).graphs
    assert (graphs is not None) == kept
    assert not graphs or graphs.file.parent == tmp_path / "mindcv_lite/graphs"


def test_a_user_without_a_home_keeps_no_graphs(monkeypatch):
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    recipe = ascend_recipe("--dataset_sink_mode=False")
    world = World(0, 1, settings_for(recipe, "CPU"))
    assert keep_graphs(world, recipe) is world


def test_of_what_is_typed_in_no_graphs_are_kept_and_a_line_says_so(tmp_path, monkeypatch, log):
    monkeypatch.setattr("sys.argv", ["-c"])
    recipe = ascend_recipe(f"--compile_cache={tmp_path}", "--dataset_sink_mode=False")
    world = World(0, 1, settings_for(recipe, "CPU"))
    assert keep_graphs(world, recipe) is world
    assert "compile_cache: graphs are not kept of what is typed in" in log.text


def test_where_the_device_sinks_graphs_are_not_kept_and_a_line_says_so(tmp_path, log):
    recipe = ascend_recipe(f"--compile_cache={tmp_path / 'graphs'}")
    world = World(0, 1, settings_for(recipe, "Ascend"))
    assert keep_graphs(world, recipe) is world
    assert "compile_cache: graphs are not kept" in log.text
    assert "--dataset_sink_mode False keeps them" in log.text
    assert not (tmp_path / "graphs").exists()


def test_graphs_of_one_library_of_operators_are_not_those_of_another_or_none(recipe, world):
    alone = world(recipe())
    libraries = (None, Path("operators-1.so"), Path("operators-2.so"))
    keys = {key_of(recipe(), facts_of(replace(alone, cpu_kernels=library))) for library in libraries}
    assert len(keys) == 3
