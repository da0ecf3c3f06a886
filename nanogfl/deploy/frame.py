"""The part of an exported file before the network: from a camera frame to the input, and the mapping back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nanogfl.deploy.graph import FLOAT, UINT8, Graph
from nanogfl.view import GREY, MEAN


@dataclass(frozen=True)
class Geometry:
    """Names of the tensors that map boxes from the input back to the frame.

    Attributes:
        scale: float [4], frame px per input px along x, y, x, y.
        offset: float [4], start of the content in the input in px; None if it starts at the corner.
        limit: float [4], width, height, width, height of the frame.
    """

    scale: str
    offset: str | None
    limit: str


def write_frame(graph: Graph, size: tuple[int, int], rule: str) -> tuple[str, Geometry]:
    """Write the resizing of ``image`` uint8 [H, W, 3] to float [1, 3, H_in, W_in], 0 to 255, and the mapping back."""
    image = graph.input("image", UINT8, ["height", "width", 3])
    shape = graph.node("Shape", [image], attributes={"start": 0, "end": 2}, name="frame_size")  # H, W
    batch = graph.node("Unsqueeze", [image, graph.constant([0], np.int64)])
    # transpose first: onnxruntime resizes a planar 640x480 frame in two thirds of the time of interleaved pixels
    planes = _float(graph, graph.node("Transpose", [batch], attributes={"perm": [0, 3, 1, 2]}))
    if rule.startswith("letterbox"):
        content, offset = _letterbox(graph, shape, size)
    else:
        content, offset = graph.constant(size, np.int64), None
    sizes = graph.node("Concat", [graph.constant([1, 3], np.int64), content], attributes={"axis": 0})
    attributes: dict[str, str | int] = {
        "mode": "linear",
        "coordinate_transformation_mode": "asymmetric" if rule == "stretch-corner" else "half_pixel",
    }
    if rule.endswith("antialias"):
        attributes |= {"antialias": 1, "exclude_outside": 1}
    resized = graph.node("Resize", [planes, "", "", sizes], attributes=attributes)
    if offset is not None:
        resized = _pad(graph, resized, content, offset, size)
    ratio = graph.node("Div", [_float(graph, shape), _float(graph, content)])
    double = graph.constant([1, 0, 1, 0], np.int64)  # H, W -> W, H, W, H
    geometry = Geometry(
        graph.node("Gather", [ratio, double], name="frame_scale"),
        None if offset is None else graph.node("Gather", [_float(graph, offset), double], name="frame_offset"),
        graph.node("Gather", [_float(graph, shape), double], name="frame_limit"),
    )
    return resized, geometry


def _letterbox(graph: Graph, shape: str, size: tuple[int, int]) -> tuple[str, str]:
    """Write (H, W) of the content and (y, x) of its start, in the same integer arithmetic as nanogfl.view."""
    sides = graph.constant(size, np.int64)
    turned = graph.constant(size[::-1], np.int64)
    two, one = graph.constant(2, np.int64), graph.constant(1, np.int64)
    other = graph.node("Gather", [shape, graph.constant([1, 0], np.int64)])  # W, H
    # (2 * H * wide + W) // (2 * W), and the same for the width
    products = graph.node("Mul", [shape, turned])
    top = graph.node("Add", [graph.node("Mul", [products, two]), other])
    scaled = graph.node("Max", [graph.node("Div", [top, graph.node("Mul", [other, two])]), one])
    # the side that fills the input: the height if wide * H > high * W
    height, width = graph.node("Split", [products], outputs=2, attributes={"axis": 0, "num_outputs": 2})
    tall = graph.node("Greater", [height, width])
    fills = graph.node("Concat", [tall, graph.node("Not", [tall])], attributes={"axis": 0})
    content = graph.node("Where", [fills, sides, scaled], name="content_size")
    offset = graph.node("Div", [graph.node("Sub", [sides, content]), two], name="content_offset")
    return content, offset


def _pad(graph: Graph, image: str, content: str, offset: str, size: tuple[int, int]) -> str:
    zeros = graph.constant([0, 0], np.int64)
    rest = graph.node("Sub", [graph.node("Sub", [graph.constant(size, np.int64), content]), offset])
    pads = graph.node("Concat", [zeros, offset, zeros, rest], attributes={"axis": 0})
    padded = graph.node("Pad", [image, pads, graph.constant(GREY, np.float32)])
    return graph.node("Reshape", [padded, graph.constant([1, 3, *size], np.int64)])


def _float(graph: Graph, name: str) -> str:
    return graph.node("Cast", [name], attributes={"to": FLOAT})


def write_centred(graph: Graph, image: str) -> str:
    """Subtract the mean from an image [B, 3, H, W]; the first weights include the division by the deviation."""
    return graph.node("Sub", [image, graph.constant(np.array(MEAN, np.float32).reshape(1, 3, 1, 1))])
