"""Depthwise convolutions whose gradients a CPU makes as fast as it can.

Two things that oneDNN does slowly there are done in another way (docs/scale.md has the times): the weight gradient of
kernels wider than three columns, which is made three columns at a time; and in bf16 what goes back through a strided
convolution, which is made in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FAST = 3  # columns


class DepthwiseConv2d(nn.Conv2d):
    """A padded depthwise convolution without bias: [B, C, H, W] -> [B, C, H / stride, W / stride].

    Args:
        channels: C.
        kernel: its side, odd.
        stride: of both axes.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """As ``nn.Conv2d``, which is all that exports and GPUs ever see."""
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
            like = images if kind == images.dtype else torch.empty_like(images, dtype=kind)  # its values play no part
            below = gradients(like, weight.to(kind), gradient.to(kind), ctx.stride, (half, half), 0).to(images.dtype)
        if ctx.needs_input_grad[1]:
            if ctx.stride > 1 and 1 in images.shape[2:]:  # in bf16 oneDNN adds memory there that nobody wrote
                images, gradient = images.to(weight.dtype), gradient.to(weight.dtype)
            above = weight_gradient(images, gradient, weight.shape[2], ctx.stride).to(weight.dtype)
        return below, above, None


def weight_gradient(images: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Of a padded depthwise convolution: its input [B, C, H, W], its output's gradient -> [C, 1, k, k].

    Columns of a kernel do not know of each other: some of them are a kernel that sees the picture moved.
    """
    half, channels, blocks = kernel // 2, images.shape[1], []
    if kernel <= FAST or images.shape[3] <= kernel:  # small maps gain nothing
        weight = images.new_empty(channels, 1, kernel, kernel)
        return gradients(images, weight, gradient, stride, (half, half), 1)
    for first in range(0, kernel, FAST):
        count = min(FAST, kernel - first)
        weight = images.new_empty(channels, 1, kernel, count)
        moved = padded(images, half - first, first + count - 1 - half)
        blocks.append(gradients(moved, weight, gradient, stride, (half, 0), 1))
    return torch.cat(blocks, dim=3)


def padded(images: Tensor, left: int, right: int) -> Tensor:
    """So many columns of zeros beside the maps [B, C, H, W], or fewer columns where negative; channels last.

    The same values as ``F.pad``, which first fills the whole map.
    """
    rows = images.permute(0, 2, 3, 1)
    zeros = rows.new_zeros(*rows.shape[:2], max(0, left, right), rows.shape[3])
    kept = rows[:, :, max(0, -left) : rows.shape[2] - max(0, -right)]
    return torch.cat([zeros[:, :, : max(0, left)], kept, zeros[:, :, : max(0, right)]], dim=2).permute(0, 3, 1, 2)


def gradients(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: int, padding: tuple[int, int], which: int
) -> Tensor:
    """The gradient of a depthwise convolution's input (0) or weight (1)."""
    wanted = [which == 0, which == 1, False]
    made = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], len(weight), wanted
    )
    return made[which]  # type: ignore[no-any-return]
