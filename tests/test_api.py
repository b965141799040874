"""Python's way in: the answers of the programs, and nothing of the caller's process touched."""

import logging
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mindcv_lite
from mindcv_lite.errors import UserError
from mindcv_lite.signals import SIGNALS
from tests.conftest import ROOT, SMALLEST

KEYS: dict[str, Any] = SMALLEST | {"num_parallel_workers": 1, "cpu_kernels": "off", "val_while_train": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SimpleNamespace:
    """Two trainings in one process, in one folder; and what they left of the process."""
    folder = tmp_path_factory.mktemp("api")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40, 36, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{number}.png")
    before = [signal.getsignal(number) for number in SIGNALS], list(logging.getLogger("mindcv_lite").handlers)
    recipe = mindcv_lite.load_recipe(**KEYS, data_dir=folder / "images", ckpt_save_dir=folder / "ckpt")
    runs = [mindcv_lite.train(recipe) for _ in range(2)]
    after = [signal.getsignal(number) for number in SIGNALS], list(logging.getLogger("mindcv_lite").handlers)
    return SimpleNamespace(folder=folder, runs=runs, before=before, after=after)


def test_a_training_gives_its_files_and_score_and_may_be_repeated(trained):
    first, second = trained.runs
    assert first.folder == second.folder == trained.folder / "ckpt"
    assert second.best == second.folder / "mobilenet_v3_small_100_best.ckpt"
    assert second.last == second.folder / "mobilenet_v3_small_100-2_4.ckpt"
    assert first.top1 == second.top1  # the same seed
    assert (second.folder / "run_1/mobilenet_v3_small_100-2_4.ckpt").exists()


def test_signals_and_log_stay_the_callers(trained):
    assert trained.before == trained.after


def test_a_checkpoint_has_the_score_that_the_training_found(trained):
    run = trained.runs[1]
    score = mindcv_lite.evaluate(run.best, trained.folder / "images", num_parallel_workers=1)
    assert (score.top1, score.images) == (run.top1, 4)


def test_files_arrays_and_images_have_the_same_predictions(trained):
    classifier = mindcv_lite.load_checkpoint(trained.runs[1].best, num_parallel_workers=1)
    assert classifier.class_names == ("a", "b")
    paths = sorted((trained.folder / "images/val").rglob("*.png"))
    of_files = classifier.predict(paths)
    assert [len(best) for best in of_files] == [2] * 4
    assert all(sum(chance for _, chance in best) == pytest.approx(1, abs=1e-5) for best in of_files)
    images = [Image.open(path) for path in paths]
    assert classifier.predict(images) == of_files
    assert classifier.predict([np.asarray(image) for image in images]) == of_files
    assert classifier.predict(paths[0], top=1) == [of_files[0][:1]]
    by_path = mindcv_lite.predict(trained.runs[1].best, trained.folder / "images/val")
    assert [*by_path] == [str(path) for path in paths]
    assert [best[0][0] for best in by_path.values()] == [best[0][0] for best in of_files]


def test_what_is_no_image_is_refused_by_a_sentence(trained):
    classifier = mindcv_lite.load_checkpoint(trained.runs[1].best)
    broken = trained.folder / "broken.png"
    broken.write_bytes(b"\x89PNG")
    for image, sentence in [
        ("nowhere.jpg", "nowhere.jpg: no such image"),
        (broken, r"broken\.png: this image cannot be read: "),
        (
            np.zeros((4, 4), np.float32),
            r"\(height, width, 3\) or \(height, width\), got float32 \(4, 4\)",
        ),
        (np.zeros((4, 4, 5), np.uint8), r"got uint8 \(4, 4, 5\)"),
    ]:
        with pytest.raises(UserError, match=sentence):
            classifier.predict(image)
    with pytest.raises(UserError, match=r"nowhere\.ckpt: no such checkpoint"):
        mindcv_lite.load_checkpoint("nowhere.ckpt")
    with pytest.raises(UserError, match="keyword arguments: key 'lr': expected a number, above 0, got 'x'"):
        mindcv_lite.load_recipe(lr="x")


def test_a_model_is_a_cell_with_features_and_logits(trained):
    from mindspore import Tensor

    images = Tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32))
    network = mindcv_lite.create_model("mobilenet_v3_large_075", num_classes=7)
    assert network(images).shape == (2, 7)
    assert network.features(images).shape == (2, 720, 2, 2)
    same = mindcv_lite.create_model("mobilenet_v3_small_100", trained.runs[1].best)
    other = mindcv_lite.create_model("mobilenet_v3_small_100", trained.runs[1].best, num_classes=3)
    assert (same(images).shape, other(images).shape) == ((2, 2), (2, 3))
    assert np.array_equal(same.features(images).asnumpy(), other.features(images).asnumpy())


def test_the_package_is_imported_without_mindspore():
    program = (
        "import sys, mindcv_lite; dir(mindcv_lite); sys.exit('mindspore' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        mindcv_lite.fit  # noqa: B018
