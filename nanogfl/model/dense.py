"""Splitting, joining and shuffling channels so that values and gradients stay dense in memory, both ways.

A slice of a channels-last map is no dense block: what autograd hands back through ``cat`` and ``chunk`` sends
the activations before them down PyTorch's unvectorised path. These four do the same arithmetic with one copy
forth and one back; values and gradients equal those of the plain operators bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def join(*parts: Tensor) -> Tensor:
    """Concatenate along the channels: [B, C_i, H, W] each -> [B, sum of C_i, H, W]."""
    return _Join.apply(*parts)  # type: ignore[no-any-return]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of the channels: [B, C, H, W] -> two of [B, C / 2, H, W]."""
    return _Halves.apply(x)  # type: ignore[no-any-return]


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """ShuffleNet's channel shuffle of two halves: a0 a1 .., b0 b1 .. -> a0 b0 a1 b1 ..; [B, C, H, W] each."""
    return _Interleave.apply(first, second)  # type: ignore[no-any-return]


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.widths = [part.shape[1] for part in parts]
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in gradient.split(ctx.widths, dim=1))  # without gaps, in the same order


class _Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(half.clone() for half in x.chunk(2, dim=1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], dim=1)


class _Interleave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        rows = [half.permute(0, 2, 3, 1) for half in (first, second)]
        if first.is_cuda:
            pair = torch.stack(rows, dim=-1)
        else:  # where stack is slow (docs/scale.md)
            pair = first.new_empty(*rows[0].shape, 2)
            pair[..., 0], pair[..., 1] = rows
        return pair.flatten(-2).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = gradient.shape
        pair = gradient.permute(0, 2, 3, 1).reshape(batch, height, width, channels // 2, 2)
        first, second = (pair[..., i].contiguous().permute(0, 3, 1, 2) for i in (0, 1))
        return first, second
