"""The benchmark of training: its base row does the same sums, its stages are a step's, its last line is JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import block_picture, write_coco
from test_cores import batch, task

from nanogfl.recipe import load_recipe
from nanogfl.training import benchmark
from nanogfl.training.benchmark import BASE, ROWS
from nanogfl.training.objective import Targets, assign
from nanogfl.training.roofline import Operators, operators, size
from nanogfl.training.stages import STAGES, Loop, Row, Work, measure, one_by_one

TINY = {"model.size": "s", "input.size": "64", "train.batch": 4, "init": "none"}
SMALL = ("--size", "s", "--input", "64", "--batch", "2", "--steps", "1")
PROFILED = ["forward", "assignment", "loss", "backward", "optimizer", "averaging"]


def test_one_picture_at_a_time_assigns_as_a_batch_does() -> None:
    made, whole = task(), batch(6)
    targets = Targets(whole.boxes, whole.labels, whole.valid, whole.crowd)
    raw = made.detector.eval()(made.normalise(whole.images)).detach()
    together = assign(made.recipe.loss, raw, made.priors, made.levels, targets, 7)
    apart = one_by_one(made.recipe.loss, raw, made.priors, made.levels, targets, 7)
    assert (together.gt_index >= 0).any()
    for name, value in vars(together).items():
        assert torch.equal(torch.as_tensor(getattr(apart, name)), torch.as_tensor(value)), name


@pytest.mark.parametrize("row", [BASE, ROWS[3], ROWS[-1]], ids=lambda row: row.name)
def test_a_row_times_every_stage_of_a_real_set(row: Row, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = write_coco(tmp_path, {"train": [block_picture(rng) for _ in range(6)], "val": [block_picture(rng)]})
    made = measure(row, Work(str(data), load_recipe(None, ["train.workers=0"], TINY), steps=2))
    stages = {
        BASE: {*STAGES},
        ROWS[3]: {*STAGES} - {"guidance"},
        ROWS[-1]: {"loader", "transfer", "at once", "backward", "optimizer", "averaging"},
    }
    assert made["stages"].keys() == stages[row]
    assert all(len(times) == 2 for times in made["stages"].values())
    assert sum(sum(times) for times in made["stages"].values()) == pytest.approx(sum(made["seconds"]), rel=0.05)


def test_a_row_is_timed_where_no_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, which has no module resource."""
    monkeypatch.setattr("nanogfl.deploy.device_runner._text", lambda _: "")
    monkeypatch.setitem(sys.modules, "resource", None)
    made = measure(ROWS[-1], Work(None, load_recipe(None, ["train.workers=0"], TINY), steps=1))
    assert math.isnan(made["megabytes"]) and len(made["seconds"]) == 1


def here(job: Callable[[Row, Work], Any], row: Row, work: Work) -> Any:
    """In this process: quicker."""
    return job(row, work)


def test_growth_is_printed_and_its_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "--grow", "boxes", "--values", "1", "3", *SMALL])
    monkeypatch.setattr(benchmark, "apart", here)
    benchmark.main()
    *table, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["boxes", "1", "3"]
    rows, device = json.loads(last)["rows"], json.loads(last)["device"]
    assert [row["boxes"] for row in rows] == [1, 3] and all(row["p90_ms"] > 0 for row in rows)
    assert device == device.strip()


@pytest.mark.parametrize(("seconds", "p90"), [([3.0], 3000), ([1.0, 3.0], 3000), ([float(s) for s in range(11)], 9000)])
def test_p90_is_never_below_the_median(seconds: list[float], p90: float) -> None:
    turn = {"seconds": seconds, "pictures": 4, "megabytes": 1, "stages": {"loss": seconds}}
    made = benchmark.summary("row", [turn])
    assert made["p90_ms"] == p90 >= made["p50_ms"]


def test_operators_are_counted_by_stage_and_by_what_they_read_and_write() -> None:
    a, b = torch.ones(5, 4), torch.ones(4, dtype=torch.float64).expand(5, 4)
    with Operators() as seen:
        _ = a.view(20) + 1  # 20 float32 in, 20 out; the view itself is nothing
        seen.tick("first")
        a.add_(b)  # 20 read, 4 float64 that lie there once, 20 written
        torch.empty(20).copy_(a.flatten())
        a.new_zeros(3)
        seen.tick("second")
    assert seen.stages == ["first", "second"]
    assert seen.bytes == {
        "stage 0 add": 160,
        "stage 1 add_": 192,
        "stage 1 copy_": 160,
        "stage 1 new_zeros": 12,
    }
    assert size(b) == 32 and size([b]) == 0


def test_a_profile_holds_every_stage_and_the_sums_of_the_network() -> None:
    work = Work(None, load_recipe(None, ["train.workers=0"], TINY), steps=2)
    made = operators(ROWS[3], work)
    rows = made["rows"]
    assert list(dict.fromkeys(row["stage"] for row in rows)) == PROFILED and made["pictures"] == 4
    assert all(row["ms"] > 0 and row["calls"] > 0 for row in rows)
    assert made["gflop"] == pytest.approx(3 * flops(work) / 1e9, rel=1e-6)
    forward = sum(row["calls"] for row in rows if row["stage"] == "forward" and row["operator"] == "convolution")
    assert forward == sum(isinstance(m, torch.nn.Conv2d) for m in Loop(ROWS[3], work).task.detector.modules())


def test_a_profile_ends_in_what_the_device_could_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "--profile", *SMALL])
    monkeypatch.setattr(benchmark, "apart", here)
    benchmark.main()
    *table, last = capsys.readouterr().out.splitlines()
    made = json.loads(last)["rows"]
    assert made["busy_ms"] == pytest.approx(sum(row["ms"] for row in made["rows"]))
    assert made["memory_ms"] == pytest.approx(sum(row["megabytes"] for row in made["rows"]) / made["bandwidth"])
    assert f"as fast as a copy: {made['memory_ms']:.1f} ms" in table[-2]
    assert f"as fast as a matrix product: {made['products_ms']:.1f} ms" in table[-1]
    assert [line.split()[0] for line in table if " all " in line[:20]] == PROFILED


def flops(work: Work) -> float:
    """Of all convolutions for one batch, from their sizes."""
    detector = Loop(ROWS[3], work).task.detector
    total = 0

    def add(module: torch.nn.Conv2d, _: Any, made: torch.Tensor) -> None:
        nonlocal total
        total += 2 * made.numel() * module.weight[0].numel()

    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add)
    detector(torch.zeros(4, 3, 64, 64))
    return total
