"""Paths of very many images in little memory."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload


class Paths(Sequence[str]):
    """A list of paths of which the names are kept as bytes, and a folder once for all images of it in a row.

    1.3 million of ImageNet's paths take 40 MB, as a list of strings they take 150 MB.
    """

    def __init__(self, paths: Iterable[str] = ()):
        self._names = bytearray()  # each with a 0 behind it, which no name can hold
        self._ends = array("Q", [0])  # in those bytes: of what lies before the first name, then of each name
        self._folders: list[str] = []  # with the slash
        self._firsts: list[int] = []  # the index of the first image of each folder
        self.extend(paths)

    def extend(self, paths: Iterable[str]) -> None:
        for path in paths:
            start = path.rfind(os.sep) + 1
            if not self._folders or path[:start] != self._folders[-1]:
                self._folders.append(path[:start])
                self._firsts.append(len(self))
            # Any string comes back as it was: that of a name that is no UTF-8 has surrogates in it.
            self._names += path[start:].encode("utf-8", "surrogatepass") + b"\0"
            self._ends.append(len(self._names))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = range(len(self))[index]  # an int for an int, a range for a slice
        if isinstance(chosen, range):
            return [self[each] for each in chosen]
        folder = self._folders[bisect_right(self._firsts, chosen) - 1]
        return folder + self._decoded(chosen, chosen + 1)

    def __iter__(self) -> Iterator[str]:
        for folder, (first, end) in zip(self._folders, pairwise([*self._firsts, len(self)]), strict=True):
            for name in self._decoded(first, end).split("\0"):
                yield folder + name

    def _decoded(self, first: int, end: int) -> str:
        """The names from the index `first` to before `end`, with a 0 between them."""
        return self._names[self._ends[first] : self._ends[end] - 1].decode("utf-8", "surrogatepass")
