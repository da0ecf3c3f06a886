"""Sampling order: a permutation determined by seed and epoch, divided into batches for one or several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Sampler

from nanogfl.errors import DataError, counted

OPEN = 8  # tar archives whose pictures are shuffled together


class EpochOrder(Sampler[tuple[int, int]]):
    """A sampler of every picture once per epoch, as (epoch, index), in an order determined by seed and epoch.

    Args:
        count: number of pictures.
        seed: seed of the order.
        shards: number of the tar archive of each picture, int64 [count]; if given, OPEN archives are read at a time.
    """

    def __init__(self, count: int, seed: int, shards: NDArray[np.int64] | None = None) -> None:
        self.count, self.seed, self.shards, self.epoch = count, seed, shards, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self.count)
        if self.shards is not None:
            window = random.permutation(self.shards.max() + 1) // OPEN
            order = order[np.argsort(window[self.shards[order]], kind="stable")]
        return ((self.epoch, int(index)) for index in order)


def batches_an_epoch(pictures: int, batch: int, processes: int = 1) -> int:
    """Return the number of batches per process; they exceed this size only if one would otherwise be too small."""
    count = math.ceil(pictures / (batch * processes))
    least = min(2, batch) * processes  # batch normalisation needs two pictures
    return max(1, min(count, pictures // least))


class EvenBatches(BatchSampler):
    """Batches of nearly equal size from an order, so that no picture is dropped or repeated, nor alone if avoidable.

    With several processes each takes its own part of every step.

    Attributes:
        first: first step of the next pass; later passes start at step 0 again.
    """

    def __init__(self, order: EpochOrder, batch: int, rank: int = 0, processes: int = 1) -> None:
        self.sampler, self.batch_size, self.drop_last = order, batch, False
        self.rank, self.processes, self.first = rank, processes, 0
        if len(order) < processes:
            raise DataError(f"{counted(len(order), 'training picture')} for {processes} processes; use fewer devices")

    def __len__(self) -> int:
        return batches_an_epoch(len(self.sampler), self.batch_size, self.processes)

    def layout(self) -> dict[str, int]:
        """Return the values that determine which picture comes in which step of an epoch."""
        order = self.sampler
        tars = 0 if order.shards is None else crc32(order.shards.tobytes())
        sizes = {"batch": self.batch_size, "processes": self.processes}
        return {"pictures": len(order), "tars": tars, "seed": order.seed} | sizes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(self.sampler)
        count = len(self) * self.processes
        first, self.first = self.first, 0
        for part in range(self.rank + first * self.processes, count, self.processes):
            yield order[part * len(order) // count : (part + 1) * len(order) // count]


class ResumableLoader(DataLoader):
    """A loader that can resume within an epoch; Lightning stores its state in checkpoints.

    The order is read when the first batch of an epoch is requested, not when the iterator is created: in a resumed run
    Lightning creates the iterator before it sets the epoch.
    """

    taken = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        assert isinstance(self.batch_sampler, EvenBatches)
        self.taken = self.batch_sampler.first
        for batch in super().__iter__():
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches taken in this epoch, and the values that determine the order."""
        assert isinstance(self.batch_sampler, EvenBatches)
        return {"taken": self.taken} | self.batch_sampler.layout()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass after the batches already taken; the order must be determined by the same values."""
        assert isinstance(self.batch_sampler, EvenBatches)
        assert state.items() >= self.batch_sampler.layout().items(), "see nanogfl.training.resume.saved_state"
        self.batch_sampler.first = state["taken"]
