"""The timing of one way to train, stage by stage, in this process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nanogfl.data.batch import Batch
from nanogfl.data.loader import TrainingSet, training_loader
from nanogfl.data.order import EpochOrder, EvenBatches
from nanogfl.data.readers import read_table
from nanogfl.data.shards import shards_of
from nanogfl.data.splits import for_training
from nanogfl.data.table import Table
from nanogfl.deploy.device_runner import peak_mb
from nanogfl.recipe import LossRecipe, Recipe
from nanogfl.training.averaging import Averages
from nanogfl.training.hardware import in_bf16, keep_memory
from nanogfl.training.objective import WHOLE, Assignment, Targets, assign, supervise
from nanogfl.training.schedule import plan
from nanogfl.training.start import start
from nanogfl.training.task import DetectionTask

WARM = 6  # untimed steps, after which no more memory is allocated
STAGES = ("loader", "transfer", "forward", "guidance", "assignment", "loss", "backward", "optimizer", "averaging")


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: printed name.
        guidance: value of model.guidance.
        cached: whether pictures are decoded only once.
        batched: whether the pictures of a batch are assigned together.
        accelerated: whether the cores of a CPU share a batch, or a GPU replays its steps.
    """

    name: str
    guidance: str
    cached: bool = True
    batched: bool = True
    accelerated: bool = False


@dataclass(frozen=True)
class Work:
    """The data to train on: a set, or noise with a given number of boxes and classes.

    Attributes:
        data: a set; None for noise.
        recipe: recipe to train with.
        steps: number of timed steps.
        boxes: boxes per picture of noise.
        classes: classes of noise.
    """

    data: str | None
    recipe: Recipe
    steps: int
    boxes: int = 4
    classes: int = 3


class Clock:
    """A recorder of the seconds of each stage, one number per step."""

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.stages = device.type == "cuda", dict[str, list[float]]()
        self.last = time.perf_counter()

    def tick(self, stage: str) -> None:
        """Record the end of a stage."""
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.stages.setdefault(stage, []).append(now - self.last)
        self.last = now


class Loop:
    """The training loop of a row without Lightning: batches, and a step on one."""

    def __init__(self, row: Row, work: Work) -> None:
        self.row = row
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cuda = self.device.type == "cuda"
        model = replace(work.recipe.model, guidance=row.guidance)
        train = replace(work.recipe.train, cache=("auto" if cuda else "ram") if row.cached else "none")
        recipe = replace(work.recipe, model=model, train=train)
        table = for_training(read_table(work.data))[0] if work.data else None
        names = table.names if table else tuple(f"class {i}" for i in range(work.classes))
        begin = start(recipe, names)
        keep_memory(train.batch, begin.card.input_size)  # as in a run
        made = plan(train, 1000 if table is None else len(table), 1, begin.trained)
        task = DetectionTask(begin.detector, begin.guidance, begin.card, recipe, made).to(self.device)
        task.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.task = task.train()
        self.optimizer = task.configure_optimizers()["optimizer"]
        # before use_cores: this copies the task, and threads cannot be copied
        self.average = Averages(task, task.device, made.average or 0.999)
        if row.accelerated:
            task.use_cores()
            task.use_compiler()
            task.use_graphs()
        self.batches = noise(task, work) if table is None else endless(table, task, train.workers)
        half = torch.float16 if train.fp16 else torch.bfloat16
        self.precision = half if train.fp16 or in_bf16(train, cuda) else torch.float32  # as in a run

    def step(self, batch: Batch, tick: Callable[[str], None] = lambda _: None) -> None:
        """Train on a batch that is on the device; call ``tick`` with the name of each stage that ends."""
        task, row = self.task, self.row
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            if row.accelerated:
                loss = torch.stack(list(task.accelerated_losses(batch, WHOLE).values())).sum()
                tick("at once")
            else:
                choose = assign if row.batched else one_by_one
                parts = task.losses(task, batch, WHOLE, partial(supervise, choose=choose, tick=tick), tick)
                loss = torch.stack(list(parts.values())).sum()
        loss.backward()
        tick("backward")
        torch.nn.utils.clip_grad_norm_(task.parameters(), task.recipe.train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        tick("optimizer")
        self.average.update_parameters(task)
        tick("averaging")


def measure(row: Row, work: Work) -> dict[str, Any]:
    """Time the steps of one row in this process; return seconds per step and stage, memory in MB, pictures per step."""
    loop = Loop(row, work)
    clock, times, counts = Clock(loop.device), list[float](), list[int]()
    for step in range(WARM + work.steps):
        if step == WARM:
            clock.stages.clear()
        began = clock.last = time.perf_counter()
        batch = next(loop.batches)
        clock.tick("loader")
        batch = batch.to(loop.device)
        clock.tick("transfer")
        loop.step(batch, clock.tick)
        times.append(time.perf_counter() - began)
        counts.append(len(batch.names))
    used = torch.cuda.max_memory_allocated() / 1e6 if clock.cuda else peak_mb() or math.nan
    pictures = statistics.fmean(counts[WARM:])  # per step; below the batch size if an epoch does not divide evenly
    return {"seconds": times[WARM:], "stages": clock.stages, "megabytes": used, "pictures": pictures}


def one_by_one(
    recipe: LossRecipe, raw: Tensor, priors: Tensor, levels: list[int], targets: Targets, reg_max: int
) -> Assignment:
    """Assign as ``assign`` does, but each picture separately, with its own boxes only."""
    made = []
    for i in range(len(raw)):
        keep = targets.valid[i] | targets.crowd[i]
        own = Targets(*(value[i : i + 1, keep] for value in vars(targets).values()))
        made.append(assign(recipe, raw[i : i + 1], priors, levels, own, reg_max))
    tensors = (torch.cat([getattr(m, name) for m in made]) for name in ("gt_index", "quality", "ignored"))
    return Assignment(*tensors, most=max(m.most for m in made))


def endless(table: Table, task: DetectionTask, workers: int | None) -> Iterator[Batch]:
    """Yield the batches of a set, epoch after epoch."""
    recipe = task.recipe
    size, rule, cache = task.card.input_size, task.card.resize, recipe.train.cache
    dataset = TrainingSet(table, size, rule, recipe.augment, 0, cache, shards_of(table))
    store = dataset.prepare(task.device)
    order = EpochOrder(len(table), 0)
    loader = training_loader(dataset, EvenBatches(order, recipe.train.batch), workers or 0, torch.cuda.is_available())
    while True:
        yield from loader if store is None else (batch.drawn(store, size) for batch in loader)
        order.set_epoch(order.epoch + 1)


def noise(task: DetectionTask, work: Work) -> Iterator[Batch]:
    """Yield the same batch of noise again and again, with boxes of various sizes."""
    random = torch.Generator().manual_seed(0)
    count, (height, width) = work.recipe.train.batch, task.card.input_size
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=random)
    corner = torch.rand(count, work.boxes, 2, generator=random) * 0.7
    sides = 0.05 + torch.rand(count, work.boxes, 2, generator=random) * 0.25
    boxes = torch.cat([corner, corner + sides], dim=2) * torch.tensor([width, height, width, height])
    labels = torch.randint(0, work.classes, (count, work.boxes), generator=random)
    valid = torch.ones_like(labels, dtype=torch.bool)
    batch = Batch(images, boxes, labels, valid, ~valid, ["noise"] * count)
    while True:
        yield batch
