"""Large pictures in overlapping tiles, so that small things stay large enough to be found.

Every tile is as large as the network's input times a scale, and the whole picture is looked at once more for what is
too large for a tile. An object that a tile's inner border cuts is taken from where it is seen whole: tiles overlap, so
that whatever is smaller than the overlap is whole in one of them. What nothing shows whole is joined from its pieces.
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

MARGIN = 0.01  # of a tile's side: a box that ends so near an inner border may go on behind it
MOST = 10_000  # tiles of a picture: one look at each takes minutes
PIECE = 0.5  # IoU of a cut box with what its tile shows of another, from which both are of one object


@dataclass(frozen=True)
class Tile:
    """A part of a picture: x1 y1 x2 y2 in whole px."""

    x1: int
    y1: int
    x2: int
    y2: int

    def inner(self, height: int, width: int) -> NDArray[np.bool_]:
        """Which of its sides (left, top, right, bottom) lie inside the picture: [4]."""
        return np.array([self.x1 > 0, self.y1 > 0, self.x2 < width, self.y2 < height])


class Tiled:
    """A predictor that looks at large pictures in tiles: ``Tiled(nanogfl.load("model.onnx")).predict("map.png")``.

    Args:
        predictor: from ``nanogfl.load``.
        scale: picture px that one px of the network's input covers in a tile; above 1 shrinks.
        overlap: which part of a tile's side it shares with the next one at least, 0 to 0.9.
    """

    def __init__(self, predictor: Predicts, scale: float = 1.0, overlap: float = 0.25) -> None:
        if not 0.05 <= scale <= 100:
            raise UsageError(f"--tile-scale {scale:g}: give 0.05 to 100; 1 shows tiles as they are")
        if not 0 <= overlap <= 0.9:
            raise UsageError(f"--tile-overlap {overlap:g}: give a part of the tile, 0 to 0.9")
        self.predictor, self.scale, self.overlap = predictor, scale, overlap
        self.names, self.input_size = predictor.names, predictor.input_size

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 1000
    ) -> Detections:
        """Detect in one picture: a path, or uint8 BGR [H, W, 3]; at most ``max_boxes`` in the whole of it."""
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
        """The tiles of a picture of (H, W), rows first, evenly spread; one where it is no larger than a tile.

        Raises:
            UsageError: there would be too many to look at.
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
        """Detections in a tile, in the picture's px."""
        part = np.ascontiguousarray(picture[tile.y1 : tile.y2, tile.x1 : tile.x2])
        found = self.predictor.predict(part, score, iou=iou, max_boxes=max_boxes)
        moved = found.boxes + np.array([tile.x1, tile.y1, tile.x1, tile.y1], np.float32)
        return Detections(moved, found.scores, found.labels, found.names, found.side_sigma)


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """Starts and ends of as few stretches of ``side`` px as cover ``length`` with at least this overlap."""
    if length <= side:
        return [(0, length)]
    shared = min(int(np.ceil(overlap * side)), side - 1)
    count = -(-(length - shared) // (side - shared))
    starts = (np.arange(count) * (length - side)) // (count - 1)
    return [(int(start), int(start) + side) for start in starts]


def _cut(boxes: NDArray[np.float32], tile: Tile, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes end at a border of their tile that lies inside the picture: [N]."""
    edges = np.array([tile.x1, tile.y1, tile.x2, tile.y2])
    margin = np.tile(np.maximum(MARGIN * (edges[2:] - edges[:2]), 1.0), 2)
    return np.any((np.abs(boxes - edges) < margin) & tile.inner(*size), axis=1)


def _joined(parts: Sequence[Detections], names: list[str]) -> Detections:
    """All parts as one, not sorted."""
    sigmas = [part.side_sigma for part in parts if part.side_sigma is not None]
    return Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        names,
        np.concatenate(sigmas) if len(sigmas) == len(parts) else None,
    )


def _merge(found: Detections, cut: NDArray[np.bool_], edges: NDArray[np.float32], limits: Thresholds) -> Detections:
    """One box an object: whole ones by NMS, then those joined from cut ones that are no piece of a whole one.

    ``edges``: of the tile of each detection [N, 4].
    """
    everything = Thresholds(limits.score, limits.iou, len(found))
    whole = np.flatnonzero(~cut)
    whole = whole[nms(found.boxes[whole], found.scores[whole], found.labels[whole], everything)]
    pieces = np.array([i for i in np.flatnonzero(cut).tolist() if not _is_piece(i, found, whole, edges)], np.intp)
    parts = [found.select(whole), *(_hull(found.select(group)) for group in _groups(pieces, found, edges))]
    rest = _joined(parts, found.names)
    return rest.select(nms(rest.boxes, rest.scores, rest.labels, limits))


def _is_piece(i: int, found: Detections, whole: NDArray[np.intp], edges: NDArray[np.float32]) -> bool:
    """Whether detection ``i`` is what its tile shows of one of the whole ones of its class."""
    same = found.boxes[whole[found.labels[whole] == found.labels[i]]]
    return bool((box_math.iou(found.boxes[[i]], _shown(same, edges[i])) > PIECE).any())


def _groups(pieces: NDArray[np.intp], found: Detections, edges: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """Which of these cut detections are of one object: they agree about what both their tiles show."""
    group_of: dict[int, list[int]] = {}
    for number, i in enumerate(pieces.tolist()):
        linked = {id(group_of[k]): group_of[k] for k in _agreeing(i, pieces[:number], found, edges)}
        group = [i, *(k for other in linked.values() for k in other)]
        group_of.update(dict.fromkeys(group, group))
    return [np.array(group, np.intp) for group in {id(group): group for group in group_of.values()}.values()]


def _agreeing(i: int, others: NDArray[np.intp], found: Detections, edges: NDArray[np.float32]) -> list[int]:
    """Those of the others that are of another tile and one object with ``i``; all at once, for there are thousands."""
    near = others[(found.labels[others] == found.labels[i]) & (edges[others] != edges[i]).any(axis=1)]
    mine, theirs = _shown(found.boxes[[i]], edges[near]), _shown(found.boxes[near], edges[i])
    shared = box_math.areas(_shown(mine, theirs))
    union = box_math.areas(mine) + box_math.areas(theirs) - shared
    return near[shared > PIECE * union].tolist()


def _hull(group: Detections) -> Detections:
    """The box around them all, with the best score; each side's deviation is from the box that reaches farthest."""
    farthest = np.append(group.boxes[:, :2].argmin(axis=0), group.boxes[:, 2:].argmax(axis=0))
    box = group.boxes[farthest, range(4)][None]
    sigma = None if group.side_sigma is None else group.side_sigma[farthest, range(4)][None]
    return Detections(box, group.scores.max(keepdims=True), group.labels[:1], group.names, sigma)


def _shown(boxes: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes [N, 4] as one tile of these edges [4] shows them, or one each [N, 4]; inverted where it shows nothing."""
    return np.concatenate([np.maximum(boxes[:, :2], edges[..., :2]), np.minimum(boxes[:, 2:], edges[..., 2:])], axis=1)
