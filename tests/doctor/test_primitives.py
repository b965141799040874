"""The graphs for Ascend are made of what the list says, and the small graphs of the doctor contain all of that."""

import mindspore
import numpy as np
import pytest

from mindcv_lite.doctor.primitives import GROUPS, read_list
from mindcv_lite.recipe.load import load_recipe
from tests.conftest import ROOT
from tests.doctor.graphs import (
    QUANTISED,
    STEPS,
    Graph,
    Operation,
    as_everywhere,
    compiled_graphs,
    found_in,
    operation_of,
)

IS_THE_LISTS = mindspore.__version__.startswith("2.10.")  # before 2.10 some primitives have other names
PRODUCT = [*STEPS, *QUANTISED, "evaluation", "eval_copy"]
# Of two tensors, number by number; Ascend's operators want the same type of both.
BINARY = {
    *("Add", "Sub", "Mul", "Div", "RealDiv", "FloorDiv", "FloorMod", "Maximum", "Minimum", "Equal", "NotEqual"),
    *("Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Assign", "AssignAdd"),
}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return compiled_graphs()


def test_the_list_says_of_each_primitive_which_graphs_it_is_in(graphs):
    def lines(graphs_of: dict[Operation, str]) -> set[str]:
        if IS_THE_LISTS:
            return {f"{operation}, in {names}" for operation, names in graphs_of.items()}
        return {str(as_everywhere(operation)) for operation in graphs_of}

    found, listed = lines(found_in(graphs)), lines({operation_of(row): row.graphs for row in read_list()})
    changes = [*(f"+ {line}" for line in sorted(found - listed)), *(f"- {line}" for line in sorted(listed - found))]
    advice = "a decision to take: `python -m tests.doctor.graphs` takes this into the list"
    assert not changes, "\n".join([advice, *changes])


def test_a_person_has_looked_at_each_row_of_the_list():
    for row in read_list():
        assert "?" not in row, f"{row.primitive} {row.operands}: say what stands as ? in the list"
        assert row.group in {*GROUPS, "ranks"}
        assert row.mindcv in ("yes", "no")


def test_each_primitive_is_in_the_small_graph_of_its_group(graphs):
    missing = []
    for row in read_list():
        if row.group == "ranks":
            continue
        operations = graphs[f"group {row.group}"].operations
        if row.primitive == "TensorMove":  # a copy that MindSpore adds, 2.6 to fewer graphs; its type is what is copied
            contained = "TensorMove" in {each.primitive for each in operations} or not IS_THE_LISTS
        else:
            contained = as_everywhere(operation_of(row)) in set(map(as_everywhere, operations))
        missing += [] if contained else [f"{row.group}: {operation_of(row)}"]
    assert not missing


@pytest.mark.parametrize("name", GROUPS)
def test_the_small_graph_of_a_group_computes_as_numpy_does(name, graph_mode):
    assert GROUPS[name]().fault() is None


def test_a_device_that_computes_otherwise_is_found_out(graph_mode):
    check = GROUPS["pooling"]()
    wrong = check._replace(expected=(check.expected[0], 2 * check.expected[1]))
    assert "output 1 is off by 0.5 of the largest number" in str(wrong.fault())
    counting = GROUPS["integers"]()
    wrong = counting._replace(expected=(counting.expected[0] + 1, *counting.expected[1:]))
    assert "output 0 is off by 9.5e-07 of the largest number, allowed are 0" in str(wrong.fault())
    assert "output 0 is off by nan" in str(
        check._replace(inputs=(check.inputs[0] * float("nan"), check.inputs[1])).fault()
    )


@pytest.mark.parametrize(("index", "before"), [(5, 1), (6, 2)], ids=["mean", "variance"])
def test_statistics_that_do_not_move_are_found_out(index, before, graph_mode):
    check = GROUPS["norm"]()
    unmoved = [*check.expected[:index], np.full(3, before), *check.expected[index + 1 :]]
    assert f"output {index} is off by" in str(check._replace(expected=tuple(unmoved)).fault())


def test_a_float16_tensor_is_reshaped_twice_in_a_step_and_once_in_evaluation_and_by_a_teacher(graphs):
    counts = {name: graphs[name].operations[Operation("Reshape", "Float16", "Float16")] for name in PRODUCT}
    assert counts == dict.fromkeys(STEPS, 2) | {"quantised": 0, "taught": 2 + 1, "evaluation": 1, "eval_copy": 0}


def test_no_tensor_is_int64_but_those_of_mindspores_all_finite(graphs):
    allowed = {"Cast", "Sub", "AddN", "LessScalar" if IS_THE_LISTS else "Less"}
    for name in PRODUCT:
        found = {each for each in graphs[name].operations if "Int64" in each.operands + each.results}
        assert {each.primitive for each in found} == (allowed if name in ("dynamic", "ranks") else set()), name


def test_primitives_of_two_tensors_take_both_of_one_type(graphs):
    for name in PRODUCT:
        assert not [str(each) for each in graphs[name].operations if each.primitive in BINARY and " " in each.operands]


def test_what_a_graph_returns_is_computed(graphs):
    assert {name: graphs[name].constants for name in PRODUCT} == {name: [] for name in PRODUCT}


def test_no_rank_waits_for_others_within_a_branch(graphs):
    """With accumulation it does: to add up over ranks in each step takes longer. No recipe of ours accumulates."""
    reduced = Operation("AllReduce", "Float32", "Float32")
    assert graphs["ranks"].operations[reduced] > 30
    assert graphs["ranks"].in_branches[reduced] == graphs["eval_copy"].in_branches[reduced] == 0
    assert graphs["ranks"].in_branches.total() > 50
    for path in (ROOT / "configs").rglob("*.yaml"):
        recipe = load_recipe(["--config", str(path)], "")
        assert recipe.optimizer.gradient_accumulation_steps == 1, path
