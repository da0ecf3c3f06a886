"""Losses whose gradients are known before backward is called: by threads that have made them, or by a replay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nanogfl.training.objective import Parts

Gradients = list[Tensor | None]


def gradients_of(parts: Parts, parameters: list[nn.Parameter]) -> Gradients:
    """Of the parts' sum; None for what takes no part in it."""
    total = torch.stack(list(parts.values())).sum()
    return list(torch.autograd.grad(total, parameters, allow_unused=True))


def given(parts: Parts, gradients: Gradients, parameters: list[nn.Parameter]) -> Parts:
    """Parts of a loss whose gradients are known already: backward through their sum hands these out, in copies."""
    name = next(iter(parts))
    return parts | {name: _Given.apply(parts[name], gradients, *parameters)}


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Gradients, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        scaled = iter(torch._foreach_mul([g for g in ctx.gradients if g is not None], factor))  # pyright: ignore[reportPrivateImportUsage]
        return None, None, *(None if g is None else next(scaled) for g in ctx.gradients)
