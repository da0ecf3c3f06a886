"""Running a model on a picture to get its boxes and the raw outputs from which they were decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from nanogfl import boxes as box_math
from nanogfl.decode import Layout, Thresholds, decode, side_geometry, sigmoid
from nanogfl.deploy.match import Kept, raw_difference
from nanogfl.detections import Detections
from nanogfl.errors import ModelError, UsageError
from nanogfl.model.head import TowerHead
from nanogfl.pictures import Picture
from nanogfl.predictor import Predictor, TorchDetector
from nanogfl.runtime.card import FileCard
from nanogfl.runtime.session import Arrays, OnnxDetector, open_session
from nanogfl.view import View

Array = NDArray[np.float32]
RAW, LOGITS = ("class_scores", "side_logits"), "class_logits"  # as ``deploy.boxes`` names them


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for one picture.

    Attributes:
        found: the detections.
        scores: final scores of every prior [P, C].
        sides: side logits [P, 4 * (R + 1)].
        view: the mapping from the picture to the network's input.
    """

    found: Detections
    scores: Array
    sides: Array
    view: View

    def difference(self, other: Outputs) -> float:
        """Return the largest difference of the raw outputs; see ``raw_difference``."""
        return raw_difference((self.scores, self.sides), (other.scores, other.sides))

    def kept(self, layout: Layout) -> Kept:
        """Find the origin of each box: the prior with its score, or the nearest of several priors with this score."""
        priors = layout.priors_at(np.arange(len(self.scores)))
        boxes, deviations = side_geometry(self.sides, priors, layout.reg_max)
        boxes = box_math.clip(boxes, *layout.input_size)
        moved = self.view.back(boxes)
        rows = np.zeros(len(self.found), np.intp)
        for i, (box, score, label) in enumerate(
            zip(self.found.boxes, self.found.scores, self.found.labels, strict=True)
        ):
            distance = np.abs(self.scores[:, label] - score)
            same = np.flatnonzero(distance <= distance.min() + 1e-7)
            rows[i] = same[np.abs(moved[same] - box).max(axis=1).argmin()]
        return Kept(rows, boxes[rows], self.view.back_lengths(deviations[rows]))

    def by_hand(self, layout: Layout, limits: Thresholds) -> Outputs:
        """Return the same raw outputs with detections decoded by numpy."""
        with np.errstate(divide="ignore"):  # scores may be 0 or 1
            logits = np.log(self.scores) - np.log1p(-self.scores)
        raw = np.concatenate([logits, self.sides], axis=1)
        layout = replace(layout, sigma=self.found.side_sigma is not None)
        return replace(self, found=decode(raw, layout, self.view, self.found.names, limits))


def decode_outputs(raw: Array, layout: Layout, view: View, names: Sequence[str], limits: Thresholds) -> Outputs:
    """Decode a raw output [P, C + 4 * (R + 1)] and return all outputs."""
    scores, sides = sigmoid(raw[:, : len(names)]), raw[:, len(names) :]
    return Outputs(decode(raw, layout, view, names, limits), scores, sides, view)


class Probe:
    """A checkpoint or one of our files, opened so that its raw outputs can be read.

    Attributes:
        batch: number of pictures in a batch.
        layout: layout of its raw output.
        wrong: one line for each threshold that differs between the file's graph and its metadata.
    """

    def __init__(self, model: Predictor, rounds: bool, raised: float = 0.0) -> None:
        """Open a model; see ``compare`` for ``rounds`` (round resized images to whole numbers) and ``raised``."""
        self.rounds, self.raised = rounds, raised
        self.wrong: list[str] = []
        if isinstance(model, OnnxDetector):
            self.model = model if model.card.form == "core" else self._opened(model)
        else:
            self.model = _raised(model, raised) if raised and isinstance(model, TorchDetector) else model
        self.batch = self.model.batch if isinstance(self.model, OnnxDetector) else 1
        self.layout: Layout = card_of(self.model).layout

    def see(self, pictures: Sequence[Picture], limits: Thresholds) -> list[Outputs]:
        """Run the model on each picture and return its outputs, one per picture."""
        if isinstance(self.model, TorchDetector):
            return [self._torch(self.model, picture, limits) for picture in pictures]
        assert isinstance(self.model, OnnxDetector)
        made: list[Outputs] = []
        for start in range(0, len(pictures), self.batch):
            made += self._onnx(self.model, pictures[start : start + self.batch], limits)
        return made

    def _torch(self, model: TorchDetector, picture: Picture, limits: Thresholds) -> Outputs:
        view, image = model.see(picture, self.rounds)
        raw = model.raw(image[None])[0]
        return decode_outputs(raw, self.layout, view, model.names, limits)

    def _onnx(self, model: OnnxDetector, pictures: Sequence[Picture], limits: Thresholds) -> list[Outputs]:
        image = model.prepare(pictures)
        outputs = model.run(np.rint(image) if self.rounds and image.dtype == np.float32 else image, limits)
        if model.card.form == "core":
            outputs = {n: v + self.raised * n.startswith("classes") for n, v in outputs.items()}
        found = model.read(outputs, pictures, limits)
        scores, sides = self._raw(model, outputs)
        views = [View(p.shape[:2], model.input_size, model.card.resize) for p in pictures]
        return [Outputs(f, s.T, d.T, v) for f, s, d, v in zip(found, scores, sides, views, strict=False)]

    def _opened(self, model: OnnxDetector) -> OnnxDetector:
        """Open the file again with its raw outputs among the outputs and its class logits raised."""
        proto = onnx.load(str(model.path), load_external_data=False)
        there = {name for node in proto.graph.node for name in node.output}
        if not {*RAW, LOGITS} <= there:
            raise UsageError(f"{model.path} has unnamed raw outputs; re-export it")
        proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in RAW)
        stored = {t.name: t for t in proto.graph.initializer if t.name in model.card.defaults}
        for name, said in model.card.defaults.items():
            held = np.append(onnx.numpy_helper.to_array(stored[name]) if name in stored else np.nan, np.nan)[0]
            if np.float32(held) != np.float32(said):
                self.wrong.append(f"{model.path.name} has {held:g} as {name} in its graph, {said:g} in its metadata")
        if self.raised:
            _raise(proto.graph, self.raised)
        try:
            return OnnxDetector(model.path, session=open_session(proto.SerializeToString()))
        except ModelError as error:
            raise ModelError(f"{model.path} cannot be compared: {error}") from error

    def _raw(self, model: OnnxDetector, outputs: Arrays) -> tuple[Array, Array]:
        """Return scores [B, C, P] and side logits [B, 4 * (R + 1), P]."""
        if model.card.form != "core":
            return outputs[RAW[0]], outputs[RAW[1]]
        rows = model.rows(outputs).transpose(0, 2, 1)
        classes = len(model.names)
        return sigmoid(rows[:, :classes]), rows[:, classes:]


def card_of(model: Predictor) -> FileCard | Any:
    """Return the card of a checkpoint or of a file; both kinds have ``resize`` and ``layout``."""
    return model.card  # type: ignore[attr-defined]


def _raise(graph: onnx.GraphProto, by: float) -> None:
    """Insert a node that adds ``by`` to the class logits, in place."""
    at = next(i for i, node in enumerate(graph.node) if LOGITS in node.input)
    for node in graph.node[at:]:
        node.input[:] = ["raised_logits" if name == LOGITS else name for name in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(by, np.float32), "raised_by"))
    graph.node.insert(at, onnx.helper.make_node("Add", [LOGITS, "raised_by"], ["raised_logits"]))


def _raised(model: TorchDetector, by: float) -> TorchDetector:
    """Return a copy of a checkpoint's detector with ``by`` added to its class logits."""
    network = copy.deepcopy(model.network)
    head = network.head
    for last in [head.classify] if isinstance(head, TowerHead) else head.predict:
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        last.bias.data[: head.classes] += by
    return TorchDetector(network, model.card, model.source, model.kind)
