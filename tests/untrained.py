"""Detectors that nobody trained and that still find boxes: random weights whose outputs follow the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from nanogfl.model.checkpoint import Card
from nanogfl.model.detector import Architecture, Detector, Size
from nanogfl.pictures import Picture
from nanogfl.predictor import TorchDetector
from nanogfl.view import View, normalise

NAMES = ("ball", "crate", "cone")


def scene(seed: int, height: int, width: int) -> Picture:
    """Discs and blocks on a plain ground, uint8 BGR [H, W, 3]."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    for i in range(12):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y, radius = (int(rng.integers(low, high)) for low, high in ((0, width), (0, height), (2, 40)))
        if i % 2:
            cv2.circle(picture, (x, y), radius, colour, -1)
        else:
            cv2.rectangle(picture, (x, y), (x + radius, y + 2 * radius), colour, -1)
    return picture


def random_detector(size: Size = "s", classes: int = 3, seed: int = 0, **architecture: Any) -> Detector:
    """Random weights; norms with the statistics of some scenes, or every picture would give the same boxes."""
    torch.manual_seed(seed)
    detector = Detector(Architecture(size, classes, **architecture))
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of what passes
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.normal_(layer.bias, 0, 0.2)
    scenes = [normalise(View((96, 128), (96, 128), "stretch").apply(scene(i, 96, 128))) for i in range(8)]
    with torch.no_grad():
        detector.train()(torch.from_numpy(np.stack(scenes)))
    for conv in detector.head.predict:
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        nn.init.normal_(conv.weight, std=0.3 * conv.in_channels**-0.5)
        with torch.no_grad():
            conv.bias[:classes].normal_(-3.2, 0.3)
            conv.bias[classes:].normal_(0, 1)
    if detector.head.quality is not None:  # its products lie lower
        nn.init.constant_(detector.head.quality.fc2.bias, 1.5)
    return detector.eval()


def predictor(
    network: Detector, input_size: tuple[int, int] = (96, 160), resize: str = "stretch", names: tuple[str, ...] = NAMES
) -> TorchDetector:
    """The network as ``nanogfl.load`` would return it, without a file."""
    return TorchDetector(network, Card(network.architecture, names, input_size, resize), Path("none.ckpt"), "nanogfl")


def write_checkpoint(path: Path, made: TorchDetector | None = None, **card: Any) -> Path:
    """A checkpoint as training leaves it, of this predictor or of a random one."""
    made = made or predictor(random_detector())
    path.parent.mkdir(parents=True, exist_ok=True)
    content = replace(made.card, **card).to_dict() | {"recipe": {}}
    state = {f"detector.{key}": value for key, value in made.network.state_dict().items()}
    torch.save({"nanogfl": content, "state_dict": state}, path)
    return path
