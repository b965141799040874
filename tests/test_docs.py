"""What the documents and the recipes tell people to type and to follow: it is there, and it is understood."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mindcv_lite.__main__ import COMMANDS
from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.complexity import complexity_of
from mindcv_lite.recipe.keys import FOREIGN_KEYS, KEYS
from mindcv_lite.recipe.load import load_recipe
from tests.conftest import ROOT, write_images
from tests.documents import (
    SHELL,
    Block,
    Command,
    anchors_of,
    commands_in,
    inline_code,
    lines_in,
    links_of,
    parts_of,
    understand,
)

MODEL_PAGE = ROOT / "configs/mobilenetv3/README.md"
TRANSLATION = ROOT / "README.zh-CN.md"
DOCS = [MODEL_PAGE, *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
RECIPES = sorted(ROOT.glob("configs/*/*.yaml"))

each_page = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def shell_lines_of(path: Path) -> list[str]:
    """Lines of shell blocks; of a recipe, the command lines of its comments."""
    if path.suffix == ".yaml":
        return re.findall(r"^#   (.*)$", path.read_text(), re.MULTILINE)
    blocks = parts_of(path.read_text())[1]
    return [line for block in blocks if block.language in SHELL for line in lines_in(block.code)]


COMMAND_LINES = [
    (path.name, line, command)
    for path in [*DOCS, *RECIPES]
    for line in shell_lines_of(path)
    for command in commands_in(line)
]
INLINE = [
    (path.name, code, command)
    for path in DOCS
    for code in inline_code(path.read_text())
    for command in commands_in(code)
]


# ------------------------------------------------------------------------------------------------------ command lines


@pytest.mark.parametrize(("name", "line", "command"), COMMAND_LINES)
def test_each_command_line_is_parsed_by_its_program(name, line, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    understand(command)


@pytest.mark.parametrize(("name", "code", "command"), INLINE)
def test_a_command_in_the_text_exists(name, code, command, monkeypatch):
    """It may lack arguments there; with a recipe it is a whole command line."""
    monkeypatch.chdir(ROOT)
    whole = {"-c", "--config"} & {*command.arguments}
    understand(command if whole else Command(command.program, ["..."]))


@pytest.mark.parametrize("program", COMMANDS)
def test_each_program_is_shown_by_a_command_line(program):
    shown = {command.program.removesuffix(".py") for name, _, command in COMMAND_LINES if name.endswith(".md")}
    assert program in shown


# -------------------------------------------------------------------------------------------------------------- links


@each_page
def test_each_link_leads_to_a_file_or_a_heading(path):
    for target in links_of(path.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there.read_text()), target


@pytest.mark.parametrize("path", [path for path in DOCS if path.parent.name == "docs"], ids=lambda path: path.name)
def test_another_page_leads_to_each_page_of_docs(path):
    others = [page for page in DOCS if page != path]
    links = {(page.parent / link.partition("#")[0]).resolve() for page in others for link in links_of(page.read_text())}
    assert path.resolve() in links


def test_the_files_that_contributing_names_exist():
    named = [
        code for code in inline_code((ROOT / "CONTRIBUTING.md").read_text()) if re.fullmatch(r"[\w.]+/[\w./]+", code)
    ]
    assert len(named) > 20
    for code in named:
        assert "NAME" in code or (ROOT / code).exists() or (ROOT / "mindcv_lite" / code).exists(), code


# ------------------------------------------------------------------------------------------------------ Python blocks

NEEDS_MINDSPORE = re.compile(r"mindspore|\b(train|evaluate|predict|load_checkpoint|create_model|network)\(")


def python_of(path: Path) -> list[str]:
    return [block.code for block in parts_of(path.read_text())[1] if block.language == "python"]


def is_script(code: str) -> bool:
    """Whether a block is a file to save: its docstring says how to start it, with files that are not there."""
    return (ast.get_docstring(ast.parse(code)) or "").startswith("python ")


def program_of(path: Path) -> str:
    """The Python blocks of a page, which are read from top to bottom, as one program."""
    return "\n".join(code for code in python_of(path) if not is_script(code))


PROGRAMS = [
    pytest.param(program, id=path.name, marks=[pytest.mark.slow] if NEEDS_MINDSPORE.search(program) else [])
    for path in DOCS
    if path != TRANSLATION and (program := program_of(path))  # its blocks are those of README.md
]


def with_files(program: str, folder: Path, checkpoint: Callable[[], Path]) -> str:
    """The program with paths in `folder`, where what it names is: checkpoints, images, folders of images."""
    program = program.replace("/path/to/", "path/to/").replace("pretrained=True)", "epoch_size=1)")  # no download
    tree = ast.parse(program)
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "data_dir"]
    folders = {node.value.value for node in keywords if isinstance(node.value, ast.Constant)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for text in sorted(texts):
        place = folder / text.replace("*", "x")
        if place.suffix == ".ckpt":
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkpoint(), place)
        elif place.suffix in (".jpg", ".jpeg", ".png"):
            place.parent.mkdir(parents=True, exist_ok=True)
            written = write_images(folder / f"made for {place.name}", {"one": {"image": 1}})
            shutil.move(written / "one/image/0.jpg", place)
        elif text in folders or text.startswith("path/to/"):
            write_images(place, {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}})
    return program


def run(program: str, folder: Path) -> None:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def checkpoint(recipe, tmp_path_factory) -> Callable[[], Path]:
    """Makes a checkpoint of the classes a and b, when it is asked for: that takes MindSpore."""
    path = tmp_path_factory.mktemp("checkpoint") / "made.ckpt"

    def make() -> Path:
        from mindcv_lite.checkpoints.model_card import model_card
        from mindcv_lite.models.build import build_network
        from mindcv_lite.runs.checkpoint_saver import save_weights

        if not path.exists():
            two = recipe(num_classes=2)
            network = build_network(two.model, "O0")
            weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
            save_weights(path, weights, model_card(two, ("a", "b")))
        return path

    return make


@each_page
def test_each_python_block_is_python(path):
    for code in python_of(path):
        compile(code, path.name, "exec")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_python_of_a_page_runs(program, checkpoint, tmp_path):
    run(with_files(program, tmp_path, checkpoint), tmp_path)


# ------------------------------------------------------------------------------------------------ what pages must say


def test_each_key_that_mindcv_has_and_this_project_does_not_is_on_its_page():
    text = (ROOT / "docs/mindcv.md").read_text()
    assert [name for name in FOREIGN_KEYS if f"`{name}`" not in text] == []


def test_each_key_is_on_some_page():
    text = "".join(path.read_text() for path in DOCS)
    assert [name for name in KEYS if not re.search(rf"\b{name}\b", text)] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def skeleton_of(page: str) -> list[tuple]:
    """What a translation leaves as it is: for each paragraph, item and cell its kind, links, code and numbers."""
    parts = re.split(r"\n{2,}|\n(?=[#-])|\|", parts_of(page)[0])
    return [
        (
            re.findall(r"^[\n#-]*", part),
            links_of(part),
            sorted(inline_code(part)),
            sorted(re.findall(r"\d+(?:\.\d+)*", part)),
        )
        for part in parts
    ]


def test_the_translation_has_the_code_links_and_numbers_of_the_readme():
    readme, translation = (ROOT / "README.md").read_text(), TRANSLATION.read_text()
    assert parts_of(translation)[1] == parts_of(readme)[1]
    assert skeleton_of(translation) == skeleton_of(readme.replace(f"]({TRANSLATION.name})", "](README.md)"))


def test_the_model_page_has_each_recipe_once_in_its_table():
    table = MODEL_PAGE.read_text().partition("## Recipes")[2].partition("## Notes")[0]
    named = re.findall(r"`(\w+\.yaml)`", table)
    assert len(named) == len({*named})
    assert {path.name for path in MODEL_PAGE.parent.glob("*.yaml")} == {*named}


@pytest.mark.parametrize("model", VARIANTS)
def test_the_model_page_says_how_large_a_network_is(model):
    lines = list(complexity_of(VARIANTS[model], 1000, 3, (224, 224)))
    trainable, statistics = sum(line.trainable for line in lines), sum(line.statistics for line in lines)
    multiply_adds = sum(line.multiply_adds for line in lines) / 1e6
    row = f"| `{model}` | {trainable:,} | {trainable + statistics:,} | {multiply_adds:.1f} M |\n"
    assert MODEL_PAGE.read_text().count(row) == 1


# ------------------------------------------------------------------------------------------- that these tests can fail

PAGE = r"""
# A page, and `code`

1. Train, in [docs](docs/x.md#a-heading "title") ![picture](a.png), `[no](link)`:

   ```
   for seed in 1 2; do
     A_B=1 msrun --worker_num 8 python train.py \
       --config mobilenet_v3_small_digits --seed $seed > log.txt
   done
   pip install x && taskset -c 0-3 mindcv-lite check "/a b" "" | tail -n 1; python -m mindcv_lite --version  # a comment
   train.py: error: mindcv_lite is not it's name
   ```

```python
# no heading
print("mindcv-lite check nowhere")
```

## A page, and code

<img src="b.png" width="400"> [c]

[c]: c.md
"""


def test_a_page_is_read():
    prose, blocks = parts_of(PAGE)
    assert [block.language for block in blocks] == ["", "python"]
    assert blocks[1] == Block("python", '# no heading\nprint("mindcv-lite check nowhere")')
    assert "print" not in prose
    assert anchors_of(PAGE) == {"a-page-and-code", "a-page-and-code-1"}
    assert sorted(links_of(PAGE)) == ["a.png", "b.png", "c.md", "docs/x.md#a-heading"]
    assert inline_code(PAGE) == ["code", "[no](link)"]
    assert [command for line in lines_in(blocks[0].code) for command in commands_in(line)] == [
        Command("train.py", ["--config", "mobilenet_v3_small_digits", "--seed", "1"]),
        Command("check", ["/a b", ""]),
        Command("--version", []),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --config mobilenet_v3_small_digits --sead 1",
        "python train.py --config mobilenet_v3_small_digit",
        "python validate.py -c mobilenet_v3_small_digits --reports DIR",
        "python -m mindcv_lite predict a.ckpt --tops 3 b.jpg",
        "python -m mindcv_lite chek DIR",
        "mindcv-lite benchmark steps --config mobilenet_v3_small_digits",
        "mindcv-lite tune --minuets 3",
        "mindcv-lite summary",
    ],
)
def test_a_wrong_command_line_is_not_understood(line):
    (command,) = commands_in(line)
    with pytest.raises((UserError, KeyError, AssertionError)):
        understand(command)


def test_what_a_program_needs_is_made_for_it(tmp_path, checkpoint):
    made = tmp_path / "made.ckpt"
    made.touch()
    text = 'f("a/b.ckpt", "/path/to/images", ["c.jpg", "d/*.png"], data_dir="flowers", name="mobilenet")'
    program = with_files(text, tmp_path, lambda: made)
    assert program == text.replace("/path/to", "path/to")
    names = ("a/b.ckpt", "path/to/images/train/a/0.jpg", "c.jpg", "d/x.png", "flowers/val/b/3.jpg")
    assert all((tmp_path / name).is_file() for name in names)
    assert not (tmp_path / "mobilenet").exists()
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run("1 / 0", tmp_path)


def test_a_script_to_save_is_not_run():
    assert is_script('"""python classify.py image.jpg"""\nimport nowhere')
    assert not is_script('"""Python."""')


@pytest.mark.parametrize("recipe", ["tune/recipe.yaml", "/path/to/mindcv/x.yaml"])
def test_a_recipe_that_the_reader_has_stands_for_a_shipped_one(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = commands_in(f"python train.py --config {recipe} --epoch_size 3")
    understand(command)
    with pytest.raises(UserError):
        load_recipe(command.arguments, "")
