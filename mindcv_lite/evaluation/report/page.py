"""The page: one HTML file that asks for nothing else. Names and paths may hold anything: all text is escaped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.evaluation.predictions import Predictions
from mindcv_lite.evaluation.report.pictures import confusion_picture, reliability_diagram, thumbnails
from mindcv_lite.evaluation.report.statistics import (
    BINS,
    ClassResult,
    calibration,
    calibration_error,
    class_results,
    confused_pairs,
    confusion,
    mean_interval,
    surest_first,
    wilson_interval,
)
from mindcv_lite.evaluation.score import Score

LABELLED = 30  # classes of a confusion matrix with names and numbers, at most; one of more is a picture
PAIRS, OF_A_PAIR, MISTAKES = 12, 4, 48  # shown, at most


@dataclass(frozen=True)
class Validation:
    """What a report is about. `titles`: what to call each output of the network. `facts`: what was validated."""

    score: Score
    predictions: Predictions
    images: Split
    titles: Sequence[str]
    facts: Mapping[str, str]

    def title(self, output: int) -> str:
        """What to call an output of `Predictions`."""
        return "no number" if output < 0 else self.titles[output]


def page(validation: Validation) -> str:
    """The whole page."""
    predictions, facts = validation.predictions, validation.facts
    results, pairs = class_results(predictions), confused_pairs(predictions)[:PAIRS]
    examples = [
        surest_first(predictions, (predictions.labels == label) & (predictions.predicted == output))[:OF_A_PAIR]
        for label, output, _ in pairs
    ]
    mistakes = surest_first(predictions, ~predictions.top1)[:MISTAKES]
    small = thumbnails(validation.images, [*mistakes, *(index for row in examples for index in row)])
    parts = {
        "title": escape(f"{facts['model']} on {facts['images']}"),
        "date": escape(facts["date"]),
        "tiles": _score_tiles(validation.score, predictions),
        "top5_heading": "" if validation.score.top5 is None else "<th><button>Top-5</button></th>",
        "classes": _class_table(results, validation),
        "confusion": _confusion_part(results, validation),
        "pairs": "".join(
            _pair_figure(pair, [small.get(index) for index in row], validation)
            for pair, row in zip(pairs, examples, strict=True)
        ),
        "mistakes": "".join(_mistake_figure(index, small.get(index), validation) for index in mistakes),
        "calibration": _calibration_part(predictions),
        "facts": "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
    }
    return Template(Path(__file__).with_name("template.html").read_text(encoding="utf-8")).substitute(parts)


def _score_tiles(score: Score, predictions: Predictions) -> str:
    """The score in large figures, with what chance leaves open."""

    def hits(share: float, right: np.ndarray) -> str:
        low, high = wilson_interval(share, len(right))
        return f"[{percent(low)} to {percent(high)}] {right.sum()} of {len(right)} images"

    low, high = mean_interval(predictions.losses)
    rows = (
        ("Top-1", percent(score.top1), hits(score.top1, predictions.top1)),
        ("Balanced accuracy", percent(score.balanced_accuracy), "mean recall (top-1) of the classes that have images"),
        *(("Top-5", percent(share), hits(share, predictions.top5)) for share in [score.top5] if share is not None),
        ("Loss", _decimal(score.loss), f"[{_decimal(low)} to {_decimal(high)}] mean of {score.images} images"),
    )
    return "".join(f"<li>{name} <b>{value}</b> <small>{note}</small></li>" for name, value, note in rows)


def _class_table(results: Sequence[ClassResult], validation: Validation) -> str:
    """The rows of the table of classes, the worst first; those that no image is of, last."""
    rows = []
    for each in sorted(results, key=lambda each: (math.isnan(each.top1), each.top1, -each.images)):
        top5 = "" if validation.score.top5 is None else f"<td>{percent(each.top5)}</td>"
        other = "-" if each.confused_with is None else validation.title(each.confused_with)
        rows.append(
            f"<tr>{_name_cell('th', validation.title(each.output))}<td>{each.images}</td><td>{percent(each.top1)}</td>"
            f"{top5}<td>{percent(each.precision)}</td>{_name_cell('td', other)}"
            f"<td>{each.confused}</td></tr>"
        )
    return "\n".join(rows)


def _name_cell(tag: str, name: str) -> str:
    """A cell that is cut off where its text is too long; the whole shows where the mouse rests."""
    return f'<{tag} class="text" title="{escape(name)}">{escape(name)}</{tag}>'


def _confusion_part(results: Sequence[ClassResult], validation: Validation) -> str:
    """The confusion matrix: a table, or of many classes a picture."""
    outputs, counts = [result.output for result in results], confusion(validation.predictions)
    if len(outputs) > LABELLED:
        first, last = escape(validation.title(outputs[0])), escape(validation.title(outputs[-1]))
        picture = confusion_picture(counts, outputs)
        return (
            f'<div class="scroll"><img class="raster" alt="confusion matrix" src="{picture}"></div>'
            f'<p class="soft">From the top left: {first}, to {last}.</p>'
        )
    count_of = {(label, output): count for label, output, count in counts}
    heads = "".join(_name_cell("th", validation.title(output)) for output in outputs)
    rows = "".join(
        f"<tr>{_name_cell('th', validation.title(row.output))}"
        + "".join(_count_cell(count_of.get((row.output, output), 0), row, output) for output in outputs)
        + "</tr>"
        for row in results
        if row.images
    )
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _count_cell(count: int, row: ClassResult, output: int) -> str:
    """A cell of the matrix, coloured by its share of the row."""
    if not count:
        return "<td></td>"
    kind = "right" if row.output == output else "wrong"
    return f'<td class="{kind}" style="--share:{0.1 + 0.6 * count / row.images:.2f}">{count}</td>'


def _pair_figure(pair: tuple[int, int, int], pictures: Sequence[str | None], validation: Validation) -> str:
    """Images of one class that were taken for another."""
    label, output, count = pair
    of_class = int((validation.predictions.labels == label).sum())
    return (
        f'<figure><div class="thumbs">{"".join(map(_thumb, pictures))}</div>'
        f"<figcaption><b>{escape(validation.title(label))}</b> taken for <b>{escape(validation.title(output))}</b>: "
        f"{count} of {of_class} images</figcaption></figure>"
    )


def _mistake_figure(index: int, thumbnail: str | None, validation: Validation) -> str:
    """An image that was taken for what it is not."""
    predictions = validation.predictions
    label, output = validation.title(predictions.labels[index]), validation.title(predictions.predicted[index])
    return (
        f"<figure>{_thumb(thumbnail)}<figcaption><b>{escape(label)}</b> taken for <b>{escape(output)}</b>, "
        f"{percent(predictions.confidence[index])}<br><small>{escape(validation.images.paths[index])}</small>"
        "</figcaption></figure>"
    )


def _thumb(thumbnail: str | None) -> str:
    if thumbnail is None:
        return '<div class="thumb none">no picture</div>'
    return f'<img class="thumb" alt="" src="{thumbnail}">'


def _calibration_part(predictions: Predictions) -> str:
    """The reliability diagram, and what it says in a number."""
    bins = calibration(predictions)
    images = sum(each.images for each in bins)
    if not images:
        return "<p>No prediction of the network is a finite number.</p>"
    confidence = sum(each.confidence * each.images for each in bins) / images
    top1 = sum(each.top1 * each.images for each in bins) / images
    return (
        f"<p>Expected calibration error {percent(calibration_error(bins))}, over {BINS} bins of equal width and "
        f"{images} images. The mean probability of the prediction is {percent(confidence)}, and "
        f"{percent(top1)} of these predictions are right.</p>{reliability_diagram(bins)}"
    )


def percent(share: float) -> str:
    """A share, 0 to 1, as the log shows it."""
    return f"{share:.2%}" if math.isfinite(share) else "-"


def _decimal(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
