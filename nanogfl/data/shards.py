"""Grouping of pictures by tar archive, so that an epoch reads only a few archives at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.table import Table
from nanogfl.members import tar_of


class Shards:
    """The pictures of a dataset grouped by tar archive.

    Attributes:
        numbers: int64 [N], number of each picture's archive.
    """

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self.numbers = numbers
        self._together = np.argsort(numbers, kind="stable")
        self._starts = np.searchsorted(numbers[self._together], np.arange(numbers.max() + 2))

    def some(self, index: int, count: int, random: np.random.Generator) -> list[int]:
        """Return the indices of random pictures from the archive of this picture, with repetition."""
        number = self.numbers[index]
        return self._together[random.integers(self._starts[number], self._starts[number + 1], count)].tolist()


def shards_of(table: Table) -> Shards | None:
    """Return the pictures grouped by tar archive, those outside archives by folder; None if no picture is in a tar."""
    tars = [tar_of(example.path) for example in table.examples]
    if not any(tars):
        return None
    places = [str(tar or example.path.parent) for tar, example in zip(tars, table.examples, strict=True)]
    return Shards(np.unique(places, return_inverse=True)[1].astype(np.int64))
