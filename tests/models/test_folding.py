"""A network with its BatchNorms folded, against the same with them in float64."""

import numpy as np

from mindcv_lite.models.folding import fold_norms

CHANNELS, OUT, EPS = 3, 5, 1e-3


def random_layers(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A convolution with a BatchNorm, twice, the first within a row; and a layer with a bias."""
    parameters = {"classifier.0.weight": random.normal(size=(2, OUT)), "classifier.0.bias": random.normal(size=2)}
    for convolution, norm in (("features.3.layers.10", "features.3.layers.11"), ("features.9", "features.10")):
        parameters |= {
            f"{convolution}.weight": random.normal(size=(OUT, CHANNELS, 1, 1)),
            f"{norm}.gamma": random.normal(size=OUT),
            f"{norm}.beta": random.normal(size=OUT),
            f"{norm}.moving_mean": random.normal(size=OUT),
            f"{norm}.moving_variance": random.uniform(0, 2, OUT),
        }
    return {name: value.astype(np.float32) for name, value in parameters.items()}


def test_a_convolution_takes_over_the_norm_behind_it_to_the_last_bit_of_float32():
    random = np.random.default_rng(0)
    parameters = random_layers(random)
    folded = fold_norms(parameters, EPS)
    for convolution, norm in (("features.3.layers.10", "features.3.layers.11"), ("features.9", "features.10")):
        weight = parameters[f"{convolution}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            parameters[f"{norm}.{part}"].astype(np.float64)[:, None]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = random.normal(size=(CHANNELS, 7))
        expected = (weight[..., 0, 0] @ x - mean) / np.sqrt(variance + EPS) * gamma + beta
        found = folded[f"{convolution}.weight"][..., 0, 0] @ x + folded[f"{convolution}.bias"][:, None]
        # The folded numbers are rounded to float32 once: 6e-8 of each product.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_nothing_but_weights_and_biases_is_left_all_in_float32():
    parameters = random_layers(np.random.default_rng(0))
    folded = fold_norms(parameters, EPS)
    layers = ("classifier.0", "features.3.layers.10", "features.9")
    assert set(folded) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert {value.dtype for value in folded.values()} == {np.dtype(np.float32)}
    assert np.array_equal(folded["classifier.0.bias"], parameters["classifier.0.bias"])
