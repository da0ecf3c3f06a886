"""Exponential moving average (EMA) of the weights, with a warm-up; the averages are validated, saved and exported."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nanogfl.training.schedule import averaging_decay

Pairs = tuple[list[Tensor], list[Tensor]]


class Averages(AveragedModel):
    """An EMA copy of a model, updated with two operators; torch's own update walks through all modules every time.

    Args:
        model: the model to average; its tensors must not be reallocated after the first update.
        device: device of the averages.
        decay: see nanogfl.training.schedule.averaging_decay.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device, use_buffers=True)
        self.n_averaged = self.n_averaged.cpu()  # reading it from a GPU would synchronise
        self.decay = decay
        self.moving: Pairs | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the averages in place; the first update copies.

        Values that are equal already stay bit-identical. Integer tensors are always copied.
        """
        if self.moving is None:
            self.moving, self.counters = in_pairs(self.module, model)
        if self.n_averaged:
            keep = averaging_decay(self.decay, int(self.n_averaged))
            torch._foreach_lerp_(*self.moving, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(*self.moving)  # pyright: ignore[reportPrivateImportUsage]
        if self.counters[0]:
            torch._foreach_copy_(*self.counters)  # pyright: ignore[reportPrivateImportUsage]
        self.n_averaged += 1


def in_pairs(averaged: nn.Module, model: nn.Module) -> tuple[Pairs, Pairs]:
    """Return the tensors of both models side by side: first the floating-point ones, then the integer ones."""
    both = [[t.detach() for t in (*m.parameters(), *m.buffers())] for m in (averaged, model)]
    moves = [t.is_floating_point() for t in both[0]]
    moving = ([t for t, move in zip(side, moves, strict=True) if move] for side in both)
    counters = ([t for t, move in zip(side, moves, strict=True) if not move] for side in both)
    return tuple(moving), tuple(counters)  # type: ignore[return-value]


class Averaging(WeightAveraging):
    """Lightning's callback with our averages: trains the weights, but validates and saves the averages."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the averages on the device that the weights will be moved to."""
        if stage == "fit":
            self._average_model = Averages(pl_module, trainer.strategy.root_device, self.decay)
