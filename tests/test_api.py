"""Python's way in: the answers of the programs, and nothing of the caller's process touched."""

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mindcv_lite
from mindcv_lite.errors import UserError
from mindcv_lite.signals import SIGNALS
from tests.conftest import ROOT, SMALLEST, build_three_rows

KEYS: dict[str, Any] = SMALLEST | {"num_parallel_workers": 1, "cpu_kernels": "off", "val_while_train": True}


@pytest.fixture(scope="module", autouse=True)
def three_rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        build_three_rows(patch)
        yield


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
    (ctrl_c, sigterm, *others), handlers = trained.before
    taken = signal.default_int_handler if sigterm is signal.SIG_DFL else sigterm
    assert trained.after == ([ctrl_c, taken, *others], handlers)


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
    with pytest.raises(UserError, match=r"are missing: batch_size, .*; give a recipe, or batch_size=\.\.\. "):
        mindcv_lite.load_recipe()


def test_a_model_is_a_cell_with_features_and_logits(trained):
    from mindspore import Tensor

    images = Tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32))
    network = mindcv_lite.create_model("mobilenet_v3_small_075", num_classes=7)
    assert network(images).shape == (2, 7)
    assert network.features(images).shape == (2, 192, 8, 8)  # of three rows
    same = mindcv_lite.create_model(pretrained=trained.runs[1].best)
    other = mindcv_lite.create_model("mobilenet_v3_small_100", trained.runs[1].best, num_classes=3)
    assert (same(images).shape, other(images).shape) == ((2, 2), (2, 3))
    assert np.array_equal(same.features(images).asnumpy(), other.features(images).asnumpy())
    six = mindcv_lite.create_model(pretrained=trained.runs[1].best, in_channels=6)  # twice the same, at half the weight
    twice = Tensor(np.concatenate([images.asnumpy()] * 2, axis=1))
    assert np.allclose(six(twice).asnumpy(), same(images).asnumpy(), atol=1e-5)
    assert mindcv_lite.create_model("mobilenet_v3_small_035", in_channels=4)(twice[:, :4]).shape == (2, 1000)
    with pytest.raises(UserError, match="in_channels: expected a whole number from 1 on, got 0"):
        mindcv_lite.create_model(in_channels=0)


def test_a_key_that_contradicts_the_card_is_refused_and_numbers_of_numpy_are_taken(trained):
    best = trained.runs[1].best
    with pytest.raises(UserError, match=r"key 'conv_padding' is same, but the weights in .* mean mindcv"):
        mindcv_lite.load_checkpoint(best, conv_padding="same")
    assert mindcv_lite.load_checkpoint(best, image_resize=np.int64(48)).trained.recipe.augmentation.image_resize == 48
    recipe = mindcv_lite.load_recipe(**KEYS, scale=np.array([0.5, 1.0]), teacher=[Path("a.ckpt"), Path("b.ckpt")])
    assert (recipe.augmentation.scale, recipe.loss.teacher) == ((0.5, 1.0), ("a.ckpt", "b.ckpt"))


def test_pixels_of_16_bits_count_as_in_a_file(trained):
    grey = Image.fromarray(np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16))
    path = trained.folder / "grey.png"
    grey.save(path)
    classifier = mindcv_lite.load_checkpoint(trained.runs[1].best)
    of_file, of_image = classifier.predict([path, grey])
    assert of_file == of_image
    with pytest.raises(UserError, match=r"image 0: expected .* 8 or 16 bits, got a PIL image of mode F"):
        classifier.predict(Image.new("F", (9, 9)))


def test_random_numbers_and_broken_images_of_the_caller_stay_as_they_are(trained):
    import mindspore.dataset as ds

    mode, drawn = ds.config.get_error_samples_mode(), []
    classifier = mindcv_lite.load_checkpoint(trained.runs[1].best)
    for seed in (7, 8):
        np.random.seed(seed)
        classifier.predict(np.zeros((9, 9, 3), np.uint8))
        network = mindcv_lite.create_model(num_classes=2)
        drawn.append((np.random.rand(), float(network.classifier[3].weight.asnumpy().sum())))
    assert drawn[0][0] != drawn[1][0]  # no seed of ours was set
    assert drawn[0][1] != drawn[1][1]
    assert ds.config.get_error_samples_mode() == mode


@pytest.mark.parametrize("when", ["predict", "train"])
def test_ctrl_c_raises_keyboard_interrupt_and_ends_no_notebook(trained, when):
    """MindSpore answers it by SIGTERM, once it has run a graph."""
    keys = KEYS | {"data_dir": str(trained.folder / "images"), "ckpt_save_dir": str(trained.folder / "interrupted")}
    program = f"""
import os, signal, sys, time
import numpy as np
import mindcv_lite
from mindcv_lite.training import recorder

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)

try:
    if {when!r} == "predict":
        mindcv_lite.load_checkpoint({str(trained.runs[1].best)!r}).predict(np.zeros((9, 9, 3), np.uint8))
        interrupt()
    else:
        keep = recorder.RunRecorder.on_train_epoch_end
        recorder.RunRecorder.on_train_epoch_end = lambda *arguments: (keep(*arguments), interrupt())
        mindcv_lite.train(mindcv_lite.load_recipe(**{keys!r}))
except KeyboardInterrupt:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 7, done.stderr


def test_the_package_is_imported_without_mindspore():
    program = (
        "import sys, mindcv_lite; dir(mindcv_lite); sys.exit('mindspore' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        mindcv_lite.fit  # noqa: B018
