"""nanogfl.deploy.families and the detectors beside NanoDet-Plus: the graph is torch's network, and files prove it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from models import random_detector, scene, write_checkpoint
from torch import nn
from torch.nn import functional as F

import nanogfl
from nanogfl.decode import all_priors
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.families import write_network
from nanogfl.deploy.fuse import fuse
from nanogfl.deploy.graph import FLOAT, Graph
from nanogfl.deploy.verify import compare
from nanogfl.errors import UsageError
from nanogfl.model.checkpoint import Card
from nanogfl.model.detector import Architecture, Detector, count_parameters
from nanogfl.model.pan import downsample2
from nanogfl.predictor import TorchDetector

FIRST = Architecture("s", 3, family="first")
SHAPES = {
    "first": FIRST,
    "first, sides apart": Architecture("s", 3, family="first", separate_sides=True),
    "plus, sides apart, one branch": Architecture("s", 3, share_levels=True, separate_sides=True),
    "plus, Dirac": Architecture("s", 3, 0),
    "ResNet-18": Architecture("s", 3, 16, family="resnet"),
}
BOTTLENECK = Architecture("l", 3, 16, family="resnet")


@pytest.mark.parametrize(
    "architecture",
    [*SHAPES.values(), pytest.param(BOTTLENECK, marks=pytest.mark.slow)],
    ids=[*SHAPES, "ResNet-50"],
)
def test_the_graphs_maps_are_torchs(architecture: Architecture) -> None:
    detector = random_detector(architecture)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    graph = Graph()
    for names in write_network(graph, fuse(detector), graph.input("image", FLOAT, ["batch", 3, "height", "width"])):
        for name in names:
            graph.output(name, FLOAT, ["batch", f"{name} channels", f"{name} rows", f"{name} columns"])
    session = ort.InferenceSession(graph.model(18, {}).SerializeToString(), providers=["CPUExecutionProvider"])
    found = [np.asarray(m) for m in session.run(None, {"image": images.numpy()})]
    with torch.no_grad():
        expected = [m.numpy() for m in detector.head.maps(detector.neck(detector.backbone(images)))]
    assert len(found) == 2 * len(expected) == 2 * len(detector.architecture.strides)
    for i, level in enumerate(expected):
        assert level.std() > 0.1 and np.abs(level[0] - level[1]).max() > 0.01, "a network that sees"
        np.testing.assert_allclose(found[i], level[:, :3], rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(found[len(expected) + i], level[:, 3:], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("first", Form("frame", sigma=True)),
        ("first", Form("tensor")),
        ("first", Form("core")),
        ("first, sides apart", Form("frame")),
        ("plus, Dirac", Form("frame")),
        ("plus, Dirac", Form("core")),
        ("ResNet-18", Form("frame", sigma=True)),
    ],
)
def test_every_form_finds_the_same_boxes(tmp_path: Path, name: str, form: Form) -> None:
    checkpoint = write_checkpoint(tmp_path / "best.ckpt", SHAPES[name], input_size=(64, 96))
    network = nanogfl.load(checkpoint)
    assert isinstance(network, TorchDetector)
    (tmp_path / "model.onnx").write_bytes(build(network, form).SerializeToString())
    file = nanogfl.load(tmp_path / "model.onnx")
    parity = compare(network, file, [(f"scene {i}", scene(120, 160, i)) for i in range(3)])
    assert parity.holds and parity.boxes >= 10, parity.to_text()
    assert file.describe()["strides"] == network.describe()["strides"]
    dirac = SHAPES[name].reg_max == 0
    ours, theirs = file.predict(scene()), network.predict(scene())
    assert (theirs.side_sigma is None) == dirac
    assert (ours.side_sigma is None) == (dirac or not (form.sigma or form.form == "core"))


def test_a_dirac_box_has_no_sigma(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "best.ckpt", SHAPES["plus, Dirac"])
    with pytest.raises(UsageError, match="one value per side"):
        nanogfl.export(checkpoint, out=tmp_path / "model.onnx", sigma=True)


def test_priors_of_the_first_nanodet_lie_at_the_cells_centres() -> None:
    priors, levels = Detector(FIRST).priors(64, 96)
    assert levels == [96, 24, 6]
    assert priors[0].tolist() == [4, 4, 8] and priors[96].tolist() == [8, 8, 16] and priors[-1].tolist() == [80, 48, 32]
    np.testing.assert_array_equal(priors.numpy(), all_priors((64, 96), (8, 16, 32), True))


def test_half_the_size_is_bilinear() -> None:
    maps = torch.randn(2, 3, 6, 10)
    torch.testing.assert_close(
        downsample2(maps), F.interpolate(maps, scale_factor=0.5, mode="bilinear", align_corners=False)
    )


@pytest.mark.parametrize(("size", "published"), [("s", 11_689_512), ("m", 21_797_672), ("l", 25_557_032)])
def test_resnets_have_the_published_parameters(size: str, published: int) -> None:
    """torchvision's counts, less the last layer's 1000 classes."""
    backbone = Detector(Architecture(size, 3, family="resnet")).backbone  # type: ignore[arg-type]
    assert count_parameters(backbone) == published - (2048 if size == "l" else 512) * 1000 - 1000


def test_the_heavy_detectors_levels_and_scales() -> None:
    detector = Detector(Architecture("s", 3, 16, family="resnet")).eval()
    priors, levels = detector.priors(64, 96)
    assert levels == [96, 24, 6, 2, 1] and priors[-1].tolist() == [0, 0, 128]
    with torch.no_grad():
        before = detector(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        detector.head.scales[0] = 2.0  # type: ignore[index]
        after = detector(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    assert before.shape == (1, 129, 3 + 4 * 17)
    torch.testing.assert_close(after[:, :96, 3:], 2 * before[:, :96, 3:])
    assert torch.equal(after[:, 96:], before[:, 96:]) and torch.equal(after[..., :3], before[..., :3])


def test_a_dirac_side_starts_where_equal_bins_do() -> None:
    for architecture in (Architecture("s", 2, 0), Architecture("s", 2, 7), Architecture("s", 2, 0, family="resnet")):
        detector = Detector(architecture)
        for conv in (m for m in detector.head.modules() if isinstance(m, nn.Conv2d)):
            nn.init.zeros_(conv.weight)
        card = Card(architecture, ("a", "b"), (64, 64), "stretch")
        predictor = TorchDetector(detector, card, Path("none"), "nanogfl")
        found = predictor.predict(np.zeros((64, 64, 3), np.uint8), 0.0, iou=1.0, max_boxes=10_000)
        inner = found.boxes[(found.boxes > 0).all(1) & (found.boxes < 64).all(1)]
        np.testing.assert_allclose(np.unique(inner[:, 2] - inner[:, 0]), [56], atol=1e-3)  # 2 x 3.5 strides of 8
