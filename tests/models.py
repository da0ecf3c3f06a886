"""Checkpoints with random weights that find boxes, frames to find them in, and whether two found the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import nanogfl
from nanogfl.deploy.build import Form, build
from nanogfl.detections import Detections
from nanogfl.model.checkpoint import Card
from nanogfl.model.detector import Architecture, Detector
from nanogfl.model.head import TowerHead
from nanogfl.pictures import Picture, write_picture
from nanogfl.predictor import TorchDetector
from nanogfl.view import normalise

NAMES = ("red", "green", "blue")


def random_detector(architecture: Architecture, seed: int = 0, background: float = -3.0) -> Detector:
    """A detector that sees: batch statistics of drawn pictures, affine values as after training, scores that vary."""
    torch.set_num_threads(1)  # spinning threads take minutes where other work has the cores
    torch.manual_seed(seed)
    detector = Detector(architecture).train()
    norms = [layer for layer in detector.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.8, 1.6)
        nn.init.normal_(norm.bias, 0, 0.3)
    pictures = np.stack([normalise(scene(128, 192, i).astype(np.float32)) for i in range(4)])
    classes = architecture.classes
    with torch.no_grad():
        detector(torch.from_numpy(pictures))
        head, towers = detector.head, isinstance(detector.head, TowerHead)
        for predict in [head.classify, head.measure] if towers else [*head.predict, *head.measure]:
            assert isinstance(predict, nn.Conv2d) and predict.bias is not None
            predict.weight.normal_(0, 0.03 if towers else 0.1)
            predict.bias.normal_(0, 0.5)
        for predict in [head.classify] if towers else head.predict:
            predict.bias[:classes] = background
    return detector.eval()


def write_checkpoint(
    path: Path,
    architecture: Architecture | None = None,
    *,
    input_size: tuple[int, int] = (96, 96),
    resize: str = "stretch",
    temperature: float = 1.0,
    names: tuple[str, ...] = NAMES,
    seed: int = 0,
    background: float = -3.0,
) -> Path:
    """What ``nanogfl train`` leaves, but with random weights."""
    chosen = architecture or Architecture("s", len(names))
    state = random_detector(chosen, seed, background).state_dict()
    card = Card(chosen, names, input_size, resize, temperature)
    content = {"nanogfl": card.to_dict() | {"recipe": {}}, "state_dict": {f"detector.{k}": v for k, v in state.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def scene(height: int = 120, width: int = 160, seed: int = 0) -> Picture:
    """Coloured blocks and discs on a shaded ground."""
    rng = np.random.default_rng(seed)
    picture = np.linspace(40, 200, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    for _ in range(6):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        if rng.random() < 0.5:
            cv2.circle(picture, (x, y), int(rng.integers(6, 30)), colour, -1)
        else:
            cv2.rectangle(picture, (x, y), (x + int(rng.integers(8, 60)), y + int(rng.integers(8, 60))), colour, -1)
    return picture


def write_scene(path: Path, height: int = 120, width: int = 160, seed: int = 0) -> Path:
    """A scene on disk."""
    write_picture(path, scene(height, width, seed))
    return path


def partners(a: Detections, b: Detections) -> NDArray[np.intp]:
    """For each detection of ``a`` the free one of ``b``, of its class, whose box and score are nearest; -1: none."""
    found = np.full(len(a), -1, np.intp)
    for i, (box, score, label) in enumerate(zip(a.boxes, a.scores, a.labels, strict=True)):
        distance = np.abs(b.boxes - box).max(axis=1, initial=0) + 100 * np.abs(b.scores - score)
        distance[(b.labels != label) | np.isin(np.arange(len(b)), found[:i])] = np.inf
        if len(b) and np.isfinite(distance.min()):
            found[i] = distance.argmin()
    return found


def assert_same(a: Detections, b: Detections, box_px: float = 1e-2, score: float = 1e-4) -> None:
    """The same detections, whatever the order of equal scores."""
    assert len(a) == len(b) and a.names == b.names
    order = partners(a, b)
    assert (order >= 0).all()
    np.testing.assert_allclose(a.boxes, b.boxes[order], rtol=0, atol=box_px)
    np.testing.assert_allclose(a.scores, b.scores[order], rtol=0, atol=score)
    if a.side_sigma is not None and b.side_sigma is not None:
        np.testing.assert_allclose(a.side_sigma, b.side_sigma[order], rtol=0, atol=box_px)


def write_models(folder: Path, input_size: tuple[int, int], background: float = -3.0) -> None:
    """best.ckpt, and model.onnx made of it without the proof; the higher ``background``, the higher the scores."""
    made = write_checkpoint(folder / "best.ckpt", input_size=input_size, background=background)
    write_onnx(made, folder / "model.onnx")


def write_onnx(checkpoint: Path, path: Path, form: Form | None = None) -> Path:
    """A checkpoint's ONNX, without the proof."""
    detector = nanogfl.load(checkpoint)
    assert isinstance(detector, TorchDetector)
    path.write_bytes(build(detector, form or Form()).SerializeToString())
    return path
