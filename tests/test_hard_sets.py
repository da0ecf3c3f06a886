"""What training can stumble over: numbers that are no numbers, and sets with little or too much in them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import LEFT, SMALL, Drawn, Train, checkpoint, contents, finite, left, main, read_rows, write_coco

import nanogfl
from nanogfl.errors import NanogflError, TrainingError
from nanogfl.training.keeper import Keeper
from nanogfl.training.task import DetectionTask

# --- numbers that are no numbers


def one_line_error(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said
    return errors[0]


def test_a_learning_rate_that_explodes_ends_with_one_line(
    tiny_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    explode = ["--set", "train.lr=100", "--set", "train.warmup=0", "--set", "train.weight_decay=1e30"]
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
        assert finite(checkpoint(out / name)), name
    assert checkpoint(out / "last.ckpt")["epoch"] == 1
    assert all(math.isfinite(float(v)) for row in read_rows(out) for v in row.values())


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
    assert finite(checkpoint(out / "last.ckpt"))


# --- sets that are hard to train on

Box = tuple[tuple[float, float, float, float], int, bool]  # corners in px, label, crowd
BOX: Box = ((8, 8, 38, 32), 0, False)
OTHER: Box = ((8, 8, 38, 32), 1, False)
CROWD: Box = ((8, 8, 38, 32), 0, True)
HALF_A_PIXEL: Box = ((5, 5, 5.5, 5.5), 0, False)
WHOLE: Box = ((0, 0, 64, 64), 0, False)
MANY: list[Box] = [((x, y, x + 6, y + 5), 0, False) for x in range(0, 57, 3) for y in range(0, 57, 3)][:300]
HARD = {
    "half the pictures without boxes": ([[BOX], [], [BOX], []], [[BOX]]),
    "no boxes at all": ([[], [], []], [[]]),
    "no boxes in val": ([[BOX], [BOX]], [[]]),
    "a class that only val has": ([[BOX], [BOX]], [[OTHER]]),
    "crowds only": ([[CROWD], [CROWD]], [[CROWD]]),
    "three hundred boxes beside one": ([MANY, [BOX]], [[BOX]]),
    "boxes of half a pixel": ([[HALF_A_PIXEL], [BOX]], [[BOX]]),
    "a box of the whole picture": ([[WHOLE], [BOX]], [[BOX]]),
    "the same box twice": ([[BOX, BOX, OTHER], [BOX]], [[BOX]]),
}


def noise_set(root: Path, names: Sequence[str] = ("a", "b"), **splits: Sequence[Sequence[Box]]) -> Path:
    """A COCO set with a noisy 64 px picture for each list of boxes."""
    rng = np.random.default_rng(0)

    def drawn(boxes: Sequence[Box]) -> Drawn:
        corners, labels, crowd = zip(*boxes, strict=True) if boxes else ((), (), ())
        return Drawn(rng.integers(0, 255, (64, 64, 3), np.uint8), corners, labels, crowd)

    return write_coco(root, {split: [drawn(boxes) for boxes in pictures] for split, pictures in splits.items()}, names)


@pytest.mark.parametrize(("train", "val"), HARD.values(), ids=HARD)
def test_hard_sets_train(train: Any, val: Any, tmp_path: Path, tiny_train: Train) -> None:
    data = noise_set(tmp_path / "set", train=train, val=val)
    summary = tiny_train(data, tmp_path / "run", batch=4)  # larger than the set: one step
    assert (summary["epochs"], summary["steps"], summary["classes"]) == (1, 1, ["a", "b"])
    assert left(tmp_path / "run") == sorted(LEFT)
    (row,) = read_rows(tmp_path / "run")
    assert all(math.isfinite(float(value)) for value in row.values())
    assert finite(checkpoint(tmp_path / "run" / "last.ckpt"))


def test_one_picture_is_too_little_at_the_smallest_input(tmp_path: Path, tiny_train: Train) -> None:
    data = noise_set(tmp_path / "set", ["a"], train=[[BOX]], val=[[BOX]])
    with pytest.raises(TrainingError, match=r"more than one picture per step .* increase --batch or --input"):
        tiny_train(data, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:Total length of:UserWarning")
def test_a_set_of_a_single_picture_trains(tmp_path: Path, tiny_train: Train) -> None:
    data = noise_set(tmp_path / "set", ["a"], whole=[[BOX]])
    assert tiny_train(data, tmp_path / "run", input=128)["steps"] == 1
    assert nanogfl.load(tmp_path / "run" / "best.ckpt").names == ["a"]


def test_where_val_has_nothing_to_find_the_best_is_the_trained_one(tmp_path: Path, tiny_train: Train) -> None:
    data = noise_set(tmp_path / "set", ["a"], train=[[BOX], [BOX]], val=[[]])
    assert tiny_train(data, tmp_path / "run", epochs=3)["best"]["epoch"] == 2


def test_early_stop_by_patience(tmp_path: Path, tiny_train: Train) -> None:
    data = noise_set(
        tmp_path / "set", ["a"], train=[[BOX], [BOX]], val=[[((0, 0, 1, 1), 0, False)]]
    )  # never found: AP stays 0
    summary = tiny_train(data, tmp_path / "run", "train.patience=2", "train.validate_every=1", epochs=9)
    assert summary["epochs"] == len(read_rows(tmp_path / "run")) == 3
    assert summary["best"] == {"epoch": 2, "AP": 0.0, "AP50": 0.0}, "of equals the last has learnt most"
    before = contents(tmp_path / "run")
    assert nanogfl.train(data, out=tmp_path / "run", resume=True) == summary, "it is finished, and says so"
    assert contents(tmp_path / "run") == before
    again = nanogfl.train(data, out=tmp_path / "run", resume=True, set=["train.patience=3"])
    assert again["epochs"] == 4, "one more validation without a better one makes three"
    longer = nanogfl.train(data, out=tmp_path / "run", resume=True, epochs=12)
    assert longer["epochs"] == 7, "asked for more, it is given its patience anew"
