"""How fast training is and where its time goes: ``python -m nanogfl.training.benchmark DATA [--grow batch]``.

The base row trains as NanoDet-Plus does (full guidance, every picture decoded anew in every epoch, one picture
assigned at a time) with everything else equal; all rows run in turns, each turn in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanogfl.data.loader import Batch, EpochOrder, EvenBatches, TrainingSet, training_loader
from nanogfl.data.readers import read_table
from nanogfl.data.splits import for_training
from nanogfl.data.table import Table
from nanogfl.recipe import Recipe, load_recipe
from nanogfl.training.cores import Cores, parts_for
from nanogfl.training.keeper import Averaging
from nanogfl.training.objective import WHOLE, Assignment, Targets, assign, head_loss
from nanogfl.training.schedule import plan
from nanogfl.training.start import start
from nanogfl.training.task import DetectionTask, Networks

WARM = 2  # steps that are not counted
STAGES = ("loader", "transfer", "forward", "guidance", "assignment", "loss", "backward", "optimizer", "averaging")
GROW = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "boxes": (1, 3, 10, 30, 100, 300),
    "classes": (1, 10, 100, 1000),
    "pixels": (320, 640, 960, 1280),
}


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: as it is printed.
        guidance: model.guidance.
        cached: pictures are decoded once.
        batched: the pictures of a batch are assigned together.
        spread: the batch is cut over the cores of a CPU.
    """

    name: str
    guidance: str
    cached: bool = True
    batched: bool = True
    spread: bool = False


BASE = Row("as NanoDet-Plus trains", "full", cached=False, batched=False)
ROWS = (
    BASE,
    Row("full guidance, stages apart", "full"),
    Row("light guidance, stages apart", "light"),
    Row("no guidance, stages apart", "none"),
    Row("light guidance", "light", spread=True),
    Row("no guidance", "none", spread=True),
)


@dataclass(frozen=True)
class Work:
    """What is trained on: a set, or drawn noise with so many boxes and classes.

    Attributes:
        data: a set; None: noise.
        recipe: as trained.
        steps: that are timed.
        boxes: a picture, of noise.
        classes: of noise.
    """

    data: str | None
    recipe: Recipe
    steps: int
    boxes: int = 4
    classes: int = 3


class Clock:
    """Seconds of each stage, one number a step."""

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.stages = device.type == "cuda", dict[str, list[float]]()
        self.last = time.perf_counter()

    def tick(self, stage: str) -> None:
        """The stage that ends now."""
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.stages.setdefault(stage, []).append(now - self.last)
        self.last = now


def measure(row: Row, work: Work) -> dict[str, Any]:
    """Time the steps of one row in this process; returns seconds a step, seconds of each stage, memory in MB."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = replace(work.recipe.model, guidance=row.guidance)
    train = replace(work.recipe.train, cache="ram" if row.cached else "none")
    recipe = replace(work.recipe, model=model, train=train)
    table = for_training(read_table(work.data))[0] if work.data else None
    names = table.names if table else tuple(f"class {i}" for i in range(work.classes))
    begin = start(recipe, names)
    made = plan(recipe.train, 1000 if table is None else len(table), 1, begin.trained)
    task = DetectionTask(begin.detector, begin.guidance, begin.card, recipe, made).to(device)
    task.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.train()
    threads = torch.get_num_threads()
    parts = parts_for(recipe.train.batch, threads) if row.spread and device.type == "cpu" else 1
    cores = Cores(Networks(task.detector, task.guidance), parts, threads // parts) if parts > 1 else None
    learn = update(task)
    batches = noise(task, work) if table is None else endless(table, task, work.recipe.train.workers)
    clock, times = Clock(device), []
    for step in range(WARM + work.steps):
        if step == WARM:
            clock.stages.clear()
        began = clock.last = time.perf_counter()
        batch = next(batches)
        clock.tick("loader")
        batch = batch.to(device)
        clock.tick("transfer")
        if cores is None:
            loss = staged(task, batch, row.batched, clock)
        else:
            shared = cores.losses(batch.cut(parts), task.losses, WHOLE)
            loss = torch.stack(list(shared.values())).sum()
            clock.tick("all cores at once")
        loss.backward()
        clock.tick("backward")
        learn(clock)
        times.append(time.perf_counter() - began)
    used = torch.cuda.max_memory_allocated() if clock.cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {"seconds": times[WARM:], "stages": clock.stages, "megabytes": used / 1e6, "batch": recipe.train.batch}


def staged(task: DetectionTask, batch: Batch, batched: bool, clock: Clock) -> Tensor:
    """The task's loss, a stage at a time."""
    targets = Targets(batch.boxes, batch.labels, batch.valid, batch.crowd)
    reg_max, loss = task.card.architecture.reg_max, task.recipe.loss
    features = task.detector.backbone(task.normalise(batch.images))
    pyramid = task.detector.neck(features)
    raw = task.detector.head(pyramid)
    clock.tick("forward")
    heads = [raw]
    if task.guidance is not None:
        heads.append(task.guidance(features, pyramid, detach=False))
        clock.tick("guidance")
    if batched:
        assignment = assign(loss, heads[-1], task.priors, task.levels, targets, reg_max)
    else:
        assignment = one_by_one(task, heads[-1], targets)
    clock.tick("assignment")
    found = [head_loss(h, task.priors, targets, assignment, task.weights, WHOLE, reg_max) for h in heads]
    total = torch.stack([part for parts in found for part in parts.values()]).sum()
    clock.tick("loss")
    return total


def one_by_one(task: DetectionTask, raw: Tensor, targets: Targets) -> Assignment:
    """Each picture assigned apart, with its own boxes only."""
    made = []
    for i in range(len(raw)):
        keep = targets.valid[i] | targets.crowd[i]
        own = Targets(*(value[i : i + 1, keep] for value in vars(targets).values()))
        made.append(
            assign(task.recipe.loss, raw[i : i + 1], task.priors, task.levels, own, task.card.architecture.reg_max)
        )
    return Assignment(*(torch.cat([getattr(m, name) for m in made]) for name in vars(made[0])))


def update(task: DetectionTask) -> Callable[[Clock], None]:
    """Clip, optimizer and averaging, as in a run."""
    optimizer = task.configure_optimizers()["optimizer"]
    average = torch.optim.swa_utils.AveragedModel(
        task, **Averaging(task.plan.average or 0.999)._kwargs, use_buffers=True
    )

    def learn(clock: Clock) -> None:
        torch.nn.utils.clip_grad_norm_(task.parameters(), task.recipe.train.clip)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick("optimizer")
        average.update_parameters(task)
        clock.tick("averaging")

    return learn


def endless(table: Table, task: DetectionTask, workers: int | None) -> Iterator[Batch]:
    """Batches of a set, epoch after epoch."""
    recipe = task.recipe
    dataset = TrainingSet(table, task.card.input_size, task.card.resize, recipe.augment, 0, recipe.train.cache)
    dataset.fill()
    order = EpochOrder(len(table), 0)
    loader = training_loader(dataset, EvenBatches(order, recipe.train.batch), workers or 0, torch.cuda.is_available())
    while True:
        yield from loader
        order.set_epoch(order.epoch + 1)


def noise(task: DetectionTask, work: Work) -> Iterator[Batch]:
    """The same noise again and again, with boxes of all sizes."""
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


def apart(row: Row, work: Work) -> dict[str, Any]:
    """Measure in a fresh process, so that its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (row, work))


def summary(name: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table from all turns of a row."""
    seconds = sorted(s for turn in turns for s in turn["seconds"])
    stages = {
        stage: statistics.median(s for turn in turns for s in turn["stages"][stage]) * 1000
        for stage in turns[0]["stages"]
    }
    return {
        "row": name,
        "images_per_second": turns[0]["batch"] / statistics.median(seconds),
        "p50_ms": statistics.median(seconds) * 1000,
        "p90_ms": seconds[int(0.9 * (len(seconds) - 1))] * 1000,
        "megabytes": max(turn["megabytes"] for turn in turns),
        "stages_ms": stages,
    }


def compare(work: Work, rounds: int) -> list[dict[str, Any]]:
    """All rows in turns, the base first; each gets its ratio to the base."""
    turns: dict[str, list[dict[str, Any]]] = {}
    print(f"{'':30}{'pictures/s':>11}{'ratio':>7}{'p50 ms':>8}{'p90 ms':>8}{'MB':>7}")
    for turn in range(rounds):
        for row in ROWS:
            turns.setdefault(row.name, []).append(apart(row, work))
            print(f"  turn {turn + 1} of {rounds}: {row.name}", flush=True)
    made = [summary(name, kept) for name, kept in turns.items()]
    for one in made:
        one["ratio"] = one["images_per_second"] / made[0]["images_per_second"]
        numbers = (one["images_per_second"], one["ratio"], one["p50_ms"], one["p90_ms"], one["megabytes"])
        print(f"{one['row']:30}{numbers[0]:11.2f}{numbers[1]:7.2f}" + "".join(f"{n:8.0f}" for n in numbers[2:]))
    print("\nms a step" + " " * 21 + "".join(f"{stage:>11}" for stage in STAGES))
    for one in made:
        if "forward" in one["stages_ms"]:
            print(f"{one['row']:30}" + "".join(f"{one['stages_ms'].get(stage, 0):11.1f}" for stage in STAGES))
    return made


def grow(what: str, values: list[int], work: Work) -> list[dict[str, Any]]:
    """How time and memory of a step grow with one number, on noise."""
    made = []
    print(f"{what:>8}{'ms a step':>12}{'ms a picture':>14}{'MB':>8}")
    for value in values:
        changed = {
            "batch": lambda v: replace(work, recipe=replace(work.recipe, train=replace(work.recipe.train, batch=v))),
            "boxes": lambda v: replace(work, boxes=v),
            "classes": lambda v: replace(work, classes=v),
            "pixels": lambda v: replace(
                work, recipe=replace(work.recipe, input=replace(work.recipe.input, size=str(v)))
            ),
        }[what](value)
        one = summary(f"{what} {value}", [apart(Row(what, "none", spread=True), replace(changed, data=None))])
        made.append(one | {what: value})
        batch = changed.recipe.train.batch
        print(f"{value:8}{one['p50_ms']:12.1f}{one['p50_ms'] / batch:14.2f}{one['megabytes']:8.0f}", flush=True)
    return made


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m nanogfl.training.benchmark", description=__doc__)
    parser.add_argument("data", nargs="?", help="a COCO, VOC or YOLO set (not needed with --grow)")
    parser.add_argument("--recipe", help="a name or a YAML file")
    parser.add_argument("--size", default="m")
    parser.add_argument("--input", default="320")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--grow", choices=sorted(GROW), help="time and memory against this, on noise")
    parser.add_argument("--values", type=int, nargs="*", help="with --grow: at these values")
    given = parser.parse_args()
    options = {"model__size": given.size, "input__size": given.input, "train__batch": given.batch, "init": "none"}
    recipe = load_recipe(given.recipe, [f"train.workers={given.workers}"], **options)
    work = Work(given.data, recipe, given.steps)
    if given.grow:
        rows = grow(given.grow, given.values or list(GROW[given.grow]), work)
    elif given.data:
        rows = compare(work, given.rounds)
    else:
        parser.error("give a set, or --grow")
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.processor()} {threads} threads"
    print(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
