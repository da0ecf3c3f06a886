"""Which picture when: an order that seed and epoch decide, cut into batches for one process or several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Sampler

from nanogfl.errors import DataError

OPEN = 8  # tars whose pictures are mixed


class EpochOrder(Sampler[tuple[int, int]]):
    """Every picture once an epoch, as (epoch, index), in an order that follows from seed and epoch alone.

    Args:
        count: of pictures.
        seed: of the order.
        shards: the number of the tar that each lies in, int [count]; a few tars at a time are read then.
    """

    def __init__(self, count: int, seed: int, shards: NDArray[np.int64] | None = None) -> None:
        self.count, self.seed, self.shards, self.epoch = count, seed, shards, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
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
    """How many batches of at most this size each process takes; larger ones only where one would be left too small."""
    count = math.ceil(pictures / (batch * processes))
    least = min(2, batch) * processes  # batch norm needs two pictures
    return max(1, min(count, pictures // least))


class EvenBatches(BatchSampler):
    """The order cut into batches of nearly equal size, so that no picture is dropped, repeated or left alone.

    With several processes each takes its own part of every step.

    Attributes:
        first: step with which the next pass begins; after it passes are whole again.
    """

    def __init__(self, order: EpochOrder, batch: int, rank: int = 0, processes: int = 1) -> None:
        self.sampler, self.batch_size, self.drop_last = order, batch, False
        self.rank, self.processes, self.first = rank, processes, 0
        if len(order) < processes:
            raise DataError(f"{len(order)} training pictures for {processes} processes; use fewer devices")

    def __len__(self) -> int:
        return batches_an_epoch(len(self.sampler), self.batch_size, self.processes)

    def cut(self) -> dict[str, int]:
        """What decides which picture comes in which step of an epoch."""
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
    """Batches that can go on within an epoch; Lightning keeps the state in its checkpoints.

    An epoch is begun when its first batch is asked for, not before: Lightning makes the iterator of a resumed run first
    and tells the order its epoch then.
    """

    taken = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        assert isinstance(self.batch_sampler, EvenBatches)
        self.taken = self.batch_sampler.first
        for batch in super().__iter__():
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of this epoch were taken, and of which order."""
        assert isinstance(self.batch_sampler, EvenBatches)
        return {"taken": self.taken} | self.batch_sampler.cut()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next pass behind what was taken of the same cut."""
        assert isinstance(self.batch_sampler, EvenBatches)
        assert state.items() >= self.batch_sampler.cut().items(), "see nanogfl.training.resume.former_state"
        self.batch_sampler.first = state["taken"]
