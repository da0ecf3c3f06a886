"""What stands before and behind the network in the file: from a camera frame to the input, from maps to boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nanogfl.decode import Thresholds, all_priors
from nanogfl.deploy.graph import FLOAT, INT64, UINT8, Graph
from nanogfl.model.quality import QualityPredictor
from nanogfl.view import GREY, MEAN, STD


@dataclass(frozen=True)
class Geometry:
    """Names of the scalars that lead back from the input to the frame; None where they are one and the same.

    Attributes:
        scale: float [4], frame px an input px, along x y x y.
        offset: float [4], where the content starts in the input; None where it starts at the corner.
        limit: float [4], width height width height of the frame.
    """

    scale: str
    offset: str | None
    limit: str


def write_frame(graph: Graph, size: tuple[int, int], rule: str) -> tuple[str, Geometry]:
    """``image`` uint8 [H, W, 3] -> resized float [1, 3, H_in, W_in], 0 to 255, and the way back."""
    image = graph.input("image", UINT8, ["height", "width", 3])
    shape = graph.node("Shape", [image], attributes={"start": 0, "end": 2}, name="frame_size")  # H, W
    batch = graph.node("Unsqueeze", [image, graph.constant([0], np.int64)])
    pixels = graph.node("Cast", [batch], attributes={"to": FLOAT})
    if rule.startswith("letterbox"):
        content, offset = _letterbox(graph, shape, size)
    else:
        content, offset = graph.constant(size, np.int64), None
    one, three = graph.constant([1], np.int64), graph.constant([3], np.int64)
    sizes = graph.node("Concat", [one, content, three], attributes={"axis": 0})
    attributes: dict[str, str | int] = {
        "mode": "linear",
        "coordinate_transformation_mode": "asymmetric" if rule == "stretch-corner" else "half_pixel",
    }
    if rule.endswith("antialias"):
        attributes |= {"antialias": 1, "exclude_outside": 1}
    resized = graph.node("Resize", [pixels, "", "", sizes], attributes=attributes)
    if offset is not None:
        resized = _pad(graph, resized, content, offset, size)
    planes = graph.node("Transpose", [resized], attributes={"perm": [0, 3, 1, 2]})
    ratio = graph.node("Div", [_float(graph, shape), _float(graph, content)])
    double = graph.constant([1, 0, 1, 0], np.int64)  # H, W -> W, H, W, H
    geometry = Geometry(
        graph.node("Gather", [ratio, double], name="frame_scale"),
        None if offset is None else graph.node("Gather", [_float(graph, offset), double], name="frame_offset"),
        graph.node("Gather", [_float(graph, shape), double], name="frame_limit"),
    )
    return planes, geometry


def _letterbox(graph: Graph, shape: str, size: tuple[int, int]) -> tuple[str, str]:
    """(H, W) of the content and (y, x) of its start, in whole numbers as nanogfl.view computes them."""
    sides = graph.constant(size, np.int64)
    turned = graph.constant(size[::-1], np.int64)
    two, one = graph.constant(2, np.int64), graph.constant(1, np.int64)
    other = graph.node("Gather", [shape, graph.constant([1, 0], np.int64)])  # W, H
    # (2 * H * wide + W) // (2 * W), and the same for the width
    products = graph.node("Mul", [shape, turned])
    top = graph.node("Add", [graph.node("Mul", [products, two]), other])
    scaled = graph.node("Max", [graph.node("Div", [top, graph.node("Mul", [other, two])]), one])
    # the side that fills the input: the height where wide * H > high * W
    height, width = graph.node("Split", [products], outputs=2, attributes={"axis": 0, "num_outputs": 2})
    tall = graph.node("Greater", [height, width])
    fills = graph.node("Concat", [tall, graph.node("Not", [tall])], attributes={"axis": 0})
    content = graph.node("Where", [fills, sides, scaled], name="content_size")
    offset = graph.node("Div", [graph.node("Sub", [sides, content]), two], name="content_offset")
    return content, offset


def _pad(graph: Graph, image: str, content: str, offset: str, size: tuple[int, int]) -> str:
    zero = graph.constant([0], np.int64)
    rest = graph.node("Sub", [graph.node("Sub", [graph.constant(size, np.int64), content]), offset])
    pads = graph.node("Concat", [zero, offset, zero, zero, rest, zero], attributes={"axis": 0})
    padded = graph.node("Pad", [image, pads, graph.constant(GREY, np.float32)])
    return graph.node("Reshape", [padded, graph.constant([1, *size, 3], np.int64)])


def _float(graph: Graph, name: str) -> str:
    return graph.node("Cast", [name], attributes={"to": FLOAT})


def write_normalise(graph: Graph, image: str) -> str:
    """Zero mean and unit deviation: [B, 3, H, W]."""
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return graph.node("Div", [graph.node("Sub", [image, graph.constant(mean)]), graph.constant(std)])


@dataclass(frozen=True)
class Outputs:
    """How the boxes leave the file.

    Attributes:
        thresholds: defaults of the optional inputs.
        fixed: thresholds are constants instead of inputs.
        sigma: the output ``side_sigma`` is wanted.
        temperature: factor on it.
    """

    thresholds: Thresholds
    fixed: bool = False
    sigma: bool = False
    temperature: float = 1.0


def write_boxes(
    graph: Graph,
    maps: tuple[list[str], list[str]],
    size: tuple[int, int],
    strides: tuple[int, ...],
    centred: bool,
    reg_max: int,
    quality: QualityPredictor | None,
    geometry: Geometry | None,
    outputs: Outputs,
) -> None:
    """Class and side maps of each level -> boxes, scores, labels (and side_sigma), best first."""
    priors = all_priors(size, strides, centred)
    classes = _flatten(graph, maps[0], "class_logits")
    sides = _flatten(graph, maps[1], "side_logits")
    probability = _probability(graph, sides, reg_max, len(priors)) if reg_max else None
    scores = graph.node("Sigmoid", [classes], name="class_scores")
    if quality is not None and probability is not None:
        scores = graph.node("Mul", [scores, write_quality(graph, quality, probability)])
    boxes = _boxes(graph, sides, probability, priors, size, reg_max)

    limits = outputs.thresholds
    asked = {
        "max_boxes": (INT64, np.array(limits.max_boxes, np.int64)),
        "iou_threshold": (FLOAT, np.array(limits.iou, np.float32)),
        "score_threshold": (FLOAT, np.array(limits.score, np.float32)),
    }
    names = [
        graph.constant(default, name=name) if outputs.fixed else graph.input(name, kind, [], default)
        for name, (kind, default) in asked.items()
    ]
    selected = graph.node("NonMaxSuppression", [boxes, scores, *names], name="nms")
    score = graph.node("GatherND", [scores, selected])
    count = graph.node(
        "Min", [graph.node("Shape", [score]), graph.node("Unsqueeze", [names[0], graph.constant([0], np.int64)])]
    )
    _, order = graph.node("TopK", [score, count], outputs=2, attributes={"axis": 0})
    best = graph.node("Gather", [selected, order], attributes={"axis": 0})
    label, prior = (graph.node("Gather", [best, graph.constant(i, np.int64)], attributes={"axis": 1}) for i in (1, 2))

    chosen = graph.node("Gather", [graph.node("Squeeze", [boxes, graph.constant([0], np.int64)]), prior])
    graph.node("Identity", [_to_frame(graph, chosen, geometry)], name="boxes")
    graph.node("Gather", [score, order], name="scores")
    graph.node("Identity", [label], name="labels")
    graph.output("boxes", FLOAT, ["boxes", 4])
    graph.output("scores", FLOAT, ["boxes"])
    graph.output("labels", INT64, ["boxes"])
    if outputs.sigma and probability is not None:
        _write_sigma(graph, probability, priors, prior, reg_max, geometry, outputs.temperature)


def _flatten(graph: Graph, maps: list[str], name: str) -> str:
    """Maps [B, K, h, w] of each level -> [B, K, P]."""
    rows = graph.constant([0, 0, -1], np.int64)
    return graph.node("Concat", [graph.node("Reshape", [m, rows]) for m in maps], name=name, attributes={"axis": 2})


def _probability(graph: Graph, sides: str, reg_max: int, priors: int) -> str:
    """Side logits [B, 4 * (R + 1), P] -> probabilities [B, 4, R + 1, P]."""
    shape = graph.constant([0, 4, reg_max + 1, priors], np.int64)
    return graph.node("Softmax", [graph.node("Reshape", [sides, shape])], attributes={"axis": 2})


def _boxes(
    graph: Graph, sides: str, probability: str | None, priors: np.ndarray, size: tuple[int, int], reg_max: int
) -> str:
    """Side probabilities [B, 4, R + 1, P], or single values [B, 4, P] -> boxes [B, P, 4] clipped to the input."""
    sign = np.array([-1, -1, 1, 1], np.float32).reshape(1, 4, 1, 1)
    if probability is None:
        side = graph.node("Mul", [graph.node("Softplus", [sides]), graph.constant(sign[..., 0])])
    else:
        side = _expect(graph, probability, sign * _bins(reg_max))
    stride = graph.constant(priors[:, 2].reshape(1, 1, -1))
    corner = graph.constant(np.ascontiguousarray(priors[:, [0, 1, 0, 1]].T)[None])
    moved = graph.node("Add", [graph.node("Mul", [side, stride]), corner])
    limit = np.array([size[1], size[0], size[1], size[0]], np.float32).reshape(1, 4, 1)
    low = graph.node("Max", [moved, graph.constant(0, np.float32)])
    clipped = graph.node("Min", [low, graph.constant(limit)])
    return graph.node("Transpose", [clipped], name="input_boxes", attributes={"perm": [0, 2, 1]})


def _bins(reg_max: int) -> np.ndarray:
    """The values 0..R of the bins, to be multiplied with [B, 4, R + 1, P]."""
    return np.arange(reg_max + 1, dtype=np.float32).reshape(1, 1, -1, 1)


def _expect(graph: Graph, probability: str, values: np.ndarray) -> str:
    """Expectation of values over the bins: [B, 4, R + 1, P] -> [B, 4, P]."""
    weighted = graph.node("Mul", [probability, graph.constant(values.astype(np.float32))])
    return graph.node("ReduceSum", [weighted, graph.constant([2], np.int64)], attributes={"keepdims": 0})


def _to_frame(graph: Graph, boxes: str, geometry: Geometry | None) -> str:
    if geometry is None:
        return boxes
    if geometry.offset is not None:
        boxes = graph.node("Sub", [boxes, geometry.offset])
    scaled = graph.node("Mul", [boxes, geometry.scale])
    return graph.node("Min", [graph.node("Max", [scaled, graph.constant(0, np.float32)]), geometry.limit])


def _write_sigma(
    graph: Graph,
    probability: str,
    priors: np.ndarray,
    prior: str,
    reg_max: int,
    geometry: Geometry | None,
    temperature: float,
) -> None:
    """Standard deviation of each side in frame px, only of the boxes that leave."""
    chosen = graph.node("Gather", [probability, prior], attributes={"axis": 3})
    bins = _bins(reg_max)
    mean, square = _expect(graph, chosen, bins), _expect(graph, chosen, bins**2)
    variance = graph.node("Sub", [square, graph.node("Mul", [mean, mean])])
    deviation = graph.node("Sqrt", [graph.node("Max", [variance, graph.constant(0, np.float32)])])
    stride = graph.node("Gather", [graph.constant(priors[:, 2] * np.float32(temperature)), prior])
    rows = graph.node("Transpose", [graph.node("Mul", [deviation, stride])], attributes={"perm": [0, 2, 1]})
    sigma = graph.node("Squeeze", [rows, graph.constant([0], np.int64)])
    if geometry is not None:
        sigma = graph.node("Mul", [sigma, geometry.scale])
    graph.node("Identity", [sigma], name="side_sigma")
    graph.output("side_sigma", FLOAT, ["boxes", 4])


def write_quality(graph: Graph, quality: QualityPredictor, probability: str) -> str:
    """Side probabilities [B, 4, R + 1, P] -> quality [B, 1, P]."""
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
    bins = _bins(reg_max)
    largest = graph.node("ReduceMax", [probability, axis])
    second = graph.node("ReduceSum", [graph.node("Mul", [probability, probability]), axis])
    mean, square = (
        graph.node("ReduceSum", [graph.node("Mul", [probability, graph.constant(v)]), axis]) for v in (bins, bins**2)
    )
    variance = graph.node("Sub", [square, graph.node("Mul", [mean, mean])])
    return graph.node("Concat", [largest, second, variance], attributes={"axis": 2})
