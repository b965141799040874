"""The files of a report: report.html for people, and three tables for programs."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import mindspore

from mindcv_lite.checkpoints.model_card import CARD_KEYS
from mindcv_lite.checkpoints.weights import Weights
from mindcv_lite.data.datasets.classes import output_titles
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.device.ranks import World
from mindcv_lite.evaluation.report.page import Validation, page
from mindcv_lite.evaluation.report.paired import PREDICTIONS
from mindcv_lite.evaluation.report.statistics import class_results, confusion
from mindcv_lite.evaluation.score import Score
from mindcv_lite.files import require_file, written_whole
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.yaml_io import plain
from mindcv_lite.text_tables import AS_TEXT, write_csv

log = logging.getLogger(__name__)


def validation_of(score: Score, images: Split, weights: Weights, recipe: Recipe, world: World) -> Validation:
    """What `score`, with its predictions, is the score of."""
    assert score.predictions is not None, "they were to be kept"
    titles = output_titles(images.class_names, weights.class_names, weights.num_classes)
    return Validation(score, score.predictions, images, titles, facts_of(images, weights, recipe, world))


def facts_of(images: Split, weights: Weights, recipe: Recipe, world: World) -> dict[str, str]:
    """What was validated, on what, by what and when."""
    flat, card = recipe.flat(), weights.card or {}
    results = {name: value for name, value in card.items() if name not in (*CARD_KEYS, "class_names")}
    return {
        "checkpoint": weights.path,
        **{name: plain(flat[name]) for name in CARD_KEYS},
        **{f"{name}, by the model card": plain(value) for name, value in results.items()},
        "images": f"{recipe.data.data_dir or recipe.data.dataset}, {recipe.data.val_split}",
        "classes of the images": str(len(images.class_names)),
        "device": f"{world.settings.target} x {world.size}, MindSpore {mindspore.__version__}",
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
    }


PAGE, PER_CLASS, CONFUSION = "report.html", "per_class.csv", "confusion.csv"


def require_files_in(folder: Path) -> None:
    """Raise `UserError` where the path of one of the report's files is no file."""
    for name in (PAGE, PER_CLASS, CONFUSION, PREDICTIONS):
        if (folder / name).exists():
            require_file(folder / name)


def write_report(folder: Path, validation: Validation) -> None:
    """Write the report's files, each of them whole, in place of earlier ones. Raises `UserError` where one cannot be
    written."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / PAGE) as unfinished:
        unfinished.write_text(page(validation), **AS_TEXT)
    write_csv(folder / PER_CLASS, _per_class_rows(validation))
    write_csv(folder / CONFUSION, _confusion_rows(validation))
    write_csv(folder / PREDICTIONS, _prediction_rows(validation))
    log.info("%s written, and %s, %s and %s", folder / PAGE, PER_CLASS, CONFUSION, PREDICTIONS)


def _per_class_rows(validation: Validation) -> Iterable[Sequence[object]]:
    """A row for each class that images are of or were taken for. Shares are 0 to 1; empty where there is none."""
    yield "class", "images", "top1", "top5", "predicted", "precision", "most_confused_with", "times"
    for each in class_results(validation.predictions):
        other = "" if each.confused_with is None else validation.title(each.confused_with)
        top5 = "" if validation.score.top5 is None else known(each.top5)
        shares = (known(each.top1), top5, each.predicted, known(each.precision))
        yield validation.title(each.output), each.images, *shares, other, each.confused


def _confusion_rows(validation: Validation) -> Iterable[Sequence[object]]:
    """A row for each pair of classes that came: the pairs of 1000 classes are few, and their matrix is large."""
    yield "true", "predicted", "images"
    for label, output, count in confusion(validation.predictions):
        yield validation.title(label), validation.title(output), count


def _prediction_rows(validation: Validation) -> Iterable[Sequence[object]]:
    """A row for each image; top1 and top5 are 1 where the score counts it as right, top5 of more than 5 classes."""
    predictions = validation.predictions
    ranks = range(2, predictions.outputs.shape[1] + 1)
    more = [name for rank in ranks for name in (f"predicted_{rank}", f"probability_{rank}")]
    yield "path", "true", "top1", "top5", "loss", "predicted", "probability", *more
    for index, path in enumerate(validation.images.paths):
        pairs = zip(predictions.outputs[index], predictions.probabilities[index].tolist(), strict=True)
        best = [cell for output, probability in pairs for cell in (validation.title(output), known(probability))]
        right = int(predictions.top1[index]), "" if validation.score.top5 is None else int(predictions.top5[index])
        yield path, validation.title(predictions.labels[index]), *right, known(float(predictions.losses[index])), *best


def known(value: float) -> object:
    """A number for a table; nothing where there is none."""
    return "" if value != value else value
