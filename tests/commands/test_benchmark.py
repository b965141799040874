"""The benchmark command: numbers that belong together, the table and the JSON of them, and what is refused."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mindcv_lite.benchmark import subjects
from mindcv_lite.benchmark.rounds import Plan, in_turn, ratios, spread, timed
from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.commands.benchmark import main
from mindcv_lite.data.waiting import Waiting
from mindcv_lite.errors import UserError
from mindcv_lite.models.build import build_network
from mindcv_lite.program import is_installed
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.runs.checkpoint_saver import save_weights
from tests.conftest import ROOT, SMALLEST
from tests.data.datasets.standard_files import write_all

pytestmark = pytest.mark.usefixtures("three_rows")

MODEL = {"model": "mobilenet_v3_small_minimalistic_100", "num_classes": 2, "num_parallel_workers": 1}
RECIPE = [f"--{name}={value}" for name, value in (SMALLEST | MODEL).items()]


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder({"train": {"a": 5, "b": 4}, "val": {"a": 3, "b": 2}}, size=(32, 32))


@pytest.fixture
def benchmark(capsys) -> Callable[..., tuple[list[str], dict]]:
    """The lines on stdout, and the report."""

    def benchmark(*arguments: object) -> tuple[list[str], dict]:
        path = Path("report.json")
        main([*map(str, arguments), *RECIPE, "--json", str(path)])
        return capsys.readouterr().out.splitlines(), json.loads(path.read_text())

    return benchmark


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def require_consistent(column: dict) -> None:
    """The numbers of each round follow from its images, seconds and CPU seconds, and the summary from the rounds."""
    for each in column["rounds"]:
        assert each["images_per_second"] * each["seconds"] == pytest.approx(each["images"])
        assert each["images_per_cpu_second"] * each["cpu_seconds"] == pytest.approx(each["images"])
        assert each["cpu_ms_per_image"] * each["images_per_cpu_second"] == pytest.approx(1000)
        assert 0 <= each.get("waited_share", 0) <= 1
        if "steps" in each:
            assert each["ms_per_step"] * each["steps"] == pytest.approx(1000 * each["seconds"])
    values = sorted(each["images_per_second"] for each in column["rounds"])
    assert column["images_per_second"]["lowest"] == values[0]
    assert column["images_per_second"]["highest"] == values[-1]


def test_the_pipeline_is_measured_over_as_many_batches_as_asked_for_and_over_several_epochs(benchmark, images):
    lines, report = benchmark("pipeline", "--data_dir", images, "--rounds", 3, "--batches", 5)  # an epoch has 2
    (column,) = report["results"]
    assert [(each["images"], each["steps"]) for each in column["rounds"]] == [(20, 5)] * 3
    require_consistent(column)
    assert report["workers"] == 1
    assert report["recipe"]["data_dir"] == str(images)
    speed = column["images_per_second"]
    shown = f"{speed['median']:.1f} ({speed['lowest']:.1f} to {speed['highest']:.1f})"
    assert [line.split("  ")[-1].strip() for line in lines if line.startswith("images/s ")] == [shown]
    assert lines[1].startswith("pipeline of the command line: mobilenet_v3_small_minimalistic_100, 32 x 32, batch 4")
    assert lines[2] == "median (lowest to highest) of 3 rounds"
    titles = ["images/s", "images per CPU second", "CPU ms per image", "ms per step", "peak host memory, MB"]
    assert [line.split("  ")[0] for line in lines[4:]] == titles


def test_the_step_is_measured_on_fixed_data_and_on_images(benchmark, images):
    lines, report = benchmark("step", "--data_dir", images, "--rounds", 1, "--batches", 3, "--cpu_kernels", "off")
    fixed, fed = report["results"]
    assert lines[3].split() == ["fixed", "data", "with", "images"]
    assert any(line.startswith("time waiting for data") for line in lines)
    for column in (fixed, fed):
        assert column["rounds"][0]["images"] == 12
        require_consistent(column)


@pytest.mark.usefixtures("operators")
def test_the_cpu_kernels_are_measured_beside_those_of_mindspore(benchmark):
    lines, report = benchmark("step", "--num_classes", 2, "--rounds", 1, "--batches", 2)
    assert [column["name"] for column in report["results"]] == ["fixed data", "MindSpore's operators", "ratio"]
    assert lines[3].split() == ["fixed", "data", "MindSpore's", "operators", "ratio"]


def test_the_evaluation_is_measured_from_end_to_end(benchmark, images):
    _, report = benchmark("validate", "--data_dir", images, "--rounds", 2)
    (column,) = report["results"]
    assert [each["images"] for each in column["rounds"]] == [5, 5]
    assert all(0 < each["waited_share"] < 1 for each in column["rounds"])
    require_consistent(column)


def test_the_evaluation_has_the_image_size_of_the_checkpoint_as_validate_has(images, monkeypatch):
    recipe = load_recipe([*RECIPE, "--image_resize=64"], "")
    weights = {
        name: parameter.asnumpy() for name, parameter in build_network(recipe.model, "O0").parameters_dict().items()
    }
    save_weights(Path("trained.ckpt"), weights, model_card(recipe, ("a", "b")))
    sides, evaluate = [], subjects.evaluate

    def evaluate_and_tell(step, images, recipe, world):
        sides.append(recipe.augmentation.image_resize)
        return evaluate(step, images, recipe, world)

    monkeypatch.setattr(subjects, "evaluate", evaluate_and_tell)
    unsaid = [flag for flag in RECIPE if not flag.startswith("--image_resize")]
    main(["validate", *unsaid, f"--data_dir={images}", "--ckpt_path=trained.ckpt", "--rounds=1"])
    assert set(sides) == {64}


def test_with_a_dash_stdout_is_json_and_nothing_else(capsys, images):
    main(["pipeline", *RECIPE, f"--data_dir={images}", "--rounds=1", "--batches=1", "--json=-"])
    assert json.loads(capsys.readouterr().out)["what"] == "pipeline"


@pytest.mark.parametrize("what", ["pipeline", "step"])
def test_an_image_that_cannot_be_decoded_is_named(what, images):
    broken = images / "train/a/3.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(UserError, match=f"{broken}: this image cannot be decoded"):
        main([what, *RECIPE, f"--data_dir={images}", "--rounds=1", "--batches=9"])


def test_files_may_come_late_as_those_of_a_shared_file_system_do(benchmark, images):
    _, report = benchmark("pipeline", "--data_dir", images, "--rounds", 1, "--batches", 4, "--latency", 50)
    (column,) = report["results"]
    assert column["rounds"][0]["seconds"] > 0.05
    assert column["rounds"][0]["images"] == 16


def test_images_of_no_folder_cannot_come_late(tmp_path):
    write_all(tmp_path, "cifar10")
    with pytest.raises(UserError, match=f"--latency: {tmp_path} is no folder of images"):
        main(["pipeline", *RECIPE, "--dataset=cifar10", "--num_classes=10", f"--data_dir={tmp_path}", "--latency=2"])


@pytest.mark.slow
def test_compilation_is_measured_in_processes_of_their_own():
    flags = ["--rounds", "2", "--freeze", "backbone", "--json", "-"]  # the graph of the head compiles sooner
    command = [sys.executable, "-m", "mindcv_lite", "benchmark", "compile", *RECIPE, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (column,) = json.loads(done.stdout)["results"]
    assert len(column["rounds"]) == 2
    assert all(each["first_step_seconds"] > each["first_evaluation_seconds"] > 0 for each in column["rounds"])


@pytest.mark.skipif(not is_installed("mindcv"), reason="MindCV's package is not installed")
def test_mindcv_is_measured_in_turn_with_ours(benchmark, images):
    lines, report = benchmark("pipeline", "--data_dir", images, "--compare", "mindcv", "--rounds", 2, "--batches", 5)
    ours, theirs, ratio = report["results"]
    assert lines[3].split() == ["mindcv_lite", "MindCV", "ratio"]
    for column in (ours, theirs):
        assert [each["images"] for each in column["rounds"]] == [20, 20]
        require_consistent(column)
    assert ratio["rounds"] == ratios(ours["rounds"], theirs["rounds"])


# -------------------------------------------------------------------------------------------------------------- rounds


def test_contestants_take_turns_in_changing_order_and_the_warm_up_does_not_count():
    began, ended = [], []

    def contestant(name):
        def work():
            began.append(name)
            try:
                yield from itertools.repeat(2)
            finally:
                ended.append(name)

        return work

    results = in_turn({"a": contestant("a"), "b": contestant("b")}, Plan(2, 1.0, 3))
    assert began == ended == ["a", "b", "b", "a", "a", "b"]
    assert [each["images"] for each in results["a"]] == [6, 6]  # the batch before is not timed


def test_a_round_of_seconds_ends_with_the_batch_that_passes_them():
    measured = timed((7 for _ in itertools.count()), Plan(1, 0.05, None))
    assert 0.05 <= measured["seconds"] < 0.5
    assert measured["images"] == 7 * measured["steps"]


def test_the_waiting_of_a_round_is_its_own(monkeypatch):
    clock = itertools.count()  # each look at it takes a second
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    rows = Waiting(range(4))
    work = (1 for _ in rows)
    next(work)
    measured = timed(work, Plan(1, 1.0, 2), rows)
    assert rows.seconds == 3
    assert measured["seconds"] == 5  # it looks when it begins and ends, and twice for each row
    assert measured["waited_share"] == pytest.approx(2 / 5)


def test_ratios_are_of_pairs_and_the_spread_is_of_rounds():
    ours = [
        {"images_per_second": 2.0, "images_per_cpu_second": 9.0},
        {"images_per_second": 8.0, "images_per_cpu_second": 3.0},
    ]
    theirs = [
        {"images_per_second": 1.0, "images_per_cpu_second": 3.0},
        {"images_per_second": 2.0, "images_per_cpu_second": 3.0},
    ]
    assert ratios(ours, theirs) == [
        {"images_per_second": 2.0, "images_per_cpu_second": 3.0},
        {"images_per_second": 4.0, "images_per_cpu_second": 1.0},
    ]
    assert spread(ours, "images_per_second") == {"median": 5.0, "lowest": 2.0, "highest": 8.0}


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("network", "expected one of pipeline, step, validate, compile, compare after benchmark, got 'network'"),
        ("pipeline --round 3", "unknown key 'round'; did you mean 'rounds'?"),
        ("pipeline --batch_sise 3", "unknown key 'batch_sise'; did you mean 'batch_size'?"),
        ("pipeline --rounds 0", "--rounds: expected a finite number above 0, got 0"),
        ("pipeline --rounds many", "--rounds: invalid int value: 'many'"),
        ("pipeline --seconds nan", "--seconds: expected a finite number above 0, got nan"),
        ("pipeline --seconds 1 --batches 1", "--seconds and --batches both say how long a round is"),
        ("compile --batches 1", "--batches: a round of compile is a new process; leave it out"),
        ("validate --seconds 1", "--seconds: a round of validate is the whole split; leave it out"),
        ("pipeline", "data_dir is not set: --data_dir names the folder whose images pipeline reads"),
        ("validate", "data_dir is not set: --data_dir names the folder whose images validate reads"),
        ("pipeline --data_dir none", "none: no such folder"),
        ("compare --data_dir .", ".: no train/<class>/ in it, and timm's loader reads class folders only"),
        ("step --num_classes None", "num_classes is not set, and there are no images whose classes to count"),
        ("compile --data_dir . --num_classes None", "num_classes is not set"),
        ("step --json none/there.json", "none: no such folder; give another path"),
        ("step --json .", ".: stands there and is no file"),
        ("step --json=", "--json: expected a file to write, or -"),
        ("step --compare mindcv", "--compare: only pipeline can be compared, not step"),
        ("pipeline --data_dir . --compare_dir .", "--compare_dir is for --compare mindcv"),
        ("pipeline --data_dir . --latency -1", "--latency: expected a finite number from 0 on, got -1.0"),
        ("step --latency 2", "--latency: only pipeline reads late files, not step"),
        ("pipeline --data_dir . --compare timm", "--compare: invalid choice: 'timm'"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence(arguments, sentence):
    what, *flags = arguments.split()
    with pytest.raises(UserError) as error:
        main([what, *RECIPE, *flags])
    assert sentence in str(error.value)


def test_without_mindcv_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setattr("mindcv_lite.commands.benchmark.is_installed", lambda name: False)
    with pytest.raises(UserError, match="pip install mindcv"):
        main(["pipeline", *RECIPE, "--data_dir=.", "--compare=mindcv"])


def test_mindcv_is_not_given_what_it_cannot_read(monkeypatch, images):
    monkeypatch.setattr("mindcv_lite.commands.benchmark.is_installed", lambda name: True)
    with pytest.raises(UserError, match="no train/<class>/ in it, and MindCV reads class folders only; --compare_dir"):
        main(["pipeline", *RECIPE, "--data_dir=.", "--compare=mindcv"])
    grey = ["--in_channels=1", "--mean=[0]", "--std=[1]"]
    with pytest.raises(UserError, match="MindCV gives colour images only"):
        main(["pipeline", *RECIPE, f"--data_dir={images}", "--compare=mindcv", *grey])
    with pytest.raises(UserError, match="it is of square images; --image_resize 32 or 48"):
        main(["pipeline", *RECIPE, f"--data_dir={images}", "--compare=mindcv", "--image_resize=[32, 48]"])


@pytest.mark.parametrize("arguments", [["step", "--help"], ["step", "--rounds", "0"]])
def test_help_and_mistakes_need_no_mindspore(arguments):
    program = """
import runpy, sys
sys.argv = ["mindcv_lite", "benchmark", *sys.argv[1:]]
try:
    runpy.run_module("mindcv_lite", run_name="__main__")
finally:
    print("mindspore" in sys.modules)
"""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    *page, imported = done.stdout.splitlines()
    assert imported == "False", done.stderr
    if "--help" in arguments:  # the own flags and the keys of a recipe
        assert {"--rounds", "--batch_size"} <= {line.split()[0] for line in page if line.strip()}
