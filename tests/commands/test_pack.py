"""Images packed into MindRecord files: what is stored, what is left out, and what a kill in the middle leaves."""

import fcntl
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.commands.pack import main
from mindcv_lite.data.datasets.packed import FACTS, read_split
from mindcv_lite.data.image_reader import contents_of
from mindcv_lite.data.images.decoding import opened
from mindcv_lite.data.tools.pack import Options, shrunk
from tests.conftest import ROOT, write_images


def pack(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mindcv_lite", "pack", *map(str, arguments)]


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(program(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


def content_of(target: Path) -> dict[str, bytes]:
    """The encoded images by their names."""
    splits = [read_split(str(target), split) for split in json.loads((target / FACTS).read_text())["splits"]]
    return {
        split.paths[index].removeprefix(f"{target}:"): content.tobytes()
        for split in splits
        for content, index in contents_of(split, list(range(len(split))))
    }


def files_below(images: Path) -> dict[str, bytes]:
    return {str(path.relative_to(images)): path.read_bytes() for path in images.rglob("*.*") if path.is_file()}


@pytest.fixture
def refused(refusal) -> Callable[..., str]:
    return partial(refusal, pack)


# ------------------------------------------------------------------------------------------------------- what is stored


def test_images_are_stored_as_they_are_and_what_is_left_out_is_said(image_folder, tmp_path, log):
    images, target = image_folder({"train": {"a": 3, "b": 3}}), tmp_path / "packed"
    for name in ("Gänseblümchen.jpg", os.fsdecode(b"caf\xe9.jpg")):
        shutil.copy(images / "train/a/0.jpg", images / "train/a" / name)
    sound = files_below(images)
    (images / "train/a/deep").mkdir()
    Image.new("RGB", (9, 9)).save(images / "train/a/deep/x.png")
    sound["train/a/deep/x.png"] = (images / "train/a/deep/x.png").read_bytes()
    (images / "train/b/text.jpg").write_bytes(b"no image")
    (images / "train/b/cut.jpg").write_bytes(sound["train/b/0.jpg"][:-30])
    (images / "train/b/empty.jpg").write_bytes(b"")
    (images / "train/b/some.txt").touch()
    (images / "train/a/.hidden.jpg").write_bytes(b"")
    pack(images, target)
    assert content_of(target) == sound
    said = log.text.replace(str(tmp_path), "")
    for line in (
        "/images/train: left out: 2 files that are no images (1 hidden, 1 .txt), such as /images/train/a/.hidden.jpg",
        "/packed: train: 9 images in 8 files, 0.0 MB, 100% of the images' 0.0 MB",
        "/packed: train: 3 images cannot be decoded and are left out:",
        "  /images/train/b/cut.jpg: image file is truncated",
        "  /images/train/b/empty.jpg: no JPEG, PNG, BMP, WebP, TIFF or GIF inside",
        "  /images/train/b/text.jpg: no JPEG, PNG, BMP, WebP, TIFF or GIF inside",
    ):
        assert line in said
    facts = json.loads((target / FACTS).read_text())["splits"]["train"]
    assert [each["number"] for each in facts["left_out"]] == [9, 10, 11]  # after six of a, and 0 to 2 of b
    assert {path.name for path in target.iterdir()} == {FACTS, *facts["files"]}
    assert {path.stat().st_mode for path in target.iterdir()} == {(images / "train/a/0.jpg").stat().st_mode}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed"]


def test_larger_images_are_made_smaller_and_the_others_stay_as_they_are(image_folder, tmp_path, log):
    images, target = image_folder({"train": {"a": 2}, "val": {"a": 1}}, size=(48, 40)), tmp_path / "packed"
    Image.fromarray(np.zeros((41, 90, 3), np.uint8)).save(images / "train/a/larger.png")
    before = files_below(images)
    pack(images, target, "--max_side", "40", "--quality", "80", "--shards", "1")
    after = content_of(target)
    larger = after.pop("train/a/larger.png")
    assert after == {name: content for name, content in before.items() if "larger" not in name}
    with opened(larger) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (88, 40))
    assert "packed: train: 1 images are made smaller, 2 kept as they are" in log.text
    assert "packed: val: 0 images are made smaller, 1 kept as they are" in log.text


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SCENE = Image.fromarray(
    np.kron(np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8), np.ones((30, 30, 1), np.uint8))
)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "LA", "P", "1", "I;16", "EXIF"])
def test_whatever_its_colours_an_image_made_smaller_looks_like_it_and_is_upright(mode):
    from mindspore.dataset import vision

    if mode == "I;16":
        image = Image.fromarray(np.asarray(SCENE.convert("L")).astype(np.uint16) * 257)
    else:
        image = SCENE if mode == "EXIF" else SCENE.convert(mode, dither=Image.Dither.NONE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    content = (
        encoded(image, "JPEG", exif=exif)
        if mode == "EXIF"
        else encoded(image, "JPEG" if mode in ("RGB", "CMYK") else "PNG")
    )
    smaller = shrunk(content, Options(45, 95, None))
    ours, theirs = (np.array(vision.Decode()(np.frombuffer(each, np.uint8)), int) for each in (smaller, content))
    if mode == "EXIF":
        theirs = np.rot90(theirs, -1)
    assert ours.shape == ((45, 60, 3) if mode == "EXIF" else (60, 45, 3))
    middles = slice(7, None, 15), slice(7, None, 15)  # of the squares, 30 pixels wide before and 15 after
    assert np.abs(ours[middles] - theirs[15::30, 15::30]).max() <= 12


@pytest.mark.parametrize("size", [(3001, 2000), (500, 375), (257, 9999), (256, 300)])
def test_the_shorter_side_is_what_was_asked_for(size):
    content = encoded(Image.new("RGB", size), "JPEG")
    with opened(shrunk(content, Options(256, 92, None))) as image:
        assert min(image.size) == 256
        assert max(image.size) == round(max(size) * 256 / min(size))


def test_an_image_of_many_megabytes_fits(image_folder, tmp_path):
    images = image_folder({"val": {"a": 1}})
    content = encoded(Image.new("RGB", (3000, 2000)), "BMP")
    (images / "val/a/large.bmp").write_bytes(content)
    pack(images, tmp_path / "packed", "--shards", "1")
    assert content_of(tmp_path / "packed")["val/a/large.bmp"] == content


# --------------------------------------------------------------------------------------------------------- one more try


@pytest.fixture
def unfinished(image_folder, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A folder of images, and the target of a try that was interrupted after its last file."""
    images, target = image_folder({"train": {"a": 6}}), tmp_path / "packed"

    def interrupt(*paths: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(images, target, "--shards", "2")
    monkeypatch.undo()
    assert not target.exists()
    return images, target


def test_finished_files_are_kept(unfinished, tmp_path, log):
    images, target = unfinished
    first, second = sorted((tmp_path / ".packed.unfinished/files").glob("*.mindrecord"))
    (tmp_path / ".packed.unfinished/train-00001.mindrecord.done").unlink()
    second.write_bytes(b"cut short")
    before = first.stat()
    pack(images, target, "--shards", "2")
    after = (target / first.name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert content_of(target) == files_below(images)
    assert "1 of 2 files are there from an earlier try" in log.text
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("change", ["arguments", "images"])
def test_files_of_other_arguments_or_images_are_not_kept(unfinished, tmp_path, log, change):
    images, target = unfinished
    if change == "images":
        shutil.copy(images / "train/a/0.jpg", images / "train/a/5.jpg")
    pack(images, target, "--shards", "3" if change == "arguments" else "2")
    assert content_of(target) == files_below(images)
    assert "2 files of a try with other images or other arguments are removed" in log.text
    assert "from an earlier try" not in log.text
    assert len(list(target.iterdir())) == 1 + 2 * (3 if change == "arguments" else 2)


def test_two_at_once_do_not_write_to_the_same_target(unfinished, refused, tmp_path):
    images, target = unfinished
    with open(tmp_path / ".packed.unfinished/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refused(images, target).endswith("packed: another process is packing images there; wait for it")


def test_a_full_disk_is_a_sentence_and_leaves_nothing_under_the_final_name(tmp_path):
    images, target = write_images(tmp_path / "images", {"train": {"a": 8}}, (300, 300)), tmp_path / "packed"

    def with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))

    done = run(images, target, "--shards", "1", preexec_fn=with_little_room)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "train-00000.mindrecord: cannot be written: " in done.stderr
    assert f"what is finished stays in {tmp_path}/.packed.unfinished: the same command goes on" in done.stdout
    assert not target.exists()
    assert run(images, target, "--shards", "1").returncode == 0
    assert content_of(target) == files_below(images)


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        program(*arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def at_work(tmp_path) -> subprocess.Popen:
    """The program while it writes `tmp_path / "packed"`, which takes seconds."""
    images = write_images(tmp_path / "images", {"train": {"a": 1}}, (1500, 1500))
    for number in range(1, 150):
        os.link(images / "train/a/0.jpg", images / f"train/a/{number}.jpg")
    process = start(images, tmp_path / "packed", "--max_side", "1000")
    while not list(tmp_path.glob(".packed.unfinished/files/*.mindrecord")):
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_ctrl_c_ends_all_processes_without_a_traceback(at_work, tmp_path):
    os.killpg(at_work.pid, signal.SIGINT)
    _, errors = at_work.communicate(timeout=60)
    assert at_work.returncode == 130
    assert errors.strip() == "python -m mindcv_lite pack: interrupted"
    deadline = time.monotonic() + 10  # multiprocessing's own helper ends last
    while is_alive(at_work.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "packed").exists()


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_when_the_program_alone_is_killed_its_processes_end_too(at_work, tmp_path):
    at_work.kill()
    at_work.communicate(timeout=10)  # until the last of them has closed stderr
    assert not (tmp_path / "packed").exists()


def test_when_one_of_its_processes_is_killed_the_program_says_so(at_work, tmp_path):
    children = Path(f"/proc/{at_work.pid}/task/{at_work.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = at_work.communicate(timeout=60)
    assert at_work.returncode == 128 + signal.SIGKILL
    assert errors.strip() == (
        "python -m mindcv_lite pack: a process that writes was killed, most likely for want of memory"
    )
    assert not (tmp_path / "packed").exists()


def test_a_folder_that_is_not_of_packing_is_left_alone(image_folder, tmp_path, refused):
    (tmp_path / ".packed.unfinished/files").mkdir(parents=True)
    (tmp_path / ".packed.unfinished/files/thesis.txt").write_text("mine")
    assert "stands where packing keeps what is not finished" in refused(
        image_folder({"train": {"a": 1}}), tmp_path / "packed"
    )


@pytest.mark.usefixtures("no_shared_memory")
def test_without_shared_memory_threads_write(image_folder, tmp_path, log):
    images = image_folder({"train": {"a": 6, "b": 5}})
    pack(images, tmp_path / "packed")
    assert content_of(tmp_path / "packed") == files_below(images)
    assert "so threads work instead" in log.text


def test_packed_images_are_not_packed_again(image_folder, tmp_path, refused):
    pack(image_folder({"train": {"a": 1}}), tmp_path / "packed")
    assert refused(tmp_path / "packed", tmp_path / "again").endswith(
        "packed: holds packed images; give the folder that they were packed from"
    )


def test_an_image_that_is_too_long_for_a_jpeg_stays_as_it_is(tmp_path):
    content = io.BytesIO()
    Image.new("L", (4, 66_000)).save(content, "PNG")
    with Image.open(io.BytesIO(shrunk(content.getvalue(), Options(2, 90, None)))) as smaller:
        assert (smaller.size, smaller.format) == ((2, 33_000), "JPEG")
    content = io.BytesIO()
    Image.new("L", (4, 132_000)).save(content, "PNG")
    assert shrunk(content.getvalue(), Options(2, 90, None)) == content.getvalue()


def test_a_split_may_have_any_name(tmp_path):
    images = write_images(tmp_path / "images", {"tr\udcff": {"x": 2}})
    assert run(images, tmp_path / "packed", "--train_split", "tr\udcff").returncode == 0
    assert content_of(tmp_path / "packed") == files_below(images)


def test_a_reader_that_closes_early_gets_no_traceback(image_folder, tmp_path):
    command = f"set -o pipefail; {' '.join(program(image_folder({'train': {'a': 1}}), tmp_path / 'packed'))} | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)


def test_two_splits_whose_names_are_alike_keep_their_files_apart(tmp_path):
    images = write_images(tmp_path / "images", {"a/b": {"x": 3}, "a-b": {"x": 2}, "a%2Fb": {"x": 1}})
    pack(images, tmp_path / "packed", "--train_split", "a/b", "--val_split", "a-b")
    pack(images, tmp_path / "other", "--train_split", "a/b", "--val_split", "a%2Fb")
    assert content_of(tmp_path / "packed") | content_of(tmp_path / "other") == files_below(images)


def test_a_target_that_another_process_finished_meanwhile_is_left_alone(image_folder, tmp_path, monkeypatch, refused):
    images = image_folder({"train": {"a": 2}})
    (tmp_path / "packed").mkdir()
    monkeypatch.setattr("mindcv_lite.commands.pack.require_target", lambda *_: None)  # it looked before that
    assert (
        refused(images, tmp_path / "packed")
        == f"{tmp_path}/packed: stands there already; remove it, or give another TARGET"
    )


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_content(tmp_path):
    images = write_images(tmp_path / "images", {"train": {"a": 60, "b": 60}, "val": {"a": 30, "b": 30}}, (500, 400))
    (images / "train/a/cut.jpg").write_bytes((images / "train/a/0.jpg").read_bytes()[:-50])
    flags = ("--max_side", "300")
    begin = time.monotonic()
    assert run(images, tmp_path / "undisturbed", *flags).returncode == 0
    whole, expected = time.monotonic() - begin, content_of(tmp_path / "undisturbed")
    moments, resumed = random.Random(0), 0
    for number in range(6):
        target = tmp_path / f"killed{number}"
        done = f".{target.name}.unfinished/*.done"
        process = start(images, target, *flags)
        if number:
            time.sleep(moments.uniform(0, whole))
        else:  # once at least a part of the work is there, however busy the machine is
            while process.poll() is None and not list(tmp_path.glob(done)):
                time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not target.exists():  # else it was ready before, and is whole
            resumed += len(list(tmp_path.glob(done))) > 0
            assert run(images, target, *flags).returncode == 0
            assert list(tmp_path.glob(".*")) == []
        assert content_of(target) == expected
        facts = [json.loads((each / FACTS).read_text()) for each in (target, tmp_path / "undisturbed")]
        assert facts[0] == facts[1]
        shutil.rmtree(target)
        shutil.rmtree(tmp_path / f".{target.name}.unfinished", ignore_errors=True)  # killed after it was ready
    assert resumed > 0


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_wrong_paths_and_numbers(refused, image_folder, tmp_path):
    images = image_folder({"train": {"a": 1}})
    target = tmp_path / "packed"
    assert refused(tmp_path / "nowhere", target) == (
        f"{tmp_path}/nowhere: no such folder; expected one that holds train/<class>/*.jpg"
    )
    assert refused(images, tmp_path / "no/packed") == f"{tmp_path}/no: no such folder"
    assert refused(images, images).endswith("stands there already; remove it, or give another TARGET")
    assert "neither 'x' nor 'y' is a folder in it" in refused(images, target, "--train_split", "x", "--val_split", "y")
    assert refused(images, target, "--val_split", "x") == f"{images}/x: no such folder"
    assert "expected the names of two folders" in refused(images, target, "--val_split", "train")
    assert "MindSpore writes to names of printable Unicode only" in refused(images, f"{target}\udcff")
    for flag, value in (("--max_side", 0), ("--quality", 101), ("--shards", -1)):
        assert f"{flag}: expected a whole number from 1 to" in refused(images, target, flag, value)
    assert "--quality is for images made smaller" in refused(images, target, "--quality", 90)
    assert "argument --max_side: invalid int value: 'x'" in refused(images, target, "--max_side", "x")
    (images / "train/b").mkdir()
    assert "train/b: no image (JPEG, PNG, BMP, WebP, TIFF or GIF) in this class" in refused(images, target)
