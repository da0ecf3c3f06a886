"""Mapping of pictures to the network's input, and of boxes back, by a resize rule.

The validation during training, eval, predict and the exported graph apply the same rule, which the checkpoint and the
ONNX file record. Rules:

``stretch``            sides scaled independently, half-pixel centres
``stretch-antialias``  the same with a triangle filter scaled by the reduction, so that large photographs keep their
                       thin lines
``stretch-corner``     as in NanoDet-Plus: source = destination x scale (ONNX: asymmetric), no antialiasing
``letterbox``          aspect ratio kept, centred on grey 114, half-pixel centres
``letterbox-antialias``  the same with the triangle filter
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.errors import UsageError

RULES = ("stretch", "stretch-antialias", "stretch-corner", "letterbox", "letterbox-antialias")
GREY = 114.0
MAX_SIDE = 4096  # px; no machine has the memory for larger inputs
MEAN = (103.53, 116.28, 123.675)
STD = (57.375, 57.12, 58.395)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """The mapping of one picture to the network's input.

    Attributes:
        picture: (H, W) of the picture in px.
        input: (H, W) of the network's input in px.
        rule: one of RULES.
    """

    picture: tuple[int, int]
    input: tuple[int, int]
    rule: str

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"unknown resize rule {self.rule!r}; known: {', '.join(RULES)}")

    @property
    def content(self) -> tuple[int, int]:
        """(H, W) in px of the area that the picture covers in the input."""
        if self.rule.startswith("stretch"):
            return self.input
        # integer arithmetic, so that the exported graph rounds in the same way
        (height, width), (high, wide) = self.picture, self.input
        if wide * height <= high * width:
            return max(1, (2 * height * wide + width) // (2 * width)), wide
        return high, max(1, (2 * width * high + height) // (2 * height))

    @property
    def offset(self) -> tuple[int, int]:
        """(y, x) of the content's first pixel in the input."""
        return (self.input[0] - self.content[0]) // 2, (self.input[1] - self.content[1]) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x) input px per picture px."""
        return self.content[0] / self.picture[0], self.content[1] / self.picture[1]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """3x3 matrix from picture px to input px, in continuous coordinates."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        return np.array([[sx, 0, ox], [0, sy, oy], [0, 0, 1]], np.float64)

    def apply(self, picture: NDArray[np.uint8]) -> Array:
        """Map a picture, uint8 [H, W, 3], to the input: float32 [H_in, W_in, 3], still 0 to 255."""
        content = resize(picture, self.content, self.rule)
        if self.content == self.input:
            return content
        (height, width), (y, x) = self.content, self.offset
        canvas = np.full((*self.input, 3), GREY, np.float32)
        canvas[y : y + height, x : x + width] = content
        return canvas

    def back(self, boxes: Array) -> Array:
        """Map boxes [N, 4] from input px to picture px, clipped to the picture."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        moved = boxes - np.array([ox, oy, ox, oy], boxes.dtype)
        return box_math.clip(moved / np.array([sx, sy, sx, sy], boxes.dtype), *self.picture)

    def back_lengths(self, lengths: Array) -> Array:
        """Convert lengths [N, 4] along x, y, x, y from input px to picture px."""
        sy, sx = self.scale
        return lengths / np.array([sx, sy, sx, sy], lengths.dtype)


def is_side(pixels: int) -> bool:
    """Return whether a side of the network's input may have this many px."""
    return 64 <= pixels <= MAX_SIDE and pixels % 32 == 0


def parse_input(value: str | int | tuple[int, int]) -> tuple[int, int]:
    """Parse an input size, ``320``, ``"320"``, ``"256x416"`` (H x W) or (H, W), into (H, W).

    Raises:
        UsageError: it is not a size, or a side is not a multiple of 32 from 64 to MAX_SIDE.
    """
    try:
        sides = [str(v) for v in value] if isinstance(value, tuple | list) else str(value).lower().split("x")
        height, width = (int(side) for side in (sides if len(sides) == 2 else [*sides, *sides]))
    except ValueError:
        raise UsageError(f"--input {value}: not a valid size; use 320, or HEIGHTxWIDTH such as 256x416") from None
    if not (is_side(height) and is_side(width)):
        raise UsageError(
            f"--input {value}: sides must be multiples of 32, 64 to {MAX_SIDE}; try {_near(height)}x{_near(width)}"
        )
    return height, width


def _near(side: int) -> int:
    return min(MAX_SIDE, max(64, (side + 16) // 32 * 32))


def normalise(image: Array) -> Array:
    """Normalise a BGR image [H, W, 3], 0 to 255, with ImageNet's mean and deviation; return float32 [3, H, W]."""
    made = np.empty((3, *image.shape[:2]), np.float32)
    for channel, (mean, deviation) in enumerate(zip(MEAN, STD, strict=True)):
        np.subtract(image[..., channel], np.float32(mean), out=made[channel])
        made[channel] /= np.float32(deviation)
    return made


def resize(picture: NDArray[np.uint8], size: tuple[int, int], rule: str) -> Array:
    """Resize bilinearly in float32, in two separable passes: rows first, then columns."""
    rows = _taps(picture.shape[0], size[0], rule)
    columns = _taps(picture.shape[1], size[1], rule)
    return _gather(_gather(picture, *rows, axis=0), *columns, axis=1)


def _gather(image: NDArray, index: NDArray[np.intp], weight: Array, axis: int) -> Array:
    """Return the weighted sum of ``taps`` lines along an axis; index and weight are [taps, size]."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    result = image.take(index[0], axis) * weight[0].reshape(shape)
    for i, w in zip(index[1:], weight[1:], strict=True):
        result += image.take(i, axis) * w.reshape(shape)
    return result


@lru_cache(maxsize=64)
def _taps(source: int, target: int, rule: str) -> tuple[NDArray[np.intp], Array]:
    """Return the indices and weights of the source lines of each target line: two arrays [taps, target]."""
    ratio = source / target
    shift = 0.0 if rule == "stretch-corner" else 0.5
    centre = (np.arange(target) + shift) * ratio - shift
    support = max(1.0, ratio) if rule.endswith("antialias") else 1.0
    count = 2 * int(np.ceil(support)) + 1 if support > 1 else 2
    first = np.ceil(centre - support).astype(np.intp) if support > 1 else np.floor(centre).astype(np.intp)
    index = first[None] + np.arange(count)[:, None]
    weight = (1 - np.abs(index - centre) / support).clip(0)
    if support > 1:  # truncate the filter at the picture's border and renormalise it
        weight[(index < 0) | (index >= source)] = 0
        weight /= weight.sum(axis=0)
    return index.clip(0, source - 1), weight.astype(np.float32)
