"""The progress bar of a run: loss parts, learning rate, pictures per second, and remaining time."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from nanogfl.training.keeper import Keeper, highest_rate
from nanogfl.training.task import DetectionTask

log = logging.getLogger(__name__)
REFRESH_S = 0.5  # between two readings of the losses
SILENCE_S = 30  # after which a line shows in the log that the run is alive
# A narrow terminal cuts off the end, which is the guidance losses; everything else fits into 80 columns.
FORM = "{desc}{bar} {elapsed}<{remaining}{postfix}"


class Progress(Callback):
    """A callback that shows one bar over all epochs on a terminal, else logs a line now and then within an epoch."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.bar: Any = None
        self.silent_since = self.shown = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if trainer.is_global_zero and sys.stderr.isatty():
            assert isinstance(pl_module, DetectionTask)
            total = int(trainer.estimated_stepping_batches) - pl_module.plan.shift
            self.bar = tqdm(
                total=total, initial=trainer.global_step, bar_format=FORM, dynamic_ncols=True, smoothing=0.05
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar, with tqdm's remaining time; without a terminal, log a line if the epoch takes long."""
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            self.bar.set_description(epoch, refresh=False)
            if time.monotonic() > self.shown + REFRESH_S:  # rarely, because reading the losses synchronises a GPU
                self.shown = time.monotonic()
                self.bar.set_postfix_str(self._numbers(trainer), refresh=False)
        elif trainer.is_global_zero and time.monotonic() > self.silent_since + SILENCE_S:
            self.silent_since = time.monotonic()
            log.info("%s, batch %d/%s: %s", epoch, batch_idx + 1, trainer.num_training_batches, self._numbers(trainer))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the interval of SILENCE_S, because the end of the previous epoch has been logged."""
        self.silent_since = time.monotonic()

    def _numbers(self, trainer: pl.Trainer) -> str:
        lr, speed = highest_rate(trainer), self.keeper.images_per_second
        losses = [
            f"{k.removesuffix('_step')} {float(v):.2f}"
            for k, v in trainer.progress_bar_metrics.items()
            if not k.endswith("_epoch")
        ]
        return " ".join([f"{speed:.1f} img/s lr {lr:.1e}", *losses])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
