"""Data augmentation: one warp per picture, colour by lookup table, mosaic as four warps into one input.

Coordinates are continuous (the centre of the first pixel is at 0.5), so a box moves exactly with its picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.recipe import AugmentRecipe
from nanogfl.view import GREY, View

LEAST_SIDE = 1.0  # px of the network's input; a smaller box cannot be learned
LEAST_VISIBLE = 0.1  # boxes with a smaller visible fraction become crowd regions, which the loss ignores
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A picture and its boxes, before or after augmentation.

    Attributes:
        picture: uint8 BGR [H, W, 3]; [H, W, 0], without channels, if the pixels are stored on the device.
        boxes: float64 [N, 4] in px of that picture.
        labels: int64 [N].
        crowd: bool [N].
    """

    picture: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """The placement of one picture in the network's input.

    Attributes:
        matrix: picture px -> px of the window.
        window: left, top, right, bottom in px of the input.
    """

    matrix: Matrix
    window: tuple[int, int, int, int]


@dataclass(frozen=True)
class Variation:
    """All random choices for one sample; the pixels are drawn later, by ``draw`` or on the device.

    Attributes:
        pieces: one, or the four of a mosaic, row by row.
        tint: brightness in grey levels, contrast, saturation.
        boxes, labels, crowd: as in :class:`Sample`, in px of the input.
    """

    pieces: tuple[Piece, ...]
    tint: tuple[float, float, float]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


def augment(
    samples: Sequence[Sample], size: tuple[int, int], rule: str, recipe: AugmentRecipe, rng: np.random.Generator
) -> Sample:
    """Return one augmented sample of the input's size (H, W), made of one sample or, as a mosaic, of four."""
    varied = decide(samples, size, rule, recipe, rng)
    return Sample(draw(varied, [s.picture for s in samples], size), varied.boxes, varied.labels, varied.crowd)


def decide(
    samples: Sequence[Sample], size: tuple[int, int], rule: str, recipe: AugmentRecipe, rng: np.random.Generator
) -> Variation:
    """Make the random choices for one augmented sample; only the shapes of the pictures are read, not their pixels."""
    pieces, moved = [], []
    for sample, window in zip(samples, windows(len(samples), size, rng), strict=True):
        left, top, right, bottom = window
        matrix = random_matrix(View(sample.picture.shape[:2], (bottom - top, right - left), rule), recipe, rng)
        pieces.append(Piece(matrix, window))
        moved.append(move(sample, translation(left, top) @ matrix, window))
    tint = random_tint(recipe, rng)
    joined = (np.concatenate([getattr(m, name) for m in moved]) for name in ("boxes", "labels", "crowd"))
    return Variation(tuple(pieces), tint, *joined)


def windows(count: int, size: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Return the windows of the pictures as left, top, right, bottom in px of the input.

    One picture gets the whole input; four get its quarters around a random point near the centre, row by row.
    """
    height, width = size
    if count == 1:
        return [(0, 0, width, height)]
    y, x = (int(side * rng.uniform(0.35, 0.65)) for side in size)
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]


def draw(varied: Variation, pictures: Sequence[NDArray[np.uint8]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the input [H, W, 3] of a variation: warp each picture into its window, then change the colours."""
    canvas = np.empty((*size, 3), np.uint8)
    for picture, piece in zip(pictures, varied.pieces, strict=True):
        left, top, right, bottom = piece.window
        canvas[top:bottom, left:right] = warp(picture, piece.matrix, (bottom - top, right - left))
    colour(canvas, *varied.tint)
    return canvas


def random_matrix(view: View, recipe: AugmentRecipe, rng: np.random.Generator) -> Matrix:
    """Return the matrix picture px -> input px: the view's matrix, then a random change about the input's centre."""
    height, width = view.input

    def uniform(limit: float) -> float:
        return float(rng.uniform(-limit, limit))

    zoom = rng.uniform(*recipe.scale)
    stretch_x, stretch_y = rng.uniform(*recipe.stretch), rng.uniform(*recipe.stretch)
    mirror_x = -1 if rng.random() < recipe.flip else 1
    mirror_y = -1 if rng.random() < recipe.flip_vertical else 1
    change = np.diag([zoom * stretch_x * mirror_x, zoom * stretch_y * mirror_y, 1.0])
    if recipe.rotate:
        angle = np.deg2rad(uniform(recipe.rotate))
        cos, sin = np.cos(angle), np.sin(angle)
        change = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ change
    if recipe.shear:
        x, y = np.tan(np.deg2rad([uniform(recipe.shear), uniform(recipe.shear)]))
        change = np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]]) @ change
    if recipe.perspective:
        x, y = uniform(recipe.perspective) / width, uniform(recipe.perspective) / height
        change = np.array([[1, 0, 0], [0, 1, 0], [x, y, 1]]) @ change
    shift = translation(width * (0.5 + uniform(recipe.translate)), height * (0.5 + uniform(recipe.translate)))
    return shift @ change @ translation(-width / 2, -height / 2) @ view.matrix


def random_tint(recipe: AugmentRecipe, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return random brightness (grey levels), contrast and saturation (factors)."""
    brightness = 255 * rng.uniform(-recipe.brightness, recipe.brightness)
    return brightness, rng.uniform(*recipe.contrast), rng.uniform(*recipe.saturation)


def translation(x: float, y: float) -> Matrix:
    """Return the 3x3 matrix of a translation in px."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def warp(picture: NDArray[np.uint8], matrix: Matrix, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Warp a picture bilinearly by a matrix in continuous coordinates to (H, W); fill with grey outside of it."""
    indexed = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)  # OpenCV's origin: first pixel's centre
    if np.allclose(indexed[2], (0, 0, 1)):
        warped = cv2.warpAffine(picture, indexed[:2], size[::-1], borderValue=[GREY] * 3)
    else:
        warped = cv2.warpPerspective(picture, indexed, size[::-1], borderValue=[GREY] * 3)
    return np.asarray(warped, np.uint8)


def move(sample: Sample, matrix: Matrix, window: tuple[float, float, float, float]) -> Sample:
    """Map the sample's boxes by a matrix and clip them to a window (x1 y1 x2 y2 in px).

    Boxes with a side up to LEAST_SIDE are dropped; boxes of which less than LEAST_VISIBLE is left become crowd regions.
    """
    x1, y1, x2, y2 = window
    whole = box_math.transform(sample.boxes, matrix)
    cut = np.minimum(np.maximum(whole, (x1, y1, x1, y1)), (x2, y2, x2, y2)).astype(np.float64, copy=False)
    left, before = cut[:, 2:] - cut[:, :2], whole[:, 2:] - whole[:, :2]
    big = (left[:, 0] > LEAST_SIDE) & (left[:, 1] > LEAST_SIDE)
    sliver = left[:, 0] * left[:, 1] < LEAST_VISIBLE * (before[:, 0] * before[:, 1])
    return Sample(sample.picture, cut[big], sample.labels[big], (sample.crowd | sliver)[big])


def colour(picture: NDArray[np.uint8], brightness: float, contrast: float, saturation: float) -> None:
    """Change brightness (added, in grey levels), contrast and saturation (factors) of a picture in place."""
    table = (np.arange(256) * contrast + brightness).clip(0, 255).astype(np.uint8)
    cv2.LUT(picture, table, dst=picture)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    cv2.addWeighted(picture, saturation, grey, 1 - saturation, 0, dst=picture)
