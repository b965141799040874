"""The graphs that Ascend would be given, compiled here on the CPU as far as MindSpore's own part goes.

`python -m tests.doctor.graphs` rewrites the list of their primitives, `mindcv_lite/doctor/primitives.txt`. In a new row
there is a ? for what a person has to say of it.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import mindspore

from mindcv_lite.doctor.primitives import LIST, Row, read_list
from tests.conftest import ROOT

# fmt: off
STEPS: dict[str, dict[str, Any]] = {
    "plain":       {},
    "augmented":   {"re_prob": 0.25, "re_value": "random", "mixup": 0.2, "cutmix": 1.0},
    "averaged":    {"ema": True, "clip_grad": True},
    "accumulated": {"gradient_accumulation_steps": 4},
    "dynamic":     {"loss_scale_type": "dynamic"},
    "taught":      {"teacher": "teacher.ckpt", "teacher_amp_level": "O3"},
    "ranks":       {"loss_scale_type": "dynamic"},  # two of them, which tell each other of an overflow
}
# fmt: on
# Its layers are others than those that all steps have in common.
QUANTISED: dict[str, dict[str, Any]] = {"quantised": {"quantize": "int8", "ckpt_path": "not-read.ckpt"}}
RECIPE = {
    **{"model": "mobilenet_v3_small_100", "num_classes": 1000, "image_resize": 64, "batch_size": 4, "epoch_size": 2},
    **{"lr": 0.1, "opt": "momentum", "scheduler": "constant", "warmup_epochs": 0},
    **{"amp_level": "O3", "val_amp_level": "O3", "loss_scale": 1024},
}

# They order, pack and pass on, and no kernel runs for them.
STRUCTURE = {"Depend", "UpdateState", "Load", "MakeTuple", "TupleGetItem", "Return", "Partial", "make_list"}


class Operation(NamedTuple):
    """A primitive with the types of the tensors that it takes and gives: `Float16*2`; a tuple of any length in ()."""

    primitive: str
    operands: str
    results: str

    def __str__(self) -> str:
        return f"{self.primitive}: {self.operands} -> {self.results}"


@dataclass
class Graph:
    """What a graph computes, in all and within branches of it; `constants`: outputs that nothing computes."""

    operations: Counter[Operation] = field(default_factory=Counter)
    in_branches: Counter[Operation] = field(default_factory=Counter)
    constants: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------- reading what MindSpore has saved

NODE = re.compile(r"^  (?:(%\d+)\(.*?\) = )?(?:PrimFunc_)?(\w+)\((.*?)\)(?: \{| \w+_attrs: |$)")
TYPES = re.compile(r"^      : \((.*)\) -> \((.*)\)$")


def read_graph(path: Path) -> Graph:
    """The graph of a file of MindSpore's pass `validate`, the last one before the device's own."""
    lines = path.read_text().splitlines()
    entry = next(line.split("@")[1] for line in lines if line.startswith("# IR entry"))
    graph, made, name, within_entry = Graph(), {}, "", False
    for line in lines:
        if line.startswith("subgraph @"):
            within_entry = line.startswith(f"subgraph @{entry}(")
        elif node := NODE.match(line):
            output, name, arguments = node.groups()
            if within_entry:
                made[output] = name, arguments
        elif name and (types := TYPES.match(line)):
            if name not in STRUCTURE:
                operation = Operation(name, *map(tensors, types.groups()))
                graph.operations[operation] += 1
                graph.in_branches[operation] += not within_entry
            name = ""
    graph.constants = list(constants(made[None][1], made))
    return graph


def tensors(types: str) -> str:
    """The tensors of a list of types; what is no tensor, like an axis, is left out."""
    found = []
    for each in types.split(">, <"):
        inner = re.findall(r"Tensor\[(\w+)\]", each.split("Shape")[0])
        if each.lstrip("<").startswith(("Tuple", "List")):
            inner = [f"({' '.join(dict.fromkeys(inner))})"] if inner else []
        found += inner
    counts = [(kind, len(list(same))) for kind, same in groupby(found)]
    return " ".join(f"{kind}*{count}" if count > 1 else kind for kind, count in counts)


def constants(arguments: str, made: dict[Any, tuple[str, str]]) -> Iterator[str]:
    """What nothing computes, of the things that `arguments` name."""
    for argument in re.split(r", (?![^(]*\))", arguments):
        name, inner = made.get(argument, ("", ""))
        if name == "MakeTuple":
            yield from constants(inner, made)
        elif name == "Depend":
            yield from constants(re.split(r", (?![^(]*\))", inner)[0], made)
        elif not argument.startswith("%"):
            yield argument


# ------------------------------------------------------------------------------------------------- compiling the graphs


def compiled_graphs() -> dict[str, Graph]:
    """The graphs of `cells`, compiled by a process of its own, since what is saved is decided when it starts."""
    with tempfile.TemporaryDirectory() as folder:
        saving = {"MS_DEV_SAVE_GRAPHS": "2", "MS_DEV_SAVE_GRAPHS_PATH": folder, "MS_DEV_DUMP_IR_PASSES": "validate"}
        program = f"from tests.doctor.graphs import compile_cells; compile_cells({folder!r})"
        subprocess.run([sys.executable, "-c", program], env=os.environ | saving, cwd=ROOT, check=True, timeout=600)
        return {path.stem: read_graph(path) for path in Path(folder).glob("*.ir")}


def compile_cells(folder: str) -> None:
    """Compile each cell, and name the file of its graph after it."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    for name, cell, inputs in cells(folder):
        with suppress(RuntimeError):  # of a later pass, where the CPU does not have what an accelerator has
            cell.compile(*map(mindspore.Tensor, inputs))
        (saved,) = Path(folder).glob("*_validate_*.ir")
        saved.rename(Path(folder, f"{name}.ir"))


def write_teacher(path: Path) -> str:
    """A checkpoint of the network of `RECIPE`, for images of another size, mean and std."""
    from mindcv_lite.checkpoints.model_card import model_card
    from mindcv_lite.data.datasets.classes import WNIDS
    from mindcv_lite.models.build import build_network
    from mindcv_lite.recipe.load import load_recipe
    from mindcv_lite.runs.checkpoint_saver import save_weights

    keys = RECIPE | {"image_resize": 96, "mean": [127.5] * 3, "std": [127.5] * 3}
    recipe = load_recipe([f"--{key}={value}" for key, value in keys.items()], "")
    weights = {each.name: each.asnumpy() for each in build_network(recipe.model, "O0").get_parameters()}
    save_weights(path, weights, model_card(recipe, WNIDS))
    return str(path)


def cells(folder: str) -> Iterator[tuple[str, Any, tuple]]:
    """Name, cell and inputs: of the product's graphs by Ascend's settings, and of the small ones for a device."""
    from mindcv_lite.benchmark.subjects import build_step, random_batch
    from mindcv_lite.data.datasets.classes import WNIDS
    from mindcv_lite.device.ranks import World
    from mindcv_lite.device.settings import settings_for
    from mindcv_lite.doctor.primitives import GROUPS
    from mindcv_lite.evaluation.score import EvaluationStep
    from mindcv_lite.models.build import evaluation_network
    from mindcv_lite.recipe.load import load_recipe
    from mindcv_lite.training.eval_copy import EvalCopy
    from tests.three_rows import sitecustomize  # noqa: F401  (whose import cuts rows)

    for name, keys in (STEPS | QUANTISED).items():
        recipe = load_recipe([f"--{key}={value}" for key, value in (RECIPE | keys).items()], "")
        size = 2 if name == "ranks" else 1
        world = World(0, size, settings_for(recipe, "Ascend", size))
        if name == "taught":
            recipe = recipe.with_keys(teacher=write_teacher(Path(folder, "teacher.ckpt")))
        step, batch = build_step(recipe, world, steps_per_epoch=8, class_names=WNIDS), random_batch(recipe)
        yield name, step, batch
        if name == "ranks":
            network = evaluation_network(recipe.model, world)
            evaluation = EvaluationStep(network, recipe)
            yield "evaluation", evaluation.set_train(False), batch[:3]
            yield "eval_copy", EvalCopy(step.network, step.average, network, world), ()
    for name, group in GROUPS.items():
        check = group()
        yield f"group {name}", check.graph, check.inputs


# ------------------------------------------------------------------------------------------------------------- the list

# MindSpore 2.10 has primitives of their own for a tensor and a number; earlier, they were those of two tensors.
EARLIER = {
    "Divs": "Div",
    "EqScalar": "Equal",
    "LessScalar": "Less",
    "Muls": "Mul",  # these two until 2.6
    "RemainderTensorScalar": "FloorMod",
}


def as_everywhere(operation: Operation) -> Operation:
    """The operation in the names that all versions of MindSpore have in common."""
    if operation.primitive not in EARLIER:
        return operation
    return operation._replace(primitive=EARLIER[operation.primitive], operands=f"{operation.operands}*2")


def found_in(graphs: dict[str, Graph]) -> dict[Operation, str]:
    """Each operation of the product's graphs, and the names of these."""
    names = [*STEPS, *QUANTISED, "eval_copy", "evaluation"]
    found: dict[Operation, list[str]] = {}
    for name in names:
        for operation in graphs[name].operations:
            found.setdefault(operation, []).append(name)
    return {each: ", ".join(found[each]).replace(", ".join(STEPS), "all steps") for each in sorted(found)}


def operation_of(row: Row) -> Operation:
    return Operation(row.primitive, row.operands, row.results)


def write_list(found: dict[Operation, str]) -> None:
    """Rewrite `primitives.txt`; what persons have said of the rows stays."""
    known = {operation_of(row): row for row in read_list()}
    unknown = Row(*"???????")
    rows = [known.get(each, unknown)._replace(**each._asdict(), graphs=graphs) for each, graphs in found.items()]
    cells = [Row._fields, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    title = f"# Of MindSpore {mindspore.__version__}; rewritten by python -m tests.doctor.graphs"
    LIST.write_text("\n".join([title, *lines, ""]))


if __name__ == "__main__":
    write_list(found_in(compiled_graphs()))
