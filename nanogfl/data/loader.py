"""Batches for training and validation: pictures decoded once where memory allows, varied, collated."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nanogfl.data.ahead import in_order
from nanogfl.data.augment import Sample, augment, decide
from nanogfl.data.batch import collate, collate_undrawn
from nanogfl.data.device import Store
from nanogfl.data.order import EvenBatches, ResumableLoader
from nanogfl.data.shards import Shards
from nanogfl.data.table import Example, Table
from nanogfl.machine import affordable, cores
from nanogfl.recipe import AugmentRecipe
from nanogfl.view import View

log = logging.getLogger(__name__)
CACHE_BYTES = 4 << 30
VIEW_BYTES = 1 << 30
NETWORK_BYTES = 10 << 30  # of a GPU, that pictures leave to what is trained
AHEAD = 256  # pictures decoded while others are copied
SILENCE_S = 10


class TrainingSet(Dataset[Any]):
    """Varied samples; asked for (epoch, index), it answers the same on every machine and in every process.

    Attributes:
        sizes: (H, W) of each picture, where they lie on the device: samples are then only decided here.
    """

    def __init__(
        self,
        table: Table,
        size: tuple[int, int],
        rule: str,
        recipe: AugmentRecipe,
        seed: int,
        cache: str = "auto",
        shards: Shards | None = None,
    ) -> None:
        self.table, self.size, self.rule, self.recipe, self.seed = table, size, rule, recipe, seed
        largest = recipe.scale[1] * recipe.stretch[1]
        height, width = (int(side * min(1.5, max(1.0, largest))) for side in size)
        self.room = (height, width)
        self.bytes = len(table) * self.room[0] * self.room[1] * 3
        self.cache, self.cached = cache, cache == "ram" or (cache == "auto" and self.bytes <= CACHE_BYTES)
        self.sizes: NDArray[np.int64] | None = None
        self.pictures: dict[int, NDArray[np.uint8]] = {}
        self.plain_from: int | None = None
        self.shards = shards

    def __len__(self) -> int:
        return len(self.table)

    def prepare(self, device: torch.device) -> Store | None:
        """Decode all pictures now: into the memory of a device that has room, else where loader processes share them.

        Returns:
            The pictures, where they lie on the device.
        """
        if not self._suits(device):
            if self.cached:
                deque(self._decoded(), maxlen=0)
            return None
        self.cached = False
        store = Store(self._decoded(), len(self), self.room, device)
        self.sizes = store.sizes
        return store

    def _decoded(self) -> Iterator[NDArray[np.uint8]]:
        """All pictures in order, decoded on all cores, a few ahead."""
        said = time.monotonic()
        with ThreadPoolExecutor(cores()) as pool:
            for count, picture in enumerate(in_order(pool, self._picture, range(len(self)), AHEAD), 1):
                yield picture
                if time.monotonic() > said + SILENCE_S:
                    said = time.monotonic()
                    log.info("%d of %d pictures decoded", count, len(self))

    def _suits(self, device: torch.device) -> bool:
        if self.cache == "auto" and device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            return self.bytes <= max(free // 8, free - NETWORK_BYTES)
        return self.cache == "device"

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """(Sample, name), or (Variation, indices of its pictures, name) where the device draws."""
        epoch, index = key
        rng = np.random.default_rng((self.seed, 1, epoch, index))
        recipe = self.recipe
        if self.plain_from is not None and epoch >= self.plain_from:
            recipe = plainer(recipe)
        indices = [index]
        if rng.random() < recipe.mosaic:
            others = (
                rng.integers(len(self), size=3).tolist() if self.shards is None else self.shards.some(index, 3, rng)
            )
            indices += others
        samples, name = [self._sample(i) for i in indices], self.table.examples[index].name
        if self.sizes is not None:
            return decide(samples, self.size, self.rule, recipe, rng), indices, name
        return augment(samples, self.size, self.rule, recipe, rng), name

    def _sample(self, index: int) -> Sample:
        example = self.table.examples[index]
        if self.sizes is None:
            picture = self._picture(index)
        else:
            height, width = self.sizes[index]
            picture = np.empty((height, width, 0), np.uint8)
        scale = np.array([picture.shape[1] / example.width, picture.shape[0] / example.height] * 2)
        return Sample(picture, example.boxes * scale, example.labels, example.crowd)

    def _picture(self, index: int) -> NDArray[np.uint8]:
        if index in self.pictures:
            return self.pictures[index]
        picture = reduce(self.table.examples[index].picture(), self.room, self.rule)
        if self.cached:
            self.pictures[index] = picture
        return picture


def plainer(recipe: AugmentRecipe) -> AugmentRecipe:
    """Half the geometric change and no mosaic, for the last epochs: closer to what is seen in use."""
    half = [((low + 1) / 2, (high + 1) / 2) for low, high in (recipe.scale, recipe.stretch)]
    return replace(recipe, mosaic=0.0, scale=half[0], stretch=half[1], translate=recipe.translate / 2)


def reduce(picture: NDArray[np.uint8], room: tuple[int, int], rule: str) -> NDArray[np.uint8]:
    """A large picture averaged down to what the rule makes of it in this room; smaller ones stay as they are."""
    content = View((picture.shape[0], picture.shape[1]), room, rule).content
    height, width = (min(side, limit) for side, limit in zip(picture.shape[:2], content, strict=True))
    if (height, width) == picture.shape[:2]:
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


Seen = tuple[int, NDArray[np.float32], tuple[int, int]]


class ViewSet(Dataset[Seen]):
    """Pictures as the network sees them in use, without variation: (index, float32 [H, W, 3] 0 to 255, its size)."""

    def __init__(self, examples: Sequence[Example], size: tuple[int, int], rule: str) -> None:
        self.examples, self.size, self.rule = examples, size, rule
        self.kept: dict[int, Seen] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Seen:
        if index in self.kept:
            return self.kept[index]
        picture = self.examples[index].picture()
        shape = (picture.shape[0], picture.shape[1])
        return index, View(shape, self.size, self.rule).apply(picture), shape

    def keep(self, indices: Sequence[int]) -> bool:
        """See these once for all validations, where memory allows."""
        if len(indices) * self.size[0] * self.size[1] * 12 > VIEW_BYTES:
            return False
        with ThreadPoolExecutor(cores()) as pool:
            self.kept = dict(zip(indices, pool.map(self.__getitem__, indices), strict=True))
        return True


def collate_views(items: list[Seen]) -> tuple[list[int], Tensor, list[tuple[int, int]]]:
    """Views to one float32 batch [B, H, W, 3] with indices and picture sizes."""
    return [i for i, _, _ in items], torch.from_numpy(np.stack([v for _, v, _ in items])), [s for _, _, s in items]


def training_loader(dataset: TrainingSet, batches: EvenBatches, workers: int, pin: bool) -> ResumableLoader:
    """Batches of varied samples."""
    forks = sys.platform == "linux"
    if dataset.pictures and not forks:
        workers = 0  # each process would be sent a copy of all pictures, gigabytes
    pixels = batches.batch_size * dataset.size[0] * dataset.size[1] if dataset.sizes is None else 0
    workers = affordable(workers, 3 * pixels, batches.processes)
    return ResumableLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate if dataset.sizes is None else collate_undrawn,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers and forks else None,  # they share the cache
        worker_init_fn=settle,
        pin_memory=pin,
    )


def settle(_: int) -> None:
    """Loader processes leave the other cores to the network, and a terminal's Ctrl-C to the run, which ends them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def view_loader(
    examples: Sequence[Example],
    size: tuple[int, int],
    rule: str,
    batch: int,
    workers: int,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader:
    """Batches of plain views; with several processes each reads its own share, of too few the first one again."""
    mine = range(rank, len(examples), processes) or range(min(1, len(examples)))
    views = ViewSet(examples, size, rule)
    return DataLoader(
        views,
        batch_size=batch,
        sampler=list(mine),
        collate_fn=collate_views,
        num_workers=0 if views.keep(mine) else affordable(workers, batch * size[0] * size[1] * 12, processes),
        worker_init_fn=settle,
    )
