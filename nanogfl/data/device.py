"""Pictures varied on the device: the whole set lies there, and a batch of inputs is one gather from it.

What is done to which picture is decided on the CPU (``augment.decide``), as for pictures that are drawn there; only
these decisions, some hundred bytes a picture, travel. The geometry is that of ``augment.draw``; OpenCV rounds positions
to 1/32 px, and this does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogfl.data.augment import GREY, Variation, translation

OUTSIDE = float(GREY[0])  # a number: a tensor would be sent to the device, and waited for, with every batch


@dataclass(frozen=True)
class Drawing:
    """What is drawn into each input of a batch; Q is 4 where the batch holds a mosaic, else 1.

    Attributes:
        pictures: int64 [B, Q], which one fills each quarter, rows first.
        matrices: float32 [B, Q, 3, 3], px of the input -> px of that picture.
        middle: int64 [B, 2], x and y where the quarters meet; W and H where the first fills all.
        tint: float32 [B, 3], brightness in grey levels, contrast, saturation.
    """

    pictures: Tensor
    matrices: Tensor
    middle: Tensor
    tint: Tensor

    def to(self, device: torch.device) -> Drawing:
        """The same on a device."""
        return Drawing(*(value.to(device, non_blocking=True) for value in vars(self).values()))

    def pin_memory(self) -> Drawing:
        """The same in pinned memory."""
        return Drawing(*(value.pin_memory() for value in vars(self).values()))


def collate_drawings(indices: Sequence[Sequence[int]], variations: Sequence[Variation]) -> Drawing:
    """Decisions on a batch as tensors: the pictures of each variation, and the variations."""
    quarters = max(map(len, indices))
    pictures = np.zeros((len(indices), quarters), np.int64)
    forward = np.tile(np.eye(3), (len(indices), quarters, 1, 1))
    middle = np.zeros((len(indices), 2), np.int64)
    for row, (own, varied) in enumerate(zip(indices, variations, strict=True)):
        pictures[row, : len(own)] = own  # what a single picture leaves is never asked for
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
    """All pictures of a set in one tensor.

    Args:
        pictures: uint8 BGR [H, W, 3], ``count`` of them.
        count: N.
        room: (H, W) in px, in which each fits.
        device: where they are kept.

    Attributes:
        sizes: (H, W) of each, int64 [N, 2].
    """

    def __init__(
        self, pictures: Iterable[NDArray[np.uint8]], count: int, room: tuple[int, int], device: torch.device
    ) -> None:
        self.pixels = torch.empty((count, *room, 3), dtype=torch.uint8, device=device)
        self.sizes = np.zeros((count, 2), np.int64)
        for index, (place, picture) in enumerate(zip(self.pixels, pictures, strict=True)):
            height, width = self.sizes[index] = picture.shape[:2]
            place[:height, :width] = torch.from_numpy(picture).to(device)
        self._limits = torch.from_numpy(self.sizes).to(device)

    def __deepcopy__(self, _: dict[int, Any]) -> Store:
        """Averaging copies the task; pictures never change."""
        return self

    def draw(self, drawing: Drawing, size: tuple[int, int]) -> Tensor:
        """The inputs of a batch: uint8 BGR [B, H, W, 3]."""
        height, width = size
        device, quarters = self.pixels.device, drawing.pictures.shape[1]
        y, x = torch.arange(height, device=device), torch.arange(width, device=device)
        right, below = x >= drawing.middle[:, :1], y >= drawing.middle[:, 1:]
        quarter = 2 * below[:, :, None].long() + right[:, None, :].long()  # [B, H, W]
        which = drawing.pictures.gather(1, quarter.flatten(1).clamp(max=quarters - 1)).view_as(quarter)
        at_x, at_y = positions(drawing.matrices[:, 0], x + 0.5, y + 0.5)
        for number in range(1, quarters):
            other_x, other_y = positions(drawing.matrices[:, number], x + 0.5, y + 0.5)
            at_x, at_y = (torch.where(quarter == number, *two) for two in ((other_x, at_x), (other_y, at_y)))
        return tinted(self._bilinear(which, at_x - 0.5, at_y - 0.5), drawing.tint)

    def _bilinear(self, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Pictures which [B, H, W] at positions counted from pixel centres; grey outside: float [B, H, W, 3]."""
        flat, (_, rows, columns, _) = self.pixels.view(-1, 3), self.pixels.shape
        limit_y, limit_x = self._limits[which].unbind(-1)
        left, top = x.floor().clamp(-2, columns + 1), y.floor().clamp(-2, rows + 1)
        part_x, part_y = (x - left).clamp(0, 1), (y - top).clamp(0, 1)
        left, top = left.long(), top.long()
        total = torch.zeros((*which.shape, 3), device=flat.device)
        for down in (0, 1):
            for over in (0, 1):
                column, row = left + over, top + down
                inside = (column >= 0) & (column < limit_x) & (row >= 0) & (row < limit_y)
                place = (which * rows + row.clamp(0, rows - 1)) * columns + column.clamp(0, columns - 1)
                value = torch.where(inside[..., None], flat[place].float(), OUTSIDE)
                weight = (part_x if over else 1 - part_x) * (part_y if down else 1 - part_y)
                total += value * weight[..., None]
        return total


def positions(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where matrices [B, 3, 3] take the grid of x [W] and y [H]: two of [B, H, W]."""
    m = matrix[:, :, :, None, None]
    u, v, w = (m[:, i, 0] * x + m[:, i, 1] * y[:, None] + m[:, i, 2] for i in range(3))
    return u / w, v / w


def tinted(picture: Tensor, tint: Tensor) -> Tensor:
    """Colours [B, H, W, 3] changed as ``augment.colour`` does, with its roundings: uint8."""
    brightness, contrast, saturation = tint.T[:, :, None, None, None]
    changed = (picture.round() * contrast + brightness).clamp(0, 255).floor()
    blue, green, red = changed.unbind(-1)
    grey = (0.114 * blue + 0.587 * green + 0.299 * red).round()[..., None]
    return (changed * saturation + grey * (1 - saturation)).round().clamp(0, 255).byte()
