"""nanogfl.training.keeper: averaged weights, the log across a resume, the best so far, files whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import Drawn, block_picture, checkpoint, quick, read_rows, write_coco

from nanogfl.data.table import Example, Table
from nanogfl.decode import Layout, decode
from nanogfl.detections import Detections
from nanogfl.errors import TrainingError
from nanogfl.model.checkpoint import Card
from nanogfl.model.detector import Architecture, Detector
from nanogfl.recipe import Recipe, TrainRecipe
from nanogfl.training.averaging import Averages
from nanogfl.training.folder import Folder
from nanogfl.training.keeper import Best, Keeper, WholeCheckpoints, append_row, decoded, gather, seconds_before
from nanogfl.training.schedule import Plan, averaging_decay
from nanogfl.training.task import DetectionTask
from nanogfl.view import View

NAMES = ["a", "b", "c"]
PLAN = Plan(6, 3, 1e-3, 1, 0.9, 1, 6)
NOWHERE = Table(Path(), "coco", ("thing",), ())


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- metrics.csv


def test_rows_follow_each_other(tmp_path: Path) -> None:
    for epoch in range(3):
        append_row(tmp_path / "metrics.csv", {"epoch": epoch, "loss": epoch / 3})
    assert read(tmp_path / "metrics.csv") == [
        {"epoch": "0", "loss": "0"},
        {"epoch": "1", "loss": "0.333333"},
        {"epoch": "2", "loss": "0.666667"},
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    ("again", "kept", "reason"),
    [
        (2, ["0", "1", "2"], "the epoch that was cut short is done again"),
        (1, ["0", "1"], "last.ckpt was older than the log: later rows are of a run that no longer is"),
        (0, ["0"], "from the beginning"),
        (5, ["0", "1", "2", "5"], "a gap stays visible"),
    ],
)
def test_a_row_after_a_resume_replaces_its_own_and_later_ones(
    again: int, kept: list[str], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.csv"
    for epoch in range(3):
        append_row(path, {"epoch": epoch, "loss": 1.0})
    append_row(path, {"epoch": again, "loss": 2.0})
    found = read(path)
    assert [row["epoch"] for row in found] == kept, reason
    assert found[-1]["loss"] == "2"


def test_a_column_that_comes_later_is_empty_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    append_row(path, {"epoch": 0, "loss": 1.5})
    append_row(path, {"epoch": 1, "AP": 0.25, "loss": 1.25})
    append_row(path, {"epoch": 2, "loss": 1.0})
    assert path.read_text().splitlines() == ["epoch,loss,AP", "0,1.5,", "1,1.25,0.25", "2,1,"]


def test_a_line_cut_by_a_power_failure_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n0,1\n1")
    append_row(path, {"epoch": 1, "loss": 2.0})
    assert read(path) == [{"epoch": "0", "loss": "1"}, {"epoch": "1", "loss": "2"}]


@pytest.mark.parametrize(
    ("torn", "kept"),
    [
        ("epoch,loss,AP\n0,1,2\n1,3\n", ["0", "2"]),
        ("epoch,loss,AP\n0,1,2\n1,3,4\n1", ["0", "1", "2"]),
        ("epoch,loss,AP\n0,1,2\n\0\0\0\0\0\0", ["0", "2"]),
        ("epoch,lo", ["2"]),
        ("loss,AP\n0,1\n", ["2"]),
        ("", ["2"]),
        ("epoch,loss,AP\n0,1,2,3,4\n", ["2"]),
    ],
)
def test_whatever_the_last_line_looks_like_the_whole_ones_stay(torn: str, kept: list[str], tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(torn)
    append_row(path, {"epoch": 2, "loss": 2.0, "AP": 0.5})
    assert [row["epoch"] for row in read(path)] == kept
    assert read(path)[-1] == {"epoch": "2", "loss": "2", "AP": "0.5"}


# --- last.ckpt


def test_a_checkpoint_takes_its_place_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)

    def half(content: object, partial: Path) -> None:
        assert partial.parent == tmp_path, "beside the target, from where it can be renamed"
        assert checkpoint(path) == {"epoch": 1}, "the former is still there"
        partial.write_bytes(b"PK half of a")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        WholeCheckpoints().save_checkpoint({"epoch": 2}, path)
    assert checkpoint(path) == {"epoch": 1} and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


# --- averaging


def test_a_file_that_another_program_holds_is_named(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows replaces no file that somebody has open, such as metrics.csv in a spreadsheet."""
    really = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "metrics.csv":
            raise PermissionError(errno.EACCES, "Access is denied", str(self), None, str(target))
        return really(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(TrainingError, match=r"^cannot write .*metrics\.csv: Access is denied; close .* --resume$"):
        quick(tiny_set, tmp_path / "run")


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9998])
def test_averaging_leaves_what_does_not_move(decay: float) -> None:
    module = torch.nn.Linear(100, 100)
    averaged = Averages(module, torch.device("cpu"), decay)
    for updates in (0, 3, 10**6):
        averaged.n_averaged.fill_(updates)
        averaged.update_parameters(module)
        assert torch.equal(averaged.module.weight, module.weight)


def test_counters_are_not_averaged() -> None:
    module = torch.nn.BatchNorm2d(2)
    averaged = Averages(module, torch.device("cpu"), 0.9)
    for count in (4, 8):
        module.num_batches_tracked.fill_(count)
        module.running_mean.fill_(count)
        averaged.update_parameters(module)
    assert int(averaged.module.num_batches_tracked) == 8
    assert averaged.module.running_mean.tolist() == pytest.approx([8 - 4 * 0.9 * (1 - math.exp(-0.5))] * 2)


def test_averaging_follows_its_recurrence() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    averaged = Averages(module, torch.device("cpu"), 0.9)
    expected = None
    for update, value in enumerate([1.0, 3.0, -2.0, 5.0, 8.0]):
        module.weight.data.fill_(value)
        averaged.update_parameters(module)
        if expected is None:
            expected = value  # the first update copies
        else:
            keep = 0.9 * (1 - math.exp(-(update + 1) / 4))
            assert averaging_decay(0.9, update) == pytest.approx(keep)
            expected = keep * expected + (1 - keep) * value
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_last_epoch_is_always_validated(blocks: Path, tmp_path: Path) -> None:
    quick(blocks, tmp_path / "run", epochs=3, set=["train.validate_every=2"])
    assert [bool(row["AP"]) for row in read_rows(tmp_path / "run")] == [False, True, True]
    quick(blocks, tmp_path / "run", epochs=6, resume=True)
    assert [bool(row["AP"]) for row in read_rows(tmp_path / "run")] == [False, True, True, True, False, True]


def test_what_is_kept_is_the_average(tiny_run: Path) -> None:
    last, best = checkpoint(tiny_run / "last.ckpt"), checkpoint(tiny_run / "best.ckpt")
    averaged, current = last["state_dict"], last["current_model_state"]
    name = "detector.head.predict.0.weight"
    assert not torch.equal(averaged[name], current[name])
    if best["epoch"] == last["epoch"]:
        assert torch.equal(best["state_dict"][name], averaged[name])
    assert not torch.equal(best["state_dict"][name], current[name])


# --- what a run says of itself


def test_pictures_a_second_are_those_of_this_epoch_and_of_all_processes() -> None:
    keeper = Keeper(Path(), NOWHERE)
    trainer: Any = SimpleNamespace(world_size=2, current_epoch=0, max_epochs=3)
    task: Any = DetectionTask.__new__(DetectionTask)
    vars(task)["plan"] = PLAN
    for _ in range(2):
        keeper.on_train_epoch_start(trainer, task)
        keeper._started -= 10
        for count in (4, 3):
            keeper.on_train_batch_end(trainer, task, None, SimpleNamespace(names=["a"] * count), 0)
        assert keeper.images_per_second == pytest.approx(2 * 7 / 10, rel=0.01)
    keeper._began -= 60
    assert keeper.seconds == pytest.approx(60, abs=5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("epoch,seconds\n0,1.5\n1,2.25\n2,9\n", 3.75),
        ("epoch,loss\n0,1.5\n1,2.25\n", 0),
        ("epoch,seconds\n0,1.5\n1,fast\n", 0),
        ("loss,seconds\n3,1.5\n", 0),
        (None, 0),
    ],
    ids=["of earlier epochs", "no such column", "no number", "no epochs", "no file"],
)
def test_what_the_epochs_before_took(text: str | None, seconds: float, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    assert seconds_before(tmp_path / "metrics.csv", 2) == seconds


def test_bytes_that_are_no_text_spoil_only_their_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"epoch,loss\n0,1\n\xff\xfe,2\n")
    append_row(tmp_path / "metrics.csv", {"epoch": 1, "loss": 3.0})
    assert read(tmp_path / "metrics.csv") == [{"epoch": "0", "loss": "1"}, {"epoch": "1", "loss": "3"}]


# --- best.ckpt


def test_one_validation_after_another(tmp_path: Path) -> None:
    """The boxes of 3, 2, 3, 1, 0 and 6 of the six pictures are found, a little small, the deviation twice the error."""
    boxes = np.array([[40.0 * i, 10, 40 * i + 30, 50] for i in range(10)]) + 1
    one = Example(
        Path("a.jpg"), "a.jpg", 500, 60, boxes, np.zeros(10, np.int64), np.zeros(10, bool), np.full(10, 1200.0)
    )
    table = Table(
        Path(),
        "coco",
        ("thing",),
        tuple(replace(one, boxes=boxes + np.array([10 * i, 0, 10 * i, 0])) for i in range(6)),
    )
    keeper = Keeper(Folder(tmp_path, resume=False), table)
    trainer: Any = SimpleNamespace(is_global_zero=True, world_size=1)
    recipe = Recipe(train=TrainRecipe(patience=3))
    shape = Architecture("s", 1)
    task = DetectionTask(Detector(shape), None, Card(shape, table.names, (64, 64), "stretch"), recipe, PLAN)
    kept, apart, stops = [], [], []
    for epoch, count in enumerate((3, 2, 3, 1, 0, 6)):
        trainer.current_epoch, trainer.should_stop = epoch, False
        keeper._found = [(i, shrunk(table, i, i < count)) for i in (5, 0, 3, 1, 4, 2)]
        keeper._pending = {}
        keeper.on_validation_epoch_end(trainer, task)
        keeper.on_validation_end(trainer, task)
        best = checkpoint(tmp_path / "best.ckpt")
        assert best["epoch"] == keeper.best.epoch and best["nanogfl"]["validation"]["AP"] == keeper.best.AP
        assert best["nanogfl"]["temperature"] == pytest.approx(0.5 if epoch == 5 else 1), "enough sides, or too few"
        kept.append(keeper.best.epoch)
        apart.append(keeper.since_best)
        stops.append(trainer.should_stop)
        assert keeper._pending["AP50"] == pytest.approx(count / 6, abs=0.01)
        assert keeper._pending["AP"] == pytest.approx(0.4 * count / 6, abs=0.01)
    assert kept == [0, 0, 2, 2, 2, 5], "of equal ones the last"
    assert apart == [0, 1, 2, 3, 4, 0] and stops == [False, False, False, True, True, False], (
        "but an equal one is no gain"
    )
    assert vars(keeper.best)["AP50"] == pytest.approx(1, abs=0.01)


def test_a_validation_set_that_lost_its_boxes_has_no_best_before(tmp_path: Path) -> None:
    """A run may be resumed after its annotations have changed; the last weights are the best then."""
    none = np.zeros(0, np.int64)
    empty = Example(Path("a.jpg"), "a.jpg", 90, 60, np.zeros((0, 4)), none, none.astype(bool), none.astype(float))
    keeper = Keeper(Folder(tmp_path, resume=True), Table(Path(), "coco", ("thing",), (empty,)), Best(1, 0.5, 0.75), 2)
    shape = Architecture("s", 1)
    task = DetectionTask(Detector(shape), None, Card(shape, ("thing",), (64, 64), "stretch"), Recipe(), PLAN)
    keeper._found = [(0, shrunk(keeper.table, 0, False))]
    trainer: Any = SimpleNamespace(is_global_zero=True, current_epoch=4)
    keeper.on_validation_epoch_end(trainer, task)
    assert (keeper.best, keeper.since_best, keeper._pending) == (Best(4), 0, {})
    assert checkpoint(tmp_path / "best.ckpt")["epoch"] == 4


def shrunk(table: Table, index: int, found: bool) -> Detections:
    """The labels of a picture, each side 9 % further in: an IoU of .67; or nothing."""
    example = table.examples[index]
    moved = 0.09 * (example.boxes[:, 2:] - example.boxes[:, :2])
    boxes, sigma = example.boxes + np.hstack([moved, -moved]), 2 * np.hstack([moved, moved])
    count = len(boxes) if found else 0
    scores = np.full(count, 0.9, np.float32)
    parts = boxes[:count].astype(np.float32), scores, example.labels[:count].astype(np.int64)
    return Detections(*parts, list(table.names), sigma[:count].astype(np.float32))


def test_the_best_checkpoint_holds_what_use_needs_and_no_more(learnt: Path) -> None:
    best = checkpoint(learnt / "best.ckpt")
    assert set(best) == {"nanogfl", "epoch", "state_dict"}
    assert all(key.startswith("detector.") for key in best["state_dict"])
    validation = best["nanogfl"]["validation"]
    assert validation["images"] == 6
    assert validation["AP"] == pytest.approx(float(read_rows(learnt)[best["epoch"]]["AP"]), abs=1e-5)
    assert sum(entry["boxes"] for entry in validation["per_class"].values()) == 12
    assert (learnt / "best.ckpt").stat().st_size < (learnt / "last.ckpt").stat().st_size / 2


def test_the_best_so_far_survives_a_resume() -> None:
    keeper = Keeper(Path(), NOWHERE, Best(7, 0.5, 0.75), since_best=3)
    other = Keeper(Path(), NOWHERE)
    other.load_state_dict(keeper.state_dict())
    assert (other.best, other.since_best) == (Best(7, 0.5, 0.75), 3)


def test_a_worse_validation_keeps_the_best(learnt: Path, blocks: Path, tmp_path: Path) -> None:
    run, steps = tmp_path / "run", ["train.warmup=0", "train.average=0", "train.validate_every=1"]
    quick(blocks, run, input=96, init=str(learnt / "best.ckpt"), epochs=1, set=["train.lr=3e-4", *steps])
    good = (run / "best.ckpt").read_bytes()
    ruin = "augment.contrast=[0.01, 0.011]"  # grey pictures make it forget colours
    quick(blocks, run, epochs=3, resume=True, set=["train.validate_every=1", ruin])
    first, *later = (float(row["AP"]) for row in read_rows(run))
    assert first > max(later)
    assert (run / "best.ckpt").read_bytes() == good
    assert json.loads((run / "summary.json").read_text())["best"]["epoch"] == 0


def test_where_nothing_is_found_the_last_weights_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = write_coco(tmp_path / "set", {"train": [block_picture(rng)] * 4, "val": [block_picture(rng)] * 2})
    done = quick(data, tmp_path / "run", epochs=3, set=["train.validate_every=1", "train.lr=1e-5"])
    assert [float(row["AP"]) for row in read_rows(tmp_path / "run")] == [0, 0, 0]
    assert done["best"] == {"epoch": 2, "AP": 0.0, "AP50": 0.0}


def test_nothing_to_find_is_no_ap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    empty = [Drawn(block_picture(rng).picture, [], []) for _ in range(2)]
    data = write_coco(tmp_path / "set", {"train": [block_picture(rng)] * 4, "val": empty})
    done = quick(data, tmp_path / "run", epochs=2, set=["train.validate_every=1"])
    assert done["best"] == {"epoch": 1, "AP": None, "AP50": None}
    assert all("AP" not in row for row in read_rows(tmp_path / "run"))
    assert checkpoint(tmp_path / "run" / "best.ckpt")["epoch"] == 1


# --- scoring


@pytest.mark.parametrize(
    ("changes", "resize"),
    [({}, "letterbox"), ({"family": "first"}, "stretch"), ({"reg_max": 0}, "stretch-corner")],
    ids=["plus", "first", "dirac"],
)
def test_predictions_are_decoded_each_with_its_picture(changes: dict[str, Any], resize: str) -> None:
    architecture = Architecture("s", 3, **changes)
    network, card = Detector(architecture), Card(architecture, NAMES, (64, 96), resize)
    shapes = [(90 + 10 * i, 120) for i in range(4)]
    rng, priors = np.random.default_rng(0), sum(len(p) for p in network.priors(64, 96)[0:1])
    raws = rng.normal(-2, 2, (4, priors, 3 + 4 * (architecture.reg_max + 1))).astype(np.float32)
    task: Any = DetectionTask.__new__(DetectionTask)  # only what decoding reads
    torch.nn.Module.__init__(task)
    task.card, task.detector = card, network
    found = dict(decoded([(int(i), raws[i], shapes[i]) for i in rng.permutation(4)], task))
    sigma = architecture.reg_max > 0
    layout = Layout((64, 96), architecture.strides, architecture.reg_max, architecture.family == "first", sigma=sigma)
    for i, raw in enumerate(raws):
        expected, one = decode(raw, layout, View(shapes[i], (64, 96), resize), NAMES), found[i]
        np.testing.assert_array_equal(one.boxes, expected.boxes)
        np.testing.assert_array_equal(one.scores, expected.scores)
        assert (one.side_sigma is not None) == sigma and len(one) > 10


def test_one_process_gathers_its_own() -> None:
    mine = [1, "two"]
    assert gather(mine) is mine
