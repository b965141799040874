"""What is found in a folder of images: each finding by its numbers, and the exit status."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mindcv_lite.commands.check import main
from mindcv_lite.data.images.inspection import inspect
from mindcv_lite.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def check(monkeypatch, capsys):
    """(exit status, the lines of each finding by its title, the last line) of a check in this process."""
    # MindSpore's threads are in this process, and forking it might hang.
    monkeypatch.setattr(
        "mindcv_lite.data.images.inspection.inspect_all", lambda paths: (inspect(path) for path in paths)
    )

    def check(folder: Path, *flags: str) -> tuple[int, dict[str, list[str]], str]:
        status = 0
        try:
            main([str(folder), *flags])
        except SystemExit as end:
            status = int(end.code or 0)
        *lines, last = capsys.readouterr().out.replace(f"{folder}/", "").splitlines()
        found: dict[str, list[str]] = {}
        for line in lines:
            if line.startswith(("fault: ", "remark: ")):
                found[line] = []
            elif found:
                found[list(found)[-1]].append(line.strip())
        return status, found, last

    return check


def program(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mindcv_lite", "check", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def sound(image_folder) -> Path:
    return image_folder({"train": {"a": 6, "b": 5}, "val": {"a": 5, "b": 5}})


def test_real_images_are_clean(shared):
    done = program(shared / "data/flowers5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 600 images in 5 classes; each class has 120\n" in done.stdout
    assert "shorter side: 157 to 442 pixels, median 240" in done.stdout
    assert done.stdout.endswith("flowers5: no fault; all 800 images can be decoded\n")
    assert "remark" not in done.stdout


def test_a_folder_with_everything_wrong_is_told_in_full_and_without_a_traceback(sound):
    a = sound / "train/a"
    whole = (a / "0.jpg").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no image"}.items():
        (a / f"{name}.jpg").write_bytes(content)
    (a / "heic.jpg").write_bytes(bytes(3) + b"\x20ftypheic" + bytes(40))
    (a / ".hidden.jpg").write_bytes(whole)
    (sound / "train/empty").mkdir()
    (a / "loop.jpg").symlink_to("loop.jpg")
    (sound / "val/loop").symlink_to("loop")
    os.mkfifo(a / "pipe.jpg")
    shutil.copy(a / "cut.jpg", os.fsencode(a) + b"/caf\xe9.jpg")
    done = program(sound)
    assert (done.returncode, done.stderr) == (1, "")
    report = done.stdout.replace(f"{sound}/", "")
    assert [line.split() for line in report.splitlines()[3:6]] == [
        ["a", "11", "5"],
        ["b", "5", "5"],
        ["empty", "0", "-"],
    ]
    assert "fault: images that cannot be decoded: 5\n" in report
    assert "  train/a/heic.jpg: a HEIC, not a JPEG, PNG, BMP, WebP, TIFF or GIF\n" in report
    assert "  train/a/caf\\udce9.jpg: damaged or cut short\n" in report
    assert "fault: classes without an image: 1\n  train/empty\n" in report
    assert "no files (such as links to nothing), left out: 2\n  train/a/loop.jpg\n  train/a/pipe.jpg\n" in report
    assert "remark: hidden files, left out: 1\n  train/a/.hidden.jpg\n" in report
    assert report.endswith("images: 9 faults, from which training would suffer\n")


def test_a_sound_folder_has_no_finding(check, sound):
    assert check(sound) == (0, {}, f"{sound}: no fault; all 21 images can be decoded")


def test_the_same_image_in_both_splits_or_under_two_classes_is_a_fault_and_in_one_class_a_remark(check, sound):
    shutil.copy(sound / "train/a/0.jpg", sound / "train/a/copy.jpg")
    assert check(sound)[:2] == (
        0,
        {"remark: images more than once in their class: 1": ["train/a/0.jpg = train/a/copy.jpg"]},
    )
    shutil.copy(sound / "train/a/1.jpg", sound / "val/a/leak.jpg")
    shutil.copy(sound / "train/a/2.jpg", sound / "train/b/other.jpg")
    status, found, last = check(sound)
    assert status == 1
    assert found["fault: images both to train on and to validate on: 1"] == ["train/a/1.jpg = val/a/leak.jpg"]
    assert found["fault: images under more than one class: 1"] == ["train/a/2.jpg = train/b/other.jpg"]
    assert len(found) == 3
    assert last.endswith(": 2 faults, from which training would suffer")


def test_classes_that_only_one_split_has_are_faults(check, image_folder):
    folder = image_folder({"train": {"a": 5, "rose": 5}, "val": {"a": 5, "roses": 5}})
    status, found, _ = check(folder)
    assert status == 1
    assert found == {"fault: classes missing in val: 1": ["rose"], "fault: classes unknown in train: 1": ["roses"]}


def test_remarks_do_not_change_the_status(check, sound):
    (sound / "train/.DS_Store").write_text("")
    (sound / "train/README.md").write_text("")
    shutil.copy(sound / "train/a/0.jpg", sound / "train/beside.jpg")
    for number in range(7):
        Image.new("L", (8, 8 + number)).save(sound / f"val/b/grey{number}.png")
    (sound / "train/b/0.jpg").unlink()
    status, found, _ = check(sound)
    assert status == 0
    assert found == {
        "remark: classes of fewer than 5 images: 1": ["train/b: 4"],
        "remark: images beside the class folders, left out: 1": ["train/beside.jpg"],
        "remark: hidden files, left out: 1": ["train/.DS_Store"],
        "remark: files that are no images (1 .md), left out: 1": ["train/README.md"],
        "remark: images in greyscale: 7": [*(f"val/b/grey{number}.png" for number in range(5)), "and 2 more"],
    }


def test_a_folder_that_may_not_be_listed_is_a_fault(check, sound, monkeypatch):
    def scandir(path, listed=os.scandir):
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)  # rights do not bind root
    status, found, _ = check(sound)
    assert status == 1
    assert found["fault: folders that cannot be listed: 1"] == ["train/b: Permission denied"]


def test_validation_may_be_missing_and_training_may_not(check, sound):
    shutil.rmtree(sound / "val")
    title = "remark: splits missing, without which there is no validation: 1"
    assert check(sound)[:2] == (0, {title: ["val"]})
    (sound / "train").rename(sound / "val")
    title = "fault: splits missing, without which there is no training: 1"
    assert check(sound)[:2] == (1, {title: ["train"]})
    (sound / "val").rename(sound / "train")
    with pytest.raises(UserError, match=f"{sound}/none: no such folder"):
        check(sound, "--val_split", "none")


def test_classes_too_many_for_a_table_are_told_by_the_smallest_and_the_largest(check, image_folder, capsys):
    counts = {f"c{number:02}": 5 for number in range(41)} | {"large": 9}
    folder = image_folder({"train": counts, "val": counts}, size=(4, 4))
    main([str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("train: 214 images in 42 classes; a class has 5 ('c00') to 9 ('large'), median 5")
    assert len(lines) == 5  # that of val, two of the sides, the last


def test_a_mistake_of_the_user_is_a_sentence_and_exit_status_2(check, sound):
    done = program(sound / "nowhere")
    assert done.returncode == 2
    assert done.stderr == (
        f"python -m mindcv_lite check: error: {sound}/nowhere: no such folder; "
        "expected one that holds train/<class>/*.jpg\n"
    )
    with pytest.raises(UserError, match=r"neither 'train' nor 'val' is a folder in it"):
        check(sound / "train")


def test_classes_without_any_image_are_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
    done = program(tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "classes without an image" in done.stdout


@pytest.mark.usefixtures("no_shared_memory")
def test_without_shared_memory_threads_decode(sound, log, capsys):
    main([str(sound)])
    assert capsys.readouterr().out.endswith(": no fault; all 21 images can be decoded\n")
    assert "no processes can be started (Function not implemented), so threads work instead" in log.text


def test_a_reader_that_closes_early_gets_no_traceback(sound):
    command = f"{sys.executable} -m mindcv_lite check {sound} | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.fixture
def at_work(image_folder) -> Iterator[subprocess.Popen]:
    """The program while its processes decode."""
    folder = image_folder({"train": {"a": 1}}, size=(3000, 3000))
    for number in range(1, 200):  # 20 s of work
        (folder / f"train/a/{number}.jpg").symlink_to("0.jpg")
    command = [sys.executable, "-m", "mindcv_lite", "check", str(folder)]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while len(children.read_text().split()) < 2:
        time.sleep(0.02)
    time.sleep(0.2)
    yield running
    running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_its_processes_ends_it_cleanly(at_work, number):
    os.killpg(at_work.pid, number)
    assert at_work.communicate(timeout=10)[1] == "\npython -m mindcv_lite check: interrupted\n"
    assert at_work.returncode == 128 + number


def test_sigterm_ends_it_whenever_it_comes(sound):
    for moment in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):  # in imports, and amid the start of the processes
        running = subprocess.Popen(
            [sys.executable, "-m", "mindcv_lite", "check", str(sound)],
            **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        time.sleep(moment)
        running.terminate()
        output, errors = running.communicate(timeout=20)
        if "images can be decoded" not in output:  # it was ready before
            assert (running.returncode, errors.strip()) in (
                (143, "python -m mindcv_lite check: interrupted"),
                (-15, ""),
            )


def test_when_it_is_killed_its_processes_end_too(at_work):
    at_work.kill()
    at_work.communicate(timeout=20)  # until the last of them has closed stderr


def last_child(process: subprocess.Popen) -> int:  # the first one is multiprocessing's own helper
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])


def test_a_process_killed_amid_very_many_images_ends_all_of_them(image_folder):
    folder = image_folder({"train": {"a": 1}}, size=(3000, 3000))
    program = (
        "from mindcv_lite.data.images.inspection import inspect_all\n"
        f"for _ in inspect_all(['{folder}/train/a/0.jpg'] * 200_000): print(flush=True)"
    )
    command = [sys.executable, "-c", program]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout
    running.stdout.readline()  # all tasks are handed in by now
    os.kill(last_child(running), signal.SIGKILL)
    try:
        errors = running.communicate(timeout=30)[1]
    finally:
        running.kill()
    assert errors.splitlines()[-1].endswith("was killed, most likely for want of memory")
    assert "InvalidStateError" not in errors


def test_a_process_that_is_killed_is_told_and_is_no_fault_of_the_images(at_work):
    os.kill(last_child(at_work), signal.SIGKILL)
    _, errors = at_work.communicate(timeout=60)
    assert (
        errors
        == "python -m mindcv_lite check: a process that decodes images was killed, most likely for want of memory\n"
    )
    assert at_work.returncode == 128 + signal.SIGKILL
