"""The numbers of a report against SciPy, and against counting one by one."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from mindcv_lite.evaluation.report.statistics import (
    calibration,
    calibration_error,
    class_results,
    confused_pairs,
    confusion,
    mcnemar,
    mean_interval,
    surest_first,
    wilson_interval,
)
from tests.evaluation.report.made_predictions import predictions_by, random_predictions


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 10), (10, 10), (185, 200), (34035, 50000)])
def test_the_interval_of_a_share_is_wilsons(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 3), (2, 9), (9, 2), (160, 240), (20, 5000)])
def test_the_p_value_of_a_pair_is_the_binomial_tests(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_six_images_on_one_side_are_the_fewest_that_tell():
    assert (mcnemar(0, 5), mcnemar(0, 6)) == (2 / 2**5, 2 / 2**6)  # 0.0625 and 0.03125, by hand


def test_the_interval_of_a_mean_is_the_normal_one_and_none_where_there_is_none():
    values = np.random.default_rng(0).exponential(2, 300).astype(np.float32)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, rel=1e-5)
    for few in ([1.0], [1.0, math.nan], [1.0, math.inf]):
        assert np.isnan(mean_interval(np.array(few, np.float32))).all()


@pytest.mark.parametrize(("count", "classes"), [(400, 7), (50, 100), (5, 1)])
def test_confusion_is_every_image_in_its_cell(count, classes):
    predictions = random_predictions(count, classes)
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (predictions.labels, predictions.predicted), 1)
    found = confusion(predictions)
    assert found == [(row, column, matrix[row, column]) for row, column in zip(*matrix.nonzero(), strict=True)]
    assert sum(images for _, _, images in found) == count
    wrong = [row for row in found if row[0] != row[1]]
    assert sorted(confused_pairs(predictions)) == wrong
    assert [row[2] for row in confused_pairs(predictions)] == sorted((row[2] for row in wrong), reverse=True)


@pytest.mark.parametrize(("count", "classes"), [(400, 7), (50, 100), (5, 1)])
def test_the_classes_are_counted_as_one_by_one(count, classes):
    predictions = random_predictions(count, classes)
    labels, predicted = predictions.labels.tolist(), predictions.predicted.tolist()
    results = class_results(predictions)
    assert [result.output for result in results] == sorted({*labels, *predicted})
    for result in results:
        found = [output for label, output in zip(labels, predicted, strict=True) if label == result.output]
        meant = [label for label, output in zip(labels, predicted, strict=True) if output == result.output]
        hits, wrong = found.count(result.output), Counter(output for output in found if output != result.output)
        assert (result.images, result.predicted) == (len(found), len(meant))
        assert result.top1 == pytest.approx(hits / len(found) if found else math.nan, nan_ok=True)
        assert result.top5 == pytest.approx(1.0 if found else math.nan, nan_ok=True)
        assert result.precision == pytest.approx(hits / len(meant) if meant else math.nan, nan_ok=True)
        assert result.confused == max(wrong.values(), default=0)
        assert wrong[result.confused_with] == result.confused
    assert sum(result.top1 * result.images for result in results if result.images) == pytest.approx(
        predictions.top1.sum()
    )


def test_a_class_without_images_has_no_share():
    results = class_results(predictions_by([0, 0, 5], [0, 3, 5]))
    assert [(result.output, result.images) for result in results] == [(0, 2), (3, 0), (5, 1)]
    assert math.isnan(results[1].top1)
    assert results[1].precision == 0


def test_a_prediction_that_is_no_number_is_confused_with_no_class():
    predictions = predictions_by([0, 0, 1], [-1, -1, 1], [math.nan, math.nan, 0.5])
    assert confusion(predictions) == [(0, -1, 2), (1, 1, 1)]
    assert confused_pairs(predictions) == []
    assert [(result.output, result.top1, result.predicted) for result in class_results(predictions)] == [
        (0, 0.0, 0),
        (1, 1.0, 1),
    ]
    assert [each.images for each in calibration(predictions)] == [1]
    assert surest_first(predictions, predictions.labels >= 0) == [2, 0, 1]


def test_the_calibration_error_is_that_of_the_definition():
    predictions = random_predictions(500, 6)
    error = 0.0
    for number in range(15):  # Guo et al. 2017, equation 3
        inside = [
            index for index, sure in enumerate(predictions.confidence) if number / 15 < float(sure) <= (number + 1) / 15
        ]
        if inside:
            gap = predictions.top1[inside].mean() - predictions.confidence[inside].astype(float).mean()
            error += len(inside) / 500 * abs(gap)
    assert calibration_error(calibration(predictions)) == pytest.approx(error, rel=1e-9)


def test_calibration_by_hand_with_probabilities_at_both_ends():
    bins = calibration(predictions_by([0, 0, 0, 0], [0, 1, 0, 0], [0.0, 1.0, 1.0, 0.5]))
    assert [(each.images, each.confidence, each.top1) for each in bins] == [(1, 0.0, 1.0), (1, 0.5, 1.0), (2, 1.0, 0.5)]
    assert calibration_error(bins) == pytest.approx((1 + 0.5 + 2 * 0.5) / 4)
    assert math.isnan(calibration_error([]))
