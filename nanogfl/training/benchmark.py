"""Measure training speed and where the time goes: ``python -m nanogfl.training.benchmark DATA``.

The base row trains as NanoDet-Plus does (full guidance, every picture decoded again in every epoch, one picture
assigned at a time) with everything else equal. The rows are run in turns, each turn in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from nanogfl.recipe import load_recipe
from nanogfl.training.roofline import operators
from nanogfl.training.stages import STAGES, Row, Work, measure

GROW = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "boxes": (1, 3, 10, 30, 100, 300),
    "classes": (1, 10, 100, 1000),
    "pixels": (320, 640, 960, 1280),
}


BASE = Row("as NanoDet-Plus trains", "full", cached=False, batched=False)
APART, DEFAULT = Row("no guidance, stages apart", "none"), Row("no guidance", "none", accelerated=True)
ROWS = (
    BASE,
    Row("full guidance, stages apart", "full"),
    Row("light guidance, stages apart", "light"),
    APART,
    Row("light guidance", "light", accelerated=True),
    DEFAULT,
)


def apart(job: Callable[[Row, Work], dict[str, Any]], row: Row, work: Work) -> dict[str, Any]:
    """Run ``job`` in a fresh process, so that its peak memory is measured separately."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(job, (row, work))


def summary(name: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one row of the table, computed from all turns of that row."""
    seconds = sorted(s for turn in turns for s in turn["seconds"])
    stages = {
        stage: statistics.median(s for turn in turns for s in turn["stages"][stage]) * 1000
        for stage in turns[0]["stages"]
    }
    return {
        "row": name,
        "images_per_second": statistics.fmean(turn["pictures"] for turn in turns) / statistics.median(seconds),
        "p50_ms": statistics.median(seconds) * 1000,
        "p90_ms": seconds[max(int(0.9 * (len(seconds) - 1)), len(seconds) // 2)] * 1000,  # of two, the slower
        "megabytes": max(turn["megabytes"] for turn in turns),
        "stages_ms": stages,
    }


def compare(work: Work, rounds: int) -> list[dict[str, Any]]:
    """Run all rows in turns, the base row first; print and return the table, with each row's ratio to the base."""
    turns: dict[str, list[dict[str, Any]]] = {}
    print(f"{'':30}{'pictures/s':>11}{'ratio':>7}{'p50 ms':>8}{'p90 ms':>8}{'MB':>7}")
    for turn in range(rounds):
        for row in ROWS:
            turns.setdefault(row.name, []).append(apart(measure, row, work))
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
    """Print and return how the time and memory of a step grow with one parameter, on pictures of noise."""
    made, recipe = [], work.recipe
    print(f"{what:>8}{'ms/step':>12}{'ms/picture':>14}{'MB':>8}")
    for value in values:
        changed = {
            "batch": replace(work, recipe=replace(recipe, train=replace(recipe.train, batch=value))),
            "boxes": replace(work, boxes=value),
            "classes": replace(work, classes=value),
            "pixels": replace(work, recipe=replace(recipe, input=replace(recipe.input, size=str(value)))),
        }[what]
        row = Row(what, "none", accelerated=True)
        one = summary(f"{what} {value}", [apart(measure, row, replace(changed, data=None))])
        made.append(one | {what: value})
        batch = changed.recipe.train.batch
        print(f"{value:8}{one['p50_ms']:12.1f}{one['p50_ms'] / batch:14.2f}{one['megabytes']:8.0f}", flush=True)
    return made


def explain(work: Work, most: int = 20) -> dict[str, Any]:
    """Print and return where the time of the default row goes, and how far that is from the device's limits."""
    run, found = summary(DEFAULT.name, [apart(measure, DEFAULT, work)]), apart(operators, APART, work)
    rows = sorted(found["rows"], key=lambda row: -row["ms"])
    busy, moved = sum(row["ms"] for row in rows), sum(row["megabytes"] for row in rows)
    print(f"{'stage':12}{'operator':40}{'calls':>6}{'ms':>9}{'share':>7}{'MB':>9}{'ms of MB':>10}")
    for stage in dict.fromkeys(row["stage"] for row in found["rows"]):
        line(stage, "all", [row for row in rows if row["stage"] == stage], busy, found["bandwidth"])
    for row in rows[:most]:
        line(row["stage"], row["operator"], [row], busy, found["bandwidth"])
    memory, products = moved / found["bandwidth"], found["gflop"] / found["multiply"]
    print(f"\nall operators one after the other {busy:.1f} ms; a step as in a run {run['p50_ms']:.1f} ms")
    print(f"{moved:.0f} MB at {found['bandwidth']:.0f} GB/s, as fast as a copy: {memory:.1f} ms")
    print(
        f"{found['gflop']:.0f} GFLOP at {found['multiply']:.2f} TFLOP/s, as fast as a matrix product: {products:.1f} ms"
    )
    return {"run": run, "busy_ms": busy, "memory_ms": memory, "products_ms": products} | found


def line(stage: str, operator: str, rows: list[dict[str, Any]], busy: float, bandwidth: float) -> None:
    """Print one line of the table, the sum over some operators."""
    calls, spent, moved = (sum(row[key] for row in rows) for key in ("calls", "ms", "megabytes"))
    print(f"{stage:12}{operator:40}{calls:6}{spent:9.2f}{spent / busy:7.1%}{moved:9.1f}{moved / bandwidth:10.2f}")


def main() -> None:
    """Run the benchmark command."""
    parser = argparse.ArgumentParser(prog="python -m nanogfl.training.benchmark", description=__doc__)
    parser.add_argument("data", nargs="?", help="a COCO, VOC or YOLO set (not needed with --grow or --profile)")
    parser.add_argument("--recipe", help="a name or a YAML file")
    parser.add_argument("--size", help="else the recipe's, else m")
    parser.add_argument("--input", help="else the recipe's, else 320")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--grow", choices=sorted(GROW), help="time and memory against this, on noise")
    parser.add_argument("--values", type=int, nargs="*", help="with --grow: at these values")
    parser.add_argument("--profile", action="store_true", help="the default row's operators, and what limits them")
    given = parser.parse_args()
    options = {"model.size": given.size, "input.size": given.input, "train.batch": given.batch, "init": "none"}
    recipe = load_recipe(given.recipe, [f"train.workers={given.workers}"], options)
    work = Work(given.data, recipe, given.steps)
    if given.profile:
        rows = explain(work)
    elif given.grow:
        rows = grow(given.grow, given.values or list(GROW[given.grow]), work)
    elif given.data:
        rows = compare(work, given.rounds)
    else:
        parser.error("specify a dataset, --grow or --profile")
    threads = torch.get_num_threads()
    processor = platform.processor() or platform.machine()  # the first is empty on Debian
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor} {threads} threads"
    print(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
