"""A file is written whole or not at all, whatever stops it."""

import errno
import fcntl
import os
import subprocess

import pytest

from mindcv_lite.errors import UserError
from mindcv_lite.files import WITHOUT_LOCKS, lock, require_folder, scratch_folder, written_whole


@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_a_file_takes_its_name_when_it_is_whole(tmp_path, earlier):
    path = tmp_path / "a[1].csv"
    if earlier:
        path.write_text(earlier)
    with written_whole(path) as unfinished:
        unfinished.write_text("new")
        assert (path.read_text() if earlier else path.exists()) == (earlier or False)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == [path.name]


def test_what_a_killed_writer_left_is_used_again_and_nothing_of_others_is_touched(tmp_path):
    for name in (".a.csv.part", ".a.unfinished", ".a.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    with written_whole(tmp_path / "a.csv") as unfinished:
        unfinished.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", ".a.unfinished", ".a.part"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_stops_the_writing_leaves_the_earlier_file_and_nothing_else(tmp_path, stop):
    path = tmp_path / "a.csv"
    path.write_text("earlier")

    def stop_halfway() -> None:
        with written_whole(path) as unfinished:
            unfinished.write_text("ne")
            unfinished.with_name(f"{unfinished.name}.of_a_library").write_text("")
            raise stop

    with pytest.raises(stop):
        stop_halfway()
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]


def test_a_disk_that_takes_no_more_is_told_by_the_file_s_name(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(UserError, match=r"a\.csv: cannot be written: No space left on device"), written_whole(path):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_scratch_folder_without_room_is_told_by_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match=rf"{tmp_path}: cannot be written: No space.*set TMPDIR"), scratch_folder():
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_no_place_for_a_scratch_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(UserError, match=r"No usable temporary.*gone.*set TMPDIR"), scratch_folder():
        pytest.fail("there is no such folder")


@pytest.mark.parametrize(("mode", "error"), [(None, FileNotFoundError), (0o600, PermissionError)])
def test_a_program_that_cannot_be_started_is_not_blamed_on_the_scratch_folder(tmp_path, mode, error):
    program = tmp_path / "converter"
    if mode:
        program.touch(mode)
    with pytest.raises(error, match="converter"), scratch_folder():
        subprocess.run(program, check=False)


@pytest.mark.parametrize("name", ["/dev/null", "folder"])
def test_what_is_no_file_is_never_replaced(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is no file"), written_whole(tmp_path / name):
        pytest.fail("there is nowhere to write")
    assert not os.path.isfile(tmp_path / name)


@pytest.mark.parametrize("name", ["", "new", "new/in/new"])
def test_a_folder_that_can_be_written_to_is_left_as_it_is(tmp_path, name):
    require_folder(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/new", "dangling", "/proc/new"])
def test_a_path_that_can_be_no_folder_is_told(tmp_path, refusal, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "no folder to write to" in refusal(require_folder, tmp_path / name)


# ------------------------------------------------------------------------------------------------------------ locks


@pytest.fixture(params=sorted(WITHOUT_LOCKS))
def without_locks(request, monkeypatch) -> None:
    """A file system whose answer to `flock` is an error."""

    def flock(descriptor: int, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path):
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert lock(first)
    with pytest.raises(BlockingIOError):
        lock(second, wait=False)
    os.close(first)
    assert lock(second, wait=False)
    os.close(second)


def test_without_locks_everything_that_locks_goes_on_and_a_line_says_so(without_locks, tmp_path, log):
    from mindcv_lite.commands.doctor import the_only_doctor
    from mindcv_lite.data.tools.pack import work_folder
    from mindcv_lite.device.compile_cache import KeptGraphs
    from mindcv_lite.runs.folder import claim
    from mindcv_lite.training.tuning.trials import locked

    claim(tmp_path / "run")
    os.close(locked(tmp_path))
    with work_folder(tmp_path / "packed", "key"), the_only_doctor():
        earlier = KeptGraphs(tmp_path / "graphs", 0, "key")
        KeptGraphs(tmp_path / "graphs", 1, "key")
    assert f"{tmp_path}/run: this file system has no locks" in log.text
    assert earlier.working.is_dir()  # the second could not tell that it is in use, and left it alone


def test_another_error_of_a_lock_is_no_lack_of_locks(tmp_path, monkeypatch):
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with open(tmp_path / "file", "w") as file, pytest.raises(OSError, match="Input/output error"):
        lock(file.fileno())
