"""Losses whose gradients are known before backward is called, from threads or from a replayed CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nanogfl.training.objective import Parts

Gradients = list[Tensor | None]


def gradients_of(parts: Parts, parameters: list[nn.Parameter]) -> Gradients:
    """Return the gradients of the sum of the parts; None for parameters that it does not depend on."""
    total = torch.stack(list(parts.values())).sum()
    return list(torch.autograd.grad(total, parameters, allow_unused=True))


def with_gradients(parts: Parts, gradients: Gradients, parameters: list[nn.Parameter]) -> Parts:
    """Return loss parts with known gradients: backward through their sum passes on copies of these."""
    name = next(iter(parts))
    return parts | {name: _KnownGradients.apply(parts[name], gradients, *parameters)}


class _KnownGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Gradients, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        scaled = iter(torch._foreach_mul([g for g in ctx.gradients if g is not None], factor))  # pyright: ignore[reportPrivateImportUsage]
        return None, None, *(None if g is None else next(scaled) for g in ctx.gradients)
