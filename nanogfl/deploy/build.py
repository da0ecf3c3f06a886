"""A checkpoint's detector to an ONNX model in memory, in one of its three forms."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from nanogfl.decode import Thresholds
from nanogfl.deploy.families import write_network
from nanogfl.deploy.frame import Outputs, write_boxes, write_frame, write_normalise
from nanogfl.deploy.fuse import fuse
from nanogfl.deploy.graph import FLOAT, Graph
from nanogfl.errors import UsageError
from nanogfl.predictor import TorchDetector
from nanogfl.runtime.card import FORMS, FileCard

OPSET = 18


@dataclass(frozen=True)
class Form:
    """What the file takes and gives.

    Attributes:
        form: frame, tensor or core.
        opset: of the ONNX operators; 18 is the first with an antialiased Resize.
        fixed: thresholds are constants instead of optional inputs.
        sigma: the deviation of each side is an output.
        thresholds: defaults.
    """

    form: str = "frame"
    opset: int = OPSET
    fixed: bool = False
    sigma: bool = False
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"--form {self.form}: give one of {', '.join(FORMS)}")
        if not OPSET <= self.opset <= onnx.defs.onnx_opset_version():
            raise UsageError(f"--opset {self.opset}: give {OPSET} to {onnx.defs.onnx_opset_version()}")


def build(detector: TorchDetector, form: Form) -> onnx.ModelProto:
    """The whole model; nothing is proven yet."""
    card = detector.card
    reg_max = card.architecture.reg_max
    if form.sigma and reg_max == 0:
        raise UsageError("--sigma: this detector gives one value a side (model.sides dirac), no distribution")
    network = fuse(detector.network)
    graph, size = Graph(), detector.input_size
    geometry = None
    if form.form == "frame":
        image, geometry = write_frame(graph, size, card.resize)
    else:
        image = graph.input("image", FLOAT, [1, 3, *size])
    maps = write_network(graph, network, write_normalise(graph, image))
    if form.form == "core":
        _name_maps(graph, maps, detector)
    else:
        outputs = Outputs(form.thresholds, form.fixed, form.sigma, card.temperature)
        write_boxes(
            graph, maps, size, network.strides, network.centred, reg_max, network.head.quality, geometry, outputs
        )
    file_card = FileCard(
        list(card.names),
        size,
        card.resize,
        form.form,
        strides=network.strides,
        reg_max=reg_max,
        centred=network.centred,
        temperature=card.temperature,
    )
    return graph.model(form.opset, file_card.to_metadata())


def _name_maps(graph: Graph, maps: tuple[list[str], list[str]], detector: TorchDetector) -> None:
    """Outputs ``classes_8 .. sides_64`` of the core form."""
    (height, width), head = detector.input_size, detector.network.head
    if head.quality is not None:
        raise UsageError(
            "--form core holds plain maps and cannot carry the quality predictor; use --form tensor or frame"
        )
    widths = (head.classes, 4 * (detector.card.architecture.reg_max + 1))
    for kind, names, channels in zip(("classes", "sides"), maps, widths, strict=True):
        for name, stride in zip(names, detector.network.strides, strict=True):
            last = next(node for node in graph.nodes if node.output[0] == name)
            last.output[0] = last.name = f"{kind}_{stride}"
            graph.output(f"{kind}_{stride}", FLOAT, [1, channels, -(-height // stride), -(-width // stride)])
