"""Class folders and the outputs they stand for: which names are understood, and what is said of the others."""

import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindcv_lite.data.datasets.classes import NAMES, WNIDS, indices_of, output_titles, outputs_of
from mindcv_lite.errors import UserError

VAL = Path("images/val")
OWN = tuple(f"class_{index:03}" for index in range(1000))  # 1000 classes that are not ImageNet's
NAMED = "name all classes by wnid (n01440764), or all by index (0 to 999), or all by name (tench)"
NAMELESS = "name all classes by wnid (n01440764), or all by index (0 to 999)"


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mindcv_lite"), "propagate", True)
    caplog.set_level(logging.INFO, "mindcv_lite")
    return caplog


def test_the_classes_of_imagenet_are_in_their_order(shared):
    rows = [line.split() for line in (shared / "imagenet_classes.txt").read_text().splitlines()]
    assert [(int(index), *names) for index, *names in rows] == list(zip(range(1000), WNIDS, NAMES, strict=True))


def test_the_wnids_of_imagenet_are_sorted_and_its_names_are_unique_but_for_two():
    assert list(WNIDS) == sorted(set(WNIDS))
    assert len(WNIDS) == len(NAMES) == 1000
    assert {name for name in NAMES if NAMES.count(name) > 1} == {"crane", "maillot"}


@pytest.mark.parametrize(
    ("folders", "class_names", "num_outputs", "outputs"),
    [
        # the names of the checkpoint, all of them, in any order
        (["a", "b", "c"], ["a", "b", "c"], 3, (0, 1, 2)),
        (["a", "b", "c"], ["c", "a", "b"], 3, (1, 2, 0)),
        (["b", "a"], ["a", "b"], 2, (1, 0)),
        (["a", "b"], ["a", "b"], 1000, (0, 1)),  # trained on fewer classes than it has outputs
        (["a", "b"], [None, "b", None, "a"], 4, (3, 1)),
        (["0", "1", "10"], ["0", "1", "10"], 1000, (0, 1, 2)),
        (["n02012849", "n01440764"], ["n01440764", "n02012849"], 1000, (1, 0)),
        (OWN[::-1], OWN, 1000, tuple(range(999, -1, -1))),
        # ImageNet by wnid
        (WNIDS, None, 1000, tuple(range(1000))),
        (["n15075141", "n02012849"], None, 1000, (999, 134)),
        (["n15075141", "n02012849"], WNIDS, 1000, (999, 134)),
        (["n15075141", "n02012849"], NAMES, 1000, (999, 134)),
        # ImageNet by index
        (["999", "7"], None, 1000, (999, 7)),
        (["007", "010", "0999"], None, 1000, (7, 10, 999)),
        (["7", "010"], WNIDS, 1000, (7, 10)),
        (["0"], NAMES, 1000, (0,)),
        # ImageNet by name, where the checkpoint is known to be one of ImageNet
        (["goldfish", "tench"], NAMES, 1000, (1, 0)),
        (["Shih-Tzu"], WNIDS, 1000, (155,)),
        (["Tinca tinca", "goldfish"], NAMES, 1000, (0, 1)),  # other names of theirs, as people write them
        (["carassius_auratus", "great white shark"], None, 1000, (1, 2)),
        (["Cardigan", "cardigan"], NAMES, 1000, (264, 474)),  # a dog and a jacket, as predict calls them
        (["Tench", "Jersey"], NAMES, 1000, (0, 610)),
        (["missile"], NAMES, 1000, (657,)),  # predict's name of one class, another name of another one
        # a checkpoint without names
        (["b", "a"], None, 2, (1, 0)),
        (["b", "a"], None, 5, (1, 0)),
        (["cafe\u0301", "a"], ["a", "caf\xe9"], 2, (1, 0)),
        (["caf\xe9", "a"], ["a", "cafe\u0301"], 2, (1, 0)),
        (["b", "a"], None, 1000, (1, 0)),
        (["n02012849", "n01440764"], None, 5, (1, 0)),  # not ImageNet's 1000 outputs
        (["7", "3"], None, 10, (1, 0)),
        (["7", "dog"], None, 1000, (0, 1)),
        (["7", "1000"], None, 1000, (1, 0)),
    ],
)
def test_a_folder_stands_for_the_output_of_its_name(folders, class_names, num_outputs, outputs):
    assert outputs_of(folders, class_names, num_outputs, VAL) == outputs


@pytest.mark.parametrize(
    ("folders", "class_names", "num_outputs", "sentence"),
    [
        # a mixture
        (["goldfish", "n01440764"], NAMES, 1000, f"class 'goldfish' is unknown; {NAMED}"),
        (["goldfish", "n01440764", "tench"], NAMES, 1000, f"class 'n01440764' is unknown; {NAMED}"),
        (["7", "n01440764"], WNIDS, 1000, f"class '7' is unknown; {NAMED}"),
        (["goldfish", "n01440764"], None, 1000, f"class 'goldfish' is unknown; {NAMELESS}"),
        (["dog", "n01440764"], None, 1000, f"class 'dog' is unknown; {NAMELESS}"),
        # no class of ImageNet
        (["goldfish", "roses"], NAMES, 1000, f"class 'roses' is unknown; {NAMED}"),
        (["dogs"], WNIDS, 1000, f"class 'dogs' is unknown; {NAMED}"),
        (["7", "1000"], NAMES, 1000, f"class '1000' is unknown; {NAMED}"),
        (["7", "-1"], NAMES, 1000, f"class '-1' is unknown; {NAMED}"),
        (["7", "٣"], NAMES, 1000, f"class '٣' is unknown; {NAMED}"),
        # not one class
        (["007", "7"], None, 1000, "classes '007' and '7' are both output 7; keep one of them"),
        (["crane", "tench"], NAMES, 1000, f"'crane' may be crane (n02012849) or crane (n03126707); {NAMELESS}"),
        (["panther"], WNIDS, 1000, f"'panther' may be cougar (n02125311) or jaguar (n02128925); {NAMELESS}"),
        (
            ["Tench", "Cardigan"],
            NAMES,
            1000,
            f"'Cardigan' may be Cardigan (n02113186) or cardigan (n02963159); {NAMELESS}",
        ),
        (["tench", "Tinca tinca"], NAMES, 1000, "classes 'tench' and 'Tinca tinca' are both output 0; keep one of"),
        (["a", "b"], ["a", "b", "a"], 3, "the network has two classes 'a', outputs 0 and 2"),
        # not the classes of the checkpoint
        (["a", "b"], ["a"], 1, "class 'b' is unknown; expected the 1 classes that the network is trained for"),
        (["a", "b"], ["c", "a"], 2, "class 'c' is missing and class 'b' is unknown; expected the 2 classes that the"),
        (["a", "b"], ["c", "d", "e"], 3, "class 'c' is missing and class 'a' is unknown (3 more differ); expected the"),
        (["n01440764"], OWN, 1000, "class 'class_000' is missing and class 'n01440764' is unknown (999 more differ)"),
        (["7"], OWN, 1000, "class 'class_000' is missing and class '7' is unknown (999 more differ)"),
        (
            ["daisies", "rose"],
            ["daisy", "roses"],
            2,
            "class 'daisy' is missing and class 'daisies' is unknown (2 more differ); expected the 2 classes that the "
            "network is trained for; is 'daisies' what is called 'daisy' there?",
        ),
        (
            ["caf\xe9", "cafe\u0301"],
            ["caf\xe9", "a"],
            2,
            "two folders are called 'caf\xe9', their accents written in two",
        ),
        # more than there are outputs
        (["a", "b", "c"], None, 2, "there are 3 classes, but the network has 2 outputs"),
        (["a", "b", "c"], ["a", "b", "c"], 2, "there are 3 classes, but the network has 2 outputs"),
    ],
)
def test_a_folder_that_stands_for_no_output_is_named(folders, class_names, num_outputs, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(f'{VAL}: {sentence}')}"):
        outputs_of(folders, class_names, num_outputs, VAL)


@pytest.mark.parametrize(
    ("folders", "class_names", "num_outputs", "titles"),
    [
        (("a", "b"), ("b", "a"), 2, ("b", "a")),
        (("a", "b"), ("b", None, "a"), 3, ("b", "1", "a")),
        (("a", "b"), None, 4, ("a", "b", "2", "3")),
        (("a", "b"), None, 1000, ("a", "b", *map(str, range(2, 1000)))),
        (OWN, OWN, 1000, OWN),
        *(
            (folders, names, 1000, ("tench n01440764", "goldfish n01443537"))
            for folders, names in [
                (("n01443537",), None),
                (("1", "7"), None),
                (("n01443537",), WNIDS),
                (("goldfish",), NAMES),
            ]
        ),
    ],
)
def test_an_output_is_called_by_its_own_name_or_else_by_the_folders_or_its_number(
    folders, class_names, num_outputs, titles
):
    found = output_titles(folders, class_names, num_outputs)
    assert len(found) == len(set(found)) == num_outputs
    assert found[: len(titles)] == titles


def test_the_classes_of_another_folder_number_those_of_a_nameless_network(log):
    assert outputs_of(["a", "c"], None, 1000, VAL, presumed=("a", "c")) == (0, 1)
    assert log.messages == ["the checkpoint names no classes: outputs 0 to 1 are 'a' to 'c'"]
    with pytest.raises(UserError, match=r"images/val: class 'b' is missing; expected the 3 classes"):
        outputs_of(["a", "c"], None, 1000, VAL, presumed=("a", "b", "c"))
    assert outputs_of(["n01440764", "n02012849"], None, 1000, VAL, presumed=("n01440764", "n02012849")) == (0, 134)


@pytest.mark.parametrize("num_outputs", [3, 1000])
def test_some_of_the_classes_in_a_checkpoint_are_enough_and_the_others_are_told(log, num_outputs):
    assert outputs_of(["b"], ["a", "b", "c"], num_outputs, VAL) == (1,)
    assert log.messages == ["images/val: 1 of the network's 3 classes; without an image: a, c"]


def test_folders_that_are_all_called_as_predict_calls_the_outputs_of_a_nameless_network_are_those(log):
    assert outputs_of(["goldfish", "tench"], None, 1000, VAL) == (1, 0)
    assert log.messages == ["images/val: 2 of ImageNet's 1000 classes, by name (tench)"]
    assert outputs_of(["goldfish", "roses"], None, 1000, VAL) == (0, 1)
    assert outputs_of(["goldfish", "tench"], None, 7, VAL) == (0, 1)


def test_what_is_taken_for_imagenet_is_said(log):
    outputs_of(["7", "8"], None, 1000, VAL)
    assert log.messages == ["images/val: 2 of ImageNet's 1000 classes, by index (0 to 999)"]


@given(st.lists(st.integers(0, 999), min_size=1, unique=True), st.data())
def test_every_way_to_name_a_class_of_imagenet_gives_its_output(outputs, data):
    class_names = data.draw(st.sampled_from([None, WNIDS, NAMES]))
    width = data.draw(st.integers(1, 4))
    assert outputs_of([WNIDS[output] for output in outputs], class_names, 1000, VAL) == tuple(outputs)
    assert outputs_of([f"{output:0{width}}" for output in outputs], class_names, 1000, VAL) == tuple(outputs)
    unique = [output for output in outputs if NAMES[output] not in ("crane", "maillot")]
    assert outputs_of([NAMES[output] for output in unique], NAMES, 1000, VAL) == tuple(unique)


@given(st.lists(st.text(), min_size=1, unique=True), st.randoms())
def test_indices_undo_any_shuffling_of_the_names(names, random):
    folders = random.sample(names, len(names))
    assert [names[index] for index in indices_of(folders, names, VAL)] == folders
