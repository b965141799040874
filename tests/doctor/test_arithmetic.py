"""The doctor notices a device that computes wrongly."""

import re

import mindspore
import numpy as np
import pytest
from mindspore import nn

from mindcv_lite import stateless_random as noise
from mindcv_lite.doctor import arithmetic
from mindcv_lite.doctor.arithmetic import integers, logits, noise_bits, primitives
from mindcv_lite.doctor.findings import Failed, NotRun
from mindcv_lite.doctor.primitives import read_list

pytestmark = pytest.mark.usefixtures("pynative_mode")


def test_integers_and_noise_of_this_device_are_those_of_numpy():
    assert integers()[0].startswith("int32 as NumPy's")
    assert noise_bits() == ("4096 numbers of 3 seeds as NumPy's", {})


def test_a_wrong_integer_is_named_with_its_index(monkeypatch):
    class Saturating(arithmetic.Integers):
        # pyrefly: ignore [bad-override]
        def construct(self, x):
            tripled, *others = super().construct(x)
            return tripled.clip(-(2**20), 2**20), *others

    monkeypatch.setattr(arithmetic, "Integers", Saturating)
    message = r"int32 x \* 3: 2 of 10 numbers differ from NumPy's, the first at 8: 1048576, expected 300000000"
    with pytest.raises(Failed, match=message):
        integers()


def test_a_changed_reference_of_the_noise_is_noticed(monkeypatch):
    expected_bits = noise.expected_bits
    monkeypatch.setattr(noise, "expected_bits", lambda shape, seed: expected_bits(shape, seed) ^ (seed == 7))
    with pytest.raises(Failed, match="noise of seed 7: 4096 of 4096 numbers differ from NumPy's"):
        noise_bits()


def test_a_wrong_primitive_is_named_with_its_group(monkeypatch):
    pooling, dropout = (arithmetic.GROUPS[name]() for name in ("pooling", "dropout"))
    wrong = dropout._replace(expected=(1.5 * dropout.expected[0],))
    monkeypatch.setattr(arithmetic, "GROUPS", {"pooling": lambda: pooling, "dropout": lambda: dropout})
    ran = sum(row.group in ("pooling", "dropout") for row in read_list())
    assert primitives()[0] == f"{ran} primitives in 2 small graphs as NumPy's"
    monkeypatch.setattr(arithmetic, "GROUPS", {"pooling": lambda: pooling, "dropout": lambda: wrong})
    with pytest.raises(Failed, match=r"^dropout: output 0 is off by 0.33 of the largest number, allowed are 0.004"):
        primitives()

    def unknown():
        raise RuntimeError("Unsupported op [HSwish] on Ascend\n- C++ call stack")

    monkeypatch.setattr(arithmetic, "GROUPS", {"activations": unknown, "dropout": lambda: wrong})
    with pytest.raises(
        Failed, match=r"^activations: RuntimeError: Unsupported op \[HSwish\] on Ascend; dropout: output"
    ):
        primitives()


def test_int32_that_saturates_is_told_and_no_failure(monkeypatch):
    class Saturating(nn.Cell):
        # pyrefly: ignore [bad-override]
        def construct(self, x):
            wide = x.astype(mindspore.int64)
            saturated = (each.clip(-(2**31), 2**31 - 1).astype(mindspore.int32) for each in (wide * 3, wide + 1))
            return *saturated, x & 0xFFFF, x ^ (x * 5), x // 65536, x % 7

    monkeypatch.setattr(arithmetic, "Integers", Saturating)
    text, figures = integers()
    assert "does not wrap around, and nothing here needs it to" in text
    assert figures == {"times_3": 2**31 - 1, "plus_1": 2**31 - 1}


def test_logits_are_compared_with_those_of_another_process(tmp_path, recipe, world, monkeypatch):
    numbers, written = np.linspace(-1, 2, 12).reshape(4, 3), []

    def outcome(words, folder, limit):
        written.append(words[-1])
        np.save(folder / "logits_0.npy", numbers)
        return 0, ""

    monkeypatch.setattr(arithmetic, "outcome", outcome)
    monkeypatch.setattr(arithmetic, "build_network", lambda *arguments: None)
    monkeypatch.setattr(arithmetic, "logits_of", lambda network: numbers * (1 + 1e-6))
    here = world(recipe())
    assert logits(here, "O0", tmp_path)[1]["difference"] == pytest.approx(1e-6, rel=1e-3)
    assert f"write_reference('{tmp_path}/logits_0.npy')" in written[0]
    for wrong in (numbers * 1.01, numbers * np.nan):  # a convolution that is off by a percent, or gives no numbers
        monkeypatch.setattr(arithmetic, "logits_of", lambda network, wrong=wrong: wrong)
        with pytest.raises(Failed, match=r"largest difference (1\.0e-02|nan) of the largest logit, at most 1e-04"):
            logits(here, "O0", tmp_path)
    with pytest.raises(NotRun, match="a CPU computes in float32"):
        logits(here, "O3", tmp_path)


def test_a_reference_that_cannot_be_computed_is_told_with_its_reason(tmp_path, recipe, world, monkeypatch):
    monkeypatch.setattr(arithmetic, "outcome", lambda *arguments: (1, "Traceback\n  ImportError: libgomp.so.1"))
    with pytest.raises(Failed, match=re.escape("the CPU's logits could not be computed: Traceback ImportError: libg")):
        logits(world(recipe()), "O0", tmp_path)
