"""Drawing of detections, ground truth and contact sheets onto copies of pictures."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanogfl.detections import Detections
from nanogfl.pictures import Picture

Color = tuple[int, int, int]
"""Blue, green, red, each 0 to 255."""

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BACKGROUND, GAP = (38, 36, 34), (22, 21, 20)
FIRST = (255, 153, 0)  # azure: rare in pictures, and unlike skin colours
CHOSEN = 128  # classes whose colours are chosen to be far apart; the others are only different
HAS_FONTS = hasattr(cv2, "FontFace")  # OpenCV 5 draws any script, OpenCV 4 only ASCII

# Colours as seen without one type of cone, as matrices on linear RGB: none missing, protan, deutan, tritan.
# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009.
COLOUR_VISION = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    np.float32,
)


def class_color(label: int) -> Color:
    """Return the fixed colour of a class, far from the colours of lower labels, also with colour-blind vision.

    About 1800 classes have different colours; after that, the colours repeat.
    """
    palette = _palette()
    blue, green, red = palette[label % len(palette)]
    return int(blue), int(green), int(red)


def draw_detections(
    picture: Picture,
    detections: Detections,
    *,
    ids: Sequence[int] | None = None,
    show_boxes: bool = True,
    show_labels: bool = True,
    show_scores: bool = True,
    show_sigma: bool = False,
) -> Picture:
    """Draw boxes and class names onto a copy of the picture (uint8 BGR [H, W, 3]), the best on top.

    Args:
        picture: the picture in which the objects were detected.
        detections: detections with boxes in px of the picture.
        ids: ids of tracked objects, [N], written after the name; 0 means no id.
        show_boxes: draw the outlines.
        show_labels: write the names.
        show_scores: write the score after the name.
        show_sigma: blur each side by its standard deviation, if the detections include it.
    """
    canvas = picture.copy()
    scale = _scale(picture)
    colors = [class_color(int(label)) for label in detections.labels]
    worst_first = range(len(detections) - 1, -1, -1)
    for i in worst_first:
        if show_sigma and detections.side_sigma is not None:
            _blur_sides(canvas, detections.boxes[i], detections.side_sigma[i], colors[i])
        if show_boxes:
            _outline(canvas, detections.boxes[i], colors[i], scale)
    if not show_labels:
        return canvas
    names = [_written(detections.names[label], int(label)) for label in detections.labels]
    if ids is not None:
        names = [f"{name} #{number}" if number else name for name, number in zip(names, ids, strict=True)]
    scores = [f" {score:.2f}" if show_scores else "" for score in detections.scores]
    tags = [_tag(name + score, color, scale) for name, score, color in zip(names, scores, colors, strict=True)]
    half_line = np.array([-1, -1, 1, 1]) * (scale + 1)
    corners = _place(tags, detections.boxes + half_line, picture.shape[:2])
    for i in worst_first:
        _paste(canvas, tags[i], *corners[i])
    return canvas


def draw_panel(picture: Picture, lines: Sequence[str]) -> Picture:
    """Write lines of text onto a shaded panel in the lower left corner of a copy, where box names are rare."""
    canvas = picture.copy()
    size = max(9, round(13 * _scale(picture)))
    chips = [_chip(_written(line, 0), size, size // 2, BLACK, WHITE) for line in lines]
    wide, high = max((chip.shape[1] for chip in chips), default=0), sum(chip.shape[0] for chip in chips)
    y = max(0, len(canvas) - high - size // 3)
    part = canvas[y - min(y, size // 3) :, :wide]
    part[:] = part // 4 + np.array(BACKGROUND, np.uint8) // 4 * 3
    for chip in chips:
        ground = canvas[y : y + chip.shape[0], : chip.shape[1]]
        np.maximum(ground, chip[: ground.shape[0], : ground.shape[1]], out=ground)
        y += chip.shape[0]
    return canvas


def draw_truth(
    picture: Picture, boxes: NDArray[np.floating], labels: NDArray[np.integer], names: Sequence[str]
) -> Picture:
    """Draw ground-truth boxes onto a copy: thin white and black dashes, small white names in lower left corners.

    Detections drawn on top remain distinguishable from the ground truth.
    """
    canvas = picture.copy()
    height, width = picture.shape[:2]
    scale = _scale(picture)
    for box in boxes:
        _dash(canvas, box, max(1, round(scale)), max(3, round(5 * scale)))
    for box, label in zip(boxes, labels, strict=True):
        tag = _tag(_written(names[int(label)], int(label)), WHITE, 0.8 * scale)
        x, y = round(float(box[0])), round(float(box[3])) - tag.shape[0]
        _paste(canvas, tag, min(x, width - tag.shape[1]), min(y, height - tag.shape[0]))
    return canvas


def draw_sheet(pictures: Sequence[Picture], columns: int, cell: int) -> Picture:
    """Arrange pictures in rows: uint8 BGR, each fitted into a dark grey cell, with thin gaps between the cells.

    Args:
        pictures: uint8 BGR, any sizes; at least one.
        columns: cells in a row.
        cell: longer side of a fitted picture in px; all cells have the size of the widest and the highest of these.
    """
    if not pictures or columns < 1 or cell < 1:
        raise ValueError("a sheet needs pictures, columns and a cell size")
    fitted = [to_side(picture, cell) for picture in pictures]
    high, wide = (max(picture.shape[axis] for picture in fitted) for axis in (0, 1))
    gap = max(1, cell // 80)
    step_y, step_x = high + gap, wide + gap
    columns = min(columns, len(fitted))
    rows = -(-len(fitted) // columns)
    sheet = np.full((rows * step_y + gap, columns * step_x + gap, 3), GAP, np.uint8)
    for i, picture in enumerate(fitted):
        x, y = gap + i % columns * step_x, gap + i // columns * step_y
        sheet[y : y + high, x : x + wide] = BACKGROUND
        _paste(sheet, picture, x + (wide - picture.shape[1]) // 2, y + (high - picture.shape[0]) // 2)
    return sheet


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    """Return all vivid colours, uint8 BGR [P, 3]: CHOSEN ones, each farthest from those before it, then the others."""
    levels = np.arange(0, 256, 17)
    bgr = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.uint8)
    linear = _linear(bgr)[:, ::-1]
    seen = np.einsum("eij,nj->nei", COLOUR_VISION, linear).clip(0, 1)
    lab = cv2.cvtColor(np.ascontiguousarray(seen, np.float32), cv2.COLOR_LRGB2Lab)  # [P, eyes, L a b]
    lightness, chroma = lab[:, 0, 0], np.hypot(lab[:, 0, 1], lab[:, 0, 2])
    vivid = (lightness > 45) & (lightness < 90) & (chroma > 45)
    bgr, lab = bgr[vivid], np.ascontiguousarray(lab[vivid].transpose(2, 1, 0))
    order = [int((bgr == FIRST).all(axis=1).argmax())]
    distance = np.full(len(bgr), np.inf)
    for _ in range(CHOSEN - 1):
        to_last = ((lab - lab[:, :, order[-1:]]) ** 2).sum(axis=0)
        distance = np.minimum(distance, to_last.min(axis=0))  # in the vision that distinguishes the two colours least
        order.append(int(distance.argmax()))
    rest = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(bgr)), order))
    return bgr[np.concatenate([order, rest])]


def _linear(color: ArrayLike) -> NDArray[np.float64]:
    """Convert sRGB values, 0 to 255, to linear light, 0 to 1."""
    part = np.asarray(color, np.float64) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def _ink(background: Color) -> Color:
    """Return black or white, whichever has the higher WCAG contrast to the background (at least 4.5 to 1)."""
    luminance = float(_linear(background) @ (0.0722, 0.7152, 0.2126))
    return BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else WHITE


def _scale(picture: Picture) -> float:
    """Return the scale of lines and text for a picture: 1 at 640 x 480, at least 0.7 so that text is readable."""
    return max(0.7, (picture.shape[0] * picture.shape[1] / (640 * 480)) ** 0.5)


def _written(name: str, label: int) -> str:
    """Return a name as OpenCV can draw it, on one line; without fonts, remove accents or use the label's number."""
    name = " ".join(name.split()).encode(errors="replace").decode()  # OpenCV crashes on a lone surrogate
    if HAS_FONTS or name.isascii():
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()
    return plain if any(c.isalnum() for c in plain) else f"#{label}"


def _chip(text: str, size: int, margin: int, background: Color, ink: Color) -> Picture:
    """Render one line of text, ``size`` px high, as a small picture with a margin (px) at both ends."""
    high, start = round(1.3 * size), (margin, size)
    if HAS_FONTS:
        face = cv2.FontFace("sans")
        wide = cv2.getTextSize((0, 0), text, (0, 0), face, size, 600)[2]
        chip = np.full((high, wide + 2 * margin, 3), background, np.uint8)
        cv2.putText(chip, text, start, ink, face, size, 600)
        return chip
    face, scale, line = cv2.FONT_HERSHEY_SIMPLEX, size / 30, max(1, round(size / 11))
    (wide, _), _ = cv2.getTextSize(text, face, scale, line)
    chip = np.full((high, wide + 2 * margin, 3), background, np.uint8)
    return np.asarray(cv2.putText(chip, text, start, face, scale, ink, line, cv2.LINE_AA), np.uint8)


def _tag(text: str, color: Color, scale: float) -> Picture:
    size = max(9, round(13 * scale))
    chip = _chip(text, size, max(2, size // 3), color, _ink(color))
    chip[[0, -1]] = chip[:, [0, -1]] = _shade(color)  # separates the tag from neighbours of the same class
    return chip


def _shade(color: Color) -> Color:
    return color[0] // 5, color[1] // 5, color[2] // 5


def _paste(canvas: Picture, patch: Picture, x: int, y: int) -> None:
    """Copy a small picture to x, y (negative values become 0), cropped to the canvas."""
    x, y = max(x, 0), max(y, 0)
    part = canvas[y : y + patch.shape[0], x : x + patch.shape[1]]
    part[:] = patch[: part.shape[0], : part.shape[1]]


def _place(tags: Sequence[Picture], boxes: NDArray[np.floating], frame: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return corners x, y for the tags, best first: each covers as little of earlier tags as possible."""
    taken = np.zeros((0, 4))
    for tag, box in zip(tags, boxes, strict=True):
        spots = _spots(tag.shape[0], tag.shape[1], box, frame)
        inner = np.minimum(spots[:, None, 2:], taken[:, 2:]) - np.maximum(spots[:, None, :2], taken[:, :2])
        hidden = inner.clip(0).prod(axis=2).sum(axis=1)
        taken = np.concatenate([taken, spots[[hidden.argmin()]]])
    return [(int(x), int(y)) for x, y in taken[:, :2]]


def _spots(high: int, wide: int, box: NDArray[np.floating], frame: tuple[int, ...]) -> NDArray[np.float64]:
    """Return places for a tag, x1 y1 x2 y2, best first: above, inside if there is room, below; left before right."""
    x1, y1, x2, y2 = np.round(box)
    inside = [(x1, y1), (x2 - wide, y1), (x1, y2 - high), (x2 - wide, y2 - high)]
    outside = [(x1, y1 - high), (x2 - wide, y1 - high), (x1, y2), (x2 - wide, y2)]
    roomy = x2 - x1 > 1.3 * wide and y2 - y1 > 3 * high
    corners = np.array([outside[0], inside[0], *outside[1:], *inside[1:]] if roomy else outside + inside)
    corners = np.minimum(corners, (frame[1] - wide, frame[0] - high)).clip(0)
    return np.concatenate([corners, corners + np.array([wide, high])], axis=1)


def _outline(canvas: Picture, box: NDArray[np.floating], color: Color, scale: float) -> None:
    """Draw a box's outline with a dark rim, so that it is visible on any background, wholly inside the picture."""
    line, rim = max(1, round(2 * scale)), max(1, round(scale / 2))
    limit = np.array([canvas.shape[1], canvas.shape[0]])
    first, last = np.floor(box[:2] - (line - 1) / 2), np.ceil(box[2:] + (line - 1) / 2)
    first, last = np.minimum(first.clip(0), limit).astype(int), np.minimum(last.clip(0), limit).astype(int)
    for grown, width, paint in ((rim, line + 2 * rim, _shade(color)), (0, line, color)):
        x1, y1 = (first - grown).clip(0)
        x2, y2 = last + grown
        part = canvas[y1:y2, x1:x2]
        part[:width] = part[-width:] = part[:, :width] = part[:, -width:] = paint


def _blur_sides(canvas: Picture, box: NDArray[np.floating], sigma: NDArray[np.floating], color: Color) -> None:
    """Shade the surroundings of each side with the density of a normal distribution of the side's position."""
    x1, y1, x2, y2 = (float(v) for v in box)
    across = canvas.transpose(1, 0, 2)  # a transposed view: columns as rows
    sides = ((across, x1, (y1, y2)), (canvas, y1, (x1, x2)), (across, x2, (y1, y2)), (canvas, y2, (x1, x2)))
    for (view, at, (start, end)), spread in zip(sides, sigma, strict=True):
        spread = max(float(spread), 0.5)
        near, far = max(int(at - 3 * spread), 0), max(int(at + 3 * spread) + 1, 0)
        strip = view[near:far, max(round(start), 0) : max(round(end), 0)]
        centres = near + np.arange(len(strip)) + 0.5
        cover = 0.7 * np.exp(-0.5 * ((centres - at) / spread) ** 2)[:, None, None]
        strip[:] = (strip * (1 - cover) + cover * color).round().astype(np.uint8)


def _dash(canvas: Picture, box: NDArray[np.floating], line: int, dash: int) -> None:
    """Draw white and black dashes along the four sides, inside the box; ``line`` and ``dash`` are in px."""
    x1, y1, x2, y2 = np.round(box).clip(0).astype(int)
    part = canvas[y1:y2, x1:x2]
    down, across = (np.where(np.arange(length) // dash % 2, 0, 255)[:, None] for length in part.shape[:2])
    part[:line] = part[-line:] = across
    part[:, :line] = part[:, -line:] = down[:, None]


def to_side(picture: Picture, side: int) -> Picture:
    """Resize the picture so that its longer side has ``side`` px."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8)
