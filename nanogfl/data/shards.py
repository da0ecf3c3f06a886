"""Which of a set's pictures lie together in one tar, so that an epoch reads a few tars at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.table import Table
from nanogfl.members import tar_of


class Shards:
    """The pictures of a set by tar.

    Attributes:
        numbers: int64 [N], the tar of each picture.
    """

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self.numbers = numbers
        self._together = np.argsort(numbers, kind="stable")
        self._starts = np.searchsorted(numbers[self._together], np.arange(numbers.max() + 2))

    def some(self, index: int, count: int, random: np.random.Generator) -> list[int]:
        """Pictures, at random, of the tar that this one lies in."""
        number = self.numbers[index]
        return self._together[random.integers(self._starts[number], self._starts[number + 1], count)].tolist()


def shards_of(table: Table) -> Shards | None:
    """The tars of a set; None where no picture lies in one. Files of their own among them count by folder."""
    tars = [tar_of(example.path) for example in table.examples]
    if not any(tars):
        return None
    places = [str(tar or example.path.parent) for tar, example in zip(tars, table.examples, strict=True)]
    return Shards(np.unique(places, return_inverse=True)[1].astype(np.int64))
