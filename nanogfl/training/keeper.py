"""What a run writes: scores of every validation, best.ckpt, last.ckpt and metrics.csv, each file atomically."""

from __future__ import annotations

import csv
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from nanogfl.atomic import atomic_file
from nanogfl.data.table import Table
from nanogfl.decode import decode
from nanogfl.detections import Detections
from nanogfl.errors import counted
from nanogfl.evaluation.calibrate import fit_temperature, matched_sides
from nanogfl.evaluation.coco import Scores, score
from nanogfl.model.checkpoint import write_detector
from nanogfl.model.weights import read_weights
from nanogfl.training.finite import gather
from nanogfl.training.folder import WITHIN, Folder
from nanogfl.training.task import DetectionTask, Predicted
from nanogfl.view import View

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """An atomic writer of checkpoints; Lightning's may copy, not rename, the file from the temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write next to the target, then rename."""
        with atomic_file(Path(path)) as partial:
            torch.save(checkpoint, partial)


@dataclass
class Best:
    """The best validation so far; its AP is None if there are no boxes to find."""

    epoch: int = -1
    AP: float | None = None
    AP50: float | None = None


@dataclass
class Keeper(Callback):
    """A callback that scores validations, saves the best weights and the last state, and writes one line per epoch.

    Attributes:
        out: the run's folder.
        table: the validation set in the model's class order.
        images_per_second: throughput of this epoch so far, over all processes.
    """

    out: Folder
    table: Table
    best: Best = field(default_factory=Best)
    since_best: int = 0
    images_per_second: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _started: float = 0.0
    _seen: int = 0
    _pending: dict[str, Any] = field(default_factory=dict)
    _found: list[tuple[int, Detections]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that last.ckpt stores, so that a resumed run starts with its best validation."""
        return {"best": dict(vars(self.best)), "since_best": self.since_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from last.ckpt."""
        self.best, self.since_best = Best(**state_dict["best"]), state_dict["since_best"]

    @property
    def seconds(self) -> float:
        """Duration of the run in seconds, including the whole epochs before an interruption."""
        return time.monotonic() - self._began

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write to the output folder only now that model and optimizer have been restored."""
        assert isinstance(pl_module, DetectionTask)
        if trainer.is_global_zero:
            self.out.begin(pl_module.recipe)
            if trainer.global_step:
                self._began -= seconds_before(self.out / "metrics.csv", trainer.current_epoch)
                log.info("resuming after step %d, in epoch %d", trainer.global_step, trainer.current_epoch + 1)
        self.on_train_epoch_start(trainer, pl_module)  # Lightning does not call it when a run resumes within an epoch
        patience = pl_module.recipe.train.patience
        if patience and self.since_best >= patience:  # the run had stopped early and is to go on
            self.since_best = 0

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take time and speed from metrics.csv if no epoch was left to train: the run died before its summary."""
        if not self._started:
            self._began -= seconds_before(self.out / "metrics.csv", trainer.current_epoch)
            self.images_per_second = speed_before(self.out / "metrics.csv", trainer.current_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the epoch's clock and counters; make sure that the last epoch is validated."""
        self._started, self._seen, self._pending = time.monotonic(), 0, {}
        assert isinstance(pl_module, DetectionTask)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        trainer.check_val_every_n_epoch = 1 if last else pl_module.plan.validate_every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count pictures and update the throughput."""
        self._seen += len(batch.names) * trainer.world_size
        self.images_per_second = self._seen / max(1e-9, time.monotonic() - self._started)
        self._pending["images_per_second"] = self.images_per_second

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decode at once, because the raw outputs of 5,000 pictures take gigabytes."""
        assert isinstance(pl_module, DetectionTask)
        self._found += decoded(outputs, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score and save the best weights; done here, while the averaged weights are still in place."""
        assert isinstance(pl_module, DetectionTask)
        detections, self._found = dict(gather(self._found)), []
        if not trainer.is_global_zero:
            return
        found = [detections[i] for i in range(len(self.table))]
        scores = score(self.table, found)
        ap, before = scores.numbers["AP"], self.best.AP
        self._pending |= {name: scores.numbers[name] for name in ("AP", "AP50") if ap is not None}
        self.since_best = 0 if ap is None or before is None or ap > before else self.since_best + 1
        if ap is None or before is None or ap >= before:  # on equal AP, e.g. 0, keep the weights trained longest
            self.best = Best(trainer.current_epoch, ap, scores.numbers["AP50"])
            temperature = fit_temperature(matched_sides(self.table, found))
            save_detector(pl_module, self.out / "best.ckpt", trainer.current_epoch, scores, temperature)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop early if the recipe asks for it."""
        assert isinstance(pl_module, DetectionTask)
        patience = pl_module.recipe.train.patience
        stop = bool(patience) and self.since_best >= patience
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            log.info("no better AP in %s: stopping early", counted(patience, "validation"))
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write one line to metrics.csv and to the log, then save the state to resume from."""
        assert isinstance(pl_module, DetectionTask)
        pl_module.finite.check()
        if trainer.is_global_zero:
            self._write_row(trainer)
        trainer.save_checkpoint(self.out / "last.ckpt", weights_only=False)
        if trainer.is_global_zero:
            (self.out / WITHIN).unlink(missing_ok=True)

    def _write_row(self, trainer: pl.Trainer) -> None:
        measured = {
            k.removesuffix("_epoch"): float(v) for k, v in trainer.callback_metrics.items() if k.endswith("_epoch")
        }
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "lr": highest_rate(trainer),
            "seconds": time.monotonic() - self._started,
            **self._pending,
            **measured,
        }
        append_row(self.out / "metrics.csv", row)
        said = " ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("epoch", "step"))
        log.info("epoch %d/%s: %s", trainer.current_epoch + 1, trainer.max_epochs, said)


def highest_rate(trainer: pl.Trainer) -> float:
    """Return the highest learning rate of all parameter groups; a backbone may have a lower one."""
    return max(group["lr"] for group in trainer.optimizers[0].param_groups)


def decoded(predictions: list[Predicted], task: DetectionTask) -> list[tuple[int, Detections]]:
    """Decode raw outputs; return the detections, each with the index of its picture."""
    card, layout = task.card, task.card.layout
    return [
        (index, decode(raw, layout, View(shape, card.input_size, card.resize), card.names))
        for index, raw, shape in predictions
    ]


def save_detector(task: DetectionTask, path: Path, epoch: int, scores: Scores | None, temperature: float = 1.0) -> None:
    """Save only what inference needs: the detector's tensors, its card with the factor on sigma, and its scores."""
    content: dict[str, Any] = {}
    task.on_save_checkpoint(content)
    content["nanogfl"]["temperature"] = temperature
    content["nanogfl"]["validation"] = None if scores is None else scores.to_json()
    write_detector(path, task.detector, content["nanogfl"], epoch=epoch)


def validated(path: Path) -> Scores | None:
    """Return the validation scores stored in a best.ckpt; None if there was no validation."""
    said = read_weights(path).card.get("validation")
    return None if said is None else Scores.from_json(said)


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row; drop rows of the same or a later epoch (from before a resume) and truncated rows."""
    rows = rows_before(path, row["epoch"])
    columns = list(dict.fromkeys(key for r in [*rows, row] for key in r))
    with atomic_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([*rows, {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}])


def rows_before(path: Path, epoch: int) -> list[dict[str, Any]]:
    """Return the complete rows of earlier epochs."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    whole = [r for r in csv.DictReader(text.splitlines()) if None not in r and None not in r.values()]
    return [r for r in whole if r.get("epoch", "").isdigit() and int(r["epoch"]) < epoch]


def seconds_before(path: Path, epoch: int) -> float:
    """Return the total duration of the epochs before this one; 0 if metrics.csv cannot be interpreted."""
    try:
        return sum(float(row["seconds"]) for row in rows_before(path, epoch))
    except (KeyError, ValueError):
        return 0.0


def speed_before(path: Path, epoch: int) -> float:
    """Return the pictures per second of the last epoch before this one; 0 if metrics.csv cannot be interpreted."""
    try:
        return float(rows_before(path, epoch)[-1]["images_per_second"])
    except (IndexError, KeyError, ValueError):
        return 0.0
