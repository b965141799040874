"""Ctrl-C, SIGTERM and the like, and processes that end with the one that started them."""

import logging
import multiprocessing
import os
import signal
import stat
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnContext
from types import SimpleNamespace
from typing import Any

from mindcv_lite.errors import Stopped, UserError

log = logging.getLogger(__name__)

# Ctrl-C; a machine that is taken away; a terminal that is closed; SLURM's warning before the end of a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
CTRL_C = signal.SIGRTMIN + 8  # what SIGINT is passed on as, in a program of ours


def keep_ctrl_c() -> None:
    """Let Ctrl-C come as `CTRL_C`, to be called before other threads start.

    MindSpore takes SIGINT's handler where it compiles a graph or starts a pipeline, and answers Ctrl-C by SIGTERM.
    Here no thread has SIGINT but one that waits for it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_pass_on_ctrl_c, daemon=True).start()


def _pass_on_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main
    while signal.sigwait({signal.SIGINT}):
        signal.pthread_kill(main, CTRL_C)


def name_of(number: int) -> str:
    """What a user calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Interrupted(KeyboardInterrupt):
    """A signal came before there was anything to save; exit status 128 + the signal."""

    latest: "Interrupted | None" = None  # of this process

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def handle_signals(handler: Callable[[int, types.FrameType | None], None]) -> dict[int, Any]:
    """Let `handler` have the `SIGNALS`, but not a SIGHUP that nohup has turned off. Returns the handlers of before."""
    numbers = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    return before | {CTRL_C: signal.signal(CTRL_C, lambda _, frame: handler(signal.SIGINT, frame))}


def interruption_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that a library has taken for an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def leave_closed_terminal() -> None:
    """Let output to a terminal that is gone go nowhere: each line would be an error."""
    for output in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                leave_output(output)


def leave_output(descriptor: int) -> None:
    """Let what is written there go nowhere, and what is still to be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def interrupt(number: int, frame: types.FrameType | None) -> None:
    """Take a signal by an exception; but not within an import, which that may break beyond repair: soon after it."""
    if any(each.f_code.co_filename.startswith("<frozen importlib") for each, _ in traceback.walk_stack(frame)):
        signal.signal(signal.SIGALRM, lambda _, frame: interrupt(number, frame))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        leave_closed_terminal()
        Interrupted.latest = Interrupted(number)
        raise Interrupted.latest


def take_signals_back() -> None:
    """Let Python's handlers have the signals again: MindSpore takes Ctrl-C for itself where it compiles a graph or
    starts a pipeline. Only the main thread can. Raises `Interrupted` anew if MindSpore has lost it, as its compiler
    may: wherever that asks Python whether an object has an attribute, it takes every error for a no."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not None:  # None: set before Python began
                signal.signal(number, handler)
        if Interrupted.latest:
            raise Interrupted.latest


def take_sigterm_for_ctrl_c() -> None:
    """Let SIGTERM raise `KeyboardInterrupt`, unless it has a handler.

    MindSpore takes Ctrl-C for itself, at moments of its own, and answers it by SIGTERM, which would end a notebook.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def in_processes(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    doing: str,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    or_threads: bool = True,
) -> Iterator[deque[Future]]:
    """The calls of `function` with each of the `arguments`, on all cores for as long as the block lasts.

    The processes leave Ctrl-C and SIGTERM to this one, and end with it. Raises `Stopped` if one of them is killed:
    a process that is `doing` something was killed. `or_threads`: whether threads will do where the system has no
    semaphores for processes; else that is a `UserError`.
    """
    size = max(1, min(len(arguments), len(os.sched_getaffinity(0))))
    try:  # spawned: a fork of a process that has MindSpore's threads may hang
        pool: Executor = ProcessPoolExecutor(size, SpawnContext(), _start_process, (initializer, initargs))
    except OSError as error:  # as in containers without a writable /dev/shm
        if not or_threads:
            raise UserError(f"no processes can be started ({error.strerror}); is /dev/shm writable?") from None
        log.warning("warning: no processes can be started (%s), so threads work instead", error.strerror)
        pool = ThreadPoolExecutor(size, "images", initializer, initargs)
    others, ours = multiprocessing.active_children(), []
    try:
        with _signals_blocked():  # a process inherits that
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


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Signals that come in the block are answered after it; so are those that `interrupt` puts off by SIGALRM."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, CTRL_C, signal.SIGALRM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_process(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """Let this process end when the one that started it has ended: where that is killed, nobody else sees to it."""
    parent = multiprocessing.parent_process()
    assert parent, "this process was started by another one"
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if initializer:
        initializer(*initargs)
