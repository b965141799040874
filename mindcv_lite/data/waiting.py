"""How long a program waits for its data."""

import time
from collections.abc import Iterable, Iterator
from typing import Any


class Waiting:
    """The items of an iterable, and the seconds spent on waiting for them."""

    def __init__(self, items: Iterable[Any]):
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[Any]:
        began = time.perf_counter()
        for item in self.items:
            self.seconds += time.perf_counter() - began
            yield item
            began = time.perf_counter()
        self.seconds += time.perf_counter() - began
