"""The page of keys: nothing of what a key holds is left out, and it is Markdown."""

import re
from dataclasses import MISSING

from mindcv_lite.recipe.keys import FOREIGN_KEYS, KEYS, MAY_CHANGE, TOPICS
from mindcv_lite.recipe.page import page
from mindcv_lite.recipe.yaml_io import yaml_scalar

ROWS = [line.strip("| ").split(" | ") for line in page().splitlines() if line.startswith("| `")]


def test_each_key_has_a_row_in_the_order_of_the_dataclasses():
    assert [row[0] for row in ROWS] == [f"`{name}`" for name in [*KEYS, *FOREIGN_KEYS]]
    for row, key in zip(ROWS, KEYS.values(), strict=False):
        assert row[3] == key.metadata["help"]
        for bound in key.metadata["bounds"].values():
            assert f"{bound:.10g}" in row[1]


def test_a_default_reads_back_as_it_is():
    for row, key in zip(ROWS, KEYS.values(), strict=False):
        if key.default is MISSING:
            assert row[2] == "required"
        else:
            value = yaml_scalar(row[2].strip("`"))
            assert (tuple(value) if isinstance(value, list) else value) == key.default, key.name


def test_each_topic_has_a_heading():
    headings = re.findall(r"^## (.*)$", page(), re.M)
    assert [heading.lower() for heading in headings[: len(TOPICS)]] == [
        topic.__doc__.lower() for topic in TOPICS.values()
    ]


def test_what_a_resumed_run_may_change_is_listed():
    listed = re.search(r"these keys may change: (.*?)\.", page(), re.S)
    assert listed
    assert set(re.findall("`(.*?)`", listed[1])) == MAY_CHANGE


def test_lines_that_are_no_rows_fit_the_page():
    assert max(len(line) for line in page().splitlines() if not line.startswith("|")) <= 120
