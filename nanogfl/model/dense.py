"""Splitting, joining and shuffling channels so that values and gradients stay dense in memory, both ways.

A slice of a channels-last map is no dense block: what autograd hands back through ``cat`` and ``chunk`` sends
the activations before them down PyTorch's unvectorised path. These three do the same arithmetic with one copy
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


def reshuffle(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of what ``interleave`` makes: [B, C, H, W] each -> [B, C, H, W] each, C even."""
    return _Reshuffle.apply(first, second)  # type: ignore[no-any-return]


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
    """a0 b0 a1 b1 .. of the channels of two maps [B, C, H, W], channels last: [B, 2 C, H, W]."""
    rows = [half.permute(0, 2, 3, 1) for half in (first, second)]
    if first.is_cuda:
        pair = torch.stack(rows, dim=-1)
    else:  # where stack is slow (docs/scale.md)
        pair = first.new_empty(*rows[0].shape, 2)
        pair[..., 0], pair[..., 1] = rows
    return pair.flatten(-2).permute(0, 3, 1, 2)


def _unzip(both: Tensor) -> tuple[Tensor, Tensor]:
    """Every second channel of a map [B, 2 C, H, W], from the first and from the second on: two views [B, C, H, W]."""
    return both[:, 0::2], both[:, 1::2]
