"""Work on all processors: processes that end with the one that started them, or threads."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from types import SimpleNamespace
from typing import Any

from mindcv_lite.errors import Stopped, UserError
from mindcv_lite.processors import processors_here
from mindcv_lite.signals import signals_blocked

log = logging.getLogger(__name__)


@contextmanager
def in_processes(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    doing: str,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    or_threads: bool = True,
) -> Iterator[deque[Future]]:
    """The calls of `function` with each of the `arguments`, on all processors that may be used, for as long as
    the block lasts.

    The processes leave Ctrl-C and SIGTERM to this one, and end with it. Raises `Stopped` if one of them is killed:
    a process that is `doing` something was killed. `or_threads`: whether threads will do where the system has no
    semaphores for processes; else that is a `UserError`.
    """
    size = max(1, min(len(arguments), processors_here()[0]))
    if "OMP_NUM_THREADS" not in os.environ:  # MindSpore has set it to 1 where it was imported, for itself
        os.unsetenv("OMP_NUM_THREADS")
    try:  # spawned: a fork of a process that has MindSpore's threads may hang
        pool: Executor = ProcessPoolExecutor(size, SpawnContext(), _start_process, (initializer, initargs))
    except OSError as error:  # as in containers without a writable /dev/shm
        if not or_threads:
            raise UserError(f"no processes can be started ({error.strerror}); is /dev/shm writable?") from None
        log.warning("warning: no processes can be started (%s), so threads work instead", error.strerror)
        pool = ThreadPoolExecutor(size, "images", initializer, initargs)
    others, ours = multiprocessing.active_children(), []
    try:
        with signals_blocked():  # a process inherits that
            tasks = deque(pool.submit(function, each) for each in arguments)
            ours = [process for process in multiprocessing.active_children() if process not in others]
        yield tasks
    except BaseException as error:
        for process in ours:  # they do not hear the SIGTERM by which the pool ends them
            process.kill()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise Stopped(signal.SIGKILL, f"a process that {doing} was killed, most likely for want of memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


def shared_counter() -> Any:
    """A number, `value`, that processes or threads of `in_processes` may change under `get_lock()`."""
    try:
        return SpawnContext().Value("q")
    except OSError:
        lock = threading.Lock()
        return SimpleNamespace(value=0, get_lock=lambda: lock)


def _start_process(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """Let this process end when the one that started it has ended: where that is killed, nobody else sees to it."""
    parent = multiprocessing.parent_process()
    assert parent, "this process was started by another one"
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if initializer:
        initializer(*initargs)
