"""Interrupting and resuming a run: what is taken from last.ckpt, what is refused, and the message after Ctrl-C."""

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
from nanogfl.training.start import complete_model

log = logging.getLogger(__name__)
ANEW = "--overwrite starts from scratch; --init with its best.ckpt, in another folder, keeps its weights"


class KeepSigterm(Callback):
    """A callback that keeps the program's SIGTERM handler.

    Lightning's handler communicates with the other processes while they are in the middle of their work.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore a handler that is a function; Lightning has installed its own by now."""
        if callable(self.before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)


class MidEpochCheckpoints(Callback):
    """A callback that saves the state within an epoch; it must come after the averaging, which is part of the step."""

    def __init__(self, folder: Folder, every: int) -> None:
        self.folder, self.every, self.step = folder, every, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the step that a resumed run starts after, whose state is already saved."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save once per step, not after every accumulated batch; the end of an epoch has a checkpoint of its own."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if stepped and self.step % self.every == 0 and not trainer.is_last_batch:
            trainer.save_checkpoint(self.folder / WITHIN, weights_only=False)


@dataclass(frozen=True)
class SavedState:
    """The checkpoint that a run resumes from, with its contents."""

    path: Path
    state: dict[str, Any]

    @property
    def batches(self) -> dict[str, int]:
        """How the epoch was split into batches, and how many of these were taken."""
        return self.state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]

    @property
    def accumulate(self) -> int:
        """Batches per step in the saved run."""
        return self.state["nanogfl"]["recipe"]["train"]["accumulate"]


def saved_state(folder: Folder, layout: Mapping[str, int]) -> SavedState | None:
    """Return the checkpoint that this run resumes from, or None to start from the beginning.

    This is the state within an epoch if it is newer than last.ckpt. If settings have changed that decide which pictures
    are still to come (e.g. a smaller batch, to save memory), it is last.ckpt, or None if there is none.

    Args:
        folder: folder of the run.
        layout: how this run splits an epoch into batches.
    """
    ended, within = (_loaded(folder / name) if folder.resume else None for name in ("last.ckpt", WITHIN))
    if within is None:
        if ended is None and folder.resume:
            _refuse_lost(folder)
        return ended
    state = within.state
    if ended is not None and ended.state["global_step"] >= state["global_step"]:
        return ended  # the run was killed between writing the one and deleting the other
    changed = [name for name, now in layout.items() if within.batches.get(name) != now]
    if not changed:
        return within
    log.warning(
        "epoch %d was interrupted at step %d with different %s; restarting from %s",
        state["epoch"] + 1,
        state["global_step"],
        " and ".join(changed),
        "its beginning" if state["epoch"] else "the beginning",
    )
    return ended


def _refuse_lost(folder: Folder) -> None:
    """Refuse to resume a run that has finished an epoch but whose state is lost: its results would be overwritten."""
    rows = folder / "metrics.csv"
    epochs = len(rows.read_text(encoding="utf-8", errors="replace").splitlines()) - 1 if rows.is_file() else 0
    if epochs > 1 or (folder / "summary.json").is_file():
        raise UsageError(f"--resume: no last.ckpt found in {folder.path}; {ANEW}")
    log.warning("nothing to resume in %s: starting from the beginning", folder.path)


def _loaded(path: Path) -> SavedState | None:
    if not path.is_file():
        return None
    try:
        state = read_tensors_only(path)
        if "loops" not in state:
            raise ModelError(f"{path} contains only weights")
        return SavedState(path, state)
    except ModelError as error:
        raise TrainingError(
            f"cannot resume from {path}: it is damaged, or contains no training state; "
            + ("delete it and use --resume again" if path.name == WITHIN else f"{ANEW}, or restore a valid last.ckpt")
        ) from error


def resumed_recipe(recipe: Recipe, last: SavedState, names: tuple[str, ...]) -> Recipe:
    """Return the recipe of a resumed run; settings that it leaves open stay as they were.

    Raises:
        UsageError: a setting has changed that cannot change within a run.
    """
    weights = weights_of(last.state, last.path)
    card, was = read_card(weights), from_dict(weights.card.get("recipe", {}), str(last.path))
    model, former_model = (complete_model(m, card.architecture) for m in (recipe.model, was.model))
    for key, asked, former in [
        *((f"model.{key}", value, getattr(former_model, key)) for key, value in vars(model).items()),
        ("train.freeze", recipe.train.freeze, was.train.freeze),
    ]:
        _refuse_change(last.path, key, asked, former)
    if recipe.train.average == 0 and was.train.average:  # the raw weights and the averages would be confused
        _refuse_change(last.path, "train.average", 0, was.train.average)
    _refuse_change(last.path, "the dataset's classes", ", ".join(names), ", ".join(card.names))
    seen = replace(
        recipe.input,
        size="x".join(map(str, card.input_size)) if recipe.input.size is None else recipe.input.size,
        resize=recipe.input.resize or card.resize,
    )
    train = replace(recipe.train, lr=was.train.lr if recipe.train.lr is None else recipe.train.lr)
    return replace(recipe, model=model, input=seen, train=train)


def resumed_plan(made: Plan, last: SavedState) -> Plan:
    """Return the plan of a resumed run, shifted so that the learning rate continues if epochs now differ in length.

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
            f"--resume: {epochs} epochs are done, only {made.epochs} requested; use --epochs {epochs} or more"
        )
    return replace(made, shift=epochs * made.steps_per_epoch - steps)


def _refuse_change(last: Path, what: str, asked: Any, former: Any) -> None:
    if asked != former:
        raise UsageError(
            f"--resume: {what} cannot change within a run: {last} has {former}, requested is {asked}; "
            "use the former value, or train in another folder"
        )


def was_interrupted(error: BaseException | None) -> bool:
    """Return whether an error goes back to Ctrl-C; loaders and other processes that end with it raise errors too."""
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__context__
    return error is not None


def interrupted(folder: Folder, epoch: int) -> str:
    """Return the message after Ctrl-C, which says how to resume."""
    config = folder / "config.yaml"
    if not (config.is_file() and (folder.resume or config.stat().st_mtime >= folder.opened)):
        return "interrupted; nothing was trained or written yet: run the command again"
    return f"interrupted; epoch {epoch + 1} is incomplete: continue with --resume --out {folder.path}"
