"""Preparation of models for a benchmark: the exported file, the network alone, and the frames for timing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx

from nanogfl.deploy.agreement import compare_boxes
from nanogfl.deploy.cut import cut_core
from nanogfl.deploy.runtimes import Runtime
from nanogfl.deploy.runtimes.detector import RuntimeDetector, network_image, open_detector
from nanogfl.errors import ModelError, NanogflError
from nanogfl.pictures import Picture
from nanogfl.predictor import TorchDetector, load
from nanogfl.runtime.card import FileCard
from nanogfl.runtime.session import OnnxDetector
from nanogfl.view import View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchModel:
    """A model prepared for a benchmark.

    Attributes:
        name: name in the table.
        card: metadata of the model.
        file: ONNX file that onnxruntime runs: a copy of the given one, or the verified export of a checkpoint.
        checkpoint: the checkpoint, if one was given; saved again if its metadata comes from a ``.yml``.
        core: ONNX file of the network alone, or None.
        why_not: why there is no core, for the table.
        outputs: output names of the core.
        pictures: an .npz with ``frames`` and the same frames as network input, ``images``.
    """

    name: str
    card: FileCard
    file: Path
    checkpoint: Path | None
    core: Path | None
    why_not: str
    outputs: list[str]
    pictures: Path

    def whole_in(self, runtime: Runtime) -> bool:
        """Return whether this runtime runs the whole file, from frame to boxes."""
        return runtime.name == "onnxruntime" and self.card.form == "frame"

    def given_to(self, runtime: Runtime) -> Path | None:
        """Return the file that this runtime converts or opens; None if there is none."""
        if self.whole_in(runtime):
            return self.file
        return self.checkpoint if runtime.takes == "checkpoint" else self.core

    def reference(self) -> RuntimeDetector | None:
        """Return the network in onnxruntime, the reference for the other runtimes; None if there is no core."""
        return None if self.core is None else open_detector("onnxruntime", self.core, 1, self.card, self.outputs)


def prepare(
    source: str, name: str, folder: Path, frames: Sequence[Picture], config: str | Path | None = None
) -> BenchModel:
    """Prepare a model in a new folder; ``config`` is a NanoDet ``.yml`` for its checkpoint.

    Raises:
        ModelError: the model is not one of nanogfl's.
    """
    folder.mkdir()
    detector, checkpoint = load(source, config=None if Path(source).suffix.lower() == ".onnx" else config), None
    file = folder / f"{folder.name}.onnx"  # unique, as a device holds all models in one folder
    if isinstance(detector, TorchDetector):
        from nanogfl.deploy.run import export  # imports torch, which ONNX files do not need

        checkpoint = detector.source if config is None else detector.save(file.with_suffix(".ckpt"))
        export(checkpoint, out=file)
    else:
        shutil.copy(source, file)
    whole = OnnxDetector(file)
    card = whole.card
    core, why_not, outputs = folder / f"{folder.name}_core.onnx", "", []
    try:
        if whole.rounds or whole.batch > 1:
            raise ModelError(f"{name} takes resized uint8 input, or several pictures at once")
        network = _core_of(detector) if isinstance(detector, TorchDetector) else cut_core(file, card)
        core.write_bytes(network.SerializeToString())
        outputs = [output.name for output in network.graph.output]
        _check_cut(whole, core, outputs, frames)
    except NanogflError as error:
        core, why_not = None, str(error)
        log.warning("%s: only onnxruntime can run it unchanged: %s", name, error)
    pictures = folder / f"{folder.name}.npz"
    views = [View(f.shape[:2], card.input_size, card.resize) for f in frames]
    images = [network_image(f, view)[0] for f, view in zip(frames, views, strict=True)]
    np.savez_compressed(pictures, frames=np.stack(frames), images=np.stack(images))
    return BenchModel(name, card, file, checkpoint, core, why_not, outputs, pictures)


def _core_of(detector: TorchDetector) -> onnx.ModelProto:
    from nanogfl.deploy.build import Form, build

    return build(detector, Form("core"))


def _check_cut(whole: OnnxDetector, core: Path, outputs: list[str], frames: Sequence[Picture]) -> None:
    """Raise ModelError unless the network alone, with View and decode around it, finds the same boxes as the file."""
    if whole.card.precision == "int8":  # quantisation amplifies last-bit differences of resizing, so avoid resizing
        height, width = whole.card.input_size
        frames = [np.asarray(cv2.resize(frame, (width, height)), np.uint8) for frame in frames]
    parity = compare_boxes(open_detector("onnxruntime", core, 1, whole.card, outputs), whole, frames)
    if not parity.holds:
        raise ModelError(f"{whole.path}: its network alone returns other boxes ({parity.why})")
