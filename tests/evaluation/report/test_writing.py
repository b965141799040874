"""A report's files: well-formed and by themselves, of the same numbers, and safe whatever names hold."""

import csv
import io
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.data.datasets.cifar_mnist import HeldSplit
from mindcv_lite.evaluation.predictions import Predictions
from mindcv_lite.evaluation.report import writing
from mindcv_lite.evaluation.report.page import Validation
from mindcv_lite.evaluation.report.writing import write_report
from mindcv_lite.evaluation.score import Score
from tests.evaluation.report.made_predictions import predictions_by, random_predictions

VOID = {"meta", "img", "br"}
NASTY = "<script>alert('x')</script> \"&amp;\" \u00fc\u4e2d\udcff $title"
FACTS = {"model": "mobilenet_v3_small_100", "images": NASTY, "date": "2026-01-02"}


class Page(HTMLParser):
    """The tags and the text of a page. Fails on a tag that is closed in the wrong place, or not at all."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture
def written(tmp_path) -> Callable[..., tuple[str, dict[str, list[dict[str, str]]]]]:
    """The page and the tables of a report on these predictions."""

    def write(predictions: Predictions, titles: list[str], content: bytes = b"no image"):
        count = len(predictions)
        contents = np.broadcast_to(np.frombuffer(content, np.uint8), (count, len(content)))
        images = HeldSplit([f"{NASTY}/{number}.jpg" for number in range(count)], predictions.labels, (), contents)
        top1, top5 = predictions.top1.mean(), predictions.top5.mean() if len(titles) > 5 else None
        loss = float(predictions.losses.mean())
        score = Score(top1, top5, loss, count, 1.0, 0.0, 0.54321, unbalanced=False, predictions=predictions)
        write_report(tmp_path / "new" / "report", Validation(score, predictions, images, titles, FACTS))
        return read(tmp_path / "new" / "report")

    return write


def read(folder: Path) -> tuple[str, dict[str, list[dict[str, str]]]]:
    assert {path.name for path in folder.iterdir()} == {
        *("report.html", "per_class.csv", "confusion.csv", "predictions.csv")
    }
    tables = {path.stem: list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) for path in folder.glob("*.csv")}
    return (folder / "report.html").read_text(encoding="utf-8"), tables


@pytest.mark.parametrize("classes", [1, 2, 5, 31])
def test_a_page_is_well_formed_and_asks_for_nothing(written, classes):
    text, _ = written(random_predictions(80, classes), [f"{NASTY} {output}" for output in range(classes + 1)])
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "base")
        assert not attributes.keys() & {"href", "onclick", "onerror", "srcset"}
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    assert "://" not in re.sub(r'"data:[^"]*"', "", text)
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_names_and_paths_are_text_whatever_they_hold(written):
    titles = [f"{NASTY} {output}" for output in range(6)]
    text, tables = written(predictions_by([0, 1, 2], [1, 1, 3]), titles)
    assert "<script>alert" not in text
    shown = NASTY.replace("\udcff", "\\udcff")
    assert unescape(text).count(f"{shown} 3") > 2  # in the table of classes, the matrix and the galleries
    assert [row["path"] for row in tables["predictions"]] == [f"{shown}/{number}.jpg" for number in range(3)]
    assert tables["per_class"][0]["class"] == f"{shown} 0"


def test_a_page_of_few_classes_says_nothing_of_top5(written):
    text, tables = written(random_predictions(100, 3), [*"abcd"])
    assert {row["top5"] for name in ("per_class", "predictions") for row in tables[name]} == {""}
    assert "Top-5" not in text
    assert {len(row) for row in Page(text).rows if row[0] in "abcd"} >= {6}


@pytest.mark.parametrize(("count", "classes"), [(300, 5), (300, 60)])
def test_the_page_and_the_tables_give_the_numbers_of_the_score(written, count, classes):
    predictions = random_predictions(count, classes)
    text, tables = written(predictions, [f"class {output}" for output in range(classes + 1)])
    by_class, images = tables["per_class"], tables["predictions"]
    assert f"Top-1 <b>{predictions.top1.mean():.2%}</b>" in text
    assert "Balanced accuracy <b>54.32%</b>" in text
    assert f"Top-5 <b>{predictions.top5.mean():.2%}</b>" in text
    assert f"Loss <b>{predictions.losses.mean():.4f}</b>" in text
    right = sum(float(row["top1"] or 0) * int(row["images"]) for row in by_class)
    assert right == pytest.approx(predictions.top1.sum())
    assert sum(row["top1"] == "1" for row in images) == predictions.top1.sum()
    assert sum(float(row["loss"]) for row in images) == pytest.approx(predictions.losses.sum(), rel=1e-5)
    assert sum(int(row["images"]) for row in tables["confusion"] if row["true"] == row["predicted"]) == round(right)
    shown = {row[0]: row[1:] for row in Page(text).rows if len(row) == 7 and row[0] != "Class"}
    assert shown.keys() == {row["class"] for row in by_class}
    for row in by_class:
        shares = [f"{float(row[name]):.2%}" if row[name] else "-" for name in ("top1", "top5", "precision")]
        other = row["most_confused_with"] or "-"
        assert shown[row["class"]] == [row["images"], *shares, other, row["times"]]


def test_the_matrix_of_few_classes_holds_the_counts(written):
    text, tables = written(predictions_by([0, 0, 0, 2, 2], [0, 0, 1, 2, 0]), ["a", "b", "c", "d"])
    matrix = Page(text).rows[-3:]
    assert matrix == [["", "a", "b", "c"], ["a", "2", "1", ""], ["c", "1", "", "1"]]
    assert [tuple(row.values()) for row in tables["confusion"]] == [
        *[("a", "a", "2"), ("a", "b", "1"), ("c", "a", "1"), ("c", "c", "1")]
    ]


def test_a_page_of_1000_classes_and_noisy_images_stays_small(written):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)  # what compresses worst
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    text, tables = written(
        random_predictions(5000, 1000), [f"class {output}" for output in range(1001)], file.getvalue()
    )
    assert text.count("data:image/jpeg") > 48
    assert text.count("data:image/png") == 1
    assert len(text.encode()) < 5 * 2**20
    assert len(tables["predictions"]) == 5000


def test_predictions_that_are_no_numbers_are_shown_as_such(written):
    nothing = predictions_by([0, 1], [-1, -1], [float("nan")] * 2)
    text, tables = written(nothing, ["a", "b"])
    Page(text)
    assert "Loss <b>-</b>" in text
    assert "No prediction of the network is a finite number" in text
    assert [(row["predicted"], row["probability"], row["loss"]) for row in tables["predictions"]] == [
        ("no number", "", "")
    ] * 2


def test_a_second_report_takes_the_place_of_the_first_and_a_failed_one_leaves_it(written, tmp_path, monkeypatch):
    written(predictions_by([0], [0]), ["a", "b"])
    text, tables = written(predictions_by([0, 1], [0, 0]), ["a", "b", "c"])
    assert len(tables["predictions"]) == 2

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(predictions_by([0], [0]), ["a", "b"])
    assert read(tmp_path / "new" / "report") == (text, tables)
