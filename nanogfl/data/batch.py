"""Batches of training samples: augmented pictures with their boxes, or instructions to draw them on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nanogfl.data.augment import Sample, Variation
from nanogfl.data.device import Drawing, Store, collate_drawings


@dataclass(frozen=True)
class Batch:
    """One batch of training samples; each picture has M rows of boxes, padded.

    Attributes:
        images: uint8 [B, H, W, 3] BGR.
        boxes: float32 [B, M, 4] in px of the input.
        labels: int64 [B, M].
        valid: bool [B, M], boxes to learn: neither padding nor crowd regions.
        crowd: bool [B, M], crowd regions: they give no targets, and the loss ignores the background in them.
        names: names of the B pictures.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    names: list[str]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def split(self, parts: int) -> list[Batch]:
        """Split the batch into parts of nearly equal size; into fewer if a part would hold a single picture."""
        count = len(self.names)
        parts = max(1, min(parts, count // 2))
        bounds = [slice(i * count // parts, (i + 1) * count // parts) for i in range(parts)]
        return [Batch(**{name: value[rows] for name, value in vars(self).items()}) for rows in bounds]

    def with_room(self, boxes: int) -> Batch:
        """Return the batch padded to this number of box rows per picture."""
        more = boxes - self.boxes.shape[1]
        rows = {name: F.pad(getattr(self, name), (0, more)) for name in ("labels", "valid", "crowd")}
        return replace(self, boxes=F.pad(self.boxes, (0, 0, 0, more)), **rows)

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory; called by the DataLoader."""
        return replace(self, **{k: v.pin_memory() for k, v in vars(self).items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class DeferredBatch:
    """A batch whose pictures are still to be drawn on the device.

    Attributes:
        drawing: how to draw the pictures.
        rest: the batch, with empty pictures [B, 0, 0, 3].
    """

    drawing: Drawing
    rest: Batch

    def drawn(self, store: Store, size: tuple[int, int]) -> Batch:
        """Draw the pictures; return the whole batch on the store's device."""
        device = store.pixels.device
        return replace(self.rest.to(device), images=store.draw(self.drawing.to(device), size))

    def pin_memory(self) -> DeferredBatch:
        """Return the batch in pinned memory; called by the DataLoader."""
        return DeferredBatch(self.drawing.pin_memory(), self.rest.pin_memory())


def collate(samples: list[tuple[Sample, str]]) -> Batch:
    """Collate samples and their names into one batch."""
    images = torch.from_numpy(np.stack([sample.picture for sample, _ in samples]))
    return Batch(images, **padded([s for s, _ in samples]), names=[name for _, name in samples])


def collate_deferred(samples: list[tuple[Variation, list[int], str]]) -> DeferredBatch:
    """Collate variations, the indices of their pictures and their names into one batch."""
    variations = [varied for varied, _, _ in samples]
    images = torch.empty((len(samples), 0, 0, 3), dtype=torch.uint8)
    rest = Batch(images, **padded(variations), names=[name for _, _, name in samples])
    return DeferredBatch(collate_drawings([indices for _, indices, _ in samples], variations), rest)


def padded(samples: Sequence[Sample] | Sequence[Variation]) -> dict[str, Any]:
    """Return boxes, labels, valid and crowd as tensors, padded to the largest number of boxes (at least one row)."""
    most = max(1, *(len(s.labels) for s in samples))
    boxes = np.zeros((len(samples), most, 4), np.float32)
    labels = np.zeros((len(samples), most), np.int64)
    valid = np.zeros((len(samples), most), bool)
    crowd = np.zeros((len(samples), most), bool)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels
        crowd[row, :count] = sample.crowd
        valid[row, :count] = ~sample.crowd
    arrays = {"boxes": boxes, "labels": labels, "valid": valid, "crowd": crowd}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
