"""Stopping and going on: what a resumed run takes from last.ckpt, what it refuses, and what an interrupted one says."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from nanogfl.errors import ModelError, TrainingError, UsageError
from nanogfl.model.checkpoint import read_card
from nanogfl.model.weights import read_tensors_only, weights_of
from nanogfl.recipe import Recipe, from_dict
from nanogfl.training.folder import WITHIN, Folder
from nanogfl.training.schedule import Plan
from nanogfl.training.start import filled

log = logging.getLogger(__name__)
ANEW = "--overwrite starts anew; --init with its best.ckpt, into another folder, keeps what it has learnt"


class Signals(Callback):
    """Keeps the SIGTERM handler of the program: Lightning's speaks to the other processes while they are at work."""

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after Lightning has put its own in place."""
        if callable(self.before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)


class LongEpochs(Callback):
    """Writes the state within an epoch. Stands behind the averaging, which belongs to the step."""

    def __init__(self, folder: Folder, every: int) -> None:
        self.folder, self.every, self.step = folder, every, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step that a resumed run begins behind is written already."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Once a step, not after every batch whose gradients it adds up; an epoch's end has its own."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if stepped and self.step % self.every == 0 and not trainer.is_last_batch:
            trainer.save_checkpoint(self.folder / WITHIN, weights_only=False)


@dataclass(frozen=True)
class Former:
    """The checkpoint that a run goes on from, and what it holds."""

    path: Path
    state: dict[str, Any]

    @property
    def batches(self) -> dict[str, int]:
        """How the epoch was cut into batches, and how many of them were taken."""
        return self.state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]

    @property
    def accumulate(self) -> int:
        """Batches a step, as the run was."""
        return self.state["nanogfl"]["recipe"]["train"]["accumulate"]


def former_state(folder: Folder, cut: Mapping[str, int]) -> Former | None:
    """The checkpoint that this run goes on from, if any.

    The state within an epoch, where it is the newer one; but what was changed since then may have changed which
    pictures are still to come (less memory, a smaller batch): then that of the last epoch's end, or the beginning.

    Args:
        folder: of the run.
        cut: of this run's batches.
    """
    ended, within = (_loaded(folder / name) if folder.resume else None for name in ("last.ckpt", WITHIN))
    if within is None:
        if ended is None and folder.resume:
            _refuse_lost(folder)
        return ended
    state = within.state
    if ended is not None and ended.state["global_step"] >= state["global_step"]:
        return ended  # it was killed between the two
    changed = [name for name, now in cut.items() if within.batches.get(name) != now]
    if not changed:
        return within
    log.warning(
        "epoch %d was left at step %d with other %s; going back to %s",
        state["epoch"] + 1,
        state["global_step"],
        " and ".join(changed),
        "its beginning" if state["epoch"] else "the beginning",
    )
    return ended


def _refuse_lost(folder: Folder) -> None:
    """A run that has ended an epoch has left a state: where it is gone, going on would write over what is left."""
    rows = folder / "metrics.csv"
    epochs = len(rows.read_text(encoding="utf-8", errors="replace").splitlines()) - 1 if rows.is_file() else 0
    if epochs > 1 or (folder / "summary.json").is_file():
        raise UsageError(f"--resume: there is no last.ckpt in {folder.path} to go on from; {ANEW}")
    log.warning("nothing to go on from in %s: starting from the beginning", folder.path)


def _loaded(path: Path) -> Former | None:
    if not path.is_file():
        return None
    try:
        state = read_tensors_only(path)
        if "loops" not in state:
            raise ModelError(f"{path} holds weights alone")
        return Former(path, state)
    except ModelError as error:
        raise TrainingError(
            f"cannot go on from {path}: it is damaged, or holds no state of a run; "
            + ("remove it, and --resume again" if path.name == WITHIN else f"{ANEW}, or put a sound last.ckpt there")
        ) from error


def going_on(recipe: Recipe, last: Former, names: tuple[str, ...]) -> Recipe:
    """The recipe of a resumed run; what it leaves open is as it was.

    Raises:
        UsageError: what cannot change in a run has changed.
    """
    weights = weights_of(last.state, last.path)
    card, was = read_card(weights), from_dict(weights.card.get("recipe", {}), str(last.path))
    model, former_model = (filled(m, card.architecture) for m in (recipe.model, was.model))
    for key, asked, former in [
        *((f"model.{key}", value, getattr(former_model, key)) for key, value in vars(model).items()),
        ("train.freeze", recipe.train.freeze, was.train.freeze),
    ]:
        _refuse_change(last.path, key, asked, former)
    _refuse_change(last.path, "the data's classes", ", ".join(names), ", ".join(card.names))
    seen = replace(
        recipe.input,
        size="x".join(map(str, card.input_size)) if recipe.input.size is None else recipe.input.size,
        resize=recipe.input.resize or card.resize,
    )
    train = replace(recipe.train, lr=was.train.lr if recipe.train.lr is None else recipe.train.lr)
    return replace(recipe, model=model, input=seen, train=train)


def shifted(made: Plan, last: Former) -> Plan:
    """The plan of a resumed run, whose rate goes on from where it was, also where epochs have more steps now, or fewer.

    Raises:
        UsageError: more epochs are done than the plan has.
    """
    epochs, steps = last.state["epoch"], last.state["global_step"]
    if last.path.name == WITHIN:
        steps -= last.batches["taken"] // last.accumulate
    else:
        epochs += 1
    if made.epochs < epochs:
        raise UsageError(
            f"--resume: {epochs} epochs are done, asked for are {made.epochs}; give --epochs {epochs} or more"
        )
    return replace(made, shift=epochs * made.steps_per_epoch - steps)


def _refuse_change(last: Path, what: str, asked: Any, former: Any) -> None:
    if asked != former:
        raise UsageError(
            f"--resume: {what} cannot change within a run: {last} has {former}, asked for is {asked}; "
            "give what it was, or train into another folder"
        )


def was_interrupted(error: BaseException | None) -> bool:
    """Whether it all began with Ctrl-C: loaders and other processes that end with it complain too."""
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__context__
    return error is not None


def interrupted(folder: Folder, epoch: int) -> str:
    """The line that says how to go on after Ctrl-C."""
    config = folder / "config.yaml"
    if not (config.is_file() and (folder.resume or config.stat().st_mtime >= folder.opened)):
        return "interrupted; nothing was trained or written yet: give the command again"
    return f"interrupted; epoch {epoch + 1} was not finished: go on with --resume --out {folder.path}"
