"""The progress bar of a run: loss parts, learning rate, pictures a second, and when it will be done."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm


class Progress(Callback):
    """One bar over all epochs on a terminal; silent elsewhere, where the log has a line an epoch."""

    def __init__(self) -> None:
        self.bar: Any = None
        self._clock, self._seen = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if trainer.is_global_zero and sys.stderr.isatty():
            total = int(trainer.estimated_stepping_batches)
            self.bar = tqdm(total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True, smoothing=0.05)
        self._clock, self._seen = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; its end time is tqdm's."""
        self._seen += len(batch.names) * trainer.world_size
        if self.bar is None:
            return
        self.bar.update(trainer.global_step - self.bar.n)
        self.bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
        if batch_idx % 5 == 0:
            shown = {
                k.removesuffix("_step"): f"{float(v):.2f}"
                for k, v in trainer.progress_bar_metrics.items()
                if not k.endswith("_epoch")
            }
            shown["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.1e}"
            shown["img/s"] = f"{self._seen / max(1e-9, time.monotonic() - self._clock):.1f}"
            self.bar.set_postfix(shown, refresh=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
