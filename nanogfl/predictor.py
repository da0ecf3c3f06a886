"""``nanogfl.load``: load a checkpoint or an ONNX file as a predictor, both with the same interface."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanogfl.decode import Thresholds, decode
from nanogfl.detections import Detections
from nanogfl.errors import ModelError, RecipeError, UsageError
from nanogfl.pictures import as_picture
from nanogfl.view import View, normalise, parse_input

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nanogfl.model.checkpoint import Card
    from nanogfl.model.detector import Detector


log = logging.getLogger(__name__)


class Predictor(Protocol):
    """A detector, as ``nanogfl.load`` returns it.

    Attributes:
        network: the torch module in eval mode; None if the file is an ONNX.
        names: names of all classes.
        input_size: (H, W) of the network's input in px.
    """

    @property
    def network(self) -> nn.Module | None: ...  # noqa: D102

    @property
    def names(self) -> list[str]: ...  # noqa: D102

    @property
    def input_size(self) -> tuple[int, int]: ...  # noqa: D102

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100
    ) -> Detections:
        """Detect objects in one picture: a path, or uint8 BGR [H, W, 3]."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what ``nanogfl info`` shows."""
        ...


def load(
    source: str | Path,
    *,
    input: str | int | tuple[int, int] | None = None,  # noqa: A002  (the option's name everywhere)
    config: str | Path | None = None,
    threads: int | None = None,
) -> Predictor:
    """Load a detector from a checkpoint (nanogfl's or NanoDet's), an exported ONNX file, or a published name.

    Args:
        source: ``best.ckpt``, ``model.onnx``, or a name such as ``nanodet-plus-m_416``.
        input: input size instead of the checkpoint's, ``320`` or ``HxW`` or (H, W); an ONNX file accepts only its own.
        config: NanoDet ``.yml`` with the input size and the class names; for checkpoints.
        threads: onnxruntime threads, 1 to 1024; None: its default, limited to a container's CPU quota.

    Raises:
        ModelError: the file is missing, damaged, or not a supported model.
        UsageError: an argument is invalid.
    """
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"load expects a file or a published name, got {type(source).__name__}; specify a path")
    path = Path(source)
    size = None if input is None else parse_input(input)
    if config is not None and not Path(config).is_file():
        why = "is a folder; choose the .yml in it" if Path(config).is_dir() else "No such file; check the path"
        raise RecipeError(f"--config {config}: {why}")
    if path.suffix.lower() == ".onnx":
        from nanogfl.runtime.session import OnnxDetector

        if config is not None:
            log.warning("--config %s is ignored: %s has its own settings", config, path.name)
        return OnnxDetector(path, size, threads)
    return _load_checkpoint(os.fspath(source), size, Path(config) if config else None)


class TorchDetector:
    """A predictor that runs a checkpoint in torch."""

    def __init__(self, network: Detector, card: Card, source: Path, kind: str) -> None:
        self.network = network.eval()
        self.card, self.source, self.kind = card, source, kind
        self.names = list(card.names)
        self.input_size = card.input_size

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100
    ) -> Detections:
        """Detect objects in one picture: a path, or uint8 BGR [H, W, 3]."""
        picture, limits = as_picture(source), Thresholds(score, iou, max_boxes)
        view, image = self.see(picture)
        return self.decode(self.raw(image[None])[0], view, limits)

    def see(self, picture: NDArray[np.uint8], rounds: bool = False) -> tuple[View, NDArray[np.float32]]:
        """Return a picture's view and normalised input [3, H, W]; ``rounds`` rounds the resized pixels first."""
        view = View(picture.shape[:2], self.input_size, self.card.resize)
        image = view.apply(picture)
        return view, normalise(np.rint(image) if rounds else image)

    def decode(self, raw: NDArray[np.float32], view: View, thresholds: Thresholds) -> Detections:
        """Decode a picture's raw output into its detections."""
        return decode(raw, self.card.layout, view, self.names, thresholds)

    def raw(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network on normalised images [B, 3, H, W]; return its raw output [B, P, C + 4 * (R + 1)]."""
        import torch

        from nanogfl.model.detector import exact

        with torch.no_grad(), exact():
            return self.network(torch.from_numpy(images).to(self.device)).float().cpu().numpy()

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters."""
        return next(self.network.parameters()).device

    def save(self, path: Path) -> Path:
        """Write a nanogfl checkpoint that includes the settings from NanoDet's file name, ``.yml`` and the options."""
        from nanogfl.model.checkpoint import write_detector

        write_detector(path, self.network, self.card.to_dict())
        return path

    def describe(self) -> dict[str, Any]:
        """Return what ``nanogfl info`` shows."""
        from nanogfl.model.detector import count_parameters

        a = self.card.architecture
        return {
            "file": str(self.source),
            "kind": f"{self.kind} checkpoint",
            "family": a.family,
            "size": a.size,
            "classes": self.names,
            "input_size": list(self.input_size),
            "resize": self.card.resize,
            "strides": list(a.strides),
            "reg_max": a.reg_max,
            "quality": a.quality,
            "temperature": self.card.temperature,
            "parameters": count_parameters(self.network),
        }


def _load_checkpoint(source: str, input_size: tuple[int, int] | None, config: Path | None) -> TorchDetector:
    try:
        from nanogfl.model import zoo
        from nanogfl.model.checkpoint import read_card
        from nanogfl.model.detector import Detector
        from nanogfl.model.weights import load_state, read_weights
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{source} is not an .onnx, and checkpoints need torch ({error.name} is missing): "
            "pip install 'nanogfl[train]'"
        ) from error
    path = zoo.resolve(source)
    weights = read_weights(path)
    card = read_card(weights, config, sized=input_size is not None)
    if input_size:
        card = replace(card, input_size=input_size)
    network = Detector(card.architecture)
    load_state(network, weights.state, path)
    return TorchDetector(network, card, path, weights.kind)
