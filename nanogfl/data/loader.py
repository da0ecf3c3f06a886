"""Batches for training and validation: pictures decoded once where memory allows, varied, collated."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nanogfl.data.augment import Sample, augment
from nanogfl.data.order import EvenBatches, ResumableLoader
from nanogfl.data.shards import shards_of
from nanogfl.data.table import Example, Table
from nanogfl.pictures import read_picture
from nanogfl.recipe import AugmentRecipe
from nanogfl.view import View

log = logging.getLogger(__name__)
CACHE_BYTES = 4 << 30


@dataclass(frozen=True)
class Batch:
    """What a training step gets.

    Attributes:
        images: uint8 [B, H, W, 3] BGR.
        boxes: float32 [B, M, 4] in px of the input.
        labels: int64 [B, M].
        valid: bool [B, M], real boxes.
        crowd: bool [B, M], regions that neither train nor punish.
        names: of the pictures.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    names: list[str]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def cut(self, parts: int) -> list[Batch]:
        """The batch in so many parts of nearly equal size; fewer where one would be left with a single picture."""
        count = len(self.names)
        parts = max(1, min(parts, count // 2))
        bounds = [slice(i * count // parts, (i + 1) * count // parts) for i in range(parts)]
        return [Batch(**{name: value[rows] for name, value in vars(self).items()}) for rows in bounds]

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, for the loader."""
        return replace(self, **{k: v.pin_memory() for k, v in vars(self).items() if isinstance(v, Tensor)})


class TrainingSet(Dataset[Sample]):
    """Varied samples; asked for (epoch, index), it answers the same on every machine and in every process."""

    def __init__(
        self, table: Table, size: tuple[int, int], rule: str, recipe: AugmentRecipe, seed: int, cache: str = "auto"
    ) -> None:
        self.table, self.size, self.rule, self.recipe, self.seed = table, size, rule, recipe, seed
        largest = recipe.scale[1] * recipe.stretch[1]
        height, width = (int(side * min(1.5, max(1.0, largest))) for side in size)
        self.room = (height, width)
        needed = len(table) * self.room[0] * self.room[1] * 3
        self.cached = cache == "ram" or (cache == "auto" and needed <= CACHE_BYTES)
        self.pictures: dict[int, NDArray[np.uint8]] = {}
        self.plain_from: int | None = None
        self.shards = shards_of(table)

    def __len__(self) -> int:
        return len(self.table)

    def fill(self) -> None:
        """Decode all pictures now, so that loader processes share them."""
        if self.cached:
            for index in range(len(self)):
                self._picture(index)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Sample, str]:
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
        samples = [self._sample(i) for i in indices]
        return augment(samples, self.size, self.rule, recipe, rng), self.table.examples[index].name

    def _sample(self, index: int) -> Sample:
        example = self.table.examples[index]
        picture = self._picture(index)
        scale = np.array([picture.shape[1] / example.width, picture.shape[0] / example.height] * 2)
        return Sample(picture, example.boxes * scale, example.labels, example.crowd)

    def _picture(self, index: int) -> NDArray[np.uint8]:
        if index in self.pictures:
            return self.pictures[index]
        picture = reduce(read_picture(self.table.examples[index].path), self.room, self.rule)
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


class ViewSet(Dataset[tuple[int, NDArray[np.float32]]]):
    """Pictures as the network sees them in use, without variation: (index, float32 [H, W, 3], 0 to 255)."""

    def __init__(self, examples: Sequence[Example], size: tuple[int, int], rule: str) -> None:
        self.examples, self.size, self.rule = examples, size, rule

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, NDArray[np.float32], tuple[int, int]]:
        picture = read_picture(self.examples[index].path)
        shape = (picture.shape[0], picture.shape[1])
        return index, View(shape, self.size, self.rule).apply(picture), shape


def collate(samples: list[tuple[Sample, str]]) -> Batch:
    """Samples to one batch, boxes padded to the fullest picture (one row at least)."""
    most = max(1, *(len(s.labels) for s, _ in samples))
    boxes = np.zeros((len(samples), most, 4), np.float32)
    labels = np.zeros((len(samples), most), np.int64)
    valid = np.zeros((len(samples), most), bool)
    crowd = np.zeros((len(samples), most), bool)
    for row, (sample, _) in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels
        crowd[row, :count] = sample.crowd
        valid[row, :count] = ~sample.crowd
    images = np.stack([sample.picture for sample, _ in samples])
    arrays = [torch.from_numpy(array) for array in (images, boxes, labels, valid, crowd)]
    return Batch(*arrays, names=[name for _, name in samples])


def collate_views(
    items: list[tuple[int, NDArray[np.float32], tuple[int, int]]],
) -> tuple[list[int], Tensor, list[tuple[int, int]]]:
    """Views to one float32 batch [B, H, W, 3] with indices and picture sizes."""
    return [i for i, _, _ in items], torch.from_numpy(np.stack([v for _, v, _ in items])), [s for _, _, s in items]


def training_loader(dataset: TrainingSet, batches: EvenBatches, workers: int, pin: bool) -> ResumableLoader:
    """Batches of varied samples."""
    return ResumableLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
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
    """Batches of plain views; with several processes each reads its own share."""
    mine = range(rank, len(examples), processes)
    return DataLoader(
        ViewSet(examples, size, rule),
        batch_size=batch,
        sampler=list(mine),
        collate_fn=collate_views,
        num_workers=workers,
        worker_init_fn=settle,
    )
