"""Depthwise convolutions with fast gradients on a CPU.

Two gradients that oneDNN computes slowly on CPUs are computed differently (timings in docs/scale.md): the weight
gradient of kernels wider than three columns is computed three columns at a time, and in bf16 the input gradient of a
strided convolution is computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FAST_COLUMNS = 3  # widest kernel, in columns, whose weight gradient oneDNN computes fast


class DepthwiseConv2d(nn.Conv2d):
    """A padded depthwise convolution without bias: [B, C, H, W] -> [B, C, H / stride, W / stride].

    Args:
        channels: number of channels C.
        kernel: side of the kernel; odd.
        stride: stride along both axes.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the same as ``nn.Conv2d``; on a GPU and outside training (exports too) call ``nn.Conv2d`` itself."""
        if images.is_cuda or not self.training:
            return super().forward(images)
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))
        return _Depthwise.apply(images, self.weight, self.stride[0])  # type: ignore[no-any-return]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        return F.conv2d(images, weight.to(images.dtype), None, stride, weight.shape[2] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        below = above = None
        if ctx.needs_input_grad[0]:
            kind, half = images.dtype if ctx.stride == 1 else weight.dtype, weight.shape[2] // 2
            # the input gradient does not depend on the values of the input
            like = images if kind == images.dtype else torch.empty_like(images, dtype=kind)
            below = gradients(like, weight.to(kind), gradient.to(kind), ctx.stride, (half, half), 0).to(images.dtype)
        if ctx.needs_input_grad[1]:
            if ctx.stride > 1 and 1 in images.shape[2:]:  # oneDNN's bf16 kernel adds uninitialised memory
                images, gradient = images.to(weight.dtype), gradient.to(weight.dtype)
            above = weight_gradient(images, gradient, weight.shape[2], ctx.stride).to(weight.dtype)
        return below, above, None


def weight_gradient(images: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Return a padded depthwise convolution's weight gradient [C, 1, k, k] from its input and its output's gradient.

    The columns of a kernel are independent: a group of columns is a narrower kernel applied to the shifted input.
    """
    half, channels, blocks = kernel // 2, images.shape[1], []
    if kernel <= FAST_COLUMNS or images.shape[3] <= kernel:  # no gain for small maps
        weight = images.new_empty(channels, 1, kernel, kernel)
        return gradients(images, weight, gradient, stride, (half, half), 1)
    for first in range(0, kernel, FAST_COLUMNS):
        count = min(FAST_COLUMNS, kernel - first)
        weight = images.new_empty(channels, 1, kernel, count)
        moved = padded(images, half - first, first + count - 1 - half)
        blocks.append(gradients(moved, weight, gradient, stride, (half, 0), 1))
    return torch.cat(blocks, dim=3)


def padded(images: Tensor, left: int, right: int) -> Tensor:
    """Pad maps [B, C, H, W] with ``left`` and ``right`` columns of zeros, or crop if negative; returns channels last.

    The values equal those of ``F.pad``, which is slower because it first fills the whole map.
    """
    rows = images.permute(0, 2, 3, 1)
    zeros = rows.new_zeros(*rows.shape[:2], max(0, left, right), rows.shape[3])
    kept = rows[:, :, max(0, -left) : rows.shape[2] - max(0, -right)]
    return torch.cat([zeros[:, :, : max(0, left)], kept, zeros[:, :, : max(0, right)]], dim=2).permute(0, 3, 1, 2)


def gradients(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: int, padding: tuple[int, int], which: int
) -> Tensor:
    """Return the gradient of a depthwise convolution's input (``which`` = 0) or weight (1)."""
    wanted = [which == 0, which == 1, False]
    made = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], len(weight), wanted
    )
    return made[which]  # type: ignore[no-any-return]
