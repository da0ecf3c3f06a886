"""Drawing a small detection dataset, so that a first training needs no download: six classes, busy backgrounds.

The box of an object is the tight box of its whole silhouette (including parts that others cover, but not soft shadows),
clipped to the picture. Silhouettes are drawn at four times the resolution, so boxes are exact to a quarter pixel.
Shapes are given in a square of -1..1, y down; all colours are BGR.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as geometry
from nanogfl.atomic import atomic_file
from nanogfl.data.table import SPLITS
from nanogfl.errors import UsageError
from nanogfl.pictures import Picture, write_picture

Points = NDArray[np.floating]
Colour = NDArray[np.floating]

NAMES = ("ball", "crate", "cone", "star", "ring", "mug")

_FINE = 4  # silhouettes are drawn at this multiple of the picture's resolution
_SHORTEST, _LONGEST = 16.0, 160.0  # longer side of an object in px, in a picture of _USUAL px
_USUAL = 320
_LEAST_VISIBLE = 0.4  # least visible fraction of each silhouette in the finished picture
_LEAST_INSIDE = 0.8  # least fraction of a silhouette inside the picture when it is placed
_MARGIN = 0.12  # margin around the picture, as a fraction of its side, for objects that the border cuts
_OUTSIDE, _FREE = 0, 1  # values of Scene.owner; object i is i + 2

_ANGLES = np.linspace(0, 2 * np.pi, 60, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_THERE_AND_BACK = np.concatenate([np.linspace(0, 2.2, 9), np.linspace(2.2, 0, 9)])
_log = logging.getLogger(__name__)


def _colours(text: str) -> Colour:
    """Convert ``"rrggbb rrggbb"`` to BGR rows [N, 3]."""
    return np.array([list(bytes.fromhex(word))[::-1] for word in text.split()], np.float64)


_BLACK, _WHITE = _colours("1d2430 fbf7ec")
_PAINT = _colours("e4572e f2a541 f6d55c 6fb07f 2a9d8f 3d7ea6 5b5f97 a05195 e07a8b 2f4858 b5c99a 8c564b")
_WOOD = _colours("c08552 a9714b d4a373 8a5a44 b08968 6b8f8a b5654a")
_SIGNAL = _colours("f26419 e63946 f77f00 f4b400 2b7bbb 3a9d6e")
_SCENES = tuple(  # each from dark to light; a background uses one of them
    _colours(text)
    for text in (
        "3c5a68 86a8a5 e3ddc8",
        "5a5368 a893a0 ecd9cd",
        "4d6650 9bb08c e8e6cf",
        "8a6f5a c9ad8d f1e4cf",
        "44546a 8fa3bf dfe6ea",
        "7a5c61 d0a29a f5e3d3",
        "2f3e46 52796f a9bfa6",
        "6c757d adb5bd eceae4",
    )
)


class _Part(NamedTuple):
    """One part of an object, in one colour; a second outline is a hole in the first, body parts form the silhouette."""

    outlines: tuple[Points, ...]
    colour: Colour
    body: bool = False


def _toward(colour: Colour, other: Colour, share: float) -> Colour:
    return colour + (other - colour) * share


def _pick(rng: np.random.Generator, colours: Colour, count: int) -> Colour:
    """Return different random rows of ``colours``, slightly changed at random: [count, 3]."""
    rows = colours[rng.choice(len(colours), count, replace=False)]
    return (rows + rng.uniform(-14, 14, rows.shape)).clip(0, 255)


def _oval(x: float, y: float, across: float, down: float | None = None) -> Points:
    return _CIRCLE * np.array([across, down or across]) + np.array([x, y])


def _oblong(x1: float, y1: float, x2: float, y2: float) -> Points:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _wedge(pole: Points, start: float, stop: float, twist: float) -> Points:
    """Return a sector around ``pole``, longer than any shape, with its sides bent by ``twist`` radians per unit."""
    angle = np.repeat([start, stop], len(_THERE_AND_BACK) // 2) + twist * _THERE_AND_BACK
    return pole + np.stack([_THERE_AND_BACK * np.cos(angle), _THERE_AND_BACK * np.sin(angle)], axis=1)


def _ball(rng: np.random.Generator) -> list[_Part]:
    """Return a beach ball: bent wedges around a pole, seams, a cap."""
    first, second = _pick(rng, _PAINT, 2)
    pole, twist, turn = rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.6, 0.6), rng.uniform(0, 2 * np.pi)
    edges = turn + np.arange(7) * np.pi / 3
    parts = [_Part((_oval(0, 0, 1),), first, body=True)]
    for i, colour in enumerate((first, _WHITE, second) * 2):
        parts.append(_Part((_wedge(pole, edges[i], edges[i + 1], twist),), colour))
    parts += [_Part((_wedge(pole, e - 0.035, e + 0.035, twist),), _toward(second, _BLACK, 0.5)) for e in edges[:6]]
    return [*parts, _Part((_oval(pole[0], pole[1], 0.17),), _toward(first, _BLACK, 0.25))]


def _crate(rng: np.random.Generator) -> list[_Part]:
    """Return a wooden crate: planks, a diagonal board, a frame, nails."""
    wood = _pick(rng, _WOOD, 1)[0]
    frame, gap = _toward(wood, _WHITE, 0.25), _toward(wood, _BLACK, 0.6)
    edges = np.linspace(-1, 1, int(rng.integers(4, 7)))
    parts = [_Part((_oblong(-1, -1, 1, 1),), gap, body=True)]
    for top, bottom in pairwise(edges.tolist()):
        parts.append(_Part((_oblong(-1, top + 0.03, 1, bottom - 0.03),), _toward(wood, _BLACK, rng.uniform(0.05, 0.3))))
    side = rng.choice([-1.0, 1.0])
    board = np.array([[-0.95, 0.6], [0.6, -0.95], [0.95, -0.6], [-0.6, 0.95]])
    parts.append(_Part((board * 1.05 * [side, 1],), gap))
    parts.append(_Part((board * [side, 1],), _toward(wood, _WHITE, 0.12)))
    parts.append(_Part((_oblong(-1, -1, 1, 1), _oblong(-0.69, -0.69, 0.69, 0.69)), gap))
    parts.append(_Part((_oblong(-1, -1, 1, 1), _oblong(-0.73, -0.73, 0.73, 0.73)), frame))
    nails = [(x, y) for x in (-0.86, 0.86) for y in (-0.86, 0.86)]
    return [*parts, *(_Part((_oval(x, y, 0.06),), gap) for x, y in nails)]


def _cone(rng: np.random.Generator) -> list[_Part]:
    """Return a traffic cone: foot, cone, one or two pale stripes, a shaded flank."""
    colour = _pick(rng, _SIGNAL, 1)[0]
    stripes = [(-0.42, -0.02)] if rng.random() < 0.5 else [(-0.58, -0.3), (0.06, 0.4)]
    foot = np.array([[-0.8, 0.68], [0.8, 0.68], [0.92, 0.98], [-0.92, 0.98]])
    flank = np.array([[0.03, -1.1], [0.4, -1.1], [0.9, 0.72], [0.22, 0.72]])
    parts = [
        _Part((foot,), _toward(colour, _BLACK, 0.35), body=True),
        _Part((np.array([[-0.13, -1], [0.13, -1], [0.62, 0.76], [-0.62, 0.76]]),), colour, body=True),
        _Part((flank,), _toward(colour, _BLACK, 0.22)),
    ]
    for top, bottom in stripes:
        parts.append(_Part((_oblong(-0.7, top, 0.7, bottom),), _WHITE))
        shaded = np.array([[0.08, top], [0.7, top], [0.7, bottom], [0.13, bottom]])
        parts.append(_Part((shaded,), _toward(_WHITE, _BLACK, 0.2)))
    return [*parts, _Part((_oval(0, -0.97, 0.11, 0.05),), _toward(colour, _BLACK, 0.6))]


def _star(rng: np.random.Generator) -> list[_Part]:
    """Return a faceted star: a dark rim and ten facets, alternately light and dark."""
    colour = _pick(rng, _PAINT, 1)[0]
    angle = np.arange(11) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(11) % 2, rng.uniform(0.42, 0.55), 1.0)
    tips = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    parts = [_Part((tips[:10],), _toward(colour, _BLACK, 0.45), body=True)]
    for i in range(10):
        tone = _toward(colour, _BLACK, 0.18) if i % 2 else _toward(colour, _WHITE, 0.45)
        parts.append(_Part((np.stack([tips[i], tips[i + 1], np.zeros(2)]) * 0.87,), tone))
    return parts


def _ring(rng: np.random.Generator) -> list[_Part]:
    """Return a lifebuoy: coloured bands and darker rims; the background is visible through the hole."""
    colour, rope = _pick(rng, _PAINT, 2)
    hole, turn = rng.uniform(0.42, 0.56), rng.uniform(0, np.pi / 2)
    pale = _toward(_WHITE, rope, 0.12)
    parts = [_Part((_oval(0, 0, 1), _oval(0, 0, hole)), pale, body=True)]
    for start in turn + np.arange(4) * np.pi / 2:
        parts.append(_Part((_wedge(np.zeros(2), start - 0.05, start + 0.85, 0),), _toward(colour, _BLACK, 0.4)))
        parts.append(_Part((_wedge(np.zeros(2), start, start + 0.8, 0),), colour))
    parts.append(_Part((_oval(0, 0, hole + 0.07), _oval(0, 0, hole / 2)), _toward(colour, _BLACK, 0.45)))
    return [*parts, _Part((_oval(0, 0, 1.2), _oval(0, 0, 0.94)), _toward(rope, _BLACK, 0.25))]


def _mug(rng: np.random.Generator) -> list[_Part]:
    """Return a mug: a handle with a hole, bands or dots, a rim, and coffee."""
    colour, second = _pick(rng, _PAINT, 2)
    dark = _toward(colour, _BLACK, 0.3)
    side = np.array([[-0.8, -0.75], [0.5, -0.75], [0.44, 0.85], [0.3, 0.97], [-0.6, 0.97], [-0.74, 0.85]])
    parts = [
        _Part((_oval(0.5, 0.05, 0.48, 0.52), _oval(0.5, 0.05, 0.27, 0.31)), dark, body=True),
        _Part((side,), colour, body=True),
    ]
    accent = _toward(second, _WHITE, 0.5)
    if rng.random() < 0.5:
        parts += [_Part((_oblong(-0.78, y, 0.47, y + 0.2),), accent) for y in (-0.2, 0.2)]
    else:
        parts += [_Part((_oval(x, y, 0.12),), accent) for x in (-0.52, -0.15, 0.22) for y in (-0.25, 0.15, 0.55)]
    return [
        *parts,
        _Part((np.array([[0.24, -0.75], [0.5, -0.75], [0.44, 0.97], [0.2, 0.97]]),), dark),
        _Part((_oval(-0.15, -0.75, 0.65, 0.2),), _toward(colour, _WHITE, 0.5), body=True),
        _Part((_oval(-0.15, -0.74, 0.54, 0.13),), _colours("4b2e24")[0]),
    ]


_SHAPES: tuple[Callable[[np.random.Generator], list[_Part]], ...] = (_ball, _crate, _cone, _star, _ring, _mug)


class Sprite(NamedTuple):
    """A drawn object: colour float32 [h, w, 3] BGR, coverage float32 [h, w] 0..1, box [4] in its own pixels, class."""

    colour: NDArray[np.float32]
    cover: NDArray[np.float32]
    box: NDArray[np.float64]
    label: int


def draw_sprite(rng: np.random.Generator, label: int, length: float) -> Sprite:
    """Draw one object, slightly rotated and stretched; the longer side of its box is ``length`` px, to half a pixel."""
    parts = _SHAPES[label](rng)
    turn, stretch = rng.uniform(-0.5, 0.5), np.exp(rng.uniform(-0.2, 0.2))
    sine, cosine = np.sin(turn), np.cos(turn)
    matrix = np.array([[cosine * stretch, -sine / stretch], [sine * stretch, cosine / stretch]])
    hull = np.concatenate([outline for part in parts if part.body for outline in part.outlines]) @ matrix.T
    low, high = hull.min(axis=0), hull.max(axis=0)
    scale = length / (high - low).max()
    shift = 1 + rng.random(2)  # random sub-pixel position
    width, height = (np.ceil((high - low) * scale + shift).astype(int) + 1).tolist()
    fine = np.empty((height * _FINE, width * _FINE, 3), np.uint8)
    mask = np.zeros(fine.shape[:2], np.uint8)
    cv2.rectangle(fine, (0, 0), (fine.shape[1], fine.shape[0]), parts[0].colour.tolist(), -1)
    linear, offset = matrix.T * scale * _FINE, (shift - low * scale) * _FINE
    for part in parts:
        outlines = [(outline @ linear + offset).astype(np.int32) for outline in part.outlines]
        cv2.fillPoly(fine, outlines, part.colour.tolist())
        if part.body:
            cv2.fillPoly(mask, outlines, (255,))
    x, y, across, down = cv2.boundingRect(mask)
    colour = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    cover = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    cover *= np.float32(1 / 255)
    return Sprite(_lit(colour), cover, np.array([x, y, x + across, y + down]) / _FINE, label)


def _lit(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light an object [h, w, 3] from the upper left, consistent with the shadows."""
    height, width = colour.shape[:2]
    x, y = np.linspace(-0.3, 0.7, width, dtype=np.float32), np.linspace(-0.25, 0.75, height, dtype=np.float32)
    light = np.float32(1.14) - np.float32(0.55) * (x**2 + (y**2)[:, None])
    return np.minimum(colour * _thrice(light), np.float32(255))


def _thrice(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat a plane over three channels; numpy's broadcasting along a last axis of length three is slow."""
    return np.asarray(cv2.merge([plane, plane, plane]), np.float32)


def _grain(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return noise at several scales, about -1..1: [size, size]."""
    total = np.zeros((size, size), np.float32)
    for cells, weight in ((3, 0.5), (9, 0.25), (36, 0.15), (120, 0.1)):
        coarse = rng.uniform(-weight, weight, (cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return total


def _backdrop(rng: np.random.Generator, size: int) -> Picture:
    """Draw a background in the shades of one scene: gradient, noise, perhaps stripes or blobs: [size, size, 3]."""
    scene = _SCENES[rng.integers(len(_SCENES))]
    shades = np.stack([np.interp(np.linspace(0, 2, 256), range(3), channel) for channel in scene.T], axis=1)
    half = size // 2  # smooth enough to draw at half the size
    x = np.linspace(-0.5, 0.5, half, dtype=np.float32)
    y = x[:, None]
    slope, angle = rng.uniform(0.2, 0.7), rng.uniform(0, 2 * np.pi)
    depth = rng.uniform(0.5, 0.8) + slope * (x * np.cos(angle) + y * np.sin(angle))
    depth += rng.uniform(0.15, 0.6) * _grain(rng, half)
    pattern = rng.integers(3)
    if pattern == 1:
        angle, waves, bend = rng.uniform(0, np.pi), rng.uniform(20, 90), rng.uniform(0, 3)
        across = y * np.cos(angle) - x * np.sin(angle)
        along = x * np.cos(angle) + y * np.sin(angle)
        depth += rng.uniform(0.05, 0.14) * np.sin(waves * along + bend * np.sin(8 * across))
    depth = cv2.resize((depth * 255).clip(0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)
    picture = cv2.LUT(cv2.merge([depth] * 3), shades.astype(np.uint8)[None])
    if pattern == 2:
        veil = picture.copy()
        for _ in range(int(rng.integers(6, 18))):
            centre, radius = rng.integers(0, size, 2).tolist(), int(size * rng.uniform(0.02, 0.12))
            cv2.circle(veil, centre, radius, shades[rng.integers(256)].tolist(), -1, cv2.LINE_AA)
        picture = cv2.addWeighted(picture, 0.6, veil, 0.4, 0)
    return np.asarray(picture, np.uint8)


def _clutter(rng: np.random.Generator, picture: Picture) -> None:
    """Draw distractors onto the picture in place: lines, filled polygons and ovals, outlines, scribbles."""
    size = len(picture)
    for kind in rng.integers(0, 5, int(rng.integers(2, 9))):
        centre = rng.uniform(0, size, 2)
        span = size * np.exp(rng.uniform(np.log(0.04), np.log(0.25)))
        under = picture[int(centre[1]), int(centre[0])].astype(np.float64)
        colour = _toward(_pick(rng, _PAINT, 1)[0], under, rng.uniform(0.2, 0.8)).tolist()
        thick = int(rng.integers(1, 4))
        if kind == 0:
            ends = centre + rng.uniform(-2, 2, (2, 2)) * span
            cv2.polylines(picture, [ends.astype(np.int32)], False, colour, thick, cv2.LINE_AA)
        elif kind == 1:
            angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            corners = centre + span * 0.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 2:
            _scribble(rng, picture, centre, span, colour)
        else:  # an oval, filled or outlined
            half, turn = (span * rng.uniform(0.3, 0.8, 2)).astype(int).tolist(), float(rng.uniform(0, 180))
            spot, pen = centre.astype(int).tolist(), thick if kind == 3 else -1
            cv2.ellipse(picture, spot, half, turn, 0, 360, colour, pen, cv2.LINE_AA)


def _scribble(rng: np.random.Generator, picture: Picture, centre: Points, span: float, colour: Sequence[float]) -> None:
    """Draw two lines that resemble handwriting."""
    for row in (-0.2, 0.2):
        time = np.linspace(0, 1, 90)
        loops = np.sin(time[:, None] * rng.uniform(60, 110) + [0, 1.3]) * [0.06, 0.09]
        height = np.interp(time, np.linspace(0, 1, 12), rng.uniform(0.1, 1.2, 12))
        pen = centre + span * (loops * height[:, None] + np.stack([2 * time - 1, np.full(90, row)], axis=1))
        cv2.polylines(picture, [pen.astype(np.int32)], False, colour, 1, cv2.LINE_AA)


def _expose(rng: np.random.Generator, picture: Picture) -> Picture:
    """Simulate a camera: brightness, tint, perhaps a slight blur, noise."""
    tint = rng.uniform(0.75, 1.15) * rng.uniform(0.95, 1.05, 3)
    curve = (np.arange(256)[:, None] * tint).round().clip(0, 255).astype(np.uint8)
    lit = cv2.LUT(picture, curve[None])
    if rng.random() < 0.35:
        lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 1.0))
    noise = rng.standard_normal(lit.shape[:2], np.float32) * np.float32(rng.uniform(0.5, 6))
    return np.asarray(cv2.add(lit, _thrice(noise), dtype=cv2.CV_8U), np.uint8)


@dataclass
class Scene:
    """A picture under construction, with a margin around it for objects that its border cuts.

    Attributes:
        canvas: uint8 [S, S, 3], S = size + 2 margin.
        margin: width of the margin on each side in px.
        owner: uint8 [S, S], the object visible at each pixel (i + 2), or _FREE, or _OUTSIDE the picture.
        boxes: box [4] of each object in px of the picture, not yet clipped.
        labels: class of each object.
        silhouettes: number of pixels in each whole silhouette.
        visible: number of these pixels that are visible.
    """

    canvas: Picture
    margin: int
    owner: NDArray[np.uint8]
    boxes: list[NDArray[np.float64]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    silhouettes: list[int] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)

    @classmethod
    def on(cls, picture: Picture) -> Scene:
        """Return an empty scene with this background [size, size, 3]."""
        margin = int(len(picture) * _MARGIN)
        canvas = cv2.copyMakeBorder(picture, margin, margin, margin, margin, cv2.BORDER_REFLECT)
        owner = np.full(canvas.shape[:2], _OUTSIDE, np.uint8)
        owner[margin:-margin, margin:-margin] = _FREE
        return cls(np.asarray(canvas, np.uint8), margin, owner)

    @property
    def inside(self) -> Picture:
        """The picture without its margin."""
        return self.canvas[self.margin : -self.margin, self.margin : -self.margin]

    def place(self, sprite: Sprite, column: int, row: int) -> bool:
        """Place an object with its corner at a pixel of the picture, unless it or another would be too little visible.

        Returns:
            Whether it was placed.
        """
        solid = sprite.cover >= 0.5
        x, y = column + self.margin, row + self.margin
        window = slice(y, y + solid.shape[0]), slice(x, x + solid.shape[1])
        under = self.owner[window]
        if x < 0 or y < 0 or under.shape != solid.shape:
            return False
        taken = np.bincount(under[solid], minlength=len(self.boxes) + 2).tolist()
        total = int(solid.sum())
        seen = [before - lost for before, lost in zip(self.visible, taken[2:], strict=True)]
        if any(now < _LEAST_VISIBLE * all_ for now, all_ in zip(seen, self.silhouettes, strict=True)):
            return False
        if total - taken[_OUTSIDE] < _LEAST_INSIDE * total:
            return False
        under[solid & (under != _OUTSIDE)] = len(self.boxes) + 2
        self._paint(sprite, window)
        self.boxes.append(sprite.box + np.array([column, row, column, row]))
        self.labels.append(sprite.label)
        self.silhouettes.append(total)
        self.visible[:] = [*seen, total - taken[_OUTSIDE]]
        return True

    def _paint(self, sprite: Sprite, window: tuple[slice, slice]) -> None:
        """Draw a soft shadow to the lower right, then the object."""
        drop = max(1, round(0.04 * max(sprite.cover.shape)))
        shadow = cv2.GaussianBlur(sprite.cover, (0, 0), 0.7 * drop + 0.3, borderType=cv2.BORDER_CONSTANT)
        beside = self.canvas[tuple(slice(side.start + drop, side.stop + drop) for side in window)]
        shade = np.float32(1) - np.float32(0.4) * shadow[: beside.shape[0], : beside.shape[1]]
        beside[:] = beside * _thrice(shade)
        view = self.canvas[window]
        view[:] = view + (sprite.colour - view) * _thrice(sprite.cover) + np.float32(0.5)


def compose(rng: np.random.Generator, size: int) -> Scene:
    """Draw a background with one to eight objects, later ones over earlier ones."""
    backdrop = _backdrop(rng, size)
    _clutter(rng, backdrop)
    scene = Scene.on(backdrop)
    unit = size / _USUAL
    for _ in range(int(rng.integers(1, 9))):
        length = rng.uniform(_SHORTEST + 0.5, _LONGEST - 0.5)
        sprite = draw_sprite(rng, int(rng.integers(len(NAMES))), length * unit)
        extent = np.array(sprite.cover.shape[::-1])
        over = 0.2 * extent if rng.random() < 0.2 and length > 1.5 * _SHORTEST else 0  # px the border may cut off
        for trial in range(8):
            beyond = over * (trial < 6)  # the last trials fit, so the first object is always placed
            column, row = rng.uniform(-beyond, size - extent + beyond, 2).round().astype(int).tolist()
            if scene.place(sprite, column, row):
                break
    return scene


def draw_picture(rng: np.random.Generator, size: int) -> tuple[Picture, NDArray[np.float64], NDArray[np.int64]]:
    """Draw one picture: uint8 BGR [size, size, 3], boxes [N, 4] in px, labels [N] into NAMES; N is 1 to 8.

    At 320 px the longer sides of the boxes are uniformly distributed from 16 to 160 px; they scale with the size.
    At least two fifths of each silhouette are visible.
    """
    scene = compose(rng, size)
    boxes = geometry.clip(np.stack(scene.boxes), size, size)
    return _expose(rng, scene.inside), boxes.astype(np.float64), np.array(scene.labels, np.int64)


def draw_set(root: Path, train: int = 400, val: int = 40, test: int = 100, size: int = 320, seed: int = 0) -> Path:
    """Write a dataset in COCO format (``images/train/000001.jpg``, ``annotations/train.json`` ...); return its folder.

    Every picture has its own random generator, seeded with (seed, split, number), so it does not depend on the others.

    Raises:
        UsageError: a size, count or seed is too small.
    """
    if size < 64 or seed < 0 or min(train, val, test) < 0:
        raise UsageError(
            f"cannot draw {train}/{val}/{test} pictures of {size} px with seed {seed}: "
            "sizes must be at least 64 px, counts and seeds at least 0"
        )
    for index, (split, count) in enumerate(zip(SPLITS, (train, val, test), strict=True)):
        if not count:
            continue
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number in range(1, count + 1):
            picture, boxes, labels = draw_picture(np.random.default_rng([seed, index, number]), size)
            name = f"{split}/{number:06d}.jpg"
            write_picture(root / "images" / name, picture)
            images.append({"id": number, "file_name": name, "width": size, "height": size})
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        _write_coco(root / "annotations" / f"{split}.json", images, annotations)
    _log.info("drew %d pictures of %d px into %s", train + val + test, size, root)
    return root


def _write_coco(path: Path, images: list[dict[str, object]], annotations: list[dict[str, object]]) -> None:
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(whole), encoding="utf-8")
