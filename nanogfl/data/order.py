"""Which picture when: an order that seed and epoch decide, cut into batches for one process or several."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import BatchSampler, Sampler

from nanogfl.errors import DataError


class EpochOrder(Sampler[tuple[int, int]]):
    """Every picture once an epoch, as (epoch, index), in an order that follows from seed and epoch alone."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        return ((self.epoch, int(index)) for index in order)


def batches_an_epoch(pictures: int, batch: int, processes: int = 1) -> int:
    """How many batches of at most this size each process takes; larger ones only where one would be left too small."""
    count = math.ceil(pictures / (batch * processes))
    least = min(2, batch) * processes  # batch norm needs two pictures
    return max(1, min(count, pictures // least))


class EvenBatches(BatchSampler):
    """The order cut into batches of nearly equal size, so that no picture is dropped, repeated or left alone.

    With several processes each takes its own part of every step.
    """

    def __init__(self, order: EpochOrder, batch: int, rank: int = 0, processes: int = 1) -> None:
        self.sampler, self.batch_size, self.drop_last = order, batch, False
        self.rank, self.processes = rank, processes
        if len(order) < processes:
            raise DataError(f"{len(order)} training pictures for {processes} processes; use fewer devices")

    def __len__(self) -> int:
        return batches_an_epoch(len(self.sampler), self.batch_size, self.processes)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(self.sampler)
        count = len(self) * self.processes
        for part in range(self.rank, count, self.processes):
            yield order[part * len(order) // count : (part + 1) * len(order) // count]
