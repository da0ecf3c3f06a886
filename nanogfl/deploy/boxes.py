"""The part of an exported file after the network: nodes that convert the maps of each level to boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nanogfl.decode import Thresholds, all_priors
from nanogfl.deploy.frame import Geometry
from nanogfl.deploy.graph import FLOAT, INT64, Graph, Maps
from nanogfl.model.quality import QualityPredictor


@dataclass(frozen=True)
class Decoder:
    """The settings for decoding maps to boxes in the file.

    Attributes:
        size: (H, W) of the input in px.
        strides, reg_max: strides of the head in px, and R; with R = 0, one value per side.
        centred: whether priors are at cell centres instead of the upper left corners.
        quality: the distribution-guided quality predictor, or None.
        thresholds: defaults of the optional inputs.
        fixed: whether thresholds are constants instead of inputs.
        sigma: whether to add the output ``side_sigma``.
        temperature: factor on ``side_sigma``.
        batch: number of pictures in a batch.
    """

    size: tuple[int, int]
    strides: tuple[int, ...]
    centred: bool
    reg_max: int
    quality: QualityPredictor | None
    thresholds: Thresholds
    fixed: bool = False
    sigma: bool = False
    temperature: float = 1.0
    batch: int = 1

    @property
    def priors(self) -> np.ndarray:
        """Priors [P, 3] (x, y, stride) in px."""
        return all_priors(self.size, self.strides, self.centred)

    @property
    def bins(self) -> np.ndarray:
        """The values 0..R of the bins [1, 1, R + 1, 1], to be multiplied with [B, 4, R + 1, P]."""
        return np.arange(self.reg_max + 1, dtype=np.float32).reshape(1, 1, -1, 1)


def write_boxes(graph: Graph, maps: Maps, decoder: Decoder, geometry: Geometry | None) -> None:
    """Write the outputs boxes, scores, labels (and side_sigma), best first; with several pictures also counts [B]."""
    classes = _flatten(graph, maps[0], "class_logits")
    sides = _flatten(graph, maps[1], "side_logits")
    probability = _probability(graph, sides, decoder) if decoder.reg_max else sides
    final = "class_scores"
    if decoder.quality is None:
        scores = graph.node("Sigmoid", [classes], name=final)
    else:
        quality = write_quality(graph, decoder.quality, probability)
        scores = graph.node("Mul", [graph.node("Sigmoid", [classes]), quality], name=final)
    boxes = _boxes(graph, probability, decoder)
    limits = _limits(graph, decoder)
    parts = (_split(graph, tensor, decoder.batch) for tensor in (boxes, scores, probability))
    found = [_write_picture(graph, b, s, p, limits, decoder, geometry) for b, s, p in zip(*parts, strict=True)]
    for name, kind, shape in (
        ("boxes", FLOAT, ["boxes", 4]),
        ("scores", FLOAT, ["boxes"]),
        ("labels", INT64, ["boxes"]),
        ("counts", INT64, [decoder.batch]),
        ("side_sigma", FLOAT, ["boxes", 4]),
    ):
        made = [picture[name] for picture in found if name in picture]
        if made and (name != "counts" or decoder.batch > 1):
            joined = ("Identity", {}) if len(made) == 1 else ("Concat", {"axis": 0})
            graph.node(joined[0], made, name=name, attributes=joined[1])
            graph.output(name, kind, shape)


def write_quality_maps(graph: Graph, maps: Maps, decoder: Decoder) -> list[str]:
    """Write the quality maps [B, 1, h, w] of all levels, for files of the core form; return their names."""
    assert decoder.quality is not None
    names = []
    for sides, stride in zip(maps[1], decoder.strides, strict=True):
        probability = _probability(graph, sides, decoder)
        rows, columns = (-(-side // stride) for side in decoder.size)
        shape = graph.constant([0, 1, rows, columns], np.int64)
        names.append(graph.node("Reshape", [write_quality(graph, decoder.quality, probability), shape]))
    return names


def _probability(graph: Graph, sides: str, decoder: Decoder) -> str:
    """Convert side logits [B, 4 * (R + 1), ...] to probabilities [B, 4, R + 1, P]."""
    bins = graph.constant([0, 4, decoder.reg_max + 1, -1], np.int64)
    return graph.node("Softmax", [graph.node("Reshape", [sides, bins])], attributes={"axis": 2})


def _limits(graph: Graph, decoder: Decoder) -> list[str]:
    """Return the names of max_boxes, iou_threshold and score_threshold, in the order of NonMaxSuppression's inputs."""
    limits = decoder.thresholds
    asked = {
        "max_boxes": (INT64, np.array(limits.max_boxes, np.int64)),
        "iou_threshold": (FLOAT, np.array(limits.iou, np.float32)),
        "score_threshold": (FLOAT, np.array(limits.score, np.float32)),
    }
    return [
        graph.constant(default, name=name) if decoder.fixed else graph.input(name, kind, [], default)
        for name, (kind, default) in asked.items()
    ]


def _split(graph: Graph, tensor: str, batch: int) -> tuple[str, ...]:
    if batch == 1:
        return (tensor,)
    return graph.node("Split", [tensor], outputs=batch, attributes={"axis": 0, "num_outputs": batch})


def _write_picture(
    graph: Graph,
    boxes: str,
    scores: str,
    probability: str,
    limits: list[str],
    decoder: Decoder,
    geometry: Geometry | None,
) -> dict[str, str]:
    """Select one picture's boxes from boxes [1, P, 4], scores [1, C, P] and probabilities [1, 4, R + 1, P] by NMS.

    Returns:
        The names of the tensors to be output, by output name.
    """
    zero = graph.constant([0], np.int64)
    selected = graph.node("NonMaxSuppression", [boxes, scores, *limits])
    score = graph.node("GatherND", [scores, selected])
    count = graph.node("Min", [graph.node("Shape", [score]), graph.node("Unsqueeze", [limits[0], zero])])
    _, order = graph.node("TopK", [score, count], outputs=2, attributes={"axis": 0})
    best = graph.node("Gather", [selected, order], attributes={"axis": 0})
    label, prior = (graph.node("Gather", [best, graph.constant(i, np.int64)], attributes={"axis": 1}) for i in (1, 2))
    chosen = graph.node("Gather", [graph.node("Squeeze", [boxes, zero]), prior])
    found = {
        "boxes": _to_frame(graph, chosen, geometry),
        "scores": graph.node("Gather", [score, order]),
        "labels": label,
        "counts": count,
    }
    if decoder.sigma:
        found["side_sigma"] = _sigma(graph, probability, prior, decoder, geometry)
    return found


def _flatten(graph: Graph, maps: list[str], name: str) -> str:
    """Flatten and join the levels' maps [B, K, h, w] to [B, K, P]."""
    rows = graph.constant([0, 0, -1], np.int64)
    return graph.node("Concat", [graph.node("Reshape", [m, rows]) for m in maps], name=name, attributes={"axis": 2})


def _boxes(graph: Graph, probability: str, decoder: Decoder) -> str:
    """Convert side probabilities [B, 4, R + 1, P], or values [B, 4, P] if R = 0, to boxes [B, P, 4] in input px."""
    sign = np.array([-1, -1, 1, 1], np.float32).reshape(1, 4, 1, 1)
    if decoder.reg_max:
        side = _expect(graph, probability, sign * decoder.bins)
    else:
        side = graph.node("Mul", [graph.node("Softplus", [probability]), graph.constant(sign[..., 0])])
    priors, (height, width) = decoder.priors, decoder.size
    stride = graph.constant(priors[:, 2].reshape(1, 1, -1))
    corner = graph.constant(np.ascontiguousarray(priors[:, [0, 1, 0, 1]].T)[None])
    moved = graph.node("Add", [graph.node("Mul", [side, stride]), corner])
    limit = np.array([width, height, width, height], np.float32).reshape(1, 4, 1)
    low = graph.node("Max", [moved, graph.constant(0, np.float32)])
    clipped = graph.node("Min", [low, graph.constant(limit)])
    return graph.node("Transpose", [clipped], name="input_boxes", attributes={"perm": [0, 2, 1]})


def _expect(graph: Graph, probability: str, values: np.ndarray) -> str:
    """Return the expectation of values over the bins: [B, 4, R + 1, P] -> [B, 4, P]."""
    weighted = graph.node("Mul", [probability, graph.constant(values.astype(np.float32))])
    return graph.node("ReduceSum", [weighted, graph.constant([2], np.int64)], attributes={"keepdims": 0})


def _to_frame(graph: Graph, boxes: str, geometry: Geometry | None) -> str:
    if geometry is None:
        return boxes
    if geometry.offset is not None:
        boxes = graph.node("Sub", [boxes, geometry.offset])
    scaled = graph.node("Mul", [boxes, geometry.scale])
    return graph.node("Min", [graph.node("Max", [scaled, graph.constant(0, np.float32)]), geometry.limit])


def _sigma(graph: Graph, probability: str, prior: str, decoder: Decoder, geometry: Geometry | None) -> str:
    """Return the standard deviation of each side of the N boxes in the output, in frame px: [N, 4]."""
    chosen = graph.node("Gather", [probability, prior], attributes={"axis": 3})
    mean, square = _expect(graph, chosen, decoder.bins), _expect(graph, chosen, decoder.bins**2)
    variance = graph.node("Sub", [square, graph.node("Mul", [mean, mean])])
    deviation = graph.node("Sqrt", [graph.node("Max", [variance, graph.constant(0, np.float32)])])
    strides = decoder.priors[:, 2] * np.float32(decoder.temperature)
    scaled = graph.node("Mul", [deviation, graph.node("Gather", [graph.constant(strides), prior])])
    rows = graph.node("Transpose", [scaled], attributes={"perm": [0, 2, 1]})
    sigma = graph.node("Squeeze", [rows, graph.constant([0], np.int64)])
    return sigma if geometry is None else graph.node("Mul", [sigma, geometry.scale])


def write_quality(graph: Graph, quality: QualityPredictor, probability: str) -> str:
    """Compute the quality [B, 1, P] from side probabilities [B, 4, R + 1, P]."""
    if quality.statistics == "top4":
        top, _ = graph.node("TopK", [probability, graph.constant([4], np.int64)], outputs=2, attributes={"axis": 2})
        mean = graph.node("ReduceMean", [probability, graph.constant([2], np.int64)])
        described = graph.node("Concat", [top, mean], attributes={"axis": 2})
    else:
        described = _moments(graph, probability, quality.reg_max)
    columns = quality.fc1.in_features
    rows = graph.node("Reshape", [described, graph.constant([0, columns, -1], np.int64)])
    for layer, end in ((quality.fc1, "Relu"), (quality.fc2, "Sigmoid")):
        weight = graph.constant(layer.weight.detach().numpy())
        bias = graph.constant(layer.bias.detach().numpy()[:, None])
        rows = graph.node(end, [graph.node("Add", [graph.node("MatMul", [weight, rows]), bias])])
    return rows


def _moments(graph: Graph, probability: str, reg_max: int) -> str:
    axis = graph.constant([2], np.int64)
    bins = np.arange(reg_max + 1, dtype=np.float32).reshape(1, 1, -1, 1)
    largest = graph.node("ReduceMax", [probability, axis])
    second = graph.node("ReduceSum", [graph.node("Mul", [probability, probability]), axis])
    mean, square = (
        graph.node("ReduceSum", [graph.node("Mul", [probability, graph.constant(v)]), axis]) for v in (bins, bins**2)
    )
    variance = graph.node("Sub", [square, graph.node("Mul", [mean, mean])])
    return graph.node("Concat", [largest, second, variance], attributes={"axis": 2})
