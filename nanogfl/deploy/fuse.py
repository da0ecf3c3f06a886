"""Fusion of batch norms into the preceding convolutions: the same function with fewer operations."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def fuse(module: Module) -> Module:
    """Return a copy in eval mode in which every Conv-BatchNorm pair of a Sequential is one convolution with bias.

    Raises:
        ValueError: a batch norm does not follow a convolution.
    """
    fused = copy.deepcopy(module).eval()
    for parent in fused.modules():
        if isinstance(parent, nn.Sequential):
            _fuse_sequential(parent)
    left = [name for name, layer in fused.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    if left:
        raise ValueError(f"batch norm left after fusing: {left}")
    return fused


def _fuse_sequential(layers: nn.Sequential) -> None:
    """Merge pairs in place and replace the batch norms by identities."""
    previous: nn.Module | None = None
    for name, layer in list(layers.named_children()):
        if isinstance(layer, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            weight, bias = fused_parameters(previous, layer)
            previous.weight, previous.bias = nn.Parameter(weight), nn.Parameter(bias)
            setattr(layers, name, nn.Identity())
        previous = layer


@torch.no_grad()
def fused_parameters(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the fused convolution; computed in float64 to avoid intermediate rounding errors."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics cannot be fused")
    factor = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    weight = conv.weight.double() * factor[:, None, None, None]
    start = torch.zeros_like(mean) if conv.bias is None else conv.bias
    bias = (start.double() - mean.double()) * factor + norm.bias.double()
    return weight.float(), bias.float()
