"""Augmentation on the device: the whole dataset is stored there, and a batch of inputs is one gather from it.

The random choices are made on the CPU (``augment.decide``), as for pictures that are drawn there; only these choices,
some hundred bytes per picture, are copied to the device. The geometry is that of ``augment.draw``, except that OpenCV
rounds positions to 1/32 px.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nanogfl.data.augment import Variation, translation
from nanogfl.view import GREY


@dataclass(frozen=True)
class Drawing:
    """Instructions to draw the inputs of a batch; Q is 4 if the batch contains a mosaic, else 1.

    Attributes:
        pictures: int64 [B, Q], index of the picture in each quarter, row by row.
        matrices: float32 [B, Q, 3, 3], px of the input -> px of that picture.
        middle: int64 [B, 2], x and y at which the quarters meet; W and H if the first picture fills the input.
        tint: float32 [B, 3], brightness in grey levels, contrast, saturation.
    """

    pictures: Tensor
    matrices: Tensor
    middle: Tensor
    tint: Tensor

    def to(self, device: torch.device) -> Drawing:
        """Return the instructions on a device."""
        return Drawing(*(value.to(device, non_blocking=True) for value in vars(self).values()))

    def pin_memory(self) -> Drawing:
        """Return the instructions in pinned memory."""
        return Drawing(*(value.pin_memory() for value in vars(self).values()))


def collate_drawings(indices: Sequence[Sequence[int]], variations: Sequence[Variation]) -> Drawing:
    """Collate variations, and the indices of the pictures of each, into tensors."""
    quarters = max(map(len, indices))
    pictures = np.zeros((len(indices), quarters), np.int64)
    forward = np.tile(np.eye(3), (len(indices), quarters, 1, 1))
    middle = np.zeros((len(indices), 2), np.int64)
    for row, (own, varied) in enumerate(zip(indices, variations, strict=True)):
        pictures[row, : len(own)] = own  # the unused quarters of a single picture are never read
        middle[row] = varied.pieces[0].window[2:]
        for quarter, piece in enumerate(varied.pieces):
            forward[row, quarter] = translation(*piece.window[:2]) @ piece.matrix
    tint = np.array([varied.tint for varied in variations])
    return Drawing(
        torch.from_numpy(pictures),
        torch.from_numpy(np.linalg.inv(forward).astype(np.float32)),
        torch.from_numpy(middle),
        torch.from_numpy(tint.astype(np.float32)),
    )


class Store:
    """All pictures of a dataset in one tensor, padded with grey at the bottom and the right.

    Args:
        pictures: ``count`` pictures, uint8 BGR [H, W, 3].
        count: number N of pictures.
        room: largest (H, W) in px of a picture.
        device: where the tensor is stored.

    Attributes:
        pixels: uint8 [N, H + 1, W + 1, 3].
        sizes: (H, W) of each picture, int64 [N, 2].
    """

    def __init__(
        self, pictures: Iterable[NDArray[np.uint8]], count: int, room: tuple[int, int], device: torch.device
    ) -> None:
        height, width = room
        self.pixels = torch.full((count, height + 1, width + 1, 3), GREY, dtype=torch.uint8, device=device)
        self.sizes = np.zeros((count, 2), np.int64)
        for index, (place, picture) in enumerate(zip(self.pixels, pictures, strict=True)):
            height, width = self.sizes[index] = picture.shape[:2]
            place[:height, :width] = torch.from_numpy(picture).to(device)

    def __deepcopy__(self, _: dict[int, Any]) -> Store:
        """Return the store itself: weight averaging copies the task, and the pictures never change."""
        return self

    def draw(self, drawing: Drawing, size: tuple[int, int]) -> Tensor:
        """Draw the inputs of a batch: uint8 BGR [B, H, W, 3]."""
        height, width = size
        _, rows, columns, _ = self.pixels.shape
        device, (count, quarters) = self.pixels.device, drawing.pictures.shape
        y, x = torch.arange(height, device=device), torch.arange(width, device=device)
        at_x, at_y = positions(drawing.matrices[:, 0], x + 0.5, y + 0.5, rows, columns)
        if quarters > 1:
            right, below = x >= drawing.middle[:, :1], y >= drawing.middle[:, 1:]
            quarter = 2 * below[:, :, None].long() + right[:, None, :].long()  # [B, H, W]
            for number in range(1, quarters):
                other_x, other_y = positions(drawing.matrices[:, number], x + 0.5, y + 0.5, rows, columns)
                at_x = torch.where(quarter == number, other_x, at_x)
                at_y = torch.where(quarter == number, other_y + number * rows, at_y)
        tall = self.pixels[drawing.pictures].view(count, quarters * rows, columns, 3)  # each input's quarters, stacked
        grid = torch.stack([2 / columns * at_x - 1, 2 / (quarters * rows) * at_y - 1], dim=-1)
        # GREY is a number: a tensor would cost a blocking copy to the device with every batch.
        drawn = F.grid_sample(tall.permute(0, 3, 1, 2).float() - GREY, grid, align_corners=False)
        return tinted(drawn.permute(0, 2, 3, 1) + GREY, drawing.tint)


def positions(matrix: Tensor, x: Tensor, y: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Map the grid of x [W] and y [H] by matrices [B, 3, 3]: x and y in px, both [B, H, W], clamped to the padding."""
    m = matrix[:, :, :, None, None]
    u, v, w = (m[:, i, 0] * x + m[:, i, 1] * y[:, None] + m[:, i, 2] for i in range(3))
    return (u / w).clamp(-0.5, columns - 0.5), (v / w).clamp(-0.5, rows - 0.5)


def tinted(picture: Tensor, tint: Tensor) -> Tensor:
    """Change the colours of pictures [B, H, W, 3] as ``augment.colour`` does, with the same rounding; return uint8."""
    brightness, contrast, saturation = tint.T[:, :, None, None, None]
    changed = (picture.round() * contrast + brightness).clamp(0, 255).floor()
    blue, green, red = changed.unbind(-1)
    grey = (0.114 * blue + 0.587 * green + 0.299 * red).round()[..., None]
    return (changed * saturation + grey * (1 - saturation)).round().clamp(0, 255).byte()
