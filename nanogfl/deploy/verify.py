"""Whether two models find the same boxes, on real or drawn pictures: the proof that an export carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from nanogfl.boxes import iou
from nanogfl.decode import Thresholds, sigmoid
from nanogfl.detections import Detections
from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, read_picture
from nanogfl.predictor import Predictor, TorchDetector
from nanogfl.runtime.session import OnnxDetector, open_session
from nanogfl.view import View, normalise

BOX_PX, SCORE = 0.5, 1e-3
ENOUGH_BOXES = 200
LIMITS = Thresholds(score=0.05)


@dataclass
class Parity:
    """What a comparison found.

    Attributes:
        pictures, boxes: compared.
        box_px, score: largest differences of matched boxes.
        one_sided: boxes that only one model has, and whose score is not at the threshold.
        raw: largest difference of the networks' raw outputs; None where they cannot be had.
        worst: one line for each picture beyond the bar.
    """

    pictures: int = 0
    boxes: int = 0
    box_px: float = 0.0
    score: float = 0.0
    one_sided: int = 0
    raw: float | None = None
    worst: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the two are the same detector."""
        return not self.worst and (self.raw is None or self.raw <= 10 * SCORE)

    def to_json(self) -> dict[str, Any]:
        """Numbers as they are stored in the file."""
        rounded = {"box_px": round(self.box_px, 5), "score": round(self.score, 7)}
        raw = None if self.raw is None else round(self.raw, 7)
        return {"pictures": self.pictures, "boxes": self.boxes, **rounded, "one_sided": self.one_sided, "raw": raw}

    def to_text(self) -> str:
        """One line for people."""
        few = "" if self.boxes >= ENOUGH_BOXES else f" (fewer than {ENOUGH_BOXES}: give --data with more objects)"
        raw = "not compared" if self.raw is None else f"{self.raw:.2g}"
        return (
            f"{self.pictures} pictures, {self.boxes} boxes compared{few}: largest difference {self.box_px:.4f} px, "
            f"score {self.score:.2g}, raw outputs {raw}, {self.one_sided} on one side only"
        )


def compare(a: Predictor, b: Predictor, pictures: Iterable[tuple[str, Picture]], limits: Thresholds = LIMITS) -> Parity:
    """Run both models on each picture and match their boxes by class and IoU.

    Raises:
        UsageError: the models have different classes.
    """
    if list(a.names) != list(b.names):
        raise UsageError(
            f"the two models have different classes ({', '.join(a.names[:4])}... and {', '.join(b.names[:4])}...)"
        )
    parity, raws = Parity(), RawPair.of(a, b)
    for name, picture in pictures:
        first, second = (m.predict(picture, limits.score, iou=limits.iou, max_boxes=limits.max_boxes) for m in (a, b))
        parity.pictures += 1
        _match(parity, name, first, second, limits)
        if raws is not None:
            parity.raw = max(parity.raw or 0.0, raws.difference(picture))
    return parity


def _match(parity: Parity, name: str, a: Detections, b: Detections, limits: Thresholds) -> None:
    """Greedy by IoU within a class, best scores first."""
    overlap = iou(a.boxes, b.boxes) * (a.labels[:, None] == b.labels[None])
    free = np.ones(len(b), bool)
    lonely: list[float] = []
    box = score = 0.0
    for i in range(len(a)):
        candidates = np.where(free, overlap[i], 0)
        j = int(candidates.argmax()) if len(b) else -1
        if j < 0 or candidates[j] < 0.5:
            lonely.append(float(a.scores[i]))
            continue
        free[j] = False
        box = max(box, float(np.abs(a.boxes[i] - b.boxes[j]).max()))
        score = max(score, float(abs(a.scores[i] - b.scores[j])))
        parity.boxes += 1
    lonely += b.scores[free].tolist()
    floor = max(limits.score, *(d.scores[-1] for d in (a, b) if len(d) == limits.max_boxes), 0) + SCORE
    beyond = sum(s > floor for s in lonely)
    parity.box_px, parity.score = max(parity.box_px, box), max(parity.score, score)
    parity.one_sided += beyond
    if box > BOX_PX or score > SCORE or beyond:
        parity.worst.append(f"{name}: boxes differ by {box:.3f} px, scores by {score:.2g}, {beyond} on one side only")


@dataclass
class RawPair:
    """The raw logits of two models for one picture, where both can be had."""

    a: Predictor
    b: Predictor
    sessions: dict[int, Any]

    @staticmethod
    def of(a: Predictor, b: Predictor) -> RawPair | None:
        """Prepare both; None where the networks see different inputs."""
        if a.input_size != b.input_size or _rule(a) != _rule(b):
            return None
        return RawPair(a, b, {id(m): _with_logits(m) for m in (a, b) if isinstance(m, OnnxDetector)})

    def difference(self, picture: Picture) -> float:
        """Largest difference of any logit's sigmoid or side logit."""
        first, second = self._raw(self.a, picture), self._raw(self.b, picture)
        classes = len(self.a.names)
        return float(
            max(
                np.abs(sigmoid(first[:, :classes]) - sigmoid(second[:, :classes])).max(initial=0),
                np.abs(first[:, classes:] - second[:, classes:]).max(initial=0) / 10,
            )
        )

    def _raw(self, model: Predictor, picture: Picture) -> NDArray[np.float32]:
        view = View(picture.shape[:2], model.input_size, _rule(model))
        if isinstance(model, TorchDetector):
            return model.raw(normalise(view.apply(picture))[None])[0]
        assert isinstance(model, OnnxDetector)
        resized = view.apply(picture).transpose(2, 0, 1)[None].copy()
        if model.card.form == "core":
            return model.raw(resized)
        image = picture if model.card.form == "frame" else resized
        classes, sides = self.sessions[id(model)].run(["class_logits", "side_logits"], {"image": image})
        return np.concatenate([classes[0], sides[0]]).T


def _rule(model: Predictor) -> str:
    return model.card.resize  # type: ignore[attr-defined]


def _with_logits(model: OnnxDetector) -> Any:
    """A session of the same file that also gives its raw logits."""
    if model.card.form == "core":
        return None
    proto = onnx.load(str(model.path), load_external_data=False)
    there = {o for node in proto.graph.node for o in node.output}
    names = ["class_logits", "side_logits"]
    if not set(names) <= there:
        raise UsageError(f"{model.path} does not name its raw outputs; export it again")
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return open_session(proto.SerializeToString())


def given_pictures(paths: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    """Pictures from disk, then the odd ones."""
    if not paths:
        raise DataError("--data holds no picture to compare on; give a set with pictures")
    for path in paths:
        yield path.name, read_picture(path)
    yield from odd_pictures()


def drawn_pictures(count: int = 24, seed: int = 0) -> Iterator[tuple[str, Picture]]:
    """Drawn scenes of several shapes through JPEG, for exports without data; then the odd ones."""
    from nanogfl.data.synthetic import draw_picture

    shapes = [(480, 640), (320, 320), (640, 360), (300, 900), (1080, 1920)]
    for i in range(count):
        scene, _, _ = draw_picture(np.random.default_rng((seed, i)), 384)
        height, width = shapes[i % len(shapes)]
        yield f"drawn picture {i}", np.asarray(cv2.resize(scene, (width, height)), np.uint8)
    yield from odd_pictures()


def odd_pictures() -> Iterator[tuple[str, Picture]]:
    """Blank, noisy, tiny and very long frames: what a camera gives on a bad day."""
    rng = np.random.default_rng(0)
    for value in (0, 255):
        yield f"blank frame {value}", np.full((240, 427, 3), value, np.uint8)
    yield "noise", rng.integers(0, 256, (360, 202, 3), dtype=np.uint8)
    yield "one pixel", np.full((1, 1, 3), 90, np.uint8)
    yield "a strip", rng.integers(0, 256, (37, 901, 3), dtype=np.uint8)
