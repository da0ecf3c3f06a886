"""A checkpoint's detector to an ONNX model in memory, in one of its three forms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import torch

from nanogfl.decode import Thresholds
from nanogfl.deploy.boxes import Decoder, write_boxes, write_quality_maps
from nanogfl.deploy.families import write_network
from nanogfl.deploy.frame import write_centred, write_frame
from nanogfl.deploy.fuse import fuse
from nanogfl.deploy.graph import FLOAT, HALF, UINT8, Graph, Maps
from nanogfl.errors import UsageError
from nanogfl.model.detector import Detector
from nanogfl.predictor import TorchDetector
from nanogfl.runtime.card import FORMS, FileCard
from nanogfl.view import STD

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
        batch: pictures at once; not for frame, whose pictures differ in size.
        half: weights and network in float16; everything around it stays float32.
        uint8: the resized image comes in whole numbers 0 to 255; not for frame, which takes nothing else.
    """

    form: str = "frame"
    opset: int = OPSET
    fixed: bool = False
    sigma: bool = False
    thresholds: Thresholds = field(default_factory=Thresholds)
    batch: int = 1
    half: bool = False
    uint8: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"--form {self.form}: give one of {', '.join(FORMS)}")
        if not OPSET <= self.opset <= onnx.defs.onnx_opset_version():
            raise UsageError(f"--opset {self.opset}: give {OPSET} to {onnx.defs.onnx_opset_version()}")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: give 1 or more")
        if self.form == "frame" and self.batch > 1:
            raise UsageError("--batch: a file of the frame form takes one frame of any size; add --form tensor or core")
        if self.form == "frame" and self.uint8:
            raise UsageError("--uint8: a file of the frame form takes bytes anyway; leave it out")
        if self.form == "core" and (self.fixed or self.sigma):
            raise UsageError("--form core gives maps, without thresholds or boxes; leave out --fixed and --sigma")


def build(detector: TorchDetector, form: Form) -> onnx.ModelProto:
    """The whole model; nothing is proven yet."""
    card, architecture = detector.card, detector.card.architecture
    if form.sigma and architecture.reg_max == 0:
        raise UsageError(
            "--sigma: this detector gives one value a side (model.sides=dirac), no distribution; leave it out"
        )
    network = _for_bytes(fuse(detector.network))
    graph, size = Graph(form.half), detector.input_size
    geometry = None
    if form.form == "frame":
        image, geometry = write_frame(graph, size, card.resize)
    else:
        image = graph.input("image", UINT8 if form.uint8 else FLOAT, [form.batch, 3, *size])
        image = graph.node("Cast", [image], attributes={"to": FLOAT}) if form.uint8 else image
    maps = _maps(graph, network, write_centred(graph, image), form)
    decoder = Decoder(
        size,
        architecture.strides,
        architecture.centred,
        architecture.reg_max,
        network.head.quality,
        form.thresholds,
        form.fixed,
        form.sigma,
        card.temperature,
        form.batch,
    )
    if form.form == "core":
        _name_maps(graph, maps, decoder, network.head.classes)
    else:
        write_boxes(graph, maps, decoder, geometry)
    file_card = FileCard(
        list(card.names),
        size,
        card.resize,
        form.form,
        "fp16" if form.half else "fp32",
        architecture.strides,
        architecture.reg_max,
        centred=architecture.centred,
        thresholds=form.thresholds,
        temperature=card.temperature,
    )
    return graph.model(form.opset, file_card.to_metadata())


def _for_bytes(network: Detector) -> Detector:
    """The same network for images that are not divided by their deviation: the first weights are."""
    stem = network.backbone.conv1[0]
    assert isinstance(stem, torch.nn.Conv2d)
    with torch.no_grad():
        stem.weight.copy_(stem.weight.double() / torch.from_numpy(np.array(STD)).view(1, 3, 1, 1))
    return network


def _maps(graph: Graph, network: Detector, image: str, form: Form) -> Maps:
    """Class and side maps in float32, from a network in the file's precision."""
    if not form.half:
        return write_network(graph, network, image)
    maps = write_network(graph, network, graph.node("Cast", [image], attributes={"to": HALF}))
    classes, sides = ([graph.node("Cast", [m], attributes={"to": FLOAT}) for m in kind] for kind in maps)
    return classes, sides


def _name_maps(graph: Graph, maps: Maps, decoder: Decoder, classes: int) -> None:
    """Outputs ``classes_8`` .. ``classes_64``, ``sides_8`` .., and ``quality_8`` .. where one is predicted."""
    kinds = [("classes", maps[0], classes), ("sides", maps[1], 4 * (decoder.reg_max + 1))]
    if decoder.quality is not None:
        kinds.append(("quality", write_quality_maps(graph, maps, decoder), 1))
    for kind, names, channels in kinds:
        for name, stride in zip(names, decoder.strides, strict=True):
            graph.rename(name, f"{kind}_{stride}")
            rows, columns = (-(-side // stride) for side in decoder.size)
            graph.output(f"{kind}_{stride}", FLOAT, [decoder.batch, channels, rows, columns])
