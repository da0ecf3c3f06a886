"""Training as a whole: what a run leaves, several processes, its options, and whether it learns."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import (
    LEFT,
    SMALL,
    Drawn,
    Train,
    block_picture,
    checkpoint,
    left,
    quick,
    read_rows,
    run_command,
    weights,
    write_coco,
)

import nanogfl
from nanogfl.data.synthetic import NAMES, draw_set
from nanogfl.errors import UsageError
from nanogfl.recipe import available, from_dict, load_recipe
from nanogfl.training.finite import FiniteCheck
from nanogfl.training.folder import TENSORBOARD, is_main

# --- what a run leaves


def test_a_run_leaves_exactly_its_five_files(tiny_run: Path) -> None:
    assert left(tiny_run) == sorted(LEFT)


def test_tensorboard_where_it_is_installed(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    for _ in range(2):
        tiny_train(tiny_set, out, epochs=2, overwrite=True)
        (events,) = (out / TENSORBOARD).glob("events.*")  # an overwritten run's are gone
        read = accumulator.EventAccumulator(str(events)).Reload()
        epochs = [e.value for e in read.Scalars("qfl_epoch")]
        assert epochs == pytest.approx([float(row["qfl"]) for row in read_rows(out)], rel=1e-4)


def test_the_command_ends_with_the_best_validation_as_a_table(
    tiny_set: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    said = command("train", tiny_set, "--out", tmp_path / "run", *SMALL, "--epochs", "1")
    assert said.code == 0, said
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best"]
    assert re.search(rf"^AP50 +{best['AP50']:.3f} ", said.out, re.MULTILINE)
    assert all(re.search(rf"^{name} +(0\.\d+|1\.000|-)", said.out, re.MULTILINE) for name in NAMES)
    assert said.out.rstrip().splitlines()[-1].startswith("next: nanogfl export ")


def test_validation_pictures_without_boxes_give_no_ap_and_no_error(tmp_path: Path, command: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    empty = Drawn(block_picture(rng).picture, [], [])
    write_coco(tmp_path / "set", {"train": [block_picture(rng) for _ in range(8)], "val": [empty]})
    for more in ((), ("--resume",)):
        said = command("train", tmp_path / "set", "--out", tmp_path / "run", *SMALL, "--epochs", "1", *more)
        assert said.code == 0, said
        assert "warning: none of the 1 validation pictures has a box: no AP can be measured" in said.err
        assert ("is finished (1 epoch);" if more else "\n1 epoch, 1 step, ") in said.err
        assert "no boxes in the validation pictures, so no AP; last weights: " in said.out
        assert said.out.rstrip().splitlines()[-1].startswith("next: nanogfl export ")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best"] == {"epoch": 0, "AP": None, "AP50": None}


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_one_process_writes(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_main()
    monkeypatch.setenv(rank, "1")
    assert not is_main()
    monkeypatch.setenv(rank, "0")
    assert is_main()


def test_a_misspelt_option_of_the_function_is_named(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no option 'epoch'.*epochs"):
        nanogfl.train(tiny_set, out=tmp_path / "run", epoch=3)


UNGUARDED = """
import multiprocessing, nanogfl
if multiprocessing.current_process().name == "MainProcess":
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
else:
    nanogfl.train("set", out="run")
"""


def test_a_loader_process_that_imports_the_script_does_not_train_again(tmp_path: Path) -> None:
    """As on macOS and Windows, where it is started anew."""
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'put the call under if __name__ == "__main__":' in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_the_summary_has_the_contracts_keys_and_true_values(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text())
    assert set(summary) == {"epochs", "steps", "seconds", "images_per_second", "classes", "parameters", "best"}
    assert (summary["epochs"], summary["steps"]) == (2, 6)  # 24 pictures in batches of 8
    assert summary["classes"] == list(NAMES)
    network = nanogfl.load(tiny_run / "best.ckpt").network
    assert summary["parameters"] == sum(p.numel() for p in network.parameters())
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    assert set(summary["best"]) == {"epoch", "AP", "AP50"}
    assert summary["best"]["epoch"] in (0, 1)


def test_the_log_has_one_row_an_epoch_with_finite_losses(tiny_run: Path) -> None:
    found = read_rows(tiny_run)
    assert [(r["epoch"], r["step"]) for r in found] == [("0", "3"), ("1", "6")]
    assert {"lr", "qfl", "giou", "dfl", "AP", "AP50", "seconds", "images_per_second"} <= set(found[0])
    assert all(math.isfinite(float(value)) for row in found for value in row.values())
    assert float(found[-1]["lr"]) == pytest.approx(5e-5)  # the end of the cosine


def test_the_best_checkpoint_scores_what_the_summary_says(learnt: Path, blocks: Path) -> None:
    best = json.loads((learnt / "summary.json").read_text())["best"]
    scores = nanogfl.evaluate(learnt / "best.ckpt", blocks, split="val")
    assert best["AP"] > 0.1
    assert scores.numbers["AP"] == pytest.approx(best["AP"], abs=1e-6)
    assert scores.numbers["AP50"] == pytest.approx(best["AP50"], abs=1e-6)
    measured = {int(r["epoch"]): float(r["AP"]) for r in read_rows(learnt) if r["AP"]}
    assert list(measured) == [4, 9]  # validated every fifth epoch
    assert best["AP"] == pytest.approx(max(measured.values()), abs=1e-5)
    assert measured[best["epoch"]] == max(measured.values())


def test_the_written_recipe_is_the_checkpoints(tiny_run: Path) -> None:
    written = load_recipe(str(tiny_run / "config.yaml"))
    for name in ("best.ckpt", "last.ckpt"):
        assert from_dict(checkpoint(tiny_run / name)["nanogfl"]["recipe"], name) == written
    assert (written.train.epochs, written.train.batch, written.model.size) == (2, 8, "s")
    assert written.input.size == "96x96"
    assert None not in (written.train.warmup, written.train.average, written.train.plain_epochs)  # nothing is left open


def test_the_last_checkpoint_is_a_detector_too(tiny_run: Path) -> None:
    detector = nanogfl.load(tiny_run / "last.ckpt")
    assert detector.names == list(NAMES)
    assert detector.input_size == (96, 96)


# --- several processes


@pytest.fixture(scope="module")
def two(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of two processes, and what it said."""
    out = tmp_path_factory.mktemp("two") / "run"
    small = ["--size", "s", "--input", 64, "--batch", 4, "--epochs", 2, "--set", "train.workers=0"]
    return out, run_command("train", tiny_set, "--out", out, *small, "--set", "train.devices=2")


def last_row(run: Path) -> dict[str, str]:
    return read_rows(run)[-1]


@pytest.fixture(scope="module")
def two_ways(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One epoch of the same 24 pictures, twelve a step: by two processes, and by one with two threads."""
    root = tmp_path_factory.mktemp("ways")
    small = ["--size", "s", "--input", 64, "--epochs", 1, "--set", "train.workers=0", "--set", "train.average=0"]
    ways = {"processes": [8, "--set", "train.devices=2"], "cores": [16]}
    for name, batch in ways.items():
        two_threads = "import torch\ntorch.set_num_threads(2)" if name == "cores" else ""
        done = run_command("train", tiny_set, "--out", root / name, *small, "--batch", *batch, before=two_threads)
        assert done.returncode == 0, done.stderr
    return {name: root / name for name in ways}


def test_two_processes_leave_one_run(two: tuple[Path, subprocess.CompletedProcess[str]], tiny_set: Path) -> None:
    out, done = two
    assert done.returncode == 0, done.stderr
    assert left(out) == sorted(LEFT)
    assert [(r["epoch"], r["step"]) for r in read_rows(out)] == [("0", "3"), ("1", "6")]  # 24 / (4 x 2)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"]) == (2, 6)
    scores = nanogfl.evaluate(out / "best.ckpt", tiny_set, split="val")  # all pictures were scored, not one share
    assert scores.numbers["AP"] == pytest.approx(summary["best"]["AP"], abs=1e-6)


def test_only_the_first_of_two_processes_speaks(two: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert two[1].stdout.count("best validation AP") == 1


@pytest.mark.slow
def test_two_processes_are_the_two_cores_of_one(two_ways: dict[str, Path]) -> None:
    """The same global batch: one process cuts it over its cores as two processes share it, batch norm included."""
    states = {name: weights(run / "last.ckpt") for name, run in two_ways.items()}
    for key, one in states["processes"].items():
        torch.testing.assert_close(one, states["cores"][key], rtol=1e-3, atol=2e-5, msg=f"{key} differs")
    losses = [[float(row[part]) for part in ("qfl", "giou", "dfl", "AP")] for row in map(last_row, two_ways.values())]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- options


@pytest.mark.parametrize(
    ("accumulate", "steps", "reason"),
    [(1, 6, "24 pictures in sixes, batch 4"), (2, 3, "two batches a step"), (4, 2, "a rest of two batches steps too")],
)
def test_gradients_accumulate(
    accumulate: int, steps: int, reason: str, tiny_set: Path, tmp_path: Path, tiny_train: Train
) -> None:
    summary = tiny_train(tiny_set, tmp_path / "run", f"train.accumulate={accumulate}", batch=4)
    assert summary["steps"] == steps, reason
    assert float(read_rows(tmp_path / "run")[-1]["lr"]) == pytest.approx(5e-5)  # the schedule counts steps, not batches


def test_the_last_step_of_an_epoch_is_the_mean_of_its_batches(
    tiny_set: Path, tmp_path: Path, tiny_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six batches in steps of four: the second step's gradient is the mean of two, not a quarter of their sum."""
    named = list[int]()
    kept = list[torch.Tensor]()
    clip, add = torch.nn.utils.clip_grad_norm_, FiniteCheck.add

    def clipped(parameters: Any, most: float) -> torch.Tensor:
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        kept.append(torch.cat(gradients).clone())
        return clip(parameters, most)

    def added(self: FiniteCheck, own: Any, mean: Any, what: str, epoch: int, names: list[str]) -> None:
        if what == "gradient":
            named.append(len(names))
        add(self, own, mean, what, epoch, names)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    monkeypatch.setattr(FiniteCheck, "add", added)
    steps = dict[int, list[torch.Tensor]]()
    for accumulate in (1, 4):
        kept = steps[accumulate] = []
        still = ("train.lr=1e-12", "train.lr_end=1e-12", "train.average=0", "train.precision=32")
        tiny_train(tiny_set, tmp_path / str(accumulate), f"train.accumulate={accumulate}", *still, batch=4)
    one = steps[1]
    assert len(one) == 6 and len(steps[4]) == 2
    for step, batches in zip(steps[4], (one[:4], one[4:]), strict=True):
        expected = torch.stack(batches).mean(dim=0)
        assert (step - expected).norm() < 1e-3 * expected.norm()
    assert named == [4] * 6 + [16, 8], "a gradient that is not finite is blamed on all pictures of its step"


def test_bf16_trains_close_to_float(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    for name, precision in (("bf16", "bf16"), ("float", "32")):
        still = ("train.lr=1e-9", "train.lr_end=1e-9")  # else a step's rounding is the next one's assignment
        tiny_train(tiny_set, tmp_path / name, f"train.precision={precision}", *still)
    (low,), (high,) = read_rows(tmp_path / "bf16"), read_rows(tmp_path / "float")
    for part in ("qfl", "giou", "dfl"):
        assert float(low[part]) == pytest.approx(float(high[part]), rel=0.1)
    assert low["qfl"] != high["qfl"]
    state = checkpoint(tmp_path / "bf16" / "best.ckpt")["state_dict"]
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}


def test_statistics_over_all_processes_need_gpus(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"train\.compile=true requires GPUs; omit it on a CPU"):
        tiny_train(tiny_set, tmp_path / "run", "train.compile=true")
    with pytest.raises(UsageError, match=r"train\.sync_batch_norm=true requires GPUs"):
        tiny_train(tiny_set, tmp_path / "run", "train.sync_batch_norm=true", "train.devices=2")
    assert not (tmp_path / "run").exists()


def test_half_precision_on_a_cpu_is_refused(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"train\.precision=16.*GPU"):
        tiny_train(tiny_set, tmp_path / "run", "train.precision=16")


def test_without_averaging_the_kept_weights_are_the_current_ones(
    tiny_set: Path, tmp_path: Path, tiny_train: Train
) -> None:
    tiny_train(tiny_set, tmp_path / "run", "train.average=0")
    last, best = checkpoint(tmp_path / "run" / "last.ckpt"), checkpoint(tmp_path / "run" / "best.ckpt")
    assert "current_model_state" not in last
    assert all(torch.equal(last["state_dict"][k], v) for k, v in best["state_dict"].items())


def test_python_may_give_a_path_and_a_pair_of_sides(tiny_set: Path, tiny_run: Path, tmp_path: Path) -> None:
    quick(tiny_set, tmp_path / "run", size=None, init=tiny_run / "best.ckpt", input=(64, 96))
    made = load_recipe(str(tmp_path / "run" / "config.yaml"))
    assert (made.init, made.input.size) == (str(tiny_run / "best.ckpt"), "64x96")
    assert nanogfl.load(tmp_path / "run" / "best.ckpt").input_size == (64, 96)


@pytest.mark.parametrize("name", available())
def test_every_recipe_builds_and_steps(name: str, tmp_path: Path, tiny_set: Path) -> None:
    kept = load_recipe(name)
    data = draw_set(tmp_path / "set", train=4, val=1, test=0, size=96)
    small = {"recipe": name, "input": 96, "epochs": 1, "batch": 4, "init": "none", "set": ["train.workers=0"]}
    summary = nanogfl.train(data, out=tmp_path / "run", **small)
    assert (summary["epochs"], summary["steps"]) == (1, 1)
    made = load_recipe(str(tmp_path / "run" / "config.yaml"))
    assert (made.augment, made.loss) == (kept.augment, kept.loss)
    assert made.model.size == (kept.model.size or "m")
    assert made.input.resize == (kept.input.resize or "stretch")


# --- does it learn


@pytest.mark.slow
def test_twenty_pictures_are_learnt_by_heart(tmp_path: Path, tiny_train: Train) -> None:
    data = draw_set(tmp_path / "set", train=20, val=2, test=0)
    still = ["flip=0", "scale=[1,1]", "stretch=[1,1]", "translate=0", "brightness=0"]
    still += ["contrast=[1,1]", "saturation=[1,1]"]
    options = [f"augment.{s}" for s in still] + ["train.lr=0.003", "train.validate_every=120", "train.warmup=10"]
    tiny_train(data, tmp_path / "run", *options, input=256, batch=5, epochs=120)
    scores = nanogfl.evaluate(tmp_path / "run" / "best.ckpt", data, split="train")
    assert (scores.numbers["AP50"] or 0) > 0.9
