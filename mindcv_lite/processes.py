"""Processes that a command starts to share its work."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Let this process end when the one that started it has ended: where that is killed, nobody else sees to it."""
    parent = multiprocessing.parent_process()
    assert parent, "this process was started by another one"
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
