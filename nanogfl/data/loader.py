"""Datasets and loaders for training and validation: decoding (cached if memory allows), augmentation, batching."""

from __future__ import annotations

import logging
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

from nanogfl.data.augment import Sample, augment, decide
from nanogfl.data.batch import collate, collate_deferred
from nanogfl.data.device import Store
from nanogfl.data.loader_process import init_worker
from nanogfl.data.order import EvenBatches, ResumableLoader
from nanogfl.data.prefetch import map_ordered
from nanogfl.data.shards import Shards
from nanogfl.data.table import Example, Table
from nanogfl.machine import cores, limit_workers
from nanogfl.recipe import AugmentRecipe
from nanogfl.view import View

log = logging.getLogger(__name__)
CACHE_BYTES = 4 << 30
VIEW_BYTES = 1 << 30
NETWORK_BYTES = 10 << 30  # GPU memory that the pictures leave free for training
AHEAD = 256  # pictures decoded in advance while others are copied
SILENCE_S = 10


class TrainingSet(Dataset[Any]):
    """Augmented samples by (epoch, index); a key gives the same sample on every machine and in every process.

    Attributes:
        sizes: (H, W) of each picture if the pictures are stored on the device, which then draws the samples; else None.
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
        self.reduced_from: int | None = None
        self.shards = shards

    def __len__(self) -> int:
        return len(self.table)

    def prepare(self, device: torch.device) -> Store | None:
        """Decode all pictures now: into device memory if they fit, else into a cache that loader processes share.

        Nothing is decoded if caching is off or memory is too small.

        Returns:
            The pictures on the device; None if they are not stored there.
        """
        if not self._fits_device(device):
            if self.cached:
                deque(self._decoded(), maxlen=0)
            return None
        self.cached = False
        store = Store(self._decoded(), len(self), self.room, device)
        self.sizes = store.sizes
        return store

    def _decoded(self) -> Iterator[NDArray[np.uint8]]:
        """Yield all pictures in order, decoded on all cores, up to AHEAD pictures in advance."""
        said = time.monotonic()
        with ThreadPoolExecutor(cores()) as pool:
            for count, picture in enumerate(map_ordered(pool, self._picture, range(len(self)), AHEAD), 1):
                yield picture
                if time.monotonic() > said + SILENCE_S:
                    said = time.monotonic()
                    log.info("%d of %d pictures decoded", count, len(self))

    def _fits_device(self, device: torch.device) -> bool:
        if self.cache == "auto" and device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            return self.bytes <= max(free // 8, free - NETWORK_BYTES)
        return self.cache == "device"

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return (Sample, name), or (Variation, indices of its pictures, name) if the device draws the samples."""
        epoch, index = key
        rng = np.random.default_rng((self.seed, 1, epoch, index))
        recipe = self.recipe
        if self.reduced_from is not None and epoch >= self.reduced_from:
            recipe = reduced_augmentation(recipe)
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


def reduced_augmentation(recipe: AugmentRecipe) -> AugmentRecipe:
    """Return the recipe for the last epochs, closer to real use: no mosaic, half the scale, stretch and translation."""
    half = [((low + 1) / 2, (high + 1) / 2) for low, high in (recipe.scale, recipe.stretch)]
    return replace(recipe, mosaic=0.0, scale=half[0], stretch=half[1], translate=recipe.translate / 2)


def reduce(picture: NDArray[np.uint8], room: tuple[int, int], rule: str) -> NDArray[np.uint8]:
    """Shrink a picture by area averaging to its size under the resize rule in this room; a side is never enlarged."""
    content = View((picture.shape[0], picture.shape[1]), room, rule).content
    height, width = (min(side, limit) for side, limit in zip(picture.shape[:2], content, strict=True))
    if (height, width) == picture.shape[:2]:
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


Seen = tuple[int, NDArray[np.float32], tuple[int, int]]


class ViewSet(Dataset[Seen]):
    """Pictures without augmentation, as in use: (index, input float32 [H, W, 3] 0 to 255, (H, W) of the picture)."""

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
        """Keep these inputs in memory for all validations if they fit into VIEW_BYTES; return whether they do."""
        if len(indices) * self.size[0] * self.size[1] * 12 > VIEW_BYTES:
            return False
        with ThreadPoolExecutor(cores()) as pool:
            self.kept = dict(zip(indices, pool.map(self.__getitem__, indices), strict=True))
        return True


def collate_views(items: list[Seen]) -> tuple[list[int], Tensor, list[tuple[int, int]]]:
    """Collate views into indices, one float32 batch [B, H, W, 3], and picture sizes."""
    return [i for i, _, _ in items], torch.from_numpy(np.stack([v for _, v, _ in items])), [s for _, _, s in items]


def training_loader(dataset: TrainingSet, batches: EvenBatches, workers: int, pin: bool) -> ResumableLoader:
    """Return the loader of batches of augmented samples."""
    forks = sys.platform == "linux"
    if dataset.pictures and not forks:
        workers = 0  # each process would be sent a copy of all pictures: gigabytes
    pixels = batches.batch_size * dataset.size[0] * dataset.size[1] if dataset.sizes is None else 0
    workers = limit_workers(workers, 3 * pixels, batches.processes)
    return ResumableLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate if dataset.sizes is None else collate_deferred,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers and forks else None,  # to share the cache
        worker_init_fn=init_worker,
        pin_memory=pin,
    )


def view_loader(
    examples: Sequence[Example],
    size: tuple[int, int],
    rule: str,
    batch: int,
    workers: int,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader:
    """Return the loader of views without augmentation.

    With several processes each reads its own share; a process without a share, because there are too few pictures,
    reads the first one again.
    """
    mine = range(rank, len(examples), processes) or range(min(1, len(examples)))
    views = ViewSet(examples, size, rule)
    return DataLoader(
        views,
        batch_size=batch,
        sampler=list(mine),
        collate_fn=collate_views,
        num_workers=0 if views.keep(mine) else limit_workers(workers, batch * size[0] * size[1] * 12, processes),
        worker_init_fn=init_worker,
    )
