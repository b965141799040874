"""The arrows between the modules point one way, from the scripts down to the recipe. See the table below."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = "mindcv_lite"

# What a module of the package may import from the package, itself apart. A folder stands for its modules, as far as
# they have no row of their own. A new module needs a row, or a place in a folder.
MAY_IMPORT = {
    "errors": (),
    "cache": (),
    "files": ("errors",),
    "tables": ("files",),
    "packages": ("errors",),
    "processes": (),
    "__main__": ("errors", "packages"),  # it finds a command by its name
    "benchmark.rounds": ("data.waiting",),
    "benchmark.report": ("recipe", "device", "tables", "benchmark.rounds"),
    "benchmark.mindcv": ("errors", "recipe", "benchmark.rounds"),
    "benchmark.subjects": (
        *("errors", "recipe", "device", "data", "network", "weights", "evaluation", "benchmark.rounds"),
        *("benchmark.mindcv", "training.distillation", "training.optimizers", "training.train_step"),
    ),
    "benchmark.first_steps": (
        *("processes", "recipe", "device", "network", "evaluation", "benchmark.rounds", "benchmark.subjects"),
    ),
    "commands.average": (
        *("errors", "files", "recipe", "device", "network", "checkpoint", "trained", "averaging", "evaluation"),
        "data.source",
    ),
    "commands.benchmark": ("errors", "files", "packages", "recipe", "device", "benchmark"),
    "commands.check": ("errors", "recipe", "data.findings", "data.inspection"),
    "commands.convert": ("errors", "storage", "weights", "checkpoint", "origins", "torch_files"),
    "commands.pack": ("errors", "recipe", "data.packing"),
    "commands.sort": ("errors",),
    "commands.tune": ("errors", "files", "recipe", "tuning"),
    "tuning.search": ("recipe",),
    "tuning.trials": (
        *("errors", "files", "recipe", "tables", "data.folder", "data.holdout", "data.source", "training.results"),
        "tuning.search",
    ),
    "tuning.findings": (
        *("files", "packages", "tables", "recipe", "data.source", "report.statistics", "training.curves"),
        "tuning.search",
    ),
    "commands.summary": ("errors", "files", "recipe", "blocks", "complexity", "weights", "trained"),
    "commands.export": ("errors", "files", "packages", "recipe", "device", "export.answers", "trained"),
    "commands.doctor": ("errors", "files", "doctor"),
    "doctor.findings": (),
    "doctor.programs": ("doctor.findings",),
    "doctor.examination": ("errors", "files", "device", "doctor.findings", "doctor.programs"),
    "doctor.photos": (),
    "doctor.recipes": ("recipe", "device"),
    "doctor.scripts": (
        *("recipe", "evaluation", "training.loop", "training.results", "doctor.findings", "doctor.programs"),
    ),
    "doctor.arithmetic": (
        *("errors", "noise", "device", "network", "evaluation"),
        *("doctor.findings", "doctor.primitives", "doctor.programs", "doctor.examination", "doctor.recipes"),
    ),
    "doctor.order": ("recipe", "device", "data", "doctor.findings", "doctor.examination"),
    "doctor.ranks": ("device", "doctor.findings", "doctor.examination"),
    "doctor.trainings": (
        *("errors", "device", "checkpoint", "training.results"),
        *("doctor.findings", "doctor.examination", "doctor.recipes", "doctor.scripts"),
    ),
    "doctor.starts": (
        *("recipe", "device", "training.results"),
        *("doctor.findings", "doctor.programs", "doctor.examination", "doctor.recipes", "doctor.scripts"),
        "doctor.trainings",
    ),
    "doctor.speed": (
        *("tables", "data", "benchmark", "training.loop"),
        *("doctor.findings", "doctor.examination", "doctor.photos", "doctor.recipes", "doctor.scripts"),
    ),
    "doctor.checks": ("device", "data", "doctor"),
    "doctor.primitives": (),
    "doctor.environment": ("cache", "packages", "doctor.findings"),
    "folding": (),
    "export.graph": ("recipe", "folding", "blocks", "network"),
    "export.onnx_files": ("export.graph",),
    "export.mindir_files": ("errors",),
    "export.answers": ("errors", "files", "data.normalize", "weights", "trained", "export"),
    "commands.predict": (
        *("errors", "files", "tables", "recipe", "device", "trained", "classification", "data.folder"),
    ),
    "commands.report": (
        *("errors", "files", "packages", "tables", "recipe", "blocks", "complexity"),
        *("training.curves", "training.results", "report.statistics", "report.paired"),
    ),
    "auto_augment": (),
    "recipe": ("errors", "files", "packages", "auto_augment"),
    "noise": (),
    "dropout": ("noise",),
    "blocks": (),
    "complexity": ("blocks", "tables"),
    "compile_cache": ("errors", "files", "recipe"),
    "mobilenetv3": ("blocks", "dropout"),
    "cpu.operators": ("cache",),
    "cpu.depthwise": (),
    "cpu.norm": (),
    "cpu.pooling": (),
    "device": ("errors", "recipe", "compile_cache", "cpu.operators"),
    "network": ("errors", "recipe", "device", "blocks", "mobilenetv3", "cpu.depthwise", "cpu.norm", "cpu.pooling"),
    "published": ("cache", "errors"),
    "storage": ("errors", "files"),
    "weights": ("errors", "recipe", "device", "published", "storage"),
    "checkpoint": ("errors", "recipe", "storage", "weights"),
    "origins": ("errors", "recipe", "blocks", "mobilenetv3", "weights"),
    "trained": ("recipe", "device", "network", "origins", "weights", "data.classes"),
    "torch_files": ("errors",),
    "data": ("errors", "files", "processes", "cache", "auto_augment", "recipe", "noise", "device", "data"),
    "data.encoded": ("data.jpeg",),
    "data.jpeg": (),
    "data.normalize": (),
    "data.paths": (),
    "data.waiting": (),
    "data.sharding": (),
    "training.loop": (*("errors", "recipe", "device", "data", "weights", "checkpoint", "evaluation", "training"),),
    "training.state": (
        *("errors", "recipe", "noise", "device", "data", "network", "checkpoint"),
        *("training.distillation", "training.optimizers", "training.train_step"),
    ),
    "training.stop": ("errors", "device"),
    "training.report": (
        *("packages", "recipe", "blocks", "complexity", "device", "data", "network"),
        *("training.curves", "training.optimizers", "training.schedules", "training.train_step"),
    ),
    "training.contact_sheet": ("files", "recipe", "data", "training.preparation"),
    "training.results": ("errors", "files"),
    "training.curves": ("errors", "files", "packages", "tables", "training.results"),
    "training.tensorboard": ("training.results",),
    "training.probe": ("errors", "recipe", "device", "data", "network", "weights", "evaluation"),
    "training.publish": ("device", "network", "training.average"),
    "training.train_step": (
        *("recipe", "device", "data"),
        *("training.losses", "training.average", "training.distillation", "training.preparation"),
    ),
    "training.distillation": ("errors", "recipe", "device", "data.classes", "network", "trained", "weights"),
    "training.preparation": ("recipe", "data", "training.losses"),
    "training.average": (),
    "training.losses": (),
    "training.schedules": ("recipe",),
    "training.optimizers": ("errors", "recipe", "network"),
    "predictions": (),
    "evaluation": ("errors", "recipe", "device", "data", "predictions", "training.losses"),
    "report.statistics": ("predictions",),
    "report.paired": ("errors", "report.statistics"),
    "report.pictures": ("data", "report.statistics"),
    "report.page": ("data", "evaluation", "predictions", "report.pictures", "report.statistics"),
    "report.writing": (
        *("files", "tables", "recipe", "device", "data", "weights", "evaluation"),
        *("report.page", "report.paired", "report.statistics"),
    ),
    "averaging": (
        *("errors", "recipe", "device", "network", "weights", "trained", "evaluation", "data.folder", "data.pipeline"),
    ),
    "classification": ("errors", "device", "data", "evaluation", "predictions", "trained"),
}
WITHOUT_MINDSPORE = (
    "errors",
    "cache",
    "files",
    "tables",
    "packages",
    "folding",
    "auto_augment",
    "blocks",
    "complexity",
    "recipe",
    "compile_cache",
    "published",
    "training.results",
    "training.curves",
    "training.tensorboard",
    "training.schedules",
    "benchmark.rounds",
    "predictions",
    "report.statistics",
    "report.paired",
    "data.waiting",
    "data.sharding",
    "data.encoded",
    "data.jpeg",
    "data.classes",
    "data.digits",
    "data.folder",
    "data.packed",
    "data.paths",
    "data.source",
    "data.standard",
    "data.inspection",
    "data.findings",
    "doctor.environment",
    "commands.check",
    "commands.report",
    "commands.sort",
)
DEPENDENCIES = {"mindspore", "numpy", "yaml", "PIL", "tqdm", "scipy"}
# What may be missing, and the one module that may ask for it: an extra in pyproject.toml, the user's PyTorch or MindCV.
EXTRAS = {
    "sklearn": "data.digits",
    "torch": "torch_files",
    "mindcv": "benchmark.mindcv",
    "onnx": "export.onnx_files",
    "onnxruntime": "export.onnx_files",
    "matplotlib": "training.curves",
    "tensorboard": "training.tensorboard",
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
            known = [".".join(parts[:count]) for count in (1, 2, 3) if ".".join(parts[:count]) in MODULES]
            assert known, f"{path}: {name} is no module of the package"
            found.add(known[0])
    return found


def row_of(name: str) -> str | None:
    """The row of MAY_IMPORT for a module: its own, or its folder's."""
    return next((row for row in (name, name.split(".")[0]) if row in MAY_IMPORT), None)


@each_module
def test_a_module_imports_only_what_its_row_allows(name):
    row = row_of(name)
    assert row, f"{name} has no row in MAY_IMPORT"
    for imported in modules_imported_by(MODULES[name]):
        allowed = {imported, row_of(imported), imported.split(".")[0]} & set(MAY_IMPORT[row])
        assert allowed, f"{name} imports {imported}"


def test_the_table_names_modules_that_exist():
    for row in {*MAY_IMPORT, *WITHOUT_MINDSPORE, *EXTRAS.values()}:
        assert row in MODULES or (ROOT / PACKAGE / row).is_dir(), row


def test_the_table_allows_no_more_than_is_used():
    for row, allowed in MAY_IMPORT.items():
        used = set().union(*(modules_imported_by(path) for name, path in MODULES.items() if row_of(name) == row))
        for other in allowed:
            assert any(name == other or name.startswith(f"{other}.") for name in used), f"{row} imports no {other}"


def test_the_arrows_make_no_circle():
    order = list(TopologicalSorter({name: modules_imported_by(path) for name, path in MODULES.items()}).static_order())
    assert order[0] in (
        *("errors", "cache", "noise", "auto_augment", "blocks"),
        *("training.average", "training.losses"),
        *("data.normalize", "data.sharding", "data.jpeg", "data.waiting"),
        "predictions",
    )
    assert order.index("recipe") < order.index("device") < order.index("training.loop")


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
        f"{PACKAGE}.errors",
        f"{PACKAGE}.files",
        f"{PACKAGE}.packages",
        f"{PACKAGE}.tables",
        f"{PACKAGE}.recipe",
    }
    assert {name.split(".")[0] for name in names} - {PACKAGE} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: path.stem)
def test_the_device_module_alone_touches_the_context_and_communication(path):
    tree = ast.parse(path.read_text())
    touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & DEVICE_NAMES
    touched |= {part for name in imports_of(tree) for part in name.split(".") if name.startswith("mindspore")} & (
        DEVICE_NAMES
    )
    if path == MODULES["device"]:
        assert {"set_context", "set_device", "set_auto_parallel_context", "communication"} <= touched
    else:
        assert not touched


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS, *TESTS], ids=lambda path: path.stem)
def test_nothing_imports_a_script_and_nothing_imports_a_star(path):
    for name in imports_of(ast.parse(path.read_text())):
        assert name.split(".")[0] not in ("train", "validate")
        assert not name.endswith(".*")


@each_module
def test_a_module_needs_the_declared_dependencies_only(name):
    tree = ast.parse(MODULES[name].read_text())
    others = {full.split(".")[0] for full in imports_of(tree)} - {PACKAGE} - sys.stdlib_module_names
    asked = {extra for extra in others if EXTRAS.get(extra) == name}
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
        assert {name.split(".")[0] for name in imports_of(tree)} <= sys.stdlib_module_names
