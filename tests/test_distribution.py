"""nanogfl.model.distribution: integral, deviation, boxes and priors, by hand, oracle and golden arrays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import head as oracle
from torch import Tensor

from nanogfl.decode import side_geometry
from nanogfl.model.distribution import (
    distances_to_boxes,
    integral,
    make_priors,
    side_probabilities,
)

STRIDES = (8, 16, 32, 64)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def logits_of(*sides: dict[int, float], bins: int = 8) -> Tensor:
    """Side logits [4 * bins] from the probabilities of each side's bins."""
    probability = torch.zeros(len(sides), bins)
    for row, side in enumerate(sides):
        for index, value in side.items():
            probability[row, index] = value
    return probability.log().clamp(min=-1e4).flatten()


def deviation(logits: Tensor) -> Tensor:
    """Of side logits [..., 4 * (R + 1)] in strides, as decoding has it."""
    flat = logits.reshape(-1, logits.shape[-1]).numpy()
    prior = np.tile(np.float32([0, 0, 1]), (len(flat), 1))
    return torch.from_numpy(side_geometry(flat, prior, logits.shape[-1] // 4 - 1)[1]).view(*logits.shape[:-1], 4)


def test_integral_and_deviation_hand_values() -> None:
    logits = logits_of({0: 1.0}, {7: 1.0}, {2: 0.7, 3: 0.3}, {0: 0.5, 7: 0.5})
    torch.testing.assert_close(integral(logits), torch.tensor([0.0, 7.0, 2.3, 3.5]))
    torch.testing.assert_close(deviation(logits), torch.tensor([0.0, 0.0, math.sqrt(0.21), 3.5]), atol=1e-5, rtol=0)


def test_uniform_sides_are_in_the_middle() -> None:
    torch.testing.assert_close(integral(torch.zeros(2, 5, 32)), torch.full((2, 5, 4), 3.5))
    torch.testing.assert_close(deviation(torch.zeros(2, 5, 32)), torch.full((2, 5, 4), math.sqrt(63 / 12)))


@pytest.mark.parametrize("reg_max", [1, 7, 16])
def test_equal_the_oracle_for_every_number_of_bins(reg_max: int) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (25, 4 * (reg_max + 1)))
    expected = [[oracle.mean(p) for p in oracle.sides(row)] for row in logits]
    np.testing.assert_allclose(integral(torch.from_numpy(logits)).numpy(), expected, rtol=1e-10)
    expected = [[oracle.deviation(p) for p in oracle.sides(row)] for row in logits]
    np.testing.assert_allclose(deviation(torch.from_numpy(logits)).numpy(), expected, rtol=1e-6)


def test_golden_integral_and_gradient(shared: Path) -> None:
    arrays = np.load(shared / "reference" / "losses.npz")
    logits = torch.from_numpy(arrays["integral_logits"]).requires_grad_()
    out = integral(logits)
    np.testing.assert_allclose(out.detach().numpy(), arrays["integral_out"], atol=1e-6)
    (out * torch.arange(4.0)).sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), arrays["integral_grad_of_sum_times_0123"], atol=1e-5)


def test_probabilities_sum_to_one_at_any_size_of_logits() -> None:
    logits = torch.randn(3, 9, 32) * 1e4
    assert torch.allclose(side_probabilities(logits).sum(-1), torch.ones(3, 9, 4))
    found = deviation(logits)  # a difference of large numbers: never the root of a negative one
    assert found.isfinite().all() and (found >= 0).all()


def test_a_constant_on_all_bins_of_a_side_changes_nothing() -> None:
    logits = torch.randn(6, 4, 8)
    shifted = logits + torch.randn(6, 4, 1)
    torch.testing.assert_close(integral(shifted.flatten(1)), integral(logits.flatten(1)))
    torch.testing.assert_close(deviation(shifted.flatten(1)), deviation(logits.flatten(1)))


def test_boxes_by_hand() -> None:
    priors = torch.tensor([[100.0, 50.0, 8.0], [0.0, 64.0, 64.0]])
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 7.0, 0.5]])
    expected = torch.tensor([[92.0, 34.0, 124.0, 82.0], [0.0, 0.0, 448.0, 96.0]])
    assert torch.equal(distances_to_boxes(distances, priors), expected)
    assert torch.equal(distances_to_boxes(distances.expand(3, 2, 4), priors), expected.expand(3, 2, 4))


def test_golden_priors(shared: Path) -> None:
    arrays = np.load(shared / "reference" / "nanodet_plus_m_10cls.npz")
    priors, levels = make_priors(320, 416, STRIDES)
    np.testing.assert_array_equal(priors.numpy(), arrays["priors_xy_stride"])
    assert levels == [40 * 52, 20 * 26, 10 * 13, 5 * 7]


@pytest.mark.parametrize(
    ("height", "width", "levels"),
    [
        (320, 320, [1600, 400, 100, 25]),
        (320, 416, [2080, 520, 130, 35]),  # 416 / 64 = 6.5: seven columns
        (416, 320, [2080, 520, 130, 35]),
        (64, 64, [64, 16, 4, 1]),  # the smallest
        (96, 160, [240, 60, 15, 6]),  # both sides odd at stride 64
    ],
)
def test_priors_equal_the_oracle(height: int, width: int, levels: list[int]) -> None:
    priors, sizes = make_priors(height, width, STRIDES)
    assert sizes == levels and priors.dtype == torch.float32
    np.testing.assert_array_equal(priors.numpy(), oracle.priors(height, width, STRIDES))
    priors += 1  # one's own, not what decoding keeps
    np.testing.assert_array_equal(make_priors(height, width, STRIDES)[0].numpy() + 1, priors.numpy())
