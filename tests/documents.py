"""What stands in a page of Markdown: code blocks, the command lines in them, links and headings."""

import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mindcv_lite.__main__ import COMMANDS, SCRIPTS
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.load import load_recipe

SHELL = ("", "sh", "bash", "shell", "console")  # languages of a block that may hold command lines
_LAUNCHERS = ("msrun", "srun", "taskset", "time", "nohup")  # what a command line may begin with, before Python
_KEYWORDS = ("do", "then", "else", "$")
_FENCE = re.compile(r"^ *(```+|~~~+) *(\w*).*$")


class Block(NamedTuple):
    language: str
    code: str


class Command(NamedTuple):
    """`program`: train.py, validate.py, or the name of a command; nothing for `mindcv-lite` alone."""

    program: str
    arguments: list[str]


# --------------------------------------------------------------------------------------------------- parts of a page


def parts_of(text: str) -> tuple[str, list[Block]]:
    """The page without its code blocks, and these."""
    prose, blocks, lines, fence = [], [], [], None
    for line in text.splitlines():
        found = _FENCE.match(line)
        if fence is None and found:
            fence, lines = found, []
        elif fence and found and found[1].startswith(fence[1]) and not found[2]:
            blocks.append(Block(fence[2], _without_indent(lines)))
            fence = None
        else:
            (prose if fence is None else lines).append(line)
    assert fence is None, f"a code block that is not closed: {lines[:1]}"
    return "\n".join(prose), blocks


def _without_indent(lines: Sequence[str]) -> str:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines)


def inline_code(text: str) -> list[str]:
    """What stands between backticks, outside code blocks."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", parts_of(text)[0])]


def links_of(text: str) -> list[str]:
    """The targets of links and pictures."""
    prose = re.sub(r"`[^`]*`|(?s:<!--.*?-->)", "", parts_of(text)[0])
    patterns = (r"\]\(([^)\s]*)[^)]*\)", r'<(?:img|a|source)[^>]*(?:src|href|srcset)="([^"]*)"', r"^\[[^\]]+\]: *(\S+)")
    return [target for pattern in patterns for target in re.findall(pattern, prose, re.MULTILINE)]


def anchors_of(text: str) -> set[str]:
    """The names by which headings can be linked to, as GitHub makes them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", parts_of(text)[0], re.MULTILINE):
        name = re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "", heading)).lower().replace(" ", "-")
        count = next(number for number in range(99) if (f"{name}-{number}" if number else name) not in anchors)
        anchors.add(f"{name}-{count}" if count else name)
    return anchors


# ------------------------------------------------------------------------------------------------------ command lines


def lines_in(code: str) -> list[str]:
    """The lines of a shell block, each with its continuations."""
    return code.replace("\\\n", " ").splitlines()


def commands_in(line: str) -> Iterator[Command]:
    """The programs of this project that a line of a shell calls, with their arguments."""
    if not re.search(r"python3? (-m mindcv_lite|train\.py|validate\.py)\b|mindcv-lite\b", line):
        return  # maybe no line of a shell at all
    for words in _simple_commands(re.sub(r"\$\{?\w+\}?", "1", line.strip().removeprefix("$ "))):
        if command := _command(words):
            yield command


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The commands between `;`, `&&` and `|`, without what is redirected."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirects = False
    for word in lexer:
        if word and set(word) <= set("();|&"):
            yield words
            words, redirects = [], False
        elif word and set(word) <= set("<>"):
            redirects = True
        elif redirects:
            redirects = False
        else:
            words.append(word)
    yield words


def _command(words: list[str]) -> Command | None:
    while words and (words[0] in _KEYWORDS or re.match(r"[A-Z_]+=", words[0])):
        words = words[1:]
    start = next((index for index, word in enumerate(words) if word in ("python", "python3", "mindcv-lite")), None)
    if start is None or (start and words[0] not in _LAUNCHERS):
        return None  # something else, or what a program printed
    program, *rest = words[start:]
    if program == "mindcv-lite" or rest[:2] == ["-m", "mindcv_lite"]:
        words = rest if program == "mindcv-lite" else rest[2:]
        return Command(words[0] if words else "", words[1:])
    if rest and rest[0] in ("train.py", "validate.py"):
        return Command(rest[0], rest[1:])
    return None


def understand(command: Command) -> None:
    """Let the program parse its command line. Raises `UserError` or `KeyError` if it does not understand it."""
    name, arguments = command
    if name in ("", "-h", "--help", "--version", "COMMAND"):
        return
    own = _own_flags(name)
    if "..." in arguments or {"-h", "--help"} & {*arguments}:
        return
    if name == "benchmark":
        subjects = importlib.import_module("mindcv_lite.commands.benchmark").SUBJECTS
        assert arguments[0] in subjects, f"benchmark {arguments[0]}"
        arguments = arguments[1:]
    if name == "tune" and not {"-c", "--config"} & {*arguments}:
        arguments = ["--config", "mobilenet_v3_small_finetune", *arguments]
    if own is None or not own.add_help:  # the program takes the keys of a recipe, too
        load_recipe([_existing(word) for word in arguments], "", own)
    elif name in ("predict", "export"):
        own.parse_intermixed_args(arguments)
    else:
        own.parse_args(arguments)


def _own_flags(name: str) -> CommandLine | None:
    """The flags of a program; of one that takes a recipe, those that are no keys."""
    name = name.removesuffix(".py")
    if name not in COMMANDS:
        raise KeyError(name)
    module = importlib.import_module(f"mindcv_lite.{'scripts' if name in SCRIPTS else 'commands'}.{name}")
    return module.command_line() if hasattr(module, "command_line") else None


def _existing(word: str) -> str:
    """A recipe in the place of one that a run leaves, or that is the reader's."""
    path = Path(word)
    readers = path.name == "recipe.yaml" or (path.suffix == ".yaml" and word.startswith("/path/to/"))
    return "mobilenet_v3_small_finetune" if readers and not path.exists() else word
