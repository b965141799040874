"""The arrows between the modules point one way, from the scripts down to the recipe. See the table below."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = "mindcv_lite"

# What a folder or a module at the top of the package may import from the others. Inside a folder modules import each
# other freely, but never in a circle.
MAY_IMPORT = {
    "errors": "",
    "signals": "",
    "processors": "",
    "processes": "errors processors signals",
    "losses": "",
    "stateless_random": "",
    "files": "errors",
    "program": "errors signals",
    "text_tables": "errors files",
    "__main__": "errors program",  # it finds a command by its name
    "recipe": "errors files program",
    "cpu_kernels": "files",
    "device": "errors signals processors program files recipe cpu_kernels",
    "models": "errors stateless_random text_tables recipe cpu_kernels device",
    "data": "errors program signals processes losses stateless_random files recipe cpu_kernels device",
    "checkpoints": "errors program signals files recipe device models data",
    "evaluation": "errors program losses files text_tables recipe device models data checkpoints",
    "runs": "errors files program recipe data checkpoints",
    "export": "errors processors program signals files text_tables recipe device models data checkpoints evaluation",
    "training": (
        "errors signals losses stateless_random files program text_tables recipe cpu_kernels device models data "
        "checkpoints evaluation runs export"
    ),
    "benchmark": (
        "errors program processes text_tables recipe device models data checkpoints evaluation training export"
    ),
    "scripts": "errors files program recipe device models data checkpoints evaluation runs training",
    "doctor": (
        "errors processors signals stateless_random files program text_tables recipe device models data evaluation "
        "runs training benchmark scripts"
    ),
    "api": ("errors signals files recipe device models data checkpoints evaluation training scripts"),
    "commands": (
        "errors files program text_tables recipe device models data checkpoints evaluation runs export "
        "training benchmark doctor"
    ),
}
WITHOUT_MINDSPORE = (
    "errors",
    "files",
    "text_tables",
    "program",
    "signals",
    "processes",
    "processors",
    "export.converted",
    "export.kept_network",
    "export.onnx_files",
    "export.qdq_graph",
    "export.quantisation",
    "export.tflite_files",
    "models.block_tables",
    "models.complexity",
    "models.drawing",
    "models.folding",
    "models.onnx_graph",
    "recipe.keys",
    "recipe.load",
    "recipe.page",
    "recipe.shipped",
    "device.compile_cache",
    "device.settings",
    "runs.results",
    "runs.curves",
    "runs.tensorboard",
    "training.schedules",
    "benchmark.rounds",
    "evaluation.predict",
    "evaluation.predictions",
    "evaluation.report.statistics",
    "evaluation.report.paired",
    "data.waiting",
    "data.sharding",
    "data.images.decoding",
    "device.launcher",
    "device.log",
    "device.memory",
    "data.images.jpeg",
    "data.datasets.classes",
    "data.datasets.digits",
    "data.datasets.image_folder",
    "data.datasets.packed",
    "data.datasets.paths",
    "data.datasets.splits",
    "data.datasets.cifar_mnist",
    "data.images.inspection",
    "data.transforms.numpy_evaluation",
    "data.tools.check",
    "doctor.environment",
    "commands.check",
    "commands.recipes",
    "commands.report",
    "commands.sort",
)
DEPENDENCIES = {"mindspore", "numpy", "yaml", "PIL", "tqdm", "scipy"}
# What may be missing, and the modules that may ask for it: an extra in pyproject.toml, the user's PyTorch or MindCV.
EXTRAS = {
    "sklearn": "data.datasets.digits",
    "torch": "checkpoints.conversion.torch_files benchmark.pytorch",
    "timm": "benchmark.pytorch",
    "mindcv": "benchmark.mindcv",
    "onnx": "export.onnx_files",
    "onnxruntime": "export.onnx_files",
    "cv2": "export.readers",
    "openvino": "export.converted",
    "ncnn": "export.converted",
    "ai_edge_litert": "export.tflite_files",
    "flatbuffers": "export.tflite_files",  # comes with ai-edge-litert
    "matplotlib": "runs.curves",
    "tensorboard": "runs.tensorboard",
    "scipy": "commands.sort",  # comes with MindSpore
}
# Names by which a program touches MindSpore's context and its communication.
DEVICE_NAMES = {
    "set_context",
    "get_context",
    "context",
    "set_device",
    "hal",
    "set_auto_parallel_context",
    "reset_auto_parallel_context",
    "communication",
    "set_ps_context",
}

MODULES = {
    str(path.relative_to(ROOT / PACKAGE).with_suffix("")).replace("/", "."): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    if path.name != "__init__.py"
}
SCRIPTS = [ROOT / "train.py", ROOT / "validate.py"]
COMMANDS = [path for name, path in MODULES.items() if name == "__main__" or name.startswith("commands.")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

each_module = pytest.mark.parametrize("name", MODULES)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in `tree`, inside functions too: `a.b` of `import a.b`, and of
    `from a import b`, where b may be a module or a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: name the module in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported_by(path: Path) -> set[str]:
    """Modules of the package that a file imports, without the package's name."""
    found = set()
    for name in imports_of(ast.parse(path.read_text())):
        if name.split(".")[0] == PACKAGE and name != f"{PACKAGE}.__version__":
            parts = name.split(".")[1:]
            known = [".".join(parts[:count]) for count in (1, 2, 3, 4) if ".".join(parts[:count]) in MODULES]
            assert known or parts == ["scripts"], f"{path}: {name} is no module of the package"
            found |= {*known[:1]}
    return found


def room_of(name: str) -> str:
    """The folder of a module, or the module itself if it lies at the top."""
    return name.split(".")[0]


@each_module
def test_a_module_imports_only_what_its_folder_may(name):
    assert room_of(name) in MAY_IMPORT, f"{name} has no row in MAY_IMPORT"
    for imported in modules_imported_by(MODULES[name]):
        allowed = {room_of(name), *MAY_IMPORT[room_of(name)].split()}
        assert room_of(imported) in allowed, f"{name} imports {imported}"


def test_the_table_allows_no_more_than_is_used():
    for room, allowed in MAY_IMPORT.items():
        members = [path for name, path in MODULES.items() if room_of(name) == room]
        used = {room_of(imported) for path in members for imported in modules_imported_by(path)}
        assert members, f"{room} does not exist"
        assert {*allowed.split()} <= used, room


def test_the_table_says_what_lies_above_what():
    TopologicalSorter({room: allowed.split() for room, allowed in MAY_IMPORT.items()}).prepare()  # raises CycleError


def test_modules_import_each_other_in_no_circle():
    TopologicalSorter({name: modules_imported_by(path) for name, path in MODULES.items()}).prepare()


@pytest.mark.parametrize("name", WITHOUT_MINDSPORE)
def test_what_answers_at_once_or_is_plain_arithmetic_imports_no_mindspore(name):
    seen, waiting = set(), {name}
    while waiting:  # what it imports must not import it either
        module = waiting.pop()
        seen.add(module)
        imported = {full.split(".")[0] for full in imports_of(ast.parse(MODULES[module].read_text()))}
        assert "mindspore" not in imported, module
        waiting |= modules_imported_by(MODULES[module]) - seen


@pytest.mark.parametrize("script", [*SCRIPTS, *COMMANDS], ids=lambda path: path.name)
def test_a_script_or_command_imports_at_its_top_only_what_answers_at_once(script):
    tree = ast.parse(script.read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name for node in top for name in imports_of(node)}
    assert {name.rsplit(".", 1)[0] for name in names if name.startswith(PACKAGE)} <= {
        f"{PACKAGE}.device.log",
        f"{PACKAGE}.device.memory",
        f"{PACKAGE}.errors",
        f"{PACKAGE}.files",
        f"{PACKAGE}.models.block_tables",
        f"{PACKAGE}.program",
        f"{PACKAGE}.signals",
        f"{PACKAGE}.text_tables",
        *(f"{PACKAGE}.recipe.{name}" for name in ("keys", "load", "page", "rules", "shipped", "values", "yaml_io")),
    }
    assert {name.split(".")[0] for name in names} - {PACKAGE} <= sys.stdlib_module_names


def device_names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    imported = {part for name in imports_of(tree) for part in name.split(".") if name.startswith("mindspore")}
    return DEVICE_NAMES & (imported | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)})


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: path.stem)
def test_the_device_room_alone_touches_the_context_and_communication(path):
    assert path.parent.name == "device" or not device_names_in(path)


def test_the_device_room_does_touch_them():
    assert device_names_in(MODULES["device.context"]) >= {
        *("set_context", "set_device", "set_auto_parallel_context", "communication")
    }


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS, *TESTS], ids=lambda path: path.stem)
def test_nothing_imports_a_script_and_nothing_imports_a_star(path):
    for name in imports_of(ast.parse(path.read_text())):
        assert name.split(".")[0] not in ("train", "validate")
        assert not name.endswith(".*")


@each_module
def test_a_module_needs_the_declared_dependencies_only(name):
    tree = ast.parse(MODULES[name].read_text())
    others = {full.split(".")[0] for full in imports_of(tree)} - {PACKAGE} - sys.stdlib_module_names
    asked = {extra for extra in others if name in EXTRAS.get(extra, "").split()}
    assert others - asked <= DEPENDENCIES
    at_top = {full.split(".")[0] for node in tree.body for full in imports_of(node) if not is_definition(node)}
    assert not asked & at_top, "an extra is imported where it is used, and may be missing"


def is_definition(node: ast.stmt) -> bool:
    """Whether importing a module runs nothing of this but its head."""
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) or (
        isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )


def test_init_files_say_what_the_package_is_and_import_nothing_of_it():
    for path in (ROOT / PACKAGE).rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree)
        run = [node for node in tree.body if not is_definition(node)]
        assert {name.split(".")[0] for node in run for name in imports_of(node)} <= sys.stdlib_module_names
