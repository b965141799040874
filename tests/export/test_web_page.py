"""The page that runs a network in the browser: what Chromium shows is what `predict` says."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.commands.export import main, require_paths
from mindcv_lite.data.images.decoding import for_mindspore
from mindcv_lite.data.transforms.decode_augment import evaluation_transforms
from mindcv_lite.errors import TrainingError
from mindcv_lite.export import web_page
from mindcv_lite.export.web_page import FILES, RUNTIME, add_runtime, export_page, page
from mindcv_lite.recipe.keys import Recipe
from tests.browser import CHROMIUM, value_of

CARD = {
    "model": "mobilenet_v3_small_100",
    "class_names": ["<b>", "</script>"],
    "num_classes": 2,
    "image_resize": 48,
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "in_channels": 3,
    "follow_exif": True,
}
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

# Each photo is dropped on the page, and what it shows is read.
DROP_PHOTOS = """
const page = await opened("index.html"), result = page.document.querySelector("section"), shown = [];
await until(() => !result.textContent.includes("being loaded"));
for (let number = 0; number < PHOTOS; number++) {
  const given = new DataTransfer();
  given.items.add(await photo(number));
  result.replaceChildren();
  page.document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true }));
  await until(() => result.childElementCount);
  shown.push(result.innerText.split("\\n").filter(Boolean));
}
return shown;
"""


@needs_chromium
def test_the_page_shows_what_predict_says(photos, tmp_path):
    export_page(photos.trained, tmp_path / "page")
    if not (tmp_path / "page" / FILES[0]).exists():
        pytest.skip("npm is not installed, or does not fetch onnxruntime-web")
    (tmp_path / "broken").write_text("no photo")
    paths = [tmp_path / "broken", *photos.paths]
    script = DROP_PHOTOS.replace("PHOTOS", str(len(paths)))
    broken, *shown = value_of(script, tmp_path / "page", paths, tmp_path / "profile")
    assert broken[0].startswith("photo 0: the browser cannot read this image. ")
    assert [name for name, *_ in shown] == photos.names
    percents = [float(percent.removesuffix(" %")) for _, percent, *_ in shown]
    assert percents == pytest.approx([100 * best for best in photos.probabilities], abs=2)  # by another decoder
    assert {len(words) for words in shown} == {2 * 5}


SIZES = {"square": 48, "rectangle": [40, 64]}
CASES = [
    ("bilinear", "square", 3),
    ("bicubic", "square", 3),
    ("nearest", "square", 3),
    ("area", "square", 3),
    ("bilinear", "rectangle", 3),
    ("bilinear", "square", 1),
]


@needs_chromium
def test_the_page_prepares_images_as_validation_does(photos, recipe, tmp_path):
    paths = [path for path in photos.paths if path.suffix == ".png"]  # without loss: no decoder has a say
    for number, (interpolation, shape, channels) in enumerate(CASES):
        keys = {"interpolation": interpolation, "image_resize": SIZES[shape], "in_channels": channels}
        (tmp_path / f"{number}.html").write_text(page(CARD | keys))
    script = """
    const all = [];
    for (let number = 0; number < CASES; number++) {
      const page = await opened(number + ".html");
      for (let index = 0; index < PHOTOS; index++)
        all.push(Array.from(page.pixelsOf(await page.decoded(await photo(index)))));
    }
    return all;
    """.replace("CASES", str(len(CASES))).replace("PHOTOS", str(len(paths)))
    given = iter(value_of(script, tmp_path, paths, tmp_path / "profile"))
    for interpolation, shape, channels in CASES:
        grey = {"mean": [33.0], "std": [78.0]} if channels == 1 else {}
        keys = recipe(interpolation=interpolation, image_resize=SIZES[shape], in_channels=channels, **grey)
        for path in paths:
            difference = np.abs(np.array(next(given)) - prepared(path, keys).ravel().astype(int))
            assert difference.max() <= 1, (interpolation, shape, channels)
            assert (difference > 0).mean() < 0.05, (interpolation, shape, channels)


@needs_chromium
@pytest.mark.parametrize("follow_exif", [False, True])
def test_the_page_turns_photos_if_validation_does(photos, recipe, tmp_path, follow_exif):
    path = next(path for path in photos.paths if path.suffix == ".jpg" and Image.open(path).getexif())
    (tmp_path / "index.html").write_text(page(CARD | {"follow_exif": follow_exif}))
    script = """
    const page = await opened("index.html"), image = await page.decoded(await page.asTrained(await photo(0)));
    return Array.from(page.pixelsOf(image));
    """
    given = np.array(value_of(script, tmp_path, [path], tmp_path / "profile"))
    keys = recipe(image_resize=48)
    right, wrong = (prepared(path, keys, follow).ravel() for follow in (follow_exif, not follow_exif))
    assert np.abs(given - right).mean() < 2  # another decoder
    assert np.abs(given - wrong).mean() > 10


def prepared(path: Path, recipe: Recipe, follow_exif: bool = True) -> np.ndarray:
    """What validation makes of an image: uint8 (height, width, channels)."""
    image = for_mindspore(np.fromfile(path, np.uint8), follow_exif)
    for transform in evaluation_transforms(recipe.augmentation, recipe.model.in_channels):
        image = transform(image)
    return image


@needs_chromium
def test_without_the_runtime_the_page_says_what_to_do(tmp_path):
    (tmp_path / "index.html").write_text(page(CARD))
    script = """
    const page = await opened("index.html"), result = page.document.querySelector("section");
    await until(() => !result.textContent.includes("being loaded"));
    return [result.innerText, page.document.body.innerText];
    """
    said, whole = value_of(script, tmp_path, [], tmp_path / "profile")
    assert f"npm pack {RUNTIME}\n" in said
    assert "Drop a photo" not in whole


def test_names_of_classes_cannot_end_the_script():
    assert "</script>" not in page(CARD).partition('id="card">')[2].partition("</script>")[0]
    assert page(CARD).count("</script>") == page(CARD | {"class_names": []}).count("</script>")


def npm(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script be npm."""
    (folder / "npm").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_files_of_the_runtime_are_taken_from_npm(tmp_path, monkeypatch):
    (tmp_path / "package/dist").mkdir(parents=True)
    for name in (*FILES, "other.js"):
        (tmp_path / "package/dist" / name).write_text(name)
    subprocess.run(["tar", "czf", "packed.tgz", "package"], cwd=tmp_path, check=True)
    npm(tmp_path, f'[ "$1 $2" = "pack {RUNTIME}" ] && cp {tmp_path}/packed.tgz onnxruntime.tgz', monkeypatch)
    (tmp_path / "page").mkdir()
    assert add_runtime(tmp_path / "page") == ""
    assert {path.name: path.read_text() for path in (tmp_path / "page").iterdir()} == {name: name for name in FILES}


def test_without_npm_or_network_the_reason_is_told(tmp_path, monkeypatch):
    npm(tmp_path, "exit 7", monkeypatch)
    assert add_runtime(tmp_path) == f"`npm pack {RUNTIME}` failed with status 7"
    npm(tmp_path, "sleep 9", monkeypatch)
    monkeypatch.setattr(web_page, "LIMIT", 0.1)
    assert add_runtime(tmp_path) == "npm took more than 0.1 s"
    monkeypatch.setenv("PATH", "")
    assert add_runtime(tmp_path) == "npm is not installed"


@pytest.mark.parametrize("is_there", [False, True])
def test_after_an_error_nothing_is_left(tmp_path, monkeypatch, is_there):
    folder = tmp_path / "page"
    if is_there:
        folder.mkdir()

    def fail(trained: None, path: Path, **options: bool) -> None:
        path.write_text("half")
        raise TrainingError

    trained: Any = None
    monkeypatch.setattr(web_page, "export", fail)
    with pytest.raises(TrainingError):
        export_page(trained, folder)
    assert [*tmp_path.rglob("*")] == ([folder] if is_there else [])


def test_a_folder_that_cannot_be_filled_is_refused(tmp_path, refusal):
    for name in ("x.ckpt", "file", "full/precious"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "full", "dangling"):
        said = refusal(require_paths, tmp_path / "x.ckpt", tmp_path / name, "web")
        assert said.startswith(f"{tmp_path / name}: stands there already and is no empty folder; remove it")
    said = refusal(require_paths, tmp_path / "x.ckpt", tmp_path / "no/page", "web")
    assert said == f"{tmp_path / 'no'}: no such folder; give another path"
    said = refusal(require_paths, tmp_path / "x.ckpt", Path("/proc/page"), "web")
    assert said.startswith("/proc/page: no folder to write to: ")
    (tmp_path / "empty").mkdir()
    require_paths(tmp_path / "x.ckpt", tmp_path / "empty", "web")


def test_options_that_the_page_does_not_leave_open_are_refused(tmp_path, refusal):
    (tmp_path / "x.ckpt").write_text("")
    said = refusal(
        main, [str(tmp_path / "x.ckpt"), "--format", "web", str(tmp_path / "page"), "--softmax", "--batch=1"]
    )
    assert "leave out --softmax and --batch" in said
