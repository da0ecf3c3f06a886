"""A training run from data and recipe to summary.json; the only place that defines the order of its steps."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from nanogfl.atomic import write_json
from nanogfl.data.loader import TrainingSet, training_loader, view_loader
from nanogfl.data.order import EpochOrder, EvenBatches
from nanogfl.data.readers import read_table
from nanogfl.data.shards import Shards, shards_of
from nanogfl.data.splits import for_training
from nanogfl.data.table import Table
from nanogfl.errors import DataError, TrainingError, UsageError, counted, nearest
from nanogfl.machine import cores
from nanogfl.model.detector import count_parameters
from nanogfl.model.weights import read_tensors_only
from nanogfl.recipe import Recipe, load_recipe
from nanogfl.training.averaging import Averaging
from nanogfl.training.failures import as_training_error, lost_peer
from nanogfl.training.folder import TENSORBOARD, Folder, finished, open_folder
from nanogfl.training.hardware import devices, keep_memory, refuse_loader_process
from nanogfl.training.keeper import Best, Keeper, WholeCheckpoints, save_detector
from nanogfl.training.progress import Progress
from nanogfl.training.resume import (
    KeepSigterm,
    MidEpochCheckpoints,
    interrupted,
    resumed_plan,
    resumed_recipe,
    saved_state,
    was_interrupted,
)
from nanogfl.training.schedule import Plan, plan, with_plan
from nanogfl.training.start import Start, complete_model, start
from nanogfl.training.task import DetectionTask
from nanogfl.training.teacher import read_teacher
from nanogfl.view import parse_input

log = logging.getLogger(__name__)


def train(
    data: str | Path,
    *,
    out: str | Path,
    recipe: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    set: Iterable[str] = (),  # noqa: A002  (the option's name)
    **options: Any,
) -> dict[str, Any]:
    """Train a detector. On a CPU with glibc, the process keeps the memory of a training step until it exits.

    In a script, call it under ``if __name__ == "__main__":``, since loader processes import it on macOS and Windows.

    Args:
        data: a COCO, VOC or YOLO set; the format is detected.
        out: folder for best.ckpt, last.ckpt, config.yaml, metrics.csv, summary.json.
        recipe: a name that ships with nanogfl, or a YAML file.
        resume: continue the run in ``out``.
        overwrite: replace the run in ``out``.
        set: ``key.path=value`` assignments.
        options: size, input (also (H, W)), init, epochs, batch, seed, freeze; as on the command line.

    Returns:
        The contents of summary.json.

    Raises:
        NanogflError: a one-line message of what is wrong, where, and what to do.
    """
    refuse_loader_process()
    folder = open_folder(Path(out), resume, overwrite)
    made = resolve(folder, recipe, set, options)
    training, validation = for_training(read_table(data))
    if not training.names:
        raise DataError(f"{training.root} has no classes: none of its pictures has a box; annotate some")
    for table, part, follows in (
        (training, "training", "only background can be learnt"),
        (validation, "validation", "no AP can be measured, and the last weights are kept"),
    ):
        if len(table) and not any((~example.crowd).any() for example in table.examples):
            log.warning("none of the %d %s pictures has a box: %s", len(table), part, follows)
    if folder.resume and finished(folder, made):
        last = saved_state(folder, {})
        if last is not None:
            resumed_recipe(made, last, training.names)
        summary = json.loads((folder / "summary.json").read_text())
        log.info("%s is finished (%s); increase --epochs to continue", folder.path, counted(summary["epochs"], "epoch"))
        return summary
    return fit(made, training, validation, folder)


def fit(recipe: Recipe, training: Table, validation: Table, folder: Folder) -> dict[str, Any]:
    """Train a recipe on two tables and return the contents of summary.json."""
    pl.seed_everything(recipe.train.seed, workers=True, verbose=False)
    hardware, processes = devices(recipe.train)
    shards = shards_of(training)
    order = EpochOrder(len(training), recipe.train.seed, None if shards is None else shards.numbers)
    last = saved_state(folder, EvenBatches(order, recipe.train.batch, 0, processes).layout())
    if last is not None:
        recipe = resumed_recipe(recipe, last, training.names)
    begin = start(recipe, training.names, resumed=last is not None)
    keep_memory(recipe.train.batch, begin.card.input_size)
    made = plan(recipe.train, len(training), processes, begin.trained)
    if last is not None:
        made = resumed_plan(made, last)
    resumed_from = None if last is None else last.path
    del last  # frees as much memory as the run itself takes
    recipe = complete_recipe(recipe, begin, made)
    log.info("%d training and %s", len(training), counted(len(validation), "validation picture"))
    log.info("%s, %s, input %dx%d", counted(made.epochs, "epoch"), counted(made.steps, "step"), *begin.card.input_size)
    teacher = read_teacher(recipe, begin.card)
    task = DetectionTask(begin.detector, begin.guidance, begin.card, recipe, made, teacher)
    task.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    keeper = Keeper(folder, validation)
    trainer = make_trainer(recipe, made, keeper, hardware)
    try:
        loaders = make_loaders(recipe, made, order, shards, training, validation, task, trainer)
        trainer.fit(task, *loaders, ckpt_path=resumed_from, weights_only=True)
        return write_summary(folder, trainer, task, keeper)
    except (SystemExit, RuntimeError, OSError, ValueError, MemoryError) as error:  # Lightning turns Ctrl-C into an exit
        ended = was_interrupted(error)
        if trainer.global_rank and (ended or lost_peer(error)):
            raise SystemExit(0 if ended else 1) from error  # rank 0 reports it
        epoch = trainer.current_epoch
        raise (TrainingError(interrupted(folder, epoch)) if ended else as_training_error(error, folder.path)) from error
    finally:
        folder.leave()


def complete_recipe(recipe: Recipe, begin: Start, made: Plan) -> Recipe:
    """Return the recipe with everything filled in that follows from data and initial weights."""
    size = "x".join(map(str, begin.card.input_size))
    seen = replace(recipe.input, size=size, resize=begin.card.resize)
    return with_plan(replace(recipe, input=seen, model=complete_model(recipe.model, begin.card.architecture)), made)


def make_trainer(recipe: Recipe, made: Plan, keeper: Keeper, hardware: dict[str, Any]) -> pl.Trainer:
    """Return Lightning's trainer; the keeper precedes the averaging, so that it sees the averaged weights."""
    averaging = [Averaging(made.average)] if made.average else []
    logger = tensorboard(keeper.out.path)
    return pl.Trainer(
        max_epochs=made.epochs,
        callbacks=[
            KeepSigterm(),
            keeper,
            *averaging,
            MidEpochCheckpoints(keeper.out, recipe.train.save_every),
            Progress(keeper),
        ],
        plugins=[WholeCheckpoints()],
        logger=logger,
        enable_checkpointing=False,
        check_val_every_n_epoch=made.validate_every,
        limit_val_batches=None if len(keeper.table) else 0,
        accumulate_grad_batches=recipe.train.accumulate,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, made.steps_per_epoch) if logger else sys.maxsize,  # logging synchronises a GPU
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        **hardware,
    )


def resolve(folder: Folder, source: str | None, assignments: Iterable[str], options: dict[str, Any]) -> Recipe:
    """Return the recipe of this run; on resume, that of the folder, changed by the options given now."""
    known = {
        "size": "model.size", "input": "input.size", "init": "init", "epochs": "train.epochs",
        "batch": "train.batch", "seed": "train.seed", "freeze": "train.freeze",
    }  # fmt: skip
    for name in options:
        if name not in known:
            every = [*known, "recipe", "set", "resume", "overwrite"]
            raise UsageError(f"train has no option {name!r}{nearest(name, every)}; known: {', '.join(every)}")
    if options.get("input") is not None:
        options = options | {"input": "x".join(map(str, parse_input(options["input"])))}
    config = folder / "config.yaml"
    if folder.resume and source is None and config.is_file():
        source = str(config)
    given = {known[n]: os.fspath(value) if isinstance(value, os.PathLike) else value for n, value in options.items()}
    return load_recipe(source, assignments, given)


def make_loaders(
    recipe: Recipe,
    made: Plan,
    order: EpochOrder,
    shards: Shards | None,
    training: Table,
    validation: Table,
    task: DetectionTask,
    trainer: pl.Trainer,
) -> tuple[Any, Any]:
    """Return the training and validation loaders of this process."""
    size, rule, seed = task.card.input_size, task.card.resize, recipe.train.seed
    dataset = TrainingSet(training, size, rule, recipe.augment, seed, recipe.train.cache, shards)
    dataset.reduced_from = made.reduced_from
    task.store = dataset.prepare(trainer.strategy.root_device)
    workers = recipe.train.workers
    if workers is None:
        workers = min(8, cores() // 2) if len(training) > 64 else 0
    rank, processes = trainer.global_rank, trainer.world_size
    batches = EvenBatches(order, recipe.train.batch, rank, processes)
    pin = torch.cuda.is_available()
    views = view_loader(validation.examples, size, rule, recipe.train.batch, workers, rank, processes)
    return training_loader(dataset, batches, workers, pin), views


def tensorboard(path: Path) -> Any:
    """Return Lightning's TensorBoard logger, or False without TensorBoard; metrics.csv is written in any case."""
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        return False
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(path, name="", version=TENSORBOARD)


def write_summary(folder: Folder, trainer: pl.Trainer, task: DetectionTask, keeper: Keeper) -> dict[str, Any]:
    """Write summary.json and return its contents; without a validation, save the last weights as best.ckpt."""
    summary = {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "seconds": round(keeper.seconds, 2),
        "images_per_second": round(keeper.images_per_second, 2),
        "classes": list(task.card.names),
        "parameters": count_parameters(task.detector),
        "best": dict(vars(keeper.best)),
    }
    if trainer.is_global_zero:
        if keeper.best.epoch < 0:  # no validation pictures: the last weights are the best
            last = trainer.current_epoch - 1
            summary["best"] = dict(vars(Best(last)))
            task.load_state_dict(read_tensors_only(folder / "last.ckpt")["state_dict"])  # the averaged weights
            save_detector(task, folder / "best.ckpt", last, None)
        write_json(folder / "summary.json", summary)
    return summary
