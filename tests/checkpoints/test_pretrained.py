"""Published weights: taken from a server once, whole or not at all; a server on this machine stands for MindCV's."""

import hashlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mindcv_lite.checkpoints import pretrained as published
from mindcv_lite.checkpoints.pretrained import PUBLISHED, published_weights, starting_weights
from mindcv_lite.errors import UserError
from tests.conftest import ROOT

MODEL = "mobilenet_v3_small_100"
CONTENT = bytes(range(256)) * 1000
HASH = hashlib.sha256(CONTENT).hexdigest()[:8]
NAME = f"{MODEL}-{HASH}-910v2.ckpt"


class Server(ThreadingHTTPServer):
    """Answers each path in its own way, and keeps the paths that were asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.go_on = threading.Event()  # what a stalled response waits for

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Any  # the one above

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        how = self.path.removeprefix("http://mindcv.invalid").split("/")[1]
        if how == "missing":
            self.send_error(404)
            return
        self.send_response(302 if how == "moved" else 200)
        if how == "moved":
            self.send_header("Location", f"/good/{NAME}")
        elif how != "unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if how in ("good", "unsized"):
            self.wfile.write(CONTENT)
        elif how == "changed":
            self.wfile.write(CONTENT[:-1] + b"x")
        elif how in ("short", "stalled"):
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            self.wfile.flush()
            if how == "stalled":
                self.server.go_on.wait(30)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(("keys", "warned"), [({}, False), ({"layer_decay": 0.85}, True)])
def test_rates_for_trained_layers_without_weights_are_warned_of(recipe, world, log, keys, warned):
    given = recipe(**keys)
    assert starting_weights(given, world(given)) is None
    assert ("--pretrained or --ckpt_path FILE gives weights to start from" in log.text) == warned


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "mindcv_lite/weights"


@pytest.fixture
def published_at(server, cache, monkeypatch) -> Callable[[str], str]:
    """Have the weights published where the server answers in that way; the URL."""

    def publish(how: str) -> str:
        url = f"{server.address}/{how}/{NAME}"
        monkeypatch.setitem(PUBLISHED, MODEL, url)
        return url

    return publish


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mindcv_lite"), "propagate", True)
    caplog.set_level(logging.INFO, "mindcv_lite")
    return caplog


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


def error_of(cache: Path) -> str:
    """What is said when no weights can be had; no file is left."""
    with pytest.raises(UserError) as error:
        published_weights(MODEL)
    assert files_in(cache) == []
    return str(error.value)


def test_the_published_files_are_those_of_mindcv_and_their_names_hold_eight_digits_of_their_hashes():
    assert set(PUBLISHED) == {"mobilenet_v3_small_100", "mobilenet_v3_large_100"}
    for model, url in PUBLISHED.items():
        assert re.fullmatch(rf"https://.*/{model}-[0-9a-f]{{8}}-910v2\.ckpt", url)


@pytest.mark.parametrize("model", ["mobilenet_v3_small_075", "mobilenet_v3_large_minimalistic_100"])
def test_a_network_without_published_weights_names_those_that_have_some(model):
    with pytest.raises(UserError) as error:
        published_weights(model)
    assert str(error.value) == (
        f"pretrained: no weights were published for {model}, only for mobilenet_v3_small_100 and "
        "mobilenet_v3_large_100; start from a file of yours with --ckpt_path"
    )


@pytest.mark.parametrize("how", ["good", "moved", "unsized"])
def test_a_file_is_downloaded_whole(cache, published_at, how):
    published_at(how)
    assert published_weights(MODEL) == cache / NAME
    assert (cache / NAME).read_bytes() == CONTENT
    assert files_in(cache) == [NAME]


def test_a_download_is_told_in_two_lines_where_no_terminal_shows_its_bar(cache, published_at, log, capfd):
    url = published_at("good")
    published_weights(MODEL)
    assert log.messages == [f"downloading {url} to {cache / NAME}", f"{cache / NAME}: 0.3 MB, complete"]
    assert capfd.readouterr().err == ""  # where the bar would be


def test_a_file_in_the_cache_is_taken_without_a_word_or_a_request(cache, published_at, server, log):
    published_at("missing")
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT)  # put there by hand
    assert published_weights(MODEL) == cache / NAME
    assert server.asked == []
    assert log.messages == []


def test_a_damaged_file_in_the_cache_is_replaced_with_a_word(cache, published_at, log):
    published_at("good")
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT[:-1])
    assert published_weights(MODEL).read_bytes() == CONTENT
    assert log.messages[0] == f"warning: {cache / NAME} is damaged, so it is downloaded again"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "HTTP Error 404: Not Found"),
        ("changed", f"what came has another SHA-256 than {HASH}..."),
        ("short", "the connection ended after 128000 of 256000 bytes"),
        ("stalled", "timed out"),
    ],
)
def test_a_download_that_fails_says_why_and_where_to_put_the_file(cache, published_at, monkeypatch, how, reason):
    url = published_at(how)
    monkeypatch.setattr(published, "TIMEOUT", 0.3)
    advice = f"put that file at {cache / NAME} by hand, or name another with --ckpt_path"
    assert error_of(cache) == f"cannot download {url} ({reason}); {advice}"


def test_no_server_at_all(cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{NAME}"
    monkeypatch.setitem(PUBLISHED, MODEL, url)
    assert error_of(cache).startswith(f"cannot download {url} ([Errno 111] Connection refused); put that file at ")


def test_a_cache_that_cannot_be_written(cache, published_at):
    published_at("good")
    cache.parent.mkdir()
    cache.write_text("a file where a folder is wanted")
    with pytest.raises(UserError, match=rf"File exists: '{cache}'\); put that file at "):
        published_weights(MODEL)


def test_the_proxy_of_the_environment_is_asked(cache, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setattr(urllib.request, "_opener", None)  # which has looked at the environment already
    monkeypatch.setitem(PUBLISHED, MODEL, f"http://mindcv.invalid/good/{NAME}")
    assert published_weights(MODEL).read_bytes() == CONTENT
    assert server.asked == [f"http://mindcv.invalid/good/{NAME}"]


# ------------------------------------------------------------------------------------------------ programs of their own

DOWNLOAD = """
import sys; sys.path.insert(0, {root!r})
from mindcv_lite.program import run_script
from mindcv_lite.checkpoints.pretrained import PUBLISHED, published_weights, starting_weights
PUBLISHED[{model!r}] = {url!r}
run_script(lambda: published_weights({model!r}))
"""


def start_download(url: str) -> subprocess.Popen:
    program = DOWNLOAD.format(root=str(ROOT), model=MODEL, url=url)
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def start_and_stop_midway(url: str, cache: Path, how: signal.Signals) -> subprocess.Popen:
    running = start_download(url)
    wait_until(lambda: any(path.name.endswith(".unfinished") for path in cache.glob(".*")))
    running.send_signal(how)
    running.wait(30)
    return running


def test_ctrl_c_leaves_no_file(cache, published_at):
    stopped = start_and_stop_midway(published_at("stalled"), cache, signal.SIGINT)
    assert stopped.returncode == 130
    assert stopped.communicate()[1].strip() == "-c: interrupted"
    assert files_in(cache) == []


def test_what_killed_downloads_leave_does_not_add_up_and_does_no_harm(cache, published_at):
    url = published_at("stalled")
    for _ in range(2):
        assert start_and_stop_midway(url, cache, signal.SIGKILL).returncode == -signal.SIGKILL
        assert files_in(cache) == [f".{NAME}.unfinished"]
    published_at("good")
    assert published_weights(MODEL).read_bytes() == CONTENT
    assert files_in(cache) == [NAME]


def test_of_several_processes_one_downloads_and_the_others_wait(cache, published_at, server):
    running = [start_download(published_at("good")) for _ in range(4)]
    assert [process.communicate(timeout=60)[1] for process in running] == [""] * 4
    assert [process.returncode for process in running] == [0] * 4
    assert len(server.asked) == 1
    assert files_in(cache) == [NAME]


def test_a_file_of_the_cache_is_readable_as_others_are(cache, published_at):
    published_at("good")
    umask = os.umask(0)
    os.umask(umask)
    assert published_weights(MODEL).stat().st_mode & 0o777 == 0o666 & ~umask
