"""Conversion of a checkpoint's detector to an ONNX model in memory, in one of three forms."""

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
    """The inputs, outputs and precision of an exported file.

    Attributes:
        form: frame, tensor or core.
        opset: ONNX operator set; 18 is the first with an antialiased Resize.
        fixed: whether thresholds are constants instead of optional inputs.
        sigma: whether the standard deviation of each side is an output.
        thresholds: default or fixed thresholds.
        batch: number of pictures in a batch; 1 in the frame form, whose pictures differ in size.
        half: whether the network and its weights are in float16; everything around the network stays float32.
        uint8: whether the resized image is uint8, 0 to 255; not for the frame form, whose frames always are.
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
            raise UsageError(f"--form {self.form}: use one of {', '.join(FORMS)}")
        if not OPSET <= self.opset <= onnx.defs.onnx_opset_version():
            raise UsageError(f"--opset {self.opset}: use {OPSET} to {onnx.defs.onnx_opset_version()}")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: use 1 or more")
        if self.form == "frame" and self.batch > 1:
            raise UsageError("--batch: a file of the frame form takes one frame of any size; add --form tensor or core")
        if self.form == "frame" and self.uint8:
            raise UsageError("--uint8: a file of the frame form takes bytes anyway; omit it")
        if self.form == "core" and (self.fixed or self.sigma):
            raise UsageError("--form core outputs maps, without thresholds or boxes; omit --fixed and --sigma")


def build(detector: TorchDetector, form: Form) -> onnx.ModelProto:
    """Return the whole model, not verified yet."""
    card, architecture = detector.card, detector.card.architecture
    if form.sigma and architecture.reg_max == 0:
        raise UsageError("--sigma: this detector has one value per side (model.sides=dirac), no distribution; omit it")
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
    """Divide the first weights by the standard deviation of images, in place, so that images need not be divided."""
    stem = network.backbone.conv1[0]
    assert isinstance(stem, torch.nn.Conv2d)
    with torch.no_grad():
        stem.weight.copy_(stem.weight.double() / torch.from_numpy(np.array(STD)).view(1, 3, 1, 1))
    return network


def _maps(graph: Graph, network: Detector, image: str, form: Form) -> Maps:
    """Write the network in the file's precision; return its class and side maps in float32."""
    if not form.half:
        return write_network(graph, network, image)
    maps = write_network(graph, network, graph.node("Cast", [image], attributes={"to": HALF}))
    classes, sides = ([graph.node("Cast", [m], attributes={"to": FLOAT}) for m in kind] for kind in maps)
    return classes, sides


def _name_maps(graph: Graph, maps: Maps, decoder: Decoder, classes: int) -> None:
    """Name the outputs ``classes_8`` .. ``classes_64``, ``sides_8`` .. and, with a predictor, ``quality_8`` .."""
    kinds = [("classes", maps[0], classes), ("sides", maps[1], 4 * (decoder.reg_max + 1))]
    if decoder.quality is not None:
        kinds.append(("quality", write_quality_maps(graph, maps, decoder), 1))
    for kind, names, channels in kinds:
        for name, stride in zip(names, decoder.strides, strict=True):
            graph.rename(name, f"{kind}_{stride}")
            rows, columns = (-(-side // stride) for side in decoder.size)
            graph.output(f"{kind}_{stride}", FLOAT, [decoder.batch, channels, rows, columns])
