"""Channel operations whose outputs and gradients stay dense in memory: join, shuffle, and shuffle then split.

A channel slice of a channels-last map is not dense in memory. The gradients that autograd passes back through ``cat``
and ``chunk`` are such slices, and PyTorch computes the preceding activations on its unvectorised path for them. These
operations do the same with one copy forward and one backward; values and gradients are bit-identical.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def join(*parts: Tensor) -> Tensor:
    """Concatenate maps [B, C_i, H, W] along the channels to [B, sum of C_i, H, W]."""
    return _Join.apply(*parts)  # type: ignore[no-any-return]


def reshuffle(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Interleave two maps [B, C, H, W], C even, and return both halves of the result, each [B, C, H, W]."""
    return _Reshuffle.apply(first, second)  # type: ignore[no-any-return]


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """Apply ShuffleNet's channel shuffle: a0 a1 .., b0 b1 .., each [B, C, H, W], -> a0 b0 a1 b1 .. [B, 2 C, H, W]."""
    return _Interleave.apply(first, second)  # type: ignore[no-any-return]


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.widths = [part.shape[1] for part in parts]
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in gradient.split(ctx.widths, dim=1))  # dense, memory format kept


class _Interleave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return _zip(first, second)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(half.contiguous(memory_format=torch.channels_last) for half in _unzip(gradient))


class _Reshuffle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return tuple(_zip(a, b) for a, b in zip(first.chunk(2, dim=1), second.chunk(2, dim=1), strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts, dim=1) for parts in zip(*map(_unzip, gradients), strict=True))


def _zip(first: Tensor, second: Tensor) -> Tensor:
    """Interleave the channels of two maps [B, C, H, W]: a0 b0 a1 b1 .. [B, 2 C, H, W], in channels-last format."""
    rows = [half.permute(0, 2, 3, 1) for half in (first, second)]
    if first.is_cuda:
        pair = torch.stack(rows, dim=-1)
    else:  # stack is slow on a CPU (docs/scale.md)
        pair = first.new_empty(*rows[0].shape, 2)
        pair[..., 0], pair[..., 1] = rows
    return pair.flatten(-2).permute(0, 3, 1, 2)


def _unzip(both: Tensor) -> tuple[Tensor, Tensor]:
    """Return the even and the odd channels of a map [B, 2 C, H, W] as two views [B, C, H, W]."""
    return both[:, 0::2], both[:, 1::2]
