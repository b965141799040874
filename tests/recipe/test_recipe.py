"""The recipe's promises: where values come from, what is refused, and in which words."""

import math
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import ANY, FOREIGN_KEYS, KEYS, KINDS, TOPICS, Recipe
from mindcv_lite.recipe.load import load_recipe, recipe_of
from mindcv_lite.recipe.rules import require_extras
from tests.conftest import ROOT

REQUIRED = "model: mobilenet_v3_small_100\nbatch_size: 4\nepoch_size: 2\nlr: 0.01\nopt: momentum\nscheduler: constant\n"
REQUIRED_KEYS = {"model", "batch_size", "epoch_size", "lr", "opt", "scheduler"}


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Write a recipe file of these lines; its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "r.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.fixture
def load(write) -> Callable[..., Recipe]:
    """The recipe of the required keys, lines of YAML, and flags."""

    def load(lines: str = "", *flags: str) -> Recipe:
        given_keys = {line.split(":")[0] for line in lines.splitlines()}
        kept = [line for line in REQUIRED.splitlines() if line.split(":")[0] not in given_keys]
        return load_recipe(["--config", write("\n".join([*kept, lines])), *flags], "")

    return load


def error_of(call: Callable[..., Any], *arguments: Any) -> str:
    """The text of the error, which must be one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert len(text.splitlines()) == 1, text
    return text


# ------------------------------------------------------------------------------------------------------------- order


def test_flags_overrule_the_file_and_the_file_overrules_the_defaults(load):
    assert load().system.seed == 42
    assert load("seed: 1").system.seed == 1
    assert load("seed: 1", "--seed", "2").system.seed == 2
    assert load("", "--seed", "2").system.seed == 2


def test_a_recipe_may_be_flags_alone():
    flags = [f"--{line.replace(': ', '=')}" for line in REQUIRED.splitlines()]
    assert load_recipe(flags, "").model.model == "mobilenet_v3_small_100"


def test_c_is_short_for_config(write):
    assert load_recipe(["-c", write(REQUIRED)], "").data.batch_size == 4


@pytest.mark.parametrize("name", sorted(REQUIRED_KEYS))
def test_what_decides_the_result_has_no_default(name, write):
    path = write("".join(line + "\n" for line in REQUIRED.splitlines() if not line.startswith(f"{name}:")))
    text = error_of(load_recipe, ["--config", path], "")
    assert text == f"{path}: keys that a recipe must have are missing: {name}; add them, or give --{name}"


def test_all_that_is_missing_is_told_at_once():
    text = error_of(load_recipe, ["--batch_size", "4", "--opt", "sgd"], "")
    assert text.startswith(
        "command line: keys that a recipe must have are missing: model, lr, epoch_size, scheduler; give"
    )
    assert text.endswith("or --model --lr --epoch_size --scheduler")


@pytest.mark.parametrize(
    ("flags", "recipe"),
    [
        (["--model", "mobilenet_v3_small_100", "--pretrained"], "mobilenet_v3_small_finetune"),
        (["--model", "mobilenet_v3_large_075", "--ckpt_path", "x.ckpt"], "mobilenet_v3_large_finetune"),
        (["--model", "mobilenet_v3_large_100", "--pretrained", "False"], "mobilenet_v3_large_ascend"),
        (["--model", "mobilenet_v3_small_minimalistic_100"], "mobilenet_v3_small_ascend"),
    ],
    ids=str,
)
def test_a_model_alone_is_trained_by_the_shipped_recipe_which_is_told(flags, recipe, log, monkeypatch):
    monkeypatch.delenv("MS_ROLE", raising=False)
    found = load_recipe([*flags, "--lr", "0.5"], "")
    assert found == load_recipe(["--config", recipe, *flags, "--lr", "0.5", "--distribute", "False"], "")
    assert log.messages == [f"recipe: {recipe}, because no --config names another"]


def test_what_only_training_reads_need_not_be_given_to_validate():
    found = load_recipe(["--ckpt_path", "x.ckpt"], "", trains=False)
    assert "batch_size" not in found.origin
    assert "model" not in found.origin


def test_conveniences_have_a_default():
    assert {name for name, entry in KEYS.items() if entry.default is MISSING} == REQUIRED_KEYS


def test_without_a_recipe_the_advice_is_to_give_one():
    assert "give a recipe with --config" in error_of(load_recipe, [], "")


# ------------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-5", 1e-5),  # text to PyYAML
        ("lr", "1E5", 1e5),
        ("lr", ".5e-3", 0.5e-3),
        ("lr", "2", 2.0),
        ("warmup_factor", "0", 0.0),
        ("batch_size", "75", 75),
        ("distribute", "True", True),
        ("distribute", "false", False),
        ("num_samples", "None", None),
        ("num_samples", "null", None),
        ("num_samples", "7", 7),
        ("color_jitter", "None", None),
        ("num_parallel_workers", "auto", "auto"),
        ("num_parallel_workers", "3", 3),
        ("in_channels", "3", 3),
        ("mode", "0", 0),
        ("jit_level", "O1", "O1"),
        ("dataset", "''", ""),
        ("scale", "[0.35, 1]", (0.35, 1.0)),
        ("image_resize", "192", 192),
        ("image_resize", "[192, 256]", (192, 256)),
        ("scale", "[1e-3, 1.0]", (1e-3, 1.0)),
        ("multi_step_decay_milestones", "[5]", (5,)),
        ("multi_step_decay_milestones", "[5, 50, 500]", (5, 50, 500)),
        ("mean", "[-1e-1, 0, 1]", (-0.1, 0.0, 1.0)),
    ],
)
@pytest.mark.parametrize("source", ["file", "flag"])
def test_values_are_read_as_the_type_of_their_key(load, name, text, value, source):
    if source == "flag":
        text = text.strip("'")  # the shell's quotes
    found = load(f"{name}: {text}" if source == "file" else "", *([] if source == "file" else [f"--{name}={text}"]))
    read = found.flat()[name]
    assert read == value
    assert type(read) is type(value)


WRONG_TYPES = [
    ("batch_size", "True", "a whole number, at least 1", "True"),
    ("batch_size", "4.0", "a whole number, at least 1", "4.0"),
    ("batch_size", "1e2", "a whole number, at least 1", "100.0"),
    ("batch_size", "many", "a whole number, at least 1", "'many'"),
    ("batch_size", "[4]", "a whole number, at least 1", "[4]"),
    ("batch_size", "None", "a whole number, at least 1", "None"),
    ("lr", "True", "a number, above 0", "True"),
    ("lr", "fast", "a number, above 0", "'fast'"),
    ("lr", "0,77", "a number, above 0", "'0,77'"),
    ("lr", ".inf", "a number, above 0", "inf"),
    ("lr", ".nan", "a number, above 0", "nan"),
    ("lr", "1" + 400 * "0", "a number, above 0", "1000"),  # no float is as large
    ("lr", "{a: 1}", "a number, above 0", "{'a': 1}"),
    ("distribute", "1", "True or False", "1"),
    ("distribute", "maybe", "True or False", "'maybe'"),
    ("mode", "1", "0", "1"),
    ("mode", "False", "0", "False"),
    ("in_channels", "2", "one of 1, 3", "2"),
    ("in_channels", "True", "one of 1, 3", "True"),
    ("opt", "sdg", "one of sgd, momentum, adam,", "'sdg'"),
    ("num_samples", "all", "a whole number or None, at least 1", "'all'"),
    ("num_parallel_workers", "Auto", "a whole number or auto, at least 1", "'Auto'"),
    ("scale", "0.3", "a list of 2 numbers, [low, high], above 0, at most 1", "0.3"),
    ("scale", "0.35,1.0", "a list of 2 numbers, [low, high], above 0, at most 1", "'0.35,1.0'"),
    ("scale", "[0.3]", "a list of 2 numbers", "[0.3]"),
    ("scale", "[0.1, 0.2, 0.3]", "a list of 2 numbers", "[0.1, 0.2, 0.3]"),
    ("scale", "[0.1, a]", "a list of 2 numbers", "[0.1, 'a']"),
    ("image_resize", "[192]", "a whole number or a list of 2 whole numbers, [height, width], at least 1,", "[192]"),
    (
        "image_resize",
        "[0, 192]",
        "a whole number or a list of 2 whole numbers, [height, width], at least 1,",
        "[0, 192]",
    ),
    ("mean", "[]", "a list of numbers", "[]"),
    ("multi_step_decay_milestones", "[1.5]", "a list of whole numbers, at least 1", "[1.5]"),
]


@pytest.mark.parametrize(("name", "text", "expected", "got"), WRONG_TYPES)
def test_another_type_is_refused_by_file_key_expectation_and_value(load, write, name, text, expected, got):
    where = write("")
    assert error_of(load, f"{name}: {text}").startswith(f"{where}: key '{name}': expected {expected}")
    assert f"got {got}" in error_of(load, f"{name}: {text}")
    text_of_flag = error_of(load, "", f"--{name}={text}")
    assert text_of_flag.startswith(f"command line: key '{name}': expected {expected}")
    assert f"got {got}" in text_of_flag


BOUNDS = [(name, kind, bound) for name, entry in KEYS.items() for kind, bound in entry.metadata["bounds"].items()]


@pytest.mark.parametrize(("name", "bound_kind", "bound"), BOUNDS)
def test_bounds_hold_and_are_stated(load, name, bound_kind, bound):
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    whole = "float" not in str(KINDS[name])
    step = 1 if whole else abs(bound) * 1e-6 or 1e-6
    beyond = {"at_least": bound - step, "above": bound, "at_most": bound + step, "below": bound}[bound_kind]
    many = typing.get_origin(KINDS[name]) is tuple
    value = [0.5 if not whole else 1, beyond] if many else beyond
    text = error_of(load, "", f"--{name}={value}")
    assert f"key '{name}': expected " in text
    assert f"{words[bound_kind]} {bound:.10g}" in text


def test_values_on_a_bound_that_belongs_to_it_are_taken(load):
    flags = ("--warmup_factor=1", "--weight_decay=0", "--scale=[1, 1]", f"--seed={2**31 - 1}", "--crop_pct=1")
    assert load("", *flags).system.seed == 2**31 - 1


def test_a_long_wrong_value_is_cut_short(load):
    assert len(error_of(load, "", "--lr=" + 1000 * "x")) < 200


# ------------------------------------------------------------------------------------------------------ command line


def test_a_bare_flag_means_true(load):
    assert load("shuffle: False", "--shuffle").data.shuffle is True
    assert load("", "--shuffle", "False").data.shuffle is False
    assert load("", "--distribute", "--seed", "3").system.distribute is True


@pytest.mark.parametrize("text", ["123", "None", "True", "1e-5", "[a]", "a: b", "", "2024-13-45", "a/images #1"])
def test_text_on_the_command_line_stays_text(load, text):
    assert load("", "--data_dir", text).data.data_dir == text
    assert load("", "--ckpt_path", text).model.ckpt_path == text


def test_paths_may_begin_at_home_and_hold_variables(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/fast")
    recipe = load(
        "data_dir: ~/images\nckpt_save_dir: $SCRATCH/${SCRATCH}x\nteacher: [~/a.ckpt, $NONE/b]\nresume: $SCRATCH/c"
    )
    assert (recipe.data.data_dir, recipe.output.ckpt_save_dir) == ("/home/me/images", "/fast//fastx")
    assert (recipe.loss.teachers, recipe.output.resume) == (("/home/me/a.ckpt", "$NONE/b"), "/fast/c")
    assert load("", "--ckpt_path=~/w.ckpt").model.ckpt_path == "/home/me/w.ckpt"


@pytest.mark.parametrize("text", ["010", "1:30", "0x1F", "0b11"])
def test_numbers_that_yaml_and_people_read_in_two_ways_are_refused(load, text):
    sentence = f"key 'num_samples': expected a whole number or None, at least 1, got {text!r}"
    assert error_of(load, "", "--num_samples", text) == f"command line: {sentence}"
    assert error_of(load, f"num_samples: {text}").endswith(sentence)
    assert load(f"train_split: {text}").data.train_split == text


@pytest.mark.parametrize("text", ["2024-13-45", '"\\UFFFFFFFF"', "!!int x", "\udcff", "[1", "%"])
def test_odd_text_for_a_number_is_answered_in_a_sentence(load, text):
    assert error_of(load, "", "--lr", text) == f"command line: key 'lr': expected a number, above 0, got {text!r}"


def test_two_dashes_are_no_value(load):
    assert error_of(load, "", "--lr=--").startswith("command line: key 'lr': expected a number, above 0, got ")
    assert error_of(load, "", "--data_dir=--").startswith("command line: key 'data_dir': expected text, got ")


@pytest.mark.parametrize("text", ["-1", "-0.5", "-.5", "-1e-5", "-2E3"])
@pytest.mark.parametrize("form", ["one word", "two words"])
def test_a_negative_number_is_a_value_and_no_flag(load, text, form):
    flags = [f"--lr={text}"] if form == "one word" else ["--lr", text]
    assert error_of(load, "", *flags).startswith("command line: key 'lr': expected a number, above 0, got ")


def test_scientific_numbers_are_flag_values(load):
    assert load("", "--lr", "1e-5", "--mean", "[-1e1, 1e1, 2]").optimizer.lr == 1e-5


def test_a_flag_without_its_value_is_refused_by_name(load):
    assert error_of(load, "", "--lr") == "command line: argument --lr: expected one argument; --help lists all flags"


def test_lists_as_several_words_are_refused_with_the_right_form(load):
    text = error_of(load, "", "--scale", "0.35", "1.0")
    assert text == "command line: '1.0' belongs to no flag; write --key value, lists as \"[0.35, 1.0]\""


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("epoch_sise", "did you mean 'epoch_size'?"),
        ("epoch", "did you mean 'epoch_size'?"),  # no abbreviation is guessed at
        ("batch-size", "did you mean 'batch_size'?"),
        ("Lr", "--help lists all keys"),
        ("ema_decy", "did you mean 'ema_decay'?"),
        ("colour_jitter", "did you mean 'color_jitter'?"),
        ("qqq", "--help lists all keys"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(load, write, unknown, nearest):
    path = write("")
    assert error_of(load, f"{unknown}: 1") == f"{path}: unknown key '{unknown}'; {nearest}"
    assert error_of(load, "", f"--{unknown}", "1") == f"command line: unknown key '{unknown}'; {nearest}"
    assert error_of(load, "", f"--{unknown}=1") == f"command line: unknown key '{unknown}'; {nearest}"


@pytest.mark.parametrize("program", ["train.py", "validate.py"])
def test_the_help_page_lists_every_key_by_topic_with_its_default(program):
    done = subprocess.run([sys.executable, ROOT / program, "--help"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    page = " ".join(done.stdout.split())
    for topic in TOPICS.values():
        assert f"{topic.__doc__}: --{fields(topic)[0].name}" in page
        for key in fields(topic):
            assert f"--{key.name} " in page or f"--{key.name}]" in page
            assert f"{key.metadata['help']} [" in page
    assert page.count("; required]") == len(REQUIRED_KEYS)
    assert page.count("; default: ") == len(KEYS) - len(REQUIRED_KEYS)
    assert "--resume_opt" not in page  # MindCV's keys are taken, not advertised


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": expected a recipe, lines of 'key: value', got an empty file"),
        (b"# a comment\n", ": expected a recipe, lines of 'key: value', got an empty file"),
        (b"- 1\n- 2\n", ": expected a recipe, lines of 'key: value', got [1, 2]"),
        (b"just words", ": expected a recipe, lines of 'key: value', got 'just words'"),
        (b"lr: 1\nlr: 2\n", ":2: not valid YAML: key 'lr' stands twice"),
        (b"lr: 1\n'lr': 1\n", ":2: not valid YAML: key 'lr' stands twice"),
        (b"lr: {a: 1, a: 1}\n", ":1: not valid YAML: key 'a' stands twice"),
        (b"seed: 1\n\tlr: 1\n", ":2: not valid YAML: found character '\\t' that cannot start any token"),
        (b"seed: 1\nscale: [1, 2\n", ":3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (b"lr: 1: 2\n", ":1: not valid YAML: mapping values are not allowed here"),
        (b"lr: 1\n---\nlr: 2\n", ":2: not valid YAML: but found another document"),
        (b"lr: *peak\n", ":1: not valid YAML: found undefined alias 'peak'"),
        (b"seed: 1\nlr: 2024-13-45\n", ":2: not valid YAML: month must be in 1..12"),
        (b'lr: "\\UFFFFFFFF"\n', ": not valid YAML: "),
        (b'lr: "\\U00110000"\n', ": not valid YAML: "),
        (b"lr: !!bool x\n", ":1: not valid YAML: "),
        (b"? [lr]\n: 1\n", ":1: not valid YAML: found unhashable key"),
        (b"lr: !!python/name:os.system\n", ":1: not valid YAML: could not determine a constructor for the tag"),
        (b"lr: \x00\n", ": not valid YAML: unacceptable character #x0000: special characters are not allowed"),
        (b"\xff\xfel\x00r\x00", ": expected a recipe, YAML text in UTF-8, got other bytes"),
        (b"# M\xfcnchen\nlr: 1\n", ": expected a recipe, YAML text in UTF-8, got other bytes"),
        (b"7: 1\n", ": unknown key '7'; --help lists all keys"),
        (b'"a\\nb": 1\n', ": unknown key 'a\\nb'; --help lists all keys"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_the_reason(write, content, message):
    path = write(content)
    assert error_of(load_recipe, ["--config", path], "").startswith(path + message)


def test_a_missing_file_and_a_folder_are_no_recipes(tmp_path):
    advice = "--config names a YAML file, or a recipe that `python -m mindcv_lite recipes` lists"
    text = error_of(load_recipe, ["--config", str(tmp_path / "no.yaml")], "")
    assert text == f"{tmp_path}/no.yaml: cannot read the recipe: No such file or directory; {advice}"
    text = error_of(load_recipe, ["--config", str(tmp_path)], "")
    assert text == f"{tmp_path}: cannot read the recipe: Is a directory; {advice}"


def test_a_byte_order_mark_and_windows_line_ends_are_no_obstacle(write):
    path = write(b"\xef\xbb\xbf" + REQUIRED.replace("\n", "\r\n").encode())
    assert load_recipe(["--config", path], "").optimizer.opt == "momentum"


# ------------------------------------------------------------------------------------------------------ MindCV's keys

# The flags of MindCV's config.py: people arrive with any of them.
MINDCV_KEYS = """
mode distribute val_while_train val_interval log_interval pretrained ckpt_path resume_opt seed dataset data_dir
train_split val_split dataset_download num_parallel_workers shuffle num_samples batch_size drop_remainder aug_repeats
image_resize scale ratio hflip vflip color_jitter interpolation auto_augment re_prob re_scale re_ratio re_value
re_max_attempts mean std crop_pct cutmix cutmix_prob mixup aug_splits model num_classes drop_rate drop_path_rate
amp_level val_amp_level amp_cast_list keep_checkpoint_max ckpt_save_dir ckpt_save_interval epoch_size dataset_sink_mode
in_channels ckpt_save_policy ema ema_decay clip_grad clip_value opt momentum weight_decay weight_decay_filter loss_scale
loss_scale_type drop_overflow_update dynamic_loss_scale use_nesterov filter_bias_and_bn layer_decay eps scheduler lr
min_lr warmup_epochs warmup_factor decay_epochs decay_rate multi_step_decay_milestones lr_epoch_stair num_cycles
cycle_decay loss label_smoothing aux_factor reduction gradient_accumulation_steps enable_modelarts device_target
eval_shuffle multi_data_url data_url ckpt_url train_url config
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", MINDCV_KEYS)
def test_every_key_of_mindcv_is_known(name):
    assert name in {*KEYS, *FOREIGN_KEYS, "config"}


def test_no_key_is_both_ours_and_foreign():
    assert not KEYS.keys() & FOREIGN_KEYS.keys()


@pytest.mark.parametrize("name", FOREIGN_KEYS)
def test_a_key_of_mindcv_that_is_not_done_here_is_taken_at_its_neutral_value(load, name):
    neutral, _ = FOREIGN_KEYS[name]
    for value in neutral:
        value = "anything" if value is ANY else value
        assert load(f"{name}: {value!r}") == load()
        assert load("", f"--{name}={value}") == load()


REFUSED = [name for name, (neutral, _) in FOREIGN_KEYS.items() if ANY not in neutral]


@pytest.mark.parametrize("name", REFUSED)
def test_and_otherwise_refused_by_name_with_advice(load, write, name):
    neutral, advice = FOREIGN_KEYS[name]
    assert len(advice) > 10
    value = {bool: True, int: 3, str: "sum"}.get(type(neutral[0]), 0.5)
    ending = f"key '{name}': only {neutral[0]!r} is accepted, got {value!r}; {advice}"
    path = write("")
    assert error_of(load, f"{name}: {value!r}") == f"{path}: {ending}"
    assert error_of(load, "", f"--{name}", str(value)) == f"command line: {ending}"


def test_the_advice_names_keys_that_exist():
    named = {word for _, advice in FOREIGN_KEYS.values() for word in advice.replace(":", " ").split() if "_" in word}
    assert named - {"norm_and_bias"} <= {key.rstrip(",;") for key in KEYS}


def test_a_bare_foreign_flag_means_true_and_is_refused(load):
    assert "key 'resume_opt': only False is accepted, got True" in error_of(load, "", "--resume_opt")


# ------------------------------------------------------------------------------------------- keys of more than one kind


@pytest.mark.parametrize(
    ("flags", "resume"),
    [
        ((), False),
        (("--resume",), True),
        (("--resume", "True"), True),
        (("--resume", "False"), False),
        (("--resume", "no"), False),  # as in a file
        (("--resume", "runs/x.ckpt"), "runs/x.ckpt"),
        (("--resume", "123"), "123"),  # a file may have any name
        (("--resume", "--seed", "1"), True),
    ],
)
def test_resume_is_yes_or_no_or_the_name_of_a_file(load, flags, resume):
    found = load("", *flags).output.resume
    assert (type(found), found) == (type(resume), resume)


def test_weights_named_on_the_command_line_take_the_place_of_the_published_ones_of_a_file(load):
    assert load("pretrained: True", "--ckpt_path", "x.ckpt").model.pretrained is False
    assert load("pretrained: True", "--lr", "1").model.pretrained is True
    assert "key 'pretrained'" in error_of(load, "pretrained: True", "--ckpt_path", "x.ckpt", "--pretrained")


@pytest.mark.parametrize(("line", "resume"), [("True", True), ("False", False), ("a/b.ckpt", "a/b.ckpt")])
def test_resume_in_a_file(load, line, resume):
    assert load(f"resume: {line}").output.resume == resume
    assert "key 'resume': expected True or False or text, got 3" in error_of(load, "resume: 3")


def test_class_weights_are_numbers_or_balanced_and_mix_no_images(load):
    assert load("class_weights: balanced").loss.class_weights == "balanced"
    assert load("", "--class_weights", "[1, 20]").loss.class_weights == (1, 20)
    for wrong in ("some", "[1, 0]", "[]"):
        expected = "key 'class_weights': expected a list of numbers or balanced or None, above 0"
        assert expected in error_of(load, f"class_weights: {wrong}")
    mixed = error_of(load, "class_weights: balanced\nmixup: 0.2")
    assert "key 'class_weights': expected None with mixup or cutmix, which mix images of several classes" in mixed


def test_balanced_sampling_takes_no_second_correction_and_no_fixed_order(load):
    assert load("").data.sampling == "natural"
    assert load("sampling: balanced\nmixup: 0.2").data.sampling == "balanced"
    assert load("sampling: balanced\nclass_weights: [1, 3]").loss.class_weights == (1, 3)
    twice = error_of(load, "sampling: balanced\nclass_weights: balanced")
    assert "key 'class_weights': expected None or numbers with sampling balanced, which makes the classes" in twice
    ordered = error_of(load, "sampling: balanced\nshuffle: False")
    assert "key 'sampling': expected natural without shuffle, which keeps the images in their order, got" in ordered
    assert "key 'sampling': expected one of natural, balanced, got" in error_of(load, "sampling: even")


def test_patience_waits_for_a_score(load):
    assert load("patience: 3\nval_while_train: True").output.patience == 3
    assert "key 'patience': expected None without val_while_train" in error_of(load, "patience: 3")
    assert "key 'patience': expected a whole number or None, at least 1" in error_of(load, "patience: 0")


@pytest.mark.parametrize(("text", "cache"), [("off", False), ("True", True), ("a/graphs", "a/graphs")])
def test_compile_cache_is_off_or_on_or_a_folder(load, text, cache):
    for recipe in (load(f"compile_cache: {text}"), load("", "--compile_cache", text)):
        assert recipe.system.compile_cache == cache
    assert load("", "--compile_cache").system.compile_cache is True
    assert "key 'compile_cache': expected True, False or a folder" in error_of(load, "compile_cache: ''")


@pytest.mark.parametrize(("text", "freeze"), [("backbone", "backbone"), ("3", 3), ("None", None)])
def test_freeze_is_the_backbone_or_a_number_of_rows(load, text, freeze):
    for recipe in (load(f"freeze: {text}"), load("", "--freeze", text)):
        assert recipe.model.freeze == freeze


@pytest.mark.parametrize("text", ["bad", "0", "-1", "2.5", "True"])
def test_freeze_takes_nothing_else(load, text):
    expected = "key 'freeze': expected backbone or a whole number or None, at least 1, got "
    assert expected in error_of(load, f"freeze: {text}")
    assert expected in error_of(load, "", "--freeze", text)


@pytest.mark.parametrize(
    ("line", "flags", "teacher"),
    [
        ("teacher: a.ckpt", ("--teacher", "a.ckpt"), "a.ckpt"),
        ("teacher: [a.ckpt, '1']", ("--teacher", "a.ckpt", "--teacher=1"), ("a.ckpt", "1")),
        ("teacher: ''", ("--teacher", ""), ""),
    ],
)
def test_a_teacher_is_a_file_or_several(load, line, flags, teacher):
    for recipe in (load(line), load("", *flags), load("teacher: b.ckpt", *flags)):
        assert recipe.loss.teacher == teacher
        assert recipe.loss.teachers == ((teacher,) if teacher == "a.ckpt" else tuple(teacher))
    assert "key 'teacher': expected text or a list of texts, got [1]" in error_of(load, "teacher: [1]")


# ---------------------------------------------------------------------------------------- where keys come from, changes


def test_a_recipe_knows_where_the_keys_come_from_that_were_given(load, tmp_path):
    origin = load("seed: 1\nbn_eps: 0.001", "--seed", "2").origin
    assert origin["seed"] == "command line"
    assert origin["bn_eps"] == str(tmp_path / "r.yaml")
    assert origin.keys() == REQUIRED_KEYS | {"seed", "bn_eps"}


def test_with_keys_changes_those_alone_and_keeps_the_origin(load):
    before = load("seed: 1")
    after = before.with_keys(seed=2, bn_eps=0.5)
    changed = {name for name, value in after.flat().items() if value != before.flat()[name]}
    assert changed == {"seed", "bn_eps"}
    assert (after.system.seed, after.model.bn_eps, before.system.seed) == (2, 0.5, 1)
    assert after.origin == before.origin
    assert before.with_keys() == before


def test_the_text_of_a_recipe_is_what_it_saves(load, tmp_path):
    recipe = load("resume: a.ckpt\nfreeze: 3\nmean: [1, 2, 3]")
    recipe.save(tmp_path / "saved.yaml")
    assert (tmp_path / "saved.yaml").read_text() == recipe.text()
    assert load_recipe(["--config", str(tmp_path / "saved.yaml")], "") == recipe


# ------------------------------------------------------------------------------------------------- rules between keys


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("scale: [0.9, 0.1]", "key 'scale': expected [low, high] with low <= high, got [0.9, 0.1]"),
        ("ratio: [2, 1]", "key 'ratio': expected [low, high] with low <= high, got [2.0, 1.0]"),
        ("re_ratio: [2, 1]", "key 're_ratio': expected [low, high] with low <= high, got [2.0, 1.0]"),
        ("re_value: [1, 2]", "key 're_value': expected one number, 3 (one for each of the in_channels) or random, got"),
        (
            "auto_augment: augmix",
            "key 'auto_augment': expected randaug-mM-nN, autoaug or trivialaugwide (MindSpore has",
        ),
        (
            "auto_augment: randaug-m9-w0",
            "key 'auto_augment': expected randaug-mM-nN-mstdS, M from 0 to 10, N from 1 to 10, ",
        ),
        ("mean: [1, 2]", "key 'mean': expected 3 numbers, one for each of the in_channels, got [1.0, 2.0]"),
        ("std: [1]", "key 'std': expected 3 numbers, one for each of the in_channels, got [1.0]"),
        (
            "in_channels: 1\nmean: [1, 2]",
            "key 'mean': expected 1 numbers, one for each of the in_channels, got [1.0, 2.",
        ),
        ("multi_step_decay_milestones: [3, 2]", "key 'multi_step_decay_milestones': expected increasing epochs, got ["),
        ("multi_step_decay_milestones: [3, 3]", "key 'multi_step_decay_milestones': expected increasing epochs, got ["),
        (
            "pretrained: True\nckpt_path: x.ckpt",
            "key 'pretrained': expected False with ckpt_path, which names other weights, got True",
        ),
        ("val_share: 0.25\nval_fold: 4", "key 'val_fold': expected less than 4, because val_share is 0.25, got 4"),
        (
            "scheduler: one_cycle\nwarmup_epochs: 2",
            "key 'warmup_epochs': expected 0, because one_cycle has its own rise, got 2",
        ),
        ("dataset: mnist\ntrain_split: a", "key 'train_split': expected train, the training files of mnist, got 'a'"),
        (
            "dataset: cifar10\nval_split: train",
            "key 'val_split': expected val or test, both the test files of cifar10, got 'train'",
        ),
        ("scheduler: cyclic", "key 'warmup_epochs': expected 0, because cyclic has its own rise, got 3, the default"),
        (
            "scheduler: one_cycle\nwarmup_epochs: 0\nlr_epoch_stair: True",
            "key 'lr_epoch_stair': expected False, because one_cycle changes every step, got True",
        ),
        ("scheduler: cosine_decay\nmin_lr: 0.5", "key 'min_lr': expected at most lr (0.01), got 0.5"),
        (
            "ckpt_save_policy: top_k",
            "key 'val_while_train': expected True, because ckpt_save_policy top_k compares scores, got False, "
            "the default",
        ),
        (
            "teacher: a.ckpt\nloss: BCE",
            "key 'loss': expected CE with a teacher, whose predictions are shares of all classes, got 'BCE'",
        ),
        (
            "opt: sgd\nuse_nesterov: True\nmomentum: 0",
            "key 'momentum': expected more than 0 with use_nesterov, got 0.0",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(load, write, lines, message):
    path = write("")
    assert error_of(load, lines).startswith(f"{path}: {message}")


def test_grey_images_take_the_mean_of_three_means_and_of_three_stds(load, log):
    found = load("in_channels: 1\nstd: [30, 60, 75]").augmentation
    assert (found.mean, found.std) == ((114.495,), (55.0,))
    assert log.messages == ["in_channels 1: mean [114.495] and std [55.0], the mean of three numbers"]
    assert load("in_channels: 1\nmean: [100]").augmentation.mean == (100.0,)


def test_a_contradiction_names_the_source_of_the_value_it_complains_about(load):
    text = error_of(load, "scheduler: cosine_decay", "--min_lr", "2")
    assert text == "command line: key 'min_lr': expected at most lr (0.01), got 2.0"


@pytest.mark.parametrize(
    "lines",
    [
        "scale: [0.5, 0.5]",
        "dataset: cifar100\nval_split: test",
        "in_channels: 1\nmean: [127.5]\nstd: [127.5]",
        "scheduler: one_cycle\nwarmup_epochs: 0",
        "scheduler: constant\nmin_lr: 0.5",  # is not used
        "ckpt_save_policy: top_k\nval_while_train: True",
        "opt: momentum\nmomentum: 0",
        "auto_augment: None",
        "auto_augment: ''",
        "auto_augment: randaug-m9-n2-mstd0-inc1",
        "re_value: random",
        "re_value: [1, 2, 3]",
    ],
)
def test_keys_that_agree_are_taken(load, lines):
    assert load(lines)


# --------------------------------------------------------------------------------------------------------- round trip


def values_of(name: str) -> st.SearchStrategy:
    """Any value that the key takes, as far as its type and bounds say."""
    return _values(KINDS[name], KEYS[name].metadata["bounds"])


def _values(kind: Any, bounds: dict[str, float]) -> st.SearchStrategy:
    arguments = typing.get_args(kind)
    low, high = bounds.get("at_least", bounds.get("above")), bounds.get("at_most", bounds.get("below"))
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(None if low is None else int(low), None if high is None else int(high))
    if kind is float:
        return st.floats(
            low,
            high,
            allow_nan=False,
            allow_infinity=False,
            exclude_min="above" in bounds,
            exclude_max="below" in bounds,
        )
    if kind is str:
        return st.text() | st.sampled_from(
            ["1e-5", "None", "true", "123", "~", "- a", "a: b", "#", "2024-13-45", "'", "\x85", "a\n"]
        )
    if typing.get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(kind) is tuple:
        count = 3 if Ellipsis in arguments else len(arguments)  # 3: one for each channel
        return st.lists(_values(arguments[0], bounds), min_size=count, max_size=count).map(tuple)
    assert arguments, kind
    return st.one_of([st.none() if choice is type(None) else _values(choice, bounds) for choice in arguments])


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({}, "key 'quantize': expected None without weights to start from; --ckpt_path names those"),
        ({"ckpt_path": "x.ckpt", "probe_only": True}, "key 'probe_only': expected False with quantize"),
    ],
)
def test_quantize_begins_with_weights_and_trains(keys, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe_of("mobilenet_v3_small_ascend", quantize="int8", **keys)


def without_variables(path: Any) -> Any:
    """The path, or each of several, as it stands after ~ and $VARIABLES got their values."""
    if isinstance(path, tuple):
        return tuple(map(without_variables, path))
    return re.sub("[~$]", "", path) if isinstance(path, str) else path


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Valid recipes."""
    flat = {name: draw(values_of(name)) for name in KEYS}
    for name in (name for name, entry in KEYS.items() if entry.metadata["is_path"]):
        flat[name] = without_variables(flat[name])
    flat["auto_augment"] = draw(st.sampled_from([None, "", "autoaug", "trivialaugwide", "randaug-m9-n2", "randaug"]))
    if isinstance(flat["re_value"], tuple):
        flat["re_value"] = flat["re_value"][: flat["in_channels"]]
    for name in ("scale", "ratio", "re_scale", "re_ratio"):
        flat[name] = tuple(sorted(flat[name]))
    for name in ("mean", "std"):
        flat[name] = flat[name][: flat["in_channels"]]
    flat["multi_step_decay_milestones"] = tuple(sorted(set(flat["multi_step_decay_milestones"])))
    flat["val_while_train"] |= flat["ckpt_save_policy"] == "top_k"
    for name in ("resume", "compile_cache"):
        flat[name] = flat[name] or False
    if flat["dataset"] in ("cifar10", "cifar100", "mnist"):
        flat["train_split"], flat["val_split"] = "train", draw(st.sampled_from(["val", "test"]))
    if flat["val_share"]:
        flat["val_fold"] = min(flat["val_fold"], int(1 / flat["val_share"] + 1e-9) - 1)
    flat["pretrained"] &= not flat["ckpt_path"]
    if not (flat["pretrained"] or flat["ckpt_path"] or flat["resume"]):
        flat["quantize"] = None
    flat["probe_only"] &= (flat["pretrained"] or bool(flat["ckpt_path"])) and not (flat["resume"] or flat["quantize"])
    flat["loss"] = "CE" if flat["teacher"] else flat["loss"]
    if flat["cutmix_prob"] > 0 and max(flat["mixup"], flat["cutmix"]) > 0:
        flat["class_weights"] = None
    if flat["sampling"] == "balanced":
        flat["shuffle"] = True
        flat["class_weights"] = None if flat["class_weights"] == "balanced" else flat["class_weights"]
    flat["patience"] = flat["patience"] if flat["val_while_train"] else None
    flat["momentum"] = flat["momentum"] or 0.5
    flat["min_lr"] = min(flat["min_lr"], flat["lr"])
    if flat["scheduler"] in ("one_cycle", "cyclic"):
        flat["warmup_epochs"], flat["lr_epoch_stair"] = 0, False
    topics = {topic: kind(**{key.name: flat[key.name] for key in fields(kind)}) for topic, kind in TOPICS.items()}
    return Recipe(**topics)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@settings(deadline=None)
@given(recipe=recipes())
def test_a_saved_recipe_reads_back_as_it_was(folder, recipe):
    recipe.save(folder / "saved.yaml")
    assert load_recipe(["--config", str(folder / "saved.yaml")], "") == recipe


YAML_TRUTHS = ("true", "false", "yes", "no", "on", "off")


@settings(deadline=None)
@given(recipe=recipes())
def test_a_recipe_given_as_flags_is_the_same_recipe(recipe):
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in recipe.flat().items()}
    teacher = plain.pop("teacher")
    teachers = teacher if isinstance(teacher, list) else [teacher]
    assume("--" not in [*plain.values(), *teachers])  # argparse takes those away: see test_two_dashes_are_no_value
    for value in (recipe.output.resume, recipe.system.compile_cache):
        assume(not isinstance(value, str) or value.strip().lower() not in YAML_TRUTHS)
    flags = [f"--{name}={value}" for name, value in [*plain.items(), *(("teacher", path) for path in teachers)]]
    assert load_recipe(flags, "") == recipe


def test_a_saved_recipe_holds_every_key_by_topic(load, tmp_path):
    load().save(tmp_path / "saved.yaml")
    names = [line.split(":")[0] for line in (tmp_path / "saved.yaml").read_text().splitlines() if line[0] not in "- "]
    assert names == list(KEYS)


@settings(deadline=None)
@given(content=st.binary() | st.text("lrep:[]{}#-'\"\n\t !&*?|>%@,~<=0123456789.").map(str.encode))
def test_whatever_a_file_holds_the_answer_is_a_recipe_or_one_line(folder, content):
    path = folder / "any.yaml"
    path.write_bytes(content)
    assert str(path) in error_of(load_recipe, ["--config", str(path)], "")  # no such file has all required keys


@settings(deadline=None)
@given(name=st.sampled_from(list(KEYS)), text=st.text() | st.text("[]{}:,-+.0123456789eTrueNo~'\" "))
def test_whatever_a_flag_says_the_answer_is_a_recipe_or_one_line_that_names_it(folder, name, text):
    path = folder / "required.yaml"
    path.write_text(REQUIRED)
    answer = ""
    try:
        assert load_recipe(["--config", str(path), f"--{name}={text}"], "")
    except UserError as error:
        answer = str(error)
    assert answer == "" or (name in answer and len(answer.splitlines()) == 1)


# ------------------------------------------------------------------------------------------ speed, and what it rests on


@pytest.mark.parametrize(
    "command",
    [
        "train.py --help",
        "validate.py --help",
        "train.py --epoch_sise 3",
        "validate.py --epoch_sise 3",
        "train.py --config no.yaml",
        "validate.py --config configs/mobilenetv3/mobilenet_v3_small_ascend.yaml",  # without ckpt_path
    ],
)
def test_help_and_a_wrong_recipe_are_answered_without_mindspore(command):
    program = "\n".join(
        (
            "import runpy, sys",
            f"sys.argv = {command.split()}",
            f"sys.path.insert(0, {str(ROOT)!r})",
            "try:",
            "    runpy.run_path(sys.argv[0], run_name='__main__')",
            "finally:",
            "    assert 'mindcv_lite.recipe' in sys.modules",
            "    assert not {'mindspore', 'numpy', 'PIL'} & set(sys.modules)",
        )
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if "--help" in command else 2)


@pytest.mark.parametrize("found", ["nothing", "a folder"])
def test_tensorboard_without_its_package_is_refused(recipe, monkeypatch, tmp_path, found):
    require_extras(recipe(tensorboard=True))
    (tmp_path / "tensorboard").mkdir()
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)] if found == "a folder" else [])
    require_extras(recipe())
    with pytest.raises(UserError) as error:
        require_extras(recipe(tensorboard=True))
    assert str(error.value) == "--tensorboard needs tensorboard, missing here: pip install tensorboard"


def test_a_key_has_one_topic():
    assert len(KEYS) == sum(len(fields(topic)) for topic in TOPICS.values())


def test_the_choices_are_what_the_program_has():
    from mindcv_lite.data.transforms.decode_augment import INTERPOLATIONS
    from mindcv_lite.losses import LOSSES
    from mindcv_lite.models.block_tables import VARIANTS
    from mindcv_lite.training.optimizers import OPTIMIZERS, SPARED
    from mindcv_lite.training.schedules import SHAPES

    tables = {
        "model": VARIANTS,
        "interpolation": INTERPOLATIONS,
        "loss": LOSSES,
        "opt": OPTIMIZERS,
        "scheduler": SHAPES,
        "weight_decay_filter": SPARED,
    }
    for name, table in tables.items():
        assert set(typing.get_args(KINDS[name])) == set(table), name


def test_the_published_learning_rates_are_floats_exactly(load):
    assert load("weight_decay: 0.00002").optimizer.weight_decay == 2e-5
    assert math.isclose(load("lr: 1.08").optimizer.lr, 1.08, rel_tol=0)
