"""What several tests need: small image folders, recipes, and the shared reference data where it is present."""

import errno
import hashlib
import logging
import os
import platform
import runpy
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.cpu_kernels.compilation import compiled_library
from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe

if TYPE_CHECKING:
    from mindcv_lite.device.ranks import World

pytest.register_assert_rewrite("tests.programs")  # which is no test itself

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
os.environ["PYTHONPATH"] = str(ROOT)  # programs that tests start are those of this checkout

SMALLEST = {
    "model": "mobilenet_v3_small_100",
    "batch_size": 4,
    "epoch_size": 2,
    "lr": 0.01,
    "opt": "momentum",
    "scheduler": "constant",
    "warmup_epochs": 0,
    "image_resize": 32,
    "device_target": "CPU",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each worker whole programs first, and then whole modules, so that what a module's tests share is made once.

    A worker begins with its share of the list, one piece of it, and takes from others when it is done.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    programs = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    shares = [programs[first::workers] for first in range(workers)]
    for _, module in groupby(others, lambda item: item.path):
        min(shares, key=len).extend(module)
    items[:] = [item for share in shares for item in share]


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """A recipe of the required keys and those given."""

    def build(**keys: object) -> Recipe:
        return load_recipe([f"--{name}={value}" for name, value in (SMALLEST | keys).items()], "")

    return build


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write data_dir/split/class/*.jpg: `counts` maps a split to the number of images of each of its classes."""

    return partial(write_images, tmp_path / "images")


def write_images(data_dir: Path, counts: dict[str, dict[str, int]], size: tuple[int, int] = (48, 40)) -> Path:
    random = np.random.default_rng(0)
    for split, classes in counts.items():
        for index, (name, count) in enumerate(classes.items()):
            folder = data_dir / split / name
            folder.mkdir(parents=True)
            for number in range(count):  # a class is a hue, so that it can be learned
                pixels = random.integers(0, 80, (size[1], size[0], 3), np.uint8)
                pixels[..., index % 3] += 150
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return data_dir


@pytest.fixture
def no_shared_memory(monkeypatch) -> None:
    """Let semaphores fail, as they do in containers without a writable /dev/shm."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", fail)


@pytest.fixture(scope="session")
def world() -> Callable[..., "World"]:
    """A rank among `size` that need not exist: what this rank does on its own can be tested without msrun."""
    from mindcv_lite.device.ranks import World
    from mindcv_lite.device.settings import settings_for  # late: tests of the recipe start without MindSpore

    def build(recipe: Recipe, rank: int = 0, size: int = 1) -> World:
        return World(rank, size, settings_for(recipe, "CPU", size, processors=2))

    return build


@pytest.fixture(scope="session")
def operators() -> Path:
    """The library of compiled CPU kernels, which must be made where there is a compiler."""
    if platform.system() != "Linux" or not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("no C++ compiler here")
    path = compiled_library()
    assert path
    return path


@pytest.fixture(scope="session")
def graph_mode() -> None:
    """What runs is compiled first, as in the product."""
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")


@pytest.fixture
def pynative_mode(graph_mode: None) -> Iterator[None]:
    """Operators run one by one: faster for a few of them, and for what is run once."""
    import mindspore

    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture
def three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    build_three_rows(monkeypatch)


def build_three_rows(patch: pytest.MonkeyPatch) -> None:
    """Let small networks have three rows, here and in programs that are started: all else is tested on them sooner."""
    folder = ROOT / "tests/three_rows"
    patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    rows = hashlib.sha256((folder / "sitecustomize.py").read_bytes()).hexdigest()
    patch.setenv("MS_THREE_ROWS", rows)  # graphs are kept by such variables, too: none is taken for another network's
    for name, whole in VARIANTS.items():
        patch.setitem(VARIANTS, name, whole)  # which is put back
    runpy.run_path(str(folder / "sitecustomize.py"))


@pytest.fixture
def shared() -> Path:
    """Weights and images of others, which are not part of this project."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data beside the project ({SHARED})")
    return SHARED


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What was logged, whether or not another test of this process has started the program's own log."""
    monkeypatch.setattr(logging.getLogger("mindcv_lite"), "propagate", True)
    caplog.set_level(logging.INFO, "mindcv_lite")
    return caplog


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """What is said of a command that is refused: one line; nothing is written."""

    def refusal(command: Callable[..., None], *arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError) as error:
            command(*arguments)
        assert sorted(tmp_path.rglob("*")) == before
        assert "\n" not in str(error.value)
        return str(error.value)

    return refusal


def drawn_rows(svg: str) -> list[dict[str, str]]:
    """The texts in each row of a network's drawing, by the column that their class names."""
    name = "{http://www.w3.org/2000/svg}"
    groups = ElementTree.fromstring(svg).findall(f"{name}g[@class='row']")
    return [
        {text.get("class", "").split()[0]: text.text or "" for text in group.iter(f"{name}text")} for group in groups
    ]
