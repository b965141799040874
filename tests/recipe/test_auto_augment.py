"""The names of automatic augmentation: what is understood, and what is refused."""

from math import inf

import pytest

from mindcv_lite.recipe.auto_augment import AutoAugment, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("autoaug", AutoAugment("autoaug")),
        ("trivialaugwide", AutoAugment("trivialaugwide")),
        ("randaug", AutoAugment("randaug", 2, 10)),  # MindCV's defaults
        ("randaug-m9", AutoAugment("randaug", 2, 9)),
        ("randaug-n3-m0", AutoAugment("randaug", 3, 0)),
        ("randaug-m9-n2-mstd0-inc1", AutoAugment("randaug", 2, 9)),
        ("randaug-m7-mstd0.5", AutoAugment("randaug", 2, 7, 0.5)),  # of MindCV's tutorial
        ("randaug-mstd101-m9", AutoAugment("randaug", 2, 9, inf)),
        ("randaug-mstdinf", AutoAugment("randaug", 2, 10, inf)),
    ],
)
def test_names_of_mindcv_and_timm_are_understood(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["augmix-m3", "3a", "autoaugr", "rand-m9", "", "RandAug", "random"])
def test_other_policies_are_refused_with_those_there_are(text):
    with pytest.raises(ValueError, match=r"^randaug-mM-nN, autoaug or trivialaugwide"):
        parse(text)


OTHERS = ("w0", "inc0", "m11", "m-1", "m1.5", "n0", "n11", "n", "p0.5", "", "m²", "mstd", "mstd-1", "mstdnan", "mstd²")


@pytest.mark.parametrize("option", OTHERS)
def test_what_the_operators_cannot_do_is_refused_by_name(option):
    with pytest.raises(ValueError, match=f"M from 0 to 10, N from 1 to 10, without '{option.split('-')[0]}"):
        parse(f"randaug-{option}")


@pytest.mark.parametrize("text", ["autoaug-mstd0.5", "trivialaugwide-m31"])
def test_the_others_take_no_options(text):
    with pytest.raises(ValueError, match=f"{text.split('-')[0]} without options"):
        parse(text)
