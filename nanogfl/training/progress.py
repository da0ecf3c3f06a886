"""The progress bar of a run: loss parts, learning rate, pictures a second, and when it will be done."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from nanogfl.training.keeper import Keeper

# What is left out where the terminal is narrow stands last: the guidance's losses. 80 columns hold the rest.
FORM = "{desc}{bar} {elapsed}<{remaining}{postfix}"


class Progress(Callback):
    """One bar over all epochs on a terminal; silent elsewhere, where the log has a line an epoch."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if trainer.is_global_zero and sys.stderr.isatty():
            total = int(trainer.estimated_stepping_batches)
            self.bar = tqdm(
                total=total, initial=trainer.global_step, bar_format=FORM, dynamic_ncols=True, smoothing=0.05
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; its end time is tqdm's."""
        if self.bar is None:
            return
        self.bar.update(trainer.global_step - self.bar.n)
        self.bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
        if batch_idx % 5 == 0:
            lr, speed = trainer.optimizers[0].param_groups[0]["lr"], self.keeper.images_per_second
            losses = [
                f"{k.removesuffix('_step')} {float(v):.2f}"
                for k, v in trainer.progress_bar_metrics.items()
                if not k.endswith("_epoch")
            ]
            self.bar.set_postfix_str(" ".join([f"{speed:.1f} img/s lr {lr:.1e}", *losses]), refresh=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
