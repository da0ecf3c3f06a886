"""nanogfl.model.depthwise: the same convolution, whatever way its gradients are made."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanogfl.model.depthwise import DepthwiseConv2d, padded
from nanogfl.model.detector import Architecture, Detector

SIDES = [(40, 40), (20, 13), (9, 7), (8, 6), (5, 4), (2, 3), (3, 1), (1, 8), (1, 1)]
NEAR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7}  # of the largest gradient


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def convolution(kernel: int, stride: int, dtype: torch.dtype = torch.float32, channels: int = 6) -> DepthwiseConv2d:
    return DepthwiseConv2d(channels, kernel, stride).to(dtype)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_it_is_the_plain_convolution(side: tuple[int, int], kernel: int, stride: int, dtype: torch.dtype) -> None:
    """Value and gradients against float64; in bf16 under autocast, as in training.

    Without AVX-512, torch's own input gradient adds up in bf16 and is less exact; ours is the same there.
    """
    half = dtype == torch.bfloat16
    conv = convolution(kernel, stride, torch.float32 if half else dtype)
    images = torch.randn(2, 6, *side).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        made, plain = conv(images), nn.Conv2d.forward(conv, images)
    exact, weight = (x.detach().to(dtype).double().requires_grad_() for x in (images, conv.weight))
    expected = F.conv2d(exact, weight, None, stride, kernel // 2, groups=6)
    slope = torch.randn_like(made)
    got = torch.autograd.grad(made, (images, conv.weight), slope)
    assert made.dtype == got[0].dtype == dtype and got[1].dtype == conv.weight.dtype
    wanted = (expected, *torch.autograd.grad(expected, (exact, weight), slope.double()))
    usual = (plain, *torch.autograd.grad(plain, (images, conv.weight), slope))
    for one, other, torchs in zip((made, *got), wanted, usual, strict=True):
        limit = NEAR[dtype] * other.abs().max()
        if half and "AVX512" not in torch.backends.cpu.get_cpu_capability():
            limit = torch.maximum(limit, (torchs.double() - other).abs().max())
        assert (one.double() - other).abs().max() <= limit


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", [6, 58, 96])
@pytest.mark.parametrize("side", [(1, 1), (2, 2), (3, 3), (6, 6), (20, 20), (1, 2), (1, 8), (2, 1), (7, 1), (2, 3)])
def test_nothing_comes_from_memory_that_nobody_wrote(
    side: tuple[int, int], channels: int, kernel: int, stride: int
) -> None:
    conv, images = convolution(kernel, stride, channels=channels), torch.randn(8, channels, *side).bfloat16()
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    made = []
    for _ in range(4):
        left = [torch.full((1 << n,), float("nan")) for n in range(10, 20)]
        del left
        with torch.autocast("cpu", torch.bfloat16):
            loss = conv(images).float().square().sum()
        made.append(torch.cat([g.float().flatten() for g in torch.autograd.grad(loss, (images, conv.weight))]))
    assert all(torch.isfinite(m).all() and torch.equal(m, made[0]) for m in made)


def test_only_what_is_wanted_has_a_gradient() -> None:
    conv, images = convolution(5, 1), torch.randn(2, 6, 9, 9)
    conv(images).sum().backward()
    assert conv.weight.grad is not None and images.grad is None
    conv.weight.requires_grad_(False)
    images.requires_grad_()
    conv(images).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad[0, :, 4, 4], conv.weight.sum((1, 2, 3)))  # all 25 weights saw the centre


def test_out_of_training_it_is_the_plain_one_to_the_bit() -> None:
    conv, plain = convolution(5, 2).eval(), nn.Conv2d(6, 6, 5, 2, 2, groups=6, bias=False)
    plain.load_state_dict(conv.state_dict())
    images = torch.randn(2, 6, 9, 9)
    assert torch.equal(conv(images), plain(images))
    assert type(conv(images).grad_fn) is type(plain(images).grad_fn)


@pytest.mark.parametrize(("left", "right"), [(2, 0), (0, 2), (-1, 2), (3, -1), (0, 0), (-2, -1)])
def test_padded_is_pad(left: int, right: int) -> None:
    images: Tensor = torch.randn(2, 3, 5, 7)
    got = padded(images, left, right)
    assert torch.equal(got, F.pad(images, (left, right)))
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("family", ["plus", "first"])
def test_every_depthwise_convolution_of_the_network_is_one(family: Any) -> None:
    detector = Detector(Architecture("s", 3, family=family))
    depthwise = [m for m in detector.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) > 15 and all(isinstance(m, DepthwiseConv2d) for m in depthwise)
    copied = copy.deepcopy(detector)
    assert [type(m) for m in copied.modules()] == [type(m) for m in detector.modules()]
