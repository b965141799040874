"""What is kept of a prediction: the top classes as the score ranks them, whatever the logits are."""

import numpy as np
import pytest
from scipy.special import softmax

from mindcv_lite.evaluation.predictions import Predictions, prediction_rows, predictions_of

INF, NAN = np.inf, np.nan


def predicted(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    """Predictions with the ranks of the score: classes that are not surely behind the right one."""
    right = np.take_along_axis(logits, labels[:, None], 1)
    later = np.arange(logits.shape[1]) >= labels[:, None]
    ranks = logits.shape[1] - ((logits < right) | ((logits == right) & later)).sum(1)
    return predictions_of(prediction_rows(logits, ranks, np.zeros(len(labels), np.float32)), labels)


@pytest.mark.parametrize(("classes", "levels"), [(1000, 3), (6, 2), (5, 100), (3, 2), (1, 2)])
def test_a_top_prediction_is_right_exactly_where_the_score_counts_it(classes, levels):
    random = np.random.default_rng(classes)
    logits = random.integers(0, levels, (200, classes)).astype(np.float32)  # few levels make equal logits
    labels = random.integers(0, classes, 200).astype(np.int32)
    kept = predicted(logits, labels)
    assert kept.outputs.shape == kept.probabilities.shape == (200, min(5, classes))
    assert np.array_equal(kept.top1, kept.predicted == labels)
    assert np.array_equal(kept.top5, (kept.outputs == labels[:, None]).any(1))
    np.testing.assert_allclose(kept.probabilities, -np.sort(-softmax(logits, 1))[:, :5], rtol=1e-5)


def test_a_logit_that_is_no_number_predicts_no_class_and_large_ones_have_no_probability():
    logits = np.array([[NAN, NAN], [NAN, 1], [1, NAN], [INF, 1], [INF, INF], [-INF, -INF], [1, -INF]], np.float32)
    kept = predicted(logits, np.zeros(7, np.int32))
    assert kept.predicted.tolist() == [-1, -1, -1, 0, 0, 0, 0]
    assert np.array_equal(kept.top1, kept.predicted == 0)
    assert np.isfinite(kept.confidence).tolist() == [False] * 6 + [True]
