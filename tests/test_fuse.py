"""nanogfl.deploy.fuse: the same function with no batch norm left."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from nanogfl.deploy.fuse import fuse, fused_parameters
from nanogfl.model.detector import Architecture, Detector, count_parameters


def randomise(module: nn.Module) -> None:
    """Statistics and affine values that training could have left."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)


def norms(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


@pytest.mark.parametrize(
    ("size", "share", "quality"),
    [("s", False, "none"), ("m", False, "none"), ("s", True, "none"), ("s", False, "top4"), ("s", True, "moments")],
)
def test_same_outputs_and_no_batch_norm(
    size: Literal["s", "m"], share: bool, quality: Literal["none", "top4", "moments"]
) -> None:
    detector = Detector(Architecture(size, 5, share_levels=share, quality=quality)).eval()
    randomise(detector)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        fused = fuse(detector)
        expected, got = detector(images), fused(images)
    assert norms(detector) > 0 and norms(fused) == 0
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert expected.std() > 1e-3  # not a network that is zero everywhere
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())  # the original is untouched


def test_published_parameter_count() -> None:
    assert count_parameters(fuse(Detector(Architecture("m", 80)))) == 1_186_346


def test_a_training_module_is_fused_in_eval_mode() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)).train()
    randomise(module)
    x = torch.randn(4, 2, 8, 8)
    fused = fuse(module)
    assert not fused.training and module.training
    torch.testing.assert_close(fused(x), module.eval()(x))


def test_hand_values() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0)
    for parameter, value in ((conv.weight, 3.0), (conv.bias, 5.0), (norm.weight, 2.0), (norm.bias, 7.0)):
        assert parameter is not None
        nn.init.constant_(parameter, value)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.fill_(1)
    norm.running_var.fill_(3)
    weight, bias = fused_parameters(conv, norm)
    assert weight.item() == 3.0  # 3 * 2 / sqrt(3 + 1)
    assert bias.item() == 11.0  # (5 - 1) * 2 / sqrt(3 + 1) + 7


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)),
        nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.BatchNorm2d(2))),
        nn.ModuleDict({"conv": nn.Conv2d(2, 2, 1), "norm": nn.BatchNorm2d(2)}),
    ],
    ids=["an activation between", "before the convolution", "in another Sequential", "in no Sequential"],
)
def test_a_batch_norm_without_its_convolution_is_an_error(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="batch norm left after fusing"):
        fuse(module)


def test_a_batch_norm_without_statistics_is_an_error() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="without running statistics"):
        fuse(module)
