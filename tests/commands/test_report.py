"""The command report: runs in a table, and drawn into one picture."""

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindcv_lite.commands.report import main, names_of
from mindcv_lite.errors import UserError
from mindcv_lite.runs.results import COLUMNS, EpochResult, append_result
from tests.runs.earlier_results import EARLIER


@pytest.fixture
def folder(tmp_path):
    """Make the folder of a run: an epoch for each top-1; None: not validated."""

    def folder(name: str, *scores: float | None, **machine: Any) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        for epoch, top1 in enumerate(scores, 1):
            loss = None if top1 is None else 1.25
            speed = 100.0 * epoch, None, 1800.4, 60.0 - epoch, 184.0 if epoch == 1 else None
            result = EpochResult(epoch, epoch, 2 / epoch, top1, top1, loss, 0.1, *speed, **machine)
            append_result(path / "results.csv", result)
        return path

    return folder


def test_a_table_has_a_line_for_each_run(folder, capsys):
    main([str(folder("first", 0.25, 0.75, None, 0.5)), str(folder("second", None))])
    head, first, second = (re.split("  +", line) for line in capsys.readouterr().out.splitlines())
    assert dict(zip(head, first, strict=True)) == {
        "run": "first",
        "epochs": "4",
        "best top-1": "75.00%",
        "in epoch": "2",
        "last top-1": "50.00%",
        "its 95 % interval": "-",
        "training loss": "0.5000",
        "validation loss": "1.2500",
        "images/s": "250.0",
        "ms/step": "57.50",
        "graph compile": "184.0 s",
        "trained for": "2:00:02",
    }
    assert second == ["second", "1", *4 * ["-"], "2.0000", "-", "100.0", "59.00", "184.0 s", "0:30:00"]


def test_a_score_has_its_interval_where_the_number_of_images_is_known(folder, capsys):
    main([str(folder("run", 0.25, 0.95, 0.925, val_images=200))])
    head, run = (re.split("  +", line) for line in capsys.readouterr().out.splitlines())
    shown = dict(zip(head, run, strict=True))
    assert (shown["last top-1"], shown["its 95 % interval"]) == ("92.50%", "88.00% to 95.40%")  # as SciPy has them


def test_seeds_of_one_recipe_are_summed_up_and_other_runs_are_not(folder, recipe, capsys, tmp_path):
    scores = {1: (0.90, 0.88), 2: (0.92, 0.92), 3: (0.94, 0.90)}
    runs = {f"seed{seed}": (tops, {"seed": seed}) for seed, tops in scores.items()}
    runs |= {"another": (scores[1], {"seed": 4, "lr": 0.5}), "shorter": (scores[1][:1], {"seed": 5})}
    for name, (tops, keys) in runs.items():
        path = folder(name, *tops)
        recipe(**keys, ckpt_save_dir=path).save(path / "recipe.yaml")
    folder("without_recipe", 0.5, 0.5)
    main([str(path.parent) for path in sorted(tmp_path.glob("*/results.csv"))])
    table, (line,) = (lines := capsys.readouterr().out.splitlines())[:7], lines[7:]
    assert len(table) == 7
    assert line == (
        "seeds 1, 2, 3 of one recipe, mean (standard deviation): best top-1 92.00% (2.00%), last top-1 90.00% (2.00%)"
    )


@pytest.fixture
def validation(tmp_path):
    """Write the predictions of a validation: whether each image of the validation split is right, by its path."""

    def validation(name: str, right: dict[str, bool], where: str = "images/val") -> Path:
        (tmp_path / name).mkdir()
        with open(tmp_path / name / "predictions.csv", "w", newline="") as file:
            rows = [(f"{where}/{path}", path[0], int(hit)) for path, hit in right.items()]
            csv.writer(file).writerows([("path", "true", "top1"), *rows])
        return tmp_path / name

    return validation


def hits(count: int, *wrong: int) -> dict[str, bool]:
    return {f"{'ab'[number % 2]}/{number}.jpg": number not in wrong for number in range(count)}


def test_two_validations_are_compared_image_by_image_wherever_the_images_lie(validation, capsys):
    first = validation("first", hits(40, 1, 2))
    second = validation("second", dict(reversed(hits(40, 2, 3, 4, 5, 6, 7, 8).items())), where="/packed:val")
    main(["--paired", str(first), str(second)])
    *table, verdict = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line) for line in table] == [
        ["report", "top-1", "95 % interval", "right", "images that it alone gets right"],
        ["first", "95.00%", "83.50% to 98.62%", "38", "6"],
        ["second", "82.50%", "68.05% to 91.25%", "33", "1"],
    ]
    assert verdict == "no difference that 40 images could show (McNemar's exact test: p = 0.125)"


@pytest.mark.parametrize("swapped", [False, True])
def test_the_better_one_is_named(validation, capsys, swapped):
    folders = [str(validation("good", hits(40))), str(validation("bad", hits(40, *range(6))))]
    main(["--paired", *(reversed(folders) if swapped else folders)])
    assert capsys.readouterr().out.splitlines()[-1] == "good is better (McNemar's exact test: p = 0.0312)"


def test_what_cannot_be_paired_is_refused(validation, refusal, tmp_path):
    first, second = str(validation("first", hits(4))), validation("second", hits(5))
    assert refusal(main, ["--paired", first, str(second)]) == (
        f"{second}/predictions.csv: not the images of {first}/predictions.csv: 1 rows are in one of them only, such as "
        "'a/4.jpg' of class 'a'; validate both on the same images"
    )
    assert refusal(main, ["--paired", first, f"{tmp_path}/none"]).startswith(
        f"{tmp_path}/none/predictions.csv: cannot be read: No such file or directory; expected the predictions.csv that"
    )
    for content in (b"", b"path,true,top1\n", b"path,true\nx,a\n", b"path,true,top1\nx,a,2\n", b"\xff\xfe\0"):
        (second / "predictions.csv").write_bytes(content)
        assert refusal(main, ["--paired", first, str(second)]).startswith(
            f"{second}/predictions.csv: not the predictions of a validation, or damaged; "
        )
    for wrong in ([first], [first, first], [first, str(second), "third"], [first, str(second), "--markdown"]):
        assert refusal(main, ["--paired", *wrong]).startswith("command line: --paired takes two folders of validate.py")


def test_a_run_that_trained_nothing_has_scores_alone(tmp_path, capsys):
    append_result(tmp_path / "results.csv", EpochResult(0, 0, top1=0.5, top5=1.0, val_loss=0.75, devices=1))
    main([str(tmp_path)])
    head, run = (re.split("  +", line) for line in capsys.readouterr().out.splitlines())
    shown = dict(zip(head, run, strict=True))
    assert (shown["epochs"], shown["best top-1"], shown["in epoch"]) == ("0", "50.00%", "0")
    assert (shown["training loss"], shown["images/s"], shown["trained for"]) == ("-", "-", "0:00:00")
    main([str(tmp_path), "--markdown"])
    _, row = rows_of(capsys.readouterr().out)
    assert row[2:] == ["1 (None)", *5 * ["-"], "-", "50.00", "100.00", "-", "-"]


def test_a_run_of_an_earlier_version_has_no_figures_that_it_did_not_write(tmp_path, capsys):
    (tmp_path / "results.csv").write_text(EARLIER)
    main([str(tmp_path)])
    head, run = (re.split("  +", line) for line in capsys.readouterr().out.splitlines())
    assert [dict(zip(head, run, strict=True))[name] for name in ("images/s", "ms/step", "graph compile")] == [
        *("122.2", "-", "-"),
    ]


def test_a_line_that_was_cut_short_is_passed_over(folder, capsys):
    path = folder("ckpt", 0.25, 0.75)
    with open(path / "results.csv", "a") as file:
        file.write("3,3,0.1,0.9")
    main([str(path)])
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["ckpt", "2", "75.00%"]


def test_runs_are_called_by_what_tells_them_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [Path(name) for name in ("a/ckpt", "b/ckpt", "b/../a/ckpt/")]
    assert names_of(folders) == {"a/ckpt": Path("b/../a/ckpt"), "b/ckpt": Path("b/ckpt")}
    assert list(names_of([Path("a/ckpt"), Path("a/other")])) == ["ckpt", "other"]
    assert list(names_of([Path("."), Path("/")])) == [tmp_path.name, "/"]


def test_curves_are_drawn_and_drawn_anew(folder, tmp_path):
    runs = [str(folder(f"{name} \udcff/ckpt", 0.25, 0.75)) for name in "abc"]
    out = tmp_path / "x.PNG"
    out.write_bytes(b"")
    main([*runs, "--out", str(out)])
    with Image.open(out) as picture:
        assert picture.width == 1100
    assert len(list(tmp_path.iterdir())) == 4


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table, without the line under its head."""
    head, line, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in markdown.splitlines())
    assert set(line) == {"---"}
    return [head, *rows]


def test_markdown_is_the_row_of_a_model_zoo(folder, recipe, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = folder("my runs/small", 0.25, 0.68074, None, 0.5, devices=8, device="Ascend", jit_level="O2")
    imagenet = recipe(num_classes=1000, batch_size=75, image_resize=224)
    imagenet.save(path / "recipe.yaml")
    for name in ("mobilenet_v3_small_100_best.ckpt", "mobilenet_v3_small_100-4_4.ckpt"):
        (path / name).touch()
    main(["my runs/small", "--markdown"])
    head, row = rows_of(capsys.readouterr().out)
    assert dict(zip(head, row, strict=True)) == {
        "model name": "mobilenet_v3_small_100",
        "params(M)": "2.55",
        "cards": "8",
        "batch size": "75",
        "resolution": "224x224",
        "jit level": "O2",
        "graph compile": "184s",
        "ms/step": "57.50",
        "img/s": "250.00",
        "acc@top1": "68.07",
        "acc@top5": "68.07",
        "recipe": "[yaml](my%20runs/small/recipe.yaml)",
        "weight": "[weights](my%20runs/small/mobilenet_v3_small_100_best.ckpt)",
    }


def test_markdown_leaves_open_what_is_not_known(folder, recipe, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier/results.csv").write_text(EARLIER)
    cpu = folder("cpu", None, devices=1, device="CPU", jit_level="O1")
    recipe(model="mobilenet_v3_large_100", num_classes=10).save(cpu / "recipe.yaml")
    for name in ("mobilenet_v3_large_100-10_10.ckpt", "mobilenet_v3_large_100-9_9.ckpt"):  # copied in another order
        (cpu / name).touch()
    later = folder("-later", 0.75)
    (later / "recipe.yaml").write_text("key_of_a_later_version: 1\n")
    main(["--markdown", "--", "earlier", "cpu", "-later"])
    said = capsys.readouterr()
    _, earlier, alone, unreadable = rows_of(said.out)
    assert earlier == [*8 * ["-"], "122.23", "75.00", "100.00", "-", "-"]
    assert (unreadable[0], unreadable[-2]) == ("-", "-")
    assert "-later/recipe.yaml: unknown key 'key_of_a_later_version'" in said.err
    assert alone[:6] == ["mobilenet_v3_large_100", "4.24", "1 (CPU)", "4", "32x32", "O1"]
    assert alone[9:] == ["-", "-", "[yaml](cpu/recipe.yaml)", "[weights](cpu/mobilenet_v3_large_100-10_10.ckpt)"]


@pytest.mark.parametrize("name", ["x.pdf", "x.svg"])
def test_curves_may_be_drawn_for_print(folder, tmp_path, name):
    main([str(folder("ckpt", 0.25)), "--out", str(tmp_path / name)])
    assert (tmp_path / name).read_bytes()[:5] in (b"%PDF-", b"<?xml")


def test_what_is_no_run_is_named(folder, refusal, tmp_path):
    whole = str(folder("whole", 0.5))
    missing = (
        f"{tmp_path}/none/results.csv: cannot be read: No such file or directory; expected the results.csv of a run"
    )
    assert refusal(main, [whole, f"{tmp_path}/none"]) == missing
    path = folder("empty") / "results.csv"
    path.write_text("")
    assert refusal(main, [str(path.parent)]) == f"{path}: no epoch is done yet"
    path.write_text("a,b\n1,2\n")
    assert refusal(main, [str(path.parent)]).startswith(
        f"{path}: not the results of a run: expected the columns epoch,"
    )


def test_a_picture_of_no_kind_or_nowhere_is_refused(folder, refusal, tmp_path):
    whole = str(folder("whole", 0.5))
    assert refusal(main, [whole, "--out", str(tmp_path / "none/x.png")]).startswith(f"{tmp_path}/none: no such folder")
    for out in (tmp_path / "x.gif", tmp_path):
        assert refusal(main, [whole, "--out", str(out)]).startswith(f"{out}: --out names a file that ends in .png, ")
    assert "CKPT_DIR" in refusal(main, [])


def test_without_matplotlib_there_is_the_table_and_no_picture(folder, refusal, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    whole = str(folder("whole", 0.5))
    said = refusal(main, [whole, "--out", str(tmp_path / "x.png")])
    assert said == "--out needs matplotlib, missing here: pip install matplotlib"
    assert capsys.readouterr().out == ""
    main([whole])
    assert "50.00%" in capsys.readouterr().out


def test_an_epoch_without_a_loss_is_damaged(tmp_path):
    (tmp_path / "results.csv").write_text(",".join(COLUMNS) + "\n1,18,,,,,0.1,1,1,1,,,,,,,\n")
    with pytest.raises(UserError, match=r"results.csv:2: damaged: expected 17 values"):
        main([str(tmp_path)])
