"""Training as a whole: what a run leaves, exact resume, one seed one result, and sets that are hard to train on."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nanogfl
from nanogfl.data.synthetic import NAMES, draw_set
from nanogfl.errors import NanogflError, RecipeError, TrainingError, UsageError
from nanogfl.recipe import available, from_dict, load_recipe
from nanogfl.training.folder import TENSORBOARD, is_main
from nanogfl.training.keeper import Keeper
from nanogfl.training.task import DetectionTask

Train = Callable[..., dict[str, Any]]
LEFT = ("best.ckpt", "config.yaml", "last.ckpt", "metrics.csv", "summary.json")
CLOCK = ("seconds", "images_per_second")  # the columns that no two runs share
SMALL = ["--size", "s", "--input", "64", "--batch", "8", "--set", "train.workers=0"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def left(run: Path) -> list[str]:
    return sorted(p.name for p in run.iterdir() if p.name != TENSORBOARD)


def timeless(run: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows(run)]


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(run / name, map_location="cpu", weights_only=True)


def tensors(value: Any, at: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested containers, by its path."""
    if isinstance(value, torch.Tensor):
        return {at: value}
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {k: v for key, part in inside for k, v in tensors(part, f"{at}/{key}").items()}


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Paths of the tensors in which two checkpoints differ by so much as a bit."""
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]


def finite(content: dict[str, Any]) -> bool:
    """Whether weights (current and averaged) and optimizer state are numbers; Lightning's own notes may be inf."""
    kept = [content.get(k, {}) for k in ("state_dict", "current_model_state", "optimizer_states")]
    return all(bool(t.isfinite().all()) for t in tensors(kept).values())


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in LEFT}


def run_command(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; ``before`` is Python that runs first."""
    start = [str(Path(sys.executable).with_name("nanogfl"))]
    if before:
        start = [sys.executable, "-c", f"{before}\nimport sys\nfrom nanogfl.cli import main\nmain(sys.argv[1:])"]
    return subprocess.run([*start, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def main(*arguments: object) -> int:
    """The command in this process; returns its exit code."""
    from nanogfl.cli import main as run

    own = logging.getLogger("nanogfl")
    before = own.handlers[:], own.propagate, own.level
    with pytest.raises(SystemExit) as done:
        run([str(a) for a in arguments])
    own.handlers[:], own.propagate = before[:2]
    own.setLevel(before[2])
    return int(done.value.code or 0)


def write_coco(root: Path, part: str, pictures: Sequence[Sequence[dict[str, Any]]], names: Sequence[str]) -> Path:
    """A split of a COCO set: one drawn 64 px picture for each list of annotations (bbox, category_id, iscrowd)."""
    import cv2

    images, annotations = [], []
    for number, boxes in enumerate(pictures, 1):
        name = f"{part}_{number}.png"
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        (root / "images").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / "images" / name), noise)
        images.append({"id": number, "file_name": name, "width": 64, "height": 64})
        for box in boxes:
            area = box["bbox"][2] * box["bbox"][3]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "area": area, "category_id": 1, "iscrowd": 0} | box
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    path = root / "annotations" / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


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
        assert epochs == pytest.approx([float(row["qfl"]) for row in rows(out)], rel=1e-4)


def test_the_command_ends_with_the_best_validation_as_a_table(
    tiny_set: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    said = command("train", tiny_set, "--out", tmp_path / "run", *SMALL, "--epochs", "1")
    assert said.code == 0, said
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best"]
    assert re.search(rf"^AP50 +{best['AP50']:.3f} ", said.out, re.MULTILINE)
    assert all(re.search(rf"^{name} +(0\.\d+|1\.000|-)", said.out, re.MULTILINE) for name in NAMES)
    assert said.out.rstrip().splitlines()[-1].startswith("next: nanogfl export ")


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
    found = rows(tiny_run)
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
    measured = {int(r["epoch"]): float(r["AP"]) for r in rows(learnt) if r["AP"]}
    assert list(measured) == [4, 9]  # validated every fifth epoch
    assert best["AP"] == pytest.approx(max(measured.values()), abs=1e-5)
    assert measured[best["epoch"]] == max(measured.values())


def test_the_written_recipe_is_the_checkpoints(tiny_run: Path) -> None:
    written = load_recipe(str(tiny_run / "config.yaml"))
    for name in ("best.ckpt", "last.ckpt"):
        assert from_dict(checkpoint(tiny_run, name)["nanogfl"]["recipe"], name) == written
    assert (written.train.epochs, written.train.batch, written.model.size) == (2, 8, "s")
    assert written.input.size == "96x96"
    assert None not in (written.train.warmup, written.train.average, written.train.plain_epochs)  # nothing is left open


def test_the_last_checkpoint_is_a_detector_too(tiny_run: Path) -> None:
    detector = nanogfl.load(tiny_run / "last.ckpt")
    assert detector.names == list(NAMES)
    assert detector.input_size == (96, 96)


# --- resume


@pytest.fixture(scope="module")
def whole(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, tiny_train: Train) -> Path:
    """A run of four epochs that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    tiny_train(tiny_set, out, epochs=4)
    return out


def same_run(a: Path, b: Path) -> None:
    """Assert that two runs ended in the same state, to the bit."""
    one, two = checkpoint(a), checkpoint(b)
    assert {"state_dict", "current_model_state", "optimizer_states"} <= set(one)
    assert different(one, two) == []
    assert (one["epoch"], one["global_step"]) == (two["epoch"], two["global_step"])
    assert timeless(a) == timeless(b)
    assert different(checkpoint(a, "best.ckpt"), checkpoint(b, "best.ckpt")) == []
    best = [json.loads((run / "summary.json").read_text())["best"] for run in (a, b)]
    assert best[0] == best[1]


@pytest.mark.parametrize(
    ("hook", "accident"),
    [
        ("on_train_epoch_start", RuntimeError("the disk is on fire")),  # between two epochs
        ("on_train_batch_end", KeyboardInterrupt()),  # Ctrl-C within one
        ("on_validation_epoch_end", RuntimeError("worse than before")),  # after best.ckpt, before last.ckpt
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    accident: BaseException,
    hook: str,
    whole: Path,
    tiny_set: Path,
    tiny_train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = getattr(Keeper, hook)

    def fail(self: Keeper, trainer: Any, *others: Any, **named: Any) -> None:
        original(self, trainer, *others, **named)
        if trainer.current_epoch == 2:
            raise accident

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, hook, fail)
        with pytest.raises(TrainingError):
            tiny_train(tiny_set, tmp_path / "run", epochs=4)
    assert checkpoint(tmp_path / "run")["epoch"] == 1
    assert not (tmp_path / "run" / "summary.json").exists()
    nanogfl.train(tiny_set, out=tmp_path / "run", resume=True)  # all options are in the folder
    same_run(tmp_path / "run", whole)


def test_a_killed_command_goes_on_where_it_was(whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    kill = (
        "import os, signal\nfrom nanogfl.training.keeper import Keeper\n"
        "Keeper.on_validation_epoch_end = lambda self, t, m: t.current_epoch == 2 and os.kill(os.getpid(), 9)"
    )
    out = tmp_path / "run"
    died = run_command("train", tiny_set, "--out", out, "--epochs", 4, *SMALL, before=kill)
    assert died.returncode == -signal.SIGKILL
    done = run_command("train", tiny_set, "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    one, two = checkpoint(out), checkpoint(whole)
    assert different(one["state_dict"], two["state_dict"]) == []
    assert different(one["current_model_state"], two["current_model_state"]) == []
    columns = ("epoch", "step", "lr", "qfl", "giou", "dfl")
    assert [[r[c] for c in columns] for r in rows(out)] == [[r[c] for c in columns] for r in rows(whole)]
    assert not list(out.glob("*.partial"))


def test_resume_where_nothing_was_written_starts_from_the_beginning(
    tiny_set: Path, tiny_train: Train, tmp_path: Path
) -> None:
    assert tiny_train(tiny_set, tmp_path / "run", resume=True)["epochs"] == 1
    assert left(tmp_path / "run") == sorted(LEFT)


def test_resume_after_an_accident_in_the_first_epoch_starts_from_the_beginning(
    tiny_set: Path, tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("at once")

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "on_train_epoch_start", fail)
        with pytest.raises(TrainingError):
            tiny_train(tiny_set, tmp_path / "run")
    assert not (tmp_path / "run" / "last.ckpt").exists()
    assert nanogfl.train(tiny_set, out=tmp_path / "run", resume=True)["epochs"] == 1


def test_resume_of_a_finished_run_changes_nothing(whole: Path, tiny_set: Path, capfd: pytest.CaptureFixture) -> None:
    before = contents(whole)
    assert main("train", tiny_set, "--out", whole, "--resume") == 0
    assert contents(whole) == before
    assert "finished" in capfd.readouterr().err


def test_resume_with_more_epochs_goes_on(whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    summary = nanogfl.train(tiny_set, out=out, resume=True, epochs=6)
    assert (summary["epochs"], summary["steps"]) == (6, 18)
    assert [r["epoch"] for r in rows(out)] == list("012345")
    assert timeless(out)[:4] == timeless(whole)
    assert load_recipe(str(out / "config.yaml")).train.epochs == 6


def test_resume_with_another_learning_rate_takes_it(whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    # the advice after a loss that became NaN: lower train.lr and --resume
    out = shutil.copytree(whole, tmp_path / "run")
    nanogfl.train(tiny_set, out=out, resume=True, epochs=6, set=["train.lr=1e-4", "train.lr_end=1e-4"])
    assert [float(r["lr"]) for r in rows(out)[4:]] == pytest.approx([1e-4, 1e-4])


def test_the_first_step_of_a_resumed_run_has_the_new_rate_and_decay(
    whole: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = DetectionTask.training_step, []

    def step(task: DetectionTask, batch: Any, number: int) -> torch.Tensor:
        seen.append({(round(g["lr"], 9), g["weight_decay"]) for g in task.trainer.optimizers[0].param_groups})
        return original(task, batch, number)

    monkeypatch.setattr(DetectionTask, "training_step", step)
    out = shutil.copytree(whole, tmp_path / "run")
    assignments = ["train.lr=1e-4", "train.lr_end=1e-4", "train.weight_decay=0.125"]
    nanogfl.train(tiny_set, out=out, resume=True, epochs=5, set=assignments)
    assert seen == [{(1e-4, 0.0), (1e-4, 0.125)}] * 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"set": ["train.freeze=backbone"]}, r"train\.freeze .* has none, asked for is backbone"),
        ({"set": ["model.share_levels=true"]}, r"model\.share_levels .* has False, asked for is True"),
        ({"set": ["model.guidance=full"]}, r"model\.guidance .* has none, asked for is full"),
        ({"size": "l"}, r"model\.size .* has s, asked for is l"),
    ],
)
def test_what_cannot_change_within_a_run_is_refused(
    changes: dict[str, Any], said: str, whole: Path, tiny_set: Path
) -> None:
    before = contents(whole)
    with pytest.raises(UsageError, match=said):
        nanogfl.train(tiny_set, out=whole, resume=True, epochs=6, **changes)
    assert contents(whole) == before


def test_a_run_goes_on_without_what_it_was_started_from(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    tiny_train(tiny_set, tmp_path / "first")
    init = shutil.copy(tmp_path / "first" / "best.ckpt", tmp_path / "init.ckpt")
    tiny_train(tiny_set, tmp_path / "run", init=str(init))
    Path(init).unlink()
    assert nanogfl.train(tiny_set, out=tmp_path / "run", resume=True, epochs=2)["epochs"] == 2
    assert load_recipe(str(tmp_path / "run" / "config.yaml")).init == str(init), "where it came from is kept"


@pytest.mark.parametrize("taken", ["file", "file/below"])
def test_an_out_that_cannot_be_a_folder_is_said_before_the_data_is_read(taken: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here already")
    with pytest.raises(UsageError, match=r"--out .* is no folder; name a folder that can be written"):
        nanogfl.train("nowhere", out=tmp_path / taken)


def test_a_folder_that_holds_a_run_is_refused(whole: Path, tiny_set: Path, capfd: pytest.CaptureFixture) -> None:
    before = contents(whole)
    assert main("train", tiny_set, "--out", whole, "--epochs", 1, *SMALL) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert "--resume" in said
    assert "--overwrite" in said
    assert len(said.strip().splitlines()) == 1
    assert contents(whole) == before


def test_overwrite_starts_anew(whole: Path, tiny_set: Path, tiny_train: Train, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    summary = tiny_train(tiny_set, out, overwrite=True)
    assert summary["epochs"] == 1
    assert len(rows(out)) == 1
    assert checkpoint(out)["global_step"] == 3
    assert left(out) == sorted(LEFT)


@pytest.mark.parametrize(
    ("data", "options"),
    [("nowhere", {}), (None, {"init": "nowhere.ckpt"}), (None, {"set": ["train.lrr=1"]}), (None, {"input": "50"})],
    ids=["a path that is not there", "an init that is not there", "a misspelt key", "a size that cannot be"],
)
def test_a_mistake_beside_overwrite_costs_no_run(
    data: str | None, options: dict[str, Any], whole: Path, tiny_set: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(NanogflError):
        nanogfl.train(data or tiny_set, out=out, overwrite=True, **options)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("mistake", ["--size m", "another set"])
def test_a_mistake_beside_resume_costs_no_run(mistake: str, whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    other = write_coco(tmp_path / "set", "all", [[BOX]] * 4, ["a"])
    data, options = (tiny_set, {"size": "m"}) if mistake == "--size m" else (other, {})
    with pytest.raises(NanogflError):
        nanogfl.train(data, out=out, resume=True, epochs=6, **options)
    assert contents(out) == contents(whole)
    assert nanogfl.train(tiny_set, out=out, resume=True, epochs=5)["epochs"] == 5


def test_resume_and_overwrite_contradict_each_other(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        nanogfl.train(tiny_set, out=tmp_path, resume=True, overwrite=True)


def test_an_option_that_train_has_not_is_named(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"epoch'.*epochs"):
        nanogfl.train(tiny_set, out=tmp_path / "run", epoch=3)
    with pytest.raises(RecipeError, match=r"train\.lr"):
        nanogfl.train(tiny_set, out=tmp_path / "run", set=["train.lrr=1"])


# --- one seed, one result


def test_the_same_seed_gives_the_same_weights_and_another_others(
    whole: Path, tiny_set: Path, tiny_train: Train, tmp_path: Path
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    tiny_train(tiny_set, again, epochs=4)
    same_run(again, whole)
    tiny_train(tiny_set, other, epochs=4, seed=1)
    assert "/head.predict.0.weight" in "".join(different(checkpoint(other), checkpoint(whole))).replace("detector.", "")


def test_loader_processes_change_nothing(tiny_set: Path, tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tiny_set, tmp_path / "none", epochs=2)
    tiny_train(tiny_set, tmp_path / "two", "train.workers=2", epochs=2)
    same_run(tmp_path / "two", tmp_path / "none")


# --- several processes


@pytest.fixture(scope="module")
def two(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of two processes, and what it said."""
    out = tmp_path_factory.mktemp("two") / "run"
    small = ["--size", "s", "--input", 64, "--batch", 4, "--epochs", 2, "--set", "train.workers=0"]
    return out, run_command("train", tiny_set, "--out", out, *small, "--set", "train.devices=2")


def test_two_processes_leave_one_run(two: tuple[Path, subprocess.CompletedProcess[str]], tiny_set: Path) -> None:
    out, done = two
    assert done.returncode == 0, done.stderr
    assert left(out) == sorted(LEFT)
    assert [(r["epoch"], r["step"]) for r in rows(out)] == [("0", "3"), ("1", "6")]  # 24 / (4 x 2)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"]) == (2, 6)
    scores = nanogfl.evaluate(out / "best.ckpt", tiny_set, split="val")  # all pictures were scored, not one share
    assert scores.numbers["AP"] == pytest.approx(summary["best"]["AP"], abs=1e-6)


def test_only_the_first_of_two_processes_speaks(two: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert two[1].stdout.count("best validation AP") == 1


# --- numbers that are no numbers


def one_line_error(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said
    return errors[0]


def test_a_learning_rate_that_explodes_ends_with_one_line(
    tiny_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    explode = ["--set", "train.lr=1e30", "--set", "train.warmup=0", "--set", "train.clip=1e30"]
    code = main("train", tiny_set, "--out", tmp_path / "run", "--epochs", 3, *SMALL, *explode)
    assert code == 1
    said = one_line_error(capfd.readouterr().err)
    assert "train/0000" in said  # the files of the batch
    assert "train.lr" in said


def test_a_loss_of_nan_leaves_the_last_good_checkpoint(
    tiny_set: Path,
    tmp_path: Path,
    tiny_train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Keeper.on_train_epoch_start

    def poison(self: Keeper, trainer: Any, module: DetectionTask) -> None:
        original(self, trainer, module)
        if trainer.current_epoch == 2:
            module.detector.backbone.conv1[0].weight.data[0] = math.nan

    out = tmp_path / "run"
    monkeypatch.setattr(Keeper, "on_train_epoch_start", poison)
    with pytest.raises(TrainingError, match=r"nan.*train/0000.*checkpoint.*train\.lr"):
        tiny_train(tiny_set, out, epochs=4)
    for name in ("last.ckpt", "best.ckpt"):
        assert finite(checkpoint(out, name)), name
    assert checkpoint(out)["epoch"] == 1
    assert all(math.isfinite(float(v)) for row in rows(out) for v in row.values())


def test_a_loss_of_nan_names_every_picture_of_the_batch(
    tiny_set: Path, tmp_path: Path, tiny_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(task: DetectionTask) -> None:
        task.detector.backbone.conv1[0].weight.data[0] = math.nan

    monkeypatch.setattr(DetectionTask, "on_train_start", poison)
    with pytest.raises(TrainingError) as caught:
        tiny_train(tiny_set, tmp_path / "run", batch=12)
    assert len(set(re.findall(r"train/0000\d\d\.jpg", str(caught.value)))) == 12


def test_a_gradient_of_nan_in_the_last_step_is_not_kept(
    tiny_set: Path, tmp_path: Path, tiny_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(task: DetectionTask) -> None:
        if task.global_step == 5:  # the last of the second epoch
            task.detector.backbone.conv1[0].weight.grad[0] = math.nan

    monkeypatch.setattr(DetectionTask, "on_after_backward", poison)
    out = tmp_path / "run"
    with pytest.raises(NanogflError):
        tiny_train(tiny_set, out, epochs=4)
    assert finite(checkpoint(out))


# --- sets that are hard to train on

BOX = {"bbox": [8, 8, 30, 24]}
CROWD = BOX | {"iscrowd": 1}
MANY = [{"bbox": [x, y, 6, 5]} for x in range(0, 57, 3) for y in range(0, 57, 3)][:300]
HARD = {
    "half the pictures without boxes": ([[BOX], [], [BOX], []], [[BOX]]),
    "no boxes at all": ([[], [], []], [[]]),
    "no boxes in val": ([[BOX], [BOX]], [[]]),
    "a class that only val has": ([[BOX], [BOX]], [[BOX | {"category_id": 2}]]),
    "crowds only": ([[CROWD], [CROWD]], [[CROWD]]),
    "three hundred boxes beside one": ([MANY, [BOX]], [[BOX]]),
    "boxes of half a pixel": ([[{"bbox": [5, 5, 0.5, 0.5]}], [BOX]], [[BOX]]),
    "a box of the whole picture": ([[{"bbox": [0, 0, 64, 64]}], [BOX]], [[BOX]]),
    "the same box twice": ([[BOX, BOX, BOX | {"category_id": 2}], [BOX]], [[BOX]]),
}


@pytest.mark.parametrize(("train", "val"), HARD.values(), ids=HARD)
def test_hard_sets_train(train: Any, val: Any, tmp_path: Path, tiny_train: Train) -> None:
    write_coco(tmp_path / "set", "train", train, ["a", "b"])
    data = write_coco(tmp_path / "set", "val", val, ["a", "b"])
    summary = tiny_train(data, tmp_path / "run", batch=4)  # larger than the set: one step
    assert (summary["epochs"], summary["steps"], summary["classes"]) == (1, 1, ["a", "b"])
    assert left(tmp_path / "run") == sorted(LEFT)
    (row,) = rows(tmp_path / "run")
    assert all(math.isfinite(float(value)) for value in row.values())
    assert finite(checkpoint(tmp_path / "run"))


def test_one_picture_trains_at_the_smallest_input(tmp_path: Path, tiny_train: Train) -> None:
    write_coco(tmp_path / "set", "train", [[BOX]], ["a"])
    data = write_coco(tmp_path / "set", "val", [[BOX]], ["a"])
    try:
        tiny_train(data, tmp_path / "run")
    except NanogflError as error:
        assert "batch" in str(error) or "input" in str(error)


@pytest.mark.filterwarnings("ignore:Total length of:UserWarning")
def test_a_set_of_a_single_picture_trains(tmp_path: Path, tiny_train: Train) -> None:
    data = write_coco(tmp_path / "set", "all", [[BOX]], ["a"])
    assert tiny_train(data, tmp_path / "run", input=128)["steps"] == 1
    assert nanogfl.load(tmp_path / "run" / "best.ckpt").names == ["a"]


def test_where_val_has_nothing_to_find_the_best_is_the_trained_one(tmp_path: Path, tiny_train: Train) -> None:
    write_coco(tmp_path / "set", "train", [[BOX], [BOX]], ["a"])
    data = write_coco(tmp_path / "set", "val", [[]], ["a"])
    assert tiny_train(data, tmp_path / "run", epochs=3)["best"]["epoch"] == 2


# --- options


def test_early_stop_by_patience(tmp_path: Path, tiny_train: Train) -> None:
    write_coco(tmp_path / "set", "train", [[BOX], [BOX]], ["a"])
    data = write_coco(tmp_path / "set", "val", [[BOX | {"bbox": [0, 0, 1, 1]}]], ["a"])  # never found: AP stays 0
    summary = tiny_train(data, tmp_path / "run", "train.patience=2", "train.validate_every=1", epochs=9)
    assert summary["epochs"] == len(rows(tmp_path / "run")) == 3
    assert summary["best"] == {"epoch": 0, "AP": 0.0, "AP50": 0.0}
    before = contents(tmp_path / "run")
    assert nanogfl.train(data, out=tmp_path / "run", resume=True) == summary, "it is finished, and says so"
    assert contents(tmp_path / "run") == before
    again = nanogfl.train(data, out=tmp_path / "run", resume=True, set=["train.patience=3"])
    assert again["epochs"] == 4, "one more validation without a better one makes three"
    longer = nanogfl.train(data, out=tmp_path / "run", resume=True, epochs=12)
    assert longer["epochs"] == 7, "asked for more, it is given its patience anew"


@pytest.mark.parametrize(
    ("accumulate", "steps", "reason"),
    [(1, 6, "24 pictures in sixes, batch 4"), (2, 3, "two batches a step"), (4, 2, "a rest of two batches steps too")],
)
def test_gradients_accumulate(
    accumulate: int, steps: int, reason: str, tiny_set: Path, tmp_path: Path, tiny_train: Train
) -> None:
    summary = tiny_train(tiny_set, tmp_path / "run", f"train.accumulate={accumulate}", batch=4)
    assert summary["steps"] == steps, reason
    assert float(rows(tmp_path / "run")[-1]["lr"]) == pytest.approx(5e-5)  # the schedule counts steps, not batches


def test_bf16_trains_close_to_float(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    tiny_train(tiny_set, tmp_path / "bf16", "train.precision=bf16")
    tiny_train(tiny_set, tmp_path / "float", "train.precision=32")
    (low,), (high,) = rows(tmp_path / "bf16"), rows(tmp_path / "float")
    for part in ("qfl", "giou", "dfl"):
        assert float(low[part]) == pytest.approx(float(high[part]), rel=0.1)
    assert low["qfl"] != high["qfl"]
    state = checkpoint(tmp_path / "bf16", "best.ckpt")["state_dict"]
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}


def test_statistics_over_all_processes_need_gpus(tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"train\.sync_batch_norm=true needs GPUs"):
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
    last, best = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "run", "best.ckpt")
    assert "current_model_state" not in last
    assert all(torch.equal(last["state_dict"][k], v) for k, v in best["state_dict"].items())


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
