"""The benchmark of training: its base row does the same sums, its stages are a step's, its last line is JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import block_picture, write_coco
from test_cores import batch, task

from nanogfl.recipe import load_recipe
from nanogfl.training import benchmark
from nanogfl.training.benchmark import BASE, ROWS
from nanogfl.training.objective import Targets, assign
from nanogfl.training.stages import STAGES, Row, Work, measure, one_by_one

TINY = {"model.size": "s", "input.size": "64", "train.batch": 4, "init": "none"}


def test_one_picture_at_a_time_assigns_as_a_batch_does() -> None:
    made, whole = task(), batch(6)
    targets = Targets(whole.boxes, whole.labels, whole.valid, whole.crowd)
    raw = made.detector.eval()(made.normalise(whole.images)).detach()
    together = assign(made.recipe.loss, raw, made.priors, made.levels, targets, 7)
    apart = one_by_one(made.recipe.loss, raw, made.priors, made.levels, targets, 7)
    assert (together.gt_index >= 0).any()
    for name, value in vars(together).items():
        assert torch.equal(getattr(apart, name), value), name


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


def test_growth_is_printed_and_its_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["benchmark", "--grow", "boxes", "--values", "1", "3", "--size", "s"]
    asked += ["--input", "64", "--batch", "2", "--steps", "1"]
    monkeypatch.setattr("sys.argv", asked)
    monkeypatch.setattr(benchmark, "apart", measure)  # in this process: quicker
    benchmark.main()
    *table, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["boxes", "1", "3"]
    rows = json.loads(last)["rows"]
    assert [row["boxes"] for row in rows] == [1, 3] and all(row["p90_ms"] > 0 for row in rows)
