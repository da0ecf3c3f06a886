"""nanogfl.model.quality: the paper's predictor against golden arrays, oracle and hand values; stability."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from models import write_checkpoint
from oracles import head as oracle
from torch import Tensor

import nanogfl
from nanogfl.deploy.build import Form, build
from nanogfl.model.detector import Architecture, Detector, count_parameters
from nanogfl.model.head import GFLHead
from nanogfl.model.quality import QualityPredictor, product_logits
from nanogfl.predictor import TorchDetector
from nanogfl.training.losses import quality_focal_loss

Statistics = Literal["top4", "moments"]


@pytest.fixture
def golden(shared: Path) -> dict[str, Tensor]:
    """The arrays, maps [B, C, H, W] as rows [B, H, W, C]."""
    arrays = np.load(shared / "reference" / "losses.npz")
    found = {k[5:]: torch.from_numpy(np.asarray(arrays[k])) for k in arrays.files if k.startswith("dgqp_")}
    rows = ("reg_logits", "cls_logits", "quality", "score", "grad_reg", "grad_cls")
    return found | {k: found[k].permute(0, 2, 3, 1) for k in rows}


@pytest.fixture
def predictor(golden: dict[str, Tensor]) -> QualityPredictor:
    """With the golden 1x1 convolutions as its layers."""
    made = QualityPredictor()
    with torch.no_grad():
        made.fc1.weight.copy_(golden["w1"].flatten(1))
        made.fc1.bias.copy_(golden["b1"])
        made.fc2.weight.copy_(golden["w2"].flatten(1))
        made.fc2.bias.copy_(golden["b2"])
    return made


def test_golden_values(golden: dict[str, Tensor], predictor: QualityPredictor) -> None:
    probabilities = golden["reg_logits"].unflatten(-1, (4, 8)).softmax(-1)
    statistic = golden["stat"].permute(0, 3, 4, 1, 2)  # [B, H, W, 4 sides, 5]
    torch.testing.assert_close(predictor.describe(probabilities), statistic, atol=1e-6, rtol=1e-5)
    quality = predictor(golden["reg_logits"])
    torch.testing.assert_close(quality, golden["quality"], atol=1e-6, rtol=1e-5)
    score = product_logits(golden["cls_logits"], predictor.logits(golden["reg_logits"])).sigmoid()
    torch.testing.assert_close(score, golden["score"], atol=1e-6, rtol=1e-5)


def test_golden_gradients_through_score_and_distribution(
    golden: dict[str, Tensor], predictor: QualityPredictor
) -> None:
    classes = golden["cls_logits"].contiguous().requires_grad_()
    sides = golden["reg_logits"].contiguous().requires_grad_()
    logits = product_logits(classes, predictor.logits(sides))
    labels, quality = golden["labels"].flatten(), golden["target_quality"].flatten()
    loss = quality_focal_loss(logits.flatten(0, 2), labels, quality).sum() / golden["avg_factor"]
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    for got, expected in (
        (classes.grad, golden["grad_cls"]),
        (sides.grad, golden["grad_reg"]),
        (predictor.fc1.weight.grad, golden["grad_w1"].flatten(1)),
        (predictor.fc2.weight.grad, golden["grad_w2"].flatten(1)),
    ):
        assert got is not None
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("statistics", ["top4", "moments"])
def test_equals_the_oracle(statistics: Statistics) -> None:
    torch.manual_seed(0)
    made = QualityPredictor(statistics=statistics).double()
    logits = torch.randn(20, 32, dtype=torch.float64) * 3
    describe = oracle.top4 if statistics == "top4" else oracle.moments
    layers = [p.detach().numpy() for p in made.parameters()]
    expected = [oracle.quality(describe(row), *layers) for row in logits.tolist()]
    np.testing.assert_allclose(made(logits).detach().numpy()[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(("statistics", "count"), [("top4", 1409), ("moments", 897)])
def test_parameters(statistics: Statistics, count: int) -> None:
    """The paper's 20-64-1 has 20 x 64 + 64 + 64 + 1; twelve statistics need 512 fewer."""
    assert count_parameters(QualityPredictor(statistics=statistics)) == count


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top4.*moments.*'top5'"):
        QualityPredictor(statistics="top5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("probabilities", "top4", "moments"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0.125], [1, 1, 0]),  # sure
        ([0.125] * 8, [0.125] * 5, [0.125, 0.125, 5.25]),  # no idea: (8² - 1) / 12
        ([0.5, 0, 0, 0, 0, 0, 0, 0.5], [0.5, 0.5, 0, 0, 0.125], [0.5, 0.5, 12.25]),  # two peaks far apart
        ([0, 0, 0.7, 0.3, 0, 0, 0, 0], [0.7, 0.3, 0, 0, 0.125], [0.7, 0.58, 0.21]),  # between two bins
    ],
)
def test_statistics_hand_values(probabilities: list[float], top4: list[float], moments: list[float]) -> None:
    side = torch.tensor(probabilities).float().expand(4, 8)
    torch.testing.assert_close(QualityPredictor().describe(side), torch.tensor(top4).float().expand(4, 5))
    got = QualityPredictor(statistics="moments").describe(side)
    torch.testing.assert_close(got, torch.tensor(moments).float().expand(4, 3), atol=1e-5, rtol=0)


def test_the_papers_statistics_see_the_shape_and_not_the_place() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 4, 8)
    moved = logits[..., torch.randperm(8)]
    made = QualityPredictor()
    torch.testing.assert_close(made(moved.flatten(1)), made(logits.flatten(1)))


@pytest.mark.parametrize(
    ("logit", "quality", "product"),
    [
        (0.0, 0.0, -math.log(3)),  # a half of a half is a quarter: odds 1 to 3
        (50.0, -0.8, -0.8),  # a sure class: the quality alone
        (1.3, 60.0, 1.3),  # a perfect box: the class alone
        (-200.0, 0.0, -200 - math.log(2)),  # no score is ever computed, so none is lost
        (-200.0, -300.0, -500.0),
        (200.0, 200.0, 200 - math.log(2)),
    ],
)
def test_product_at_extremes(logit: float, quality: float, product: float) -> None:
    c, q = (torch.tensor([[x]], requires_grad=True) for x in (logit, quality))
    got = product_logits(c, q)
    got.sum().backward()
    assert got.item() == pytest.approx(product, rel=1e-5)
    assert c.grad is not None and q.grad is not None
    assert c.grad.isfinite().all() and q.grad.isfinite().all()
    assert float(c.grad + q.grad) >= 1 - 1e-6  # never saturated: one of the two is always moved


def test_the_gradient_lives_where_the_score_does_not() -> None:
    """d product / d c is 1 - sigmoid(c) over 1 - p: at a score of 1e-13 a positive still learns at full speed."""
    c, q = (torch.tensor([[-30.0]], requires_grad=True) for _ in range(2))
    loss = quality_focal_loss(product_logits(c, q), torch.tensor([0]), torch.tensor([0.8]))
    loss.sum().backward()
    assert c.grad is not None and q.grad is not None
    assert float(c.grad) == pytest.approx(-(0.8**3), rel=1e-4) and float(q.grad) == pytest.approx(-(0.8**3), rel=1e-4)


def test_product_logits_are_the_logits_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    c, q = (torch.randn(200, n, generator=generator, dtype=torch.float64) * 4 for n in (5, 1))
    torch.testing.assert_close(product_logits(c, q), torch.logit(c.sigmoid() * q.sigmoid()), rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(product_logits, (c[:4].requires_grad_(), q[:4].requires_grad_()))
    assert product_logits(c.bfloat16(), q.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("reg_max", [0, 2])
def test_fewer_than_four_bins_are_refused(reg_max: int) -> None:
    with pytest.raises(ValueError, match=f"at least 4 bins, not {reg_max + 1}"):
        QualityPredictor(reg_max)
    assert QualityPredictor(3).eval()(torch.zeros(1, 16)).shape == (1, 1)


@pytest.mark.parametrize("statistics", ["top4", "moments"])
def test_bf16_autocast_stays_near_and_finite(statistics: Statistics) -> None:
    torch.manual_seed(0)
    made = QualityPredictor(statistics=statistics)
    sides, classes = (torch.randn(300, 32) * 4).requires_grad_(), torch.randn(300, 5) * 4
    exact = product_logits(classes, made.logits(sides)).sigmoid()
    with torch.autocast("cpu", torch.bfloat16):
        rough = product_logits(classes, made.logits(sides))
    rough.sum().backward()
    assert rough.dtype == torch.float32
    assert torch.equal(rough.sigmoid(), exact)  # float32 throughout
    assert sides.grad is not None and sides.grad.isfinite().all()


@pytest.mark.parametrize("statistics", ["top4", "moments"])
def test_the_heads_class_columns_are_logits_of_the_product(statistics: Statistics) -> None:
    torch.manual_seed(0)
    made = QualityPredictor(statistics=statistics)
    guided = GFLHead(8, 3, 7, 4, quality=made).eval()
    plain = GFLHead(8, 3, 7, 4).eval()
    plain.load_state_dict({k: v for k, v in guided.state_dict().items() if not k.startswith("quality.")})
    features = [torch.randn(2, 8, n, n + 1) for n in (8, 4, 2, 1)]
    with torch.no_grad():
        raw, before = guided(features), plain(features)
    torch.testing.assert_close(raw[..., 3:], before[..., 3:])
    expected = before[..., :3].sigmoid() * made(before[..., 3:])
    torch.testing.assert_close(raw[..., :3].sigmoid(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("statistics", ["top4", "moments"])
def test_only_top4_needs_topk_in_the_graph(statistics: Statistics, tmp_path: Path) -> None:
    """Accelerators often lack the operator."""
    path = write_checkpoint(tmp_path / "c.ckpt", Architecture("s", 3, quality=statistics), input_size=(64, 64))
    detector = nanogfl.load(path)
    assert isinstance(detector, TorchDetector)
    operators = {node.op_type for node in build(detector, Form("core")).graph.node}
    assert ("TopK" in operators) == (statistics == "top4")


@pytest.mark.parametrize("statistics", ["top4", "moments"])
def test_a_detectors_scores_are_float32_under_autocast(statistics: Statistics) -> None:
    detector = Detector(Architecture("s", 3, quality=statistics)).train()
    with torch.autocast("cpu", torch.bfloat16):
        raw = detector(torch.randn(2, 3, 64, 64))
    assert raw.dtype == torch.float32
    raw.square().mean().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
