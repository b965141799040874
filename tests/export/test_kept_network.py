"""A network is kept if it predicts what MindSpore does, and taken only for what it was kept for."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mindcv_lite.evaluation.predict import Predictor
from mindcv_lite.export import kept_network
from mindcv_lite.export.kept_network import MOST, KeptNetwork, keep, kept_file, open_kept
from mindcv_lite.recipe.keys import Recipe
from tests.export.conftest import TITLES, Photos


class Said(Predictor):
    """Stands for the network that MindSpore computes."""

    def __init__(self, path: str, recipe: Recipe):
        self.path, self.recipe, self.class_names = path, recipe, TITLES

    def logits_of(self, paths: Sequence[str], flaws: dict[int, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        raise NotImplementedError


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> str:
    """A file to tell networks apart by; its content does not matter here. The cache is in `tmp_path`."""
    monkeypatch.setattr(kept_network, "cache_folder", lambda name: tmp_path / "cache" / name)
    (tmp_path / "a.ckpt").write_bytes(b"weights")
    return str(tmp_path / "a.ckpt")


def file_of(checkpoint: str) -> Path:
    file = kept_file(checkpoint, {})
    assert file, "onnx or onnxruntime is not installed"
    return file


@pytest.fixture
def kept(photos: Photos, checkpoint) -> Callable[..., KeptNetwork | None]:
    """Keep the network of the photos, whose logits are off by some factor, and open what was kept."""
    recipe = photos.trained.recipe
    parameters = {name: value.asnumpy() for name, value in photos.trained.weights.parameters.items()}
    paths = list(map(str, photos.paths))

    def kept(factor: float = 1.0, **keys: object) -> KeptNetwork | None:
        said = Said(checkpoint, recipe.with_keys(**keys))
        network = KeptNetwork(checkpoint, kept_network.kept_content(said, parameters), {})
        logits = {path: factor * row for path, row in network.predict(paths, 1).logits.items()}
        file = file_of(checkpoint)
        keep(file, said, parameters, logits)
        return open_kept(file, checkpoint, {"batch_size": 4, "num_parallel_workers": 2})

    return kept


def test_a_kept_network_predicts_what_mindspore_does_for_photos_of_many_kinds(kept, photos, checkpoint, log):
    network = kept()
    assert (network.path, network.class_names) == (checkpoint, TITLES)
    found = network.predict([str(path) for path in photos.paths], 1)
    assert not found.flaws
    best = [row[0] for row in found.best.values()]
    assert [TITLES[output] for output, _ in best] == photos.names
    np.testing.assert_allclose([share for _, share in best], photos.probabilities, atol=1e-5)
    assert "kept for the next call: " in log.text


@pytest.mark.parametrize("factor", [1.0002, float("nan")])
def test_a_network_whose_logits_are_others_is_not_kept(kept, log, factor):
    assert kept(factor) is None
    assert "the network is not kept for the next call: onnxruntime's logits differ by" in log.text


def test_a_network_whose_images_mindspore_alone_prepares_is_not_kept(kept, log):
    assert kept(interpolation="bicubic") is None
    assert "is not kept for the next call: interpolation is bicubic, and only MindSpore prepares images so" in log.text


def test_a_network_that_rounds_is_not_kept(photos, checkpoint, log):
    recipe, file = photos.trained.recipe.with_keys(quantize="int8", ckpt_path=checkpoint), file_of(checkpoint)
    keep(file, Said(checkpoint, recipe), {}, {"a.jpg": np.zeros(2)})
    assert not file.exists()
    assert "the network is not kept for the next call: it rounds to int8" in log.text


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_damaged_file_is_told_and_made_anew(kept, checkpoint, log, position):
    kept()
    file = file_of(checkpoint)
    whole = file.read_bytes()
    content = bytearray(whole)
    content[position] ^= 1
    for damaged in (content, content[:position], b""):
        file.write_bytes(damaged)
        assert open_kept(file, checkpoint, {}) is None
        assert f"{file} is damaged: it is made anew" in log.text
    assert kept()
    assert file.read_bytes() == whole


def test_a_file_that_the_system_refuses_costs_a_line(checkpoint, log):
    file = file_of(checkpoint)
    file.mkdir(parents=True)
    assert open_kept(file, checkpoint, {}) is None
    assert f"{file} cannot be read: Is a directory" in log.text


def test_other_weights_another_image_size_and_another_version_are_other_networks(checkpoint, monkeypatch):
    files = [kept_file(checkpoint, {}), kept_file(checkpoint, {"image_resize": 96})]
    monkeypatch.setattr(kept_network, "mindspore_version", lambda: "9.9")
    files.append(kept_file(checkpoint, {}))
    Path(checkpoint).write_bytes(b"other weights")
    files.append(kept_file(checkpoint, {}))
    assert len(set(files)) == 4
    assert kept_file(checkpoint, {"batch_size": 7, "num_parallel_workers": 1}) == files[-1]


def test_several_processes_keep_a_network_at_once_and_few_files_stay(kept, checkpoint):
    kept()
    file = file_of(checkpoint)
    for number in range(MOST):
        shutil.copy(file, file.with_name(f"{number}.network"))
    content = file.read_bytes()[32:]
    with ThreadPoolExecutor(8) as threads:
        writes = [
            threads.submit(kept_network.write_sealed, file, content, MOST, f"*{kept_network.SUFFIX}") for _ in range(24)
        ]
        for write in writes:
            write.result()
    assert open_kept(file, checkpoint, {})
    assert len(list(file.parent.iterdir())) == MOST


def test_without_onnxruntime_or_a_home_nothing_is_kept(checkpoint, monkeypatch):
    monkeypatch.setattr(kept_network, "is_installed", lambda name: name != "onnxruntime")
    assert kept_file(checkpoint, {}) is None
    monkeypatch.undo()

    def no_home(name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kept_network, "cache_folder", no_home)
    assert kept_file(checkpoint, {}) is None
