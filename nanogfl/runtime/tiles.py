"""Detection in overlapping tiles of large pictures, so that small objects remain large enough to be found.

Every tile has the size of the network's input times a scale. The whole picture is processed once more for objects that
are too large for a tile. If a tile's inner border cuts an object, its box comes from a tile that contains the whole
object; there always is one for objects smaller than the overlap. Other objects are joined from their pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.decode import Thresholds, nms
from nanogfl.detections import Detections
from nanogfl.errors import UsageError
from nanogfl.pictures import Picture, as_picture
from nanogfl.runtime.predict import Predicts

MARGIN = 0.01  # fraction of a tile's side: a box that ends this close to an inner border may continue beyond it
MOST = 10_000  # tiles of a picture; processing this many takes minutes
PIECE = 0.5  # minimum IoU of a cut box with the part of another box inside its tile for both to be one object


@dataclass(frozen=True)
class Tile:
    """A part of a picture: x1 y1 x2 y2 in integer px."""

    x1: int
    y1: int
    x2: int
    y2: int

    def inner(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return which sides of the tile (left, top, right, bottom) lie inside the picture: [4]."""
        return np.array([self.x1 > 0, self.y1 > 0, self.x2 < width, self.y2 < height])


class Tiled:
    """A predictor that processes large pictures in tiles: ``Tiled(nanogfl.load("model.onnx")).predict("map.png")``.

    Args:
        predictor: from ``nanogfl.load``.
        scale: picture px per px of the network's input; above 1, tiles are shrunk.
        overlap: minimum fraction of a tile's side that it shares with the next tile, 0 to 0.9.
    """

    def __init__(self, predictor: Predicts, scale: float = 1.0, overlap: float = 0.25) -> None:
        if not 0.05 <= scale <= 100:
            raise UsageError(f"--tile-scale {scale:g}: use 0.05 to 100; 1 does not resize tiles")
        if not 0 <= overlap <= 0.9:
            raise UsageError(f"--tile-overlap {overlap:g}: must be a fraction from 0 to 0.9")
        self.predictor, self.scale, self.overlap = predictor, scale, overlap
        self.names, self.input_size = predictor.names, predictor.input_size

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 1000
    ) -> Detections:
        """Detect objects in one picture: a path, or uint8 BGR [H, W, 3]; at most ``max_boxes`` in the whole picture."""
        picture = as_picture(source)
        size = picture.shape[:2]
        tiles = self.tiles(size)
        if len(tiles) == 1:
            return self.predictor.predict(picture, score, iou=iou, max_boxes=max_boxes)
        tiles.append(Tile(0, 0, size[1], size[0]))
        parts = [self._look(picture, tile, score, iou, max_boxes) for tile in tiles]
        cut = np.concatenate([_cut(part.boxes, tile, size) for part, tile in zip(parts, tiles, strict=True)])
        tile_of = np.repeat(np.arange(len(tiles)), [len(part) for part in parts])
        edges = np.array([(tile.x1, tile.y1, tile.x2, tile.y2) for tile in tiles], np.float32)[tile_of]
        return _merge(_joined(parts, self.names), cut, edges, Thresholds(score, iou, max_boxes))

    def tiles(self, size: tuple[int, int]) -> list[Tile]:
        """Return the evenly spaced tiles of a picture of (H, W), row by row; a single tile if the picture fits into it.

        Raises:
            UsageError: there would be more than MOST tiles.
        """
        sides = (max(1, round(side * self.scale)) for side in self.input_size)
        rows, columns = (_spans(length, side, self.overlap) for length, side in zip(size, sides, strict=True))
        if len(rows) * len(columns) > MOST:
            raise UsageError(
                f"--tile-scale {self.scale:g} with --tile-overlap {self.overlap:g} makes {len(rows) * len(columns)} "
                f"tiles of a picture of {size[1]}x{size[0]} px, more than {MOST}; raise the scale or lower the overlap"
            )
        return [Tile(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]

    def _look(self, picture: Picture, tile: Tile, score: float, iou: float, max_boxes: int) -> Detections:
        """Detect objects in a tile; return the detections in px of the picture."""
        part = np.ascontiguousarray(picture[tile.y1 : tile.y2, tile.x1 : tile.x2])
        found = self.predictor.predict(part, score, iou=iou, max_boxes=max_boxes)
        moved = found.boxes + np.array([tile.x1, tile.y1, tile.x1, tile.y1], np.float32)
        return Detections(moved, found.scores, found.labels, found.names, found.side_sigma)


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """Return (start, end) of the fewest spans of ``side`` px that cover ``length`` px with at least this overlap."""
    if length <= side:
        return [(0, length)]
    shared = min(int(np.ceil(overlap * side)), side - 1)
    count = -(-(length - shared) // (side - shared))
    starts = (np.arange(count) * (length - side)) // (count - 1)
    return [(int(start), int(start) + side) for start in starts]


def _cut(boxes: NDArray[np.float32], tile: Tile, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which boxes end at a border of their tile that lies inside the picture: [N]."""
    edges = np.array([tile.x1, tile.y1, tile.x2, tile.y2])
    margin = np.tile(np.maximum(MARGIN * (edges[2:] - edges[:2]), 1.0), 2)
    return np.any((np.abs(boxes - edges) < margin) & tile.inner(*size), axis=1)


def _joined(parts: Sequence[Detections], names: list[str]) -> Detections:
    """Concatenate detections without sorting them."""
    sigmas = [part.side_sigma for part in parts if part.side_sigma is not None]
    return Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        names,
        np.concatenate(sigmas) if len(sigmas) == len(parts) else None,
    )


def _merge(found: Detections, cut: NDArray[np.bool_], edges: NDArray[np.float32], limits: Thresholds) -> Detections:
    """Return one box per object: whole boxes after NMS, and boxes joined from cut ones that belong to no whole box.

    ``edges`` [N, 4] are those of the tile of each detection.
    """
    everything = Thresholds(limits.score, limits.iou, len(found))
    whole = np.flatnonzero(~cut)
    whole = whole[nms(found.boxes[whole], found.scores[whole], found.labels[whole], everything)]
    pieces = np.array([i for i in np.flatnonzero(cut).tolist() if not _is_piece(i, found, whole, edges)], np.intp)
    parts = [found.select(whole), *(_hull(found.select(group)) for group in _groups(pieces, found, edges))]
    rest = _joined(parts, found.names)
    return rest.select(nms(rest.boxes, rest.scores, rest.labels, limits))


def _is_piece(i: int, found: Detections, whole: NDArray[np.intp], edges: NDArray[np.float32]) -> bool:
    """Return whether detection ``i`` matches the part inside its tile of a whole box of its class."""
    same = found.boxes[whole[found.labels[whole] == found.labels[i]]]
    return bool((box_math.iou(found.boxes[[i]], _shown(same, edges[i])) > PIECE).any())


def _groups(pieces: NDArray[np.intp], found: Detections, edges: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """Group these cut detections by object: those of one object agree in the area that both their tiles show."""
    group_of: dict[int, list[int]] = {}
    for number, i in enumerate(pieces.tolist()):
        linked = {id(group_of[k]): group_of[k] for k in _agreeing(i, pieces[:number], found, edges)}
        group = [i, *(k for other in linked.values() for k in other)]
        group_of.update(dict.fromkeys(group, group))
    return [np.array(group, np.intp) for group in {id(group): group for group in group_of.values()}.values()]


def _agreeing(i: int, others: NDArray[np.intp], found: Detections, edges: NDArray[np.float32]) -> list[int]:
    """Return those of the others that are from another tile and of the same object as ``i``.

    The computation is vectorised, because there may be thousands.
    """
    near = others[(found.labels[others] == found.labels[i]) & (edges[others] != edges[i]).any(axis=1)]
    mine, theirs = _shown(found.boxes[[i]], edges[near]), _shown(found.boxes[near], edges[i])
    shared = box_math.areas(_shown(mine, theirs))
    union = box_math.areas(mine) + box_math.areas(theirs) - shared
    return near[shared > PIECE * union].tolist()


def _hull(group: Detections) -> Detections:
    """Return the box around the group, with its best score; each side has the deviation of the outermost box there."""
    farthest = np.append(group.boxes[:, :2].argmin(axis=0), group.boxes[:, 2:].argmax(axis=0))
    box = group.boxes[farthest, range(4)][None]
    sigma = None if group.side_sigma is None else group.side_sigma[farthest, range(4)][None]
    return Detections(box, group.scores.max(keepdims=True), group.labels[:1], group.names, sigma)


def _shown(boxes: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Crop boxes [N, 4] to the edges of one tile [4] or of one each [N, 4]; a box outside its tile becomes inverted."""
    return np.concatenate([np.maximum(boxes[:, :2], edges[..., :2]), np.minimum(boxes[:, 2:], edges[..., 2:])], axis=1)
