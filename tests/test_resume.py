"""A run that goes on, stands in the way, or is done again: exact resume, overwriting, one seed one result."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import (
    LEFT,
    SMALL,
    Train,
    block_picture,
    checkpoint,
    contents,
    different,
    left,
    main,
    quick,
    read_rows,
    run_command,
    timeless,
    weights,
    write_coco,
)

import nanogfl
from nanogfl.errors import NanogflError, RecipeError, TrainingError, UsageError
from nanogfl.recipe import Recipe, TrainRecipe, load_recipe
from nanogfl.training.folder import WITHIN, Folder, finished, write_config
from nanogfl.training.keeper import Keeper
from nanogfl.training.resume import (
    KeepSigterm,
    MidEpochCheckpoints,
    SavedState,
    interrupted,
    resumed_plan,
    resumed_recipe,
    saved_state,
    was_interrupted,
)
from nanogfl.training.schedule import Plan
from nanogfl.training.task import DetectionTask

NOBODY: Any = (None, None)  # no trainer and no module, where neither is asked

# --- resume


@pytest.fixture(scope="module")
def whole(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, tiny_train: Train) -> Path:
    """A run of four epochs that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    tiny_train(tiny_set, out, epochs=4)
    return out


def same_run(a: Path, b: Path) -> None:
    """Assert that two runs ended in the same state, to the bit."""
    one, two = checkpoint(a / "last.ckpt"), checkpoint(b / "last.ckpt")
    assert {"state_dict", "current_model_state", "optimizer_states"} <= set(one)
    assert different(one, two) == []
    assert (one["epoch"], one["global_step"]) == (two["epoch"], two["global_step"])
    assert timeless(a) == timeless(b)
    assert different(checkpoint(a / "best.ckpt"), checkpoint(b / "best.ckpt")) == []
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
    assert checkpoint(tmp_path / "run" / "last.ckpt")["epoch"] == 1
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
    one, two = checkpoint(out / "last.ckpt"), checkpoint(whole / "last.ckpt")
    assert different(one["state_dict"], two["state_dict"]) == []
    assert different(one["current_model_state"], two["current_model_state"]) == []
    columns = ("epoch", "step", "lr", "qfl", "giou", "dfl")
    assert [[r[c] for c in columns] for r in read_rows(out)] == [[r[c] for c in columns] for r in read_rows(whole)]
    assert not list(out.glob("*.partial"))


FREEZE = ("train.freeze=backbone",)
ACCUMULATE = ("train.accumulate=2", "train.save_every=1")


def die_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> list[list[str]]:
    """The first run that comes to this batch of this epoch dies behind it; the names of every batch, as they come."""
    original, seen = Keeper.on_train_batch_end, list[list[str]]()

    def watch(self: Keeper, trainer: Any, module: Any, outputs: Any, given: Any, batch_idx: int) -> None:
        seen.append(given.names)
        original(self, trainer, module, outputs, given, batch_idx)
        if (trainer.current_epoch, batch_idx) == (epoch, batch) and "died" not in vars(watch):
            vars(watch)["died"] = True
            raise RuntimeError("the light went out")

    monkeypatch.setattr(Keeper, "on_train_batch_end", watch)
    return seen


@pytest.mark.parametrize(
    "settings",
    [(), *(pytest.param(s, marks=pytest.mark.slow) for s in (("train.workers=2",), ACCUMULATE, FREEZE))],
    ids=["plain", "processes", "accumulate", "frozen"],
)
def test_a_run_left_within_an_epoch_goes_on_at_its_next_step(
    settings: tuple[str, ...], tiny_set: Path, tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six batches of four an epoch; the state is written every second step, and the run dies behind the next."""
    settings = ("train.save_every=2", *settings)
    tiny_train(tiny_set, tmp_path / "whole", *settings, epochs=2, batch=4)
    seen = die_at(monkeypatch, 1, 2)
    with pytest.raises(TrainingError):
        tiny_train(tiny_set, tmp_path / "run", *settings, epochs=2, batch=4)
    state = checkpoint(tmp_path / "run" / WITHIN)
    assert (state["epoch"], state["global_step"]) == (1, 4 if settings[1:] == ACCUMULATE else 8)
    assert len(seen) == 9
    done = nanogfl.train(tiny_set, out=tmp_path / "run", resume=True)
    assert sum(float(row["seconds"]) for row in read_rows(tmp_path / "run")) < done["seconds"] + 0.1
    assert len(seen) == 9 + 4  # the third batch once more, and the rest
    assert seen[9] == seen[8]
    assert sorted(name for names in [*seen[6:8], *seen[9:]] for name in names) == sorted(
        name for names in seen[:6] for name in names
    )
    assert left(tmp_path / "run") == sorted(LEFT)
    one, two = (checkpoint(tmp_path / run / "last.ckpt") for run in ("run", "whole"))
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert different(one[part], two[part]) == [], part
    assert different(*(checkpoint(tmp_path / run / "best.ckpt") for run in ("run", "whole"))) == []
    rows = [[(r["epoch"], r["step"], r["lr"], r["AP"]) for r in read_rows(tmp_path / run)] for run in ("run", "whole")]
    assert rows[0] == rows[1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than a small machine has cores
def test_loader_processes_see_the_epoch_in_which_a_run_goes_on(
    whole: Path, tiny_set: Path, tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning makes the iterator before it tells the order its epoch; processes would fetch the first one's."""

    def die(self: Keeper, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("the light went out")

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "on_train_epoch_start", die)
        with pytest.raises(TrainingError):
            tiny_train(tiny_set, tmp_path / "run", "train.workers=2", epochs=4)
    nanogfl.train(tiny_set, out=tmp_path / "run", resume=True)
    one, two = (checkpoint(run / "last.ckpt") for run in (tmp_path / "run", whole))
    assert different(one["state_dict"], two["state_dict"]) == []


@pytest.mark.parametrize(
    ("epoch", "said", "begun"),
    [pytest.param(0, "the beginning", 0, marks=pytest.mark.slow), (1, "its beginning", 1)],
)
def test_with_another_batch_it_goes_back_to_the_epochs_beginning(
    epoch: int,
    said: str,
    begun: int,
    tiny_set: Path,
    tiny_train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the advice of a run that had too little memory is: lower --batch, and --resume."""
    seen = die_at(monkeypatch, epoch, 2)
    with pytest.raises(TrainingError):
        tiny_train(tiny_set, tmp_path / "run", "train.save_every=2", epochs=2, batch=4)
    before, caplog.handler.level = len(seen), logging.WARNING
    with caplog.at_level(logging.WARNING, "nanogfl"):
        done = nanogfl.train(tiny_set, out=tmp_path / "run", resume=True, batch=8)
    assert f"with different batch; restarting from {said}" in caplog.text
    assert len(seen) - before == 3 * (2 - begun)  # whole epochs of three batches
    assert done["epochs"] == 2
    assert left(tmp_path / "run") == sorted(LEFT)


def test_the_newer_of_the_two_states_is_taken(
    tiny_set: Path, tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed between writing last.ckpt and removing the other leaves both."""
    cut = {"pictures": 24, "tars": 0, "seed": 0, "batch": 4, "processes": 1}
    die_at(monkeypatch, 1, 2)
    with pytest.raises(TrainingError):
        tiny_train(tiny_set, tmp_path / "run", "train.save_every=2", epochs=2, batch=4)
    run = Folder(tmp_path / "run", resume=True)

    def taken(**changed: int) -> Path | None:
        former = saved_state(run, cut | changed)
        return former and former.path

    assert taken() == run / WITHIN
    assert taken(seed=1) == run / "last.ckpt"
    assert saved_state(Folder(tmp_path / "run", resume=False), cut) is None
    kept = (run / WITHIN).read_bytes()
    nanogfl.train(tiny_set, out=tmp_path / "run", resume=True)
    (run / WITHIN).write_bytes(kept)
    assert taken() == run / "last.ckpt"
    (run / WITHIN).write_bytes(kept[:1000])
    with pytest.raises(TrainingError, match=r"cannot resume from .*within\.ckpt.*delete it and use --resume again"):
        taken()
    tiny_train(tiny_set, tmp_path / "run", overwrite=True)
    assert not (run / WITHIN).exists()


def test_resume_where_nothing_was_written_starts_from_the_beginning(
    tiny_set: Path, tiny_train: Train, tmp_path: Path
) -> None:
    assert tiny_train(tiny_set, tmp_path / "run", resume=True)["epochs"] == 1
    assert left(tmp_path / "run") == sorted(LEFT)


@pytest.mark.parametrize("of_best", [False, True], ids=["cut short", "a copy of best.ckpt"])
def test_a_lost_state_is_not_gone_on_from(whole: Path, tiny_set: Path, tmp_path: Path, of_best: bool) -> None:
    """It would begin anew, and write over what the run has learnt."""
    out = shutil.copytree(whole, tmp_path / "run")
    last, best = (out / "last.ckpt").read_bytes(), (out / "best.ckpt").read_bytes()
    (out / "last.ckpt").write_bytes(best if of_best else last[:5000])
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}

    def untouched() -> bool:
        return all(path.read_bytes() == content for path, content in before.items())

    with pytest.raises(
        TrainingError, match=r"cannot resume from .*last\.ckpt: it is damaged.*--overwrite starts from scratch; --init"
    ):
        nanogfl.train(tiny_set, out=out, resume=True, epochs=6)
    assert untouched()
    (out / "last.ckpt").unlink()
    del before[out / "last.ckpt"]
    with pytest.raises(UsageError, match=r"--resume: no last\.ckpt found in .*--overwrite starts from scratch"):
        nanogfl.train(tiny_set, out=out, resume=True, epochs=6)
    assert untouched()


@pytest.mark.parametrize(
    ("rows", "ended", "lost"),
    [(0, False, False), (1, False, False), (2, False, True), (1, True, True), (None, False, False), (None, True, True)],
)
def test_what_shows_that_a_state_was_lost(rows: int | None, ended: bool, lost: bool, tmp_path: Path) -> None:
    """The first row stands before the first last.ckpt does; a run may be killed between the two."""
    if rows is not None:
        (tmp_path / "metrics.csv").write_text("epoch,loss\n" + "".join(f"{i},1\n" for i in range(rows)))
    if ended:
        (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no last\.ckpt found") if lost else nullcontext():
        assert saved_state(Folder(tmp_path, resume=True), {}) is None


def test_averages_cannot_be_dropped_within_a_run(whole: Path, tiny_set: Path) -> None:
    """The run would go on from the averages, with the optimizer's state of the raw weights."""
    with pytest.raises(UsageError, match=r"--resume: train\.average cannot change within a run: .* requested is 0;"):
        nanogfl.train(tiny_set, out=whole, resume=True, set=["train.average=0"])


def test_a_finished_run_is_not_another(whole: Path, tiny_set: Path) -> None:
    with pytest.raises(UsageError, match=r"--resume: model\.size cannot change within a run"):
        nanogfl.train(tiny_set, out=whole, resume=True, size="m")
    with pytest.raises(NanogflError, match="nowhere"):
        nanogfl.train(tiny_set.parent / "nowhere", out=whole, resume=True)


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
    assert summary["seconds"] > sum(float(r["seconds"]) for r in read_rows(out))  # those of the first four too
    assert [r["epoch"] for r in read_rows(out)] == list("012345")
    assert timeless(out)[:4] == timeless(whole)
    assert load_recipe(str(out / "config.yaml")).train.epochs == 6


def test_with_another_batch_the_rate_goes_on_where_it_was(whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    """Half the batch makes twice the steps an epoch; the cosine goes by epochs."""
    rates = []
    for batch in (8, 4):
        out = shutil.copytree(whole, tmp_path / f"batch {batch}")
        nanogfl.train(tiny_set, out=out, resume=True, epochs=6, batch=batch)
        rates.append([float(row["lr"]) for row in read_rows(out)[4:]])
    assert rates[1] == pytest.approx(rates[0], rel=0.05)
    assert rates[1][-1] == pytest.approx(5e-5)


def former(run: Path) -> SavedState:
    found = saved_state(Folder(run, resume=True), {})
    assert found is not None
    return found


@pytest.mark.parametrize(("an_epoch", "shift"), [(3, 0), (6, 12), (2, -4)])
def test_epochs_of_other_length_shift_the_plan(an_epoch: int, shift: int, whole: Path) -> None:
    made = Plan(6, an_epoch, 1e-3, 1, 0.9, 1, 6)
    assert resumed_plan(made, former(whole)).shift == shift  # four epochs of three steps are done


@pytest.mark.parametrize(("accumulate", "ended"), [(1, 6), (2, 8)])
def test_steps_of_a_state_within_an_epoch_are_counted_as_they_were_made(accumulate: int, ended: int) -> None:
    """Four batches of the second epoch are taken, one or two a step; from now on two make a step."""
    batches = {"state_dict": {"combined_loader": [{"taken": 4}]}}
    recipe = {"recipe": {"train": {"accumulate": accumulate}}}
    state = {"epoch": 1, "global_step": 10, "loops": {"fit_loop": batches}, "nanogfl": recipe}
    for epochs in (6, 1):  # at least as many as are done
        made = Plan(epochs, 3, 1e-3, 1, 0.9, 1, 6)
        assert resumed_plan(made, SavedState(Path("within.ckpt"), state)).shift == 3 - ended


def state_file(path: Path, epoch: int, step: int, **batches: int) -> Path:
    """As little of a state as deciding between two takes."""
    loops = {"fit_loop": {"state_dict": {"combined_loader": [batches]}}}
    torch.save({"epoch": epoch, "global_step": step, "loops": loops}, path)
    return path


@pytest.mark.parametrize(
    ("within", "taken", "said"),
    [
        ({"batch": 4, "seed": 0}, WITHIN, None),
        (
            {"batch": 8, "seed": 0},
            "last.ckpt",
            "epoch 3 was interrupted at step 8 with different batch; restarting from its begin",
        ),
        ({"batch": 8, "seed": 1}, "last.ckpt", "with different batch and seed; restarting from its beginning"),
        ({"batch": 4}, "last.ckpt", "with different seed; restarting"),
    ],
    ids=["as it was", "another batch", "both", "what an older version did not write"],
)
def test_which_of_two_states_is_taken_and_why(
    within: dict[str, int], taken: str, said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_file(tmp_path / "last.ckpt", 1, 6, batch=8)
    state_file(tmp_path / WITHIN, 2, 8, **within)
    with caplog.at_level(logging.WARNING, "nanogfl"):
        found = saved_state(Folder(tmp_path, resume=True), {"batch": 4, "seed": 0})
    assert found is not None and found.path.name == taken
    assert (said or "") in caplog.text and bool(caplog.text) == bool(said)


@pytest.mark.parametrize("changed", [False, True])
def test_a_state_within_the_first_epoch_is_alone(
    changed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_file(tmp_path / WITHIN, 0, 2, batch=4)
    with caplog.at_level(logging.WARNING, "nanogfl"):
        found = saved_state(Folder(tmp_path, resume=True), {"batch": 8 if changed else 4})
    assert (found is None) == changed
    assert (
        caplog.messages
        == ["epoch 1 was interrupted at step 2 with different batch; restarting from the beginning"] * changed
    )


def test_of_two_states_of_one_step_that_of_the_epochs_end_is_taken(tmp_path: Path) -> None:
    """The run was killed between writing the one and removing the other."""
    state_file(tmp_path / WITHIN, 1, 6, batch=4)
    state_file(tmp_path / "last.ckpt", 1, 6, batch=4)
    found = saved_state(Folder(tmp_path, resume=True), {"batch": 4})
    assert found is not None and found.path.name == "last.ckpt"


def test_nothing_to_go_on_from_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"epoch,\xff\n0,1")  # spoilt, and one row at most
    for resume in (False, True):
        with caplog.at_level(logging.WARNING, "nanogfl"):
            assert saved_state(Folder(tmp_path, resume), {}) is None
        assert caplog.messages == [f"nothing to resume in {tmp_path}: starting from the beginning"] * resume


def test_what_a_resumed_run_leaves_open_is_as_it_was(whole: Path) -> None:
    """The run's own, changed to what no default is."""
    last = former(whole)
    card = last.state["nanogfl"]
    names = tuple(card["names"])
    card |= {"input_size": [64, 96], "resize": "letterbox"}
    card["recipe"]["train"]["lr"] = 0.004
    made = resumed_recipe(Recipe(), last, names)
    assert (made.input.size, made.input.resize, made.train.lr) == ("64x96", "letterbox", 0.004)
    assert made.model.size == "s" and made.model.reg_max == 7
    asked = load_recipe(None, ["input.size=128", "input.resize=stretch", "train.lr=0.001", "train.epochs=9"])
    made = resumed_recipe(asked, last, names)
    assert (made.input.size, made.input.resize, made.train.lr) == (128, "stretch", 0.001) and made.train.epochs == 9
    with pytest.raises(
        UsageError, match=r"the dataset's classes cannot change within a run: .* has .*, requested is a, b"
    ):
        resumed_recipe(Recipe(), last, ("a", "b"))


def test_the_programs_own_handler_of_a_polite_kill_is_put_back() -> None:
    """Lightning puts its own in place before training starts; not from a thread, which may set none."""
    kept, given = signal.getsignal(signal.SIGTERM), [lambda *_: None, signal.SIG_DFL]
    try:
        for own, stays in ((given[0], False), (given[1], True)):
            signal.signal(signal.SIGTERM, own)
            callback, lightnings = KeepSigterm(), lambda *_: None
            signal.signal(signal.SIGTERM, lightnings)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(callback.on_train_start, *NOBODY).result()
            assert signal.getsignal(signal.SIGTERM) is lightnings
            callback.on_train_start(*NOBODY)
            assert (signal.getsignal(signal.SIGTERM) is lightnings) == stays
    finally:
        signal.signal(signal.SIGTERM, kept)


def test_a_long_epochs_state_is_written_once_a_step_and_not_at_its_end(tmp_path: Path) -> None:
    """Two batches a step, every second step; ten batches an epoch; the run goes on behind step 4."""
    written: list[tuple[str, int]] = []
    trainer: Any = SimpleNamespace(global_step=4, is_last_batch=False)
    trainer.save_checkpoint = lambda path, weights_only: written.append((path.name, trainer.global_step))
    callback = MidEpochCheckpoints(Folder(tmp_path, resume=True), 2)
    callback.on_train_start(trainer, NOBODY[1])
    for batch in range(20):
        trainer.global_step, trainer.is_last_batch = 4 + (batch + 1) // 2, batch == 11
        callback.on_train_batch_end(trainer, NOBODY[1], None, None, batch)
    assert written == [(WITHIN, step) for step in (6, 8, 12, 14)], "step 10 ends an epoch"


def test_what_began_with_an_interrupt() -> None:
    def raised(*errors: BaseException) -> BaseException:
        """The last of them, each raised while the one before was handled."""
        for before, error in itertools.pairwise(errors):
            error.__context__ = before
        return errors[-1]

    for first in (KeyboardInterrupt(), SystemExit(1)):
        assert was_interrupted(first)
        assert was_interrupted(raised(first, OSError("a loader is gone"), RuntimeError("all is lost")))
    assert not was_interrupted(raised(OSError("the disk is full"), RuntimeError("all is lost")))
    assert not was_interrupted(None)


def test_fewer_epochs_than_are_done_are_refused(whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "summary.json").unlink()
    with pytest.raises(UsageError, match=r"--resume: 4 epochs are done, only 2 requested; use --epochs 4 or more"):
        nanogfl.train(tiny_set, out=out, resume=True, epochs=2)


def test_without_validation_pictures_the_last_weights_are_the_best(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "set", {"": [block_picture(np.random.default_rng(0))]})
    for epochs in (1, 2):
        done = quick(data, tmp_path / "run", input=128, epochs=epochs, resume=epochs > 1)
        assert done["best"] == {"epoch": epochs - 1, "AP": None, "AP50": None}
        best = checkpoint(tmp_path / "run" / "best.ckpt")
        assert best["epoch"] == epochs - 1 and best["nanogfl"]["validation"] is None


def test_a_run_that_died_before_its_summary_keeps_the_averages(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "set", {"": [block_picture(np.random.default_rng(0))]})
    options: dict[str, Any] = {"input": 128, "epochs": 3, "set": ["train.lr=0.01"]}
    whole = quick(data, tmp_path / "run", **options)
    last, best = (tmp_path / "run" / name for name in ("last.ckpt", "best.ckpt"))
    averages = weights(best)
    for name in ("summary.json", "best.ckpt"):
        (tmp_path / "run" / name).unlink()
    again = quick(data, tmp_path / "run", resume=True, **options)
    assert again["images_per_second"] == pytest.approx(whole["images_per_second"], abs=0.02)
    assert again["seconds"] > sum(float(row["seconds"]) for row in read_rows(tmp_path / "run"))
    key = "detector.head.predict.0.weight"
    assert torch.equal(weights(best)[key], averages[key])
    assert not torch.equal(checkpoint(last)["current_model_state"][key], averages[key])


@pytest.mark.parametrize(
    ("how", "begun", "said"),
    [
        ("overwrite", False, "nothing was trained"),  # the old run's config.yaml still lies there
        ("overwrite", True, "epoch 1 is incomplete: continue with --resume"),
        ("resume", False, "epoch 1 is incomplete: continue with --resume"),
        ("resume", None, "nothing was trained"),  # there was nothing
        ("", True, "epoch 1 is incomplete: continue with --resume"),
    ],
)
def test_what_an_interrupted_run_says(how: str, begun: bool | None, said: str, tmp_path: Path) -> None:
    if begun is not None:
        write_config(tmp_path / "config.yaml", Recipe())
        os.utime(tmp_path / "config.yaml", (1, 1))
    folder = Folder(tmp_path, how == "resume", how == "overwrite")
    if begun:
        write_config(tmp_path / "config.yaml", Recipe())
    assert said in interrupted(folder, 0)


@pytest.mark.parametrize(
    ("epochs", "patience", "done"),
    [(6, 2, True), (3, 0, True), (5, 2, True), (7, 2, False), (6, 4, False), (6, 0, False)],
)
def test_a_run_that_stopped_early_goes_on_with_more_epochs_or_patience(
    epochs: int, patience: int, done: bool, tmp_path: Path
) -> None:
    """It was to have six epochs, and stopped after the third."""
    write_config(tmp_path / "config.yaml", Recipe(train=TrainRecipe(epochs=6, patience=2)))
    (tmp_path / "summary.json").write_text('{"epochs": 3}')
    folder, asked = Folder(tmp_path, resume=True), Recipe(train=TrainRecipe(epochs=epochs, patience=patience))
    assert not finished(folder, asked), "without its best.ckpt it is not whole"
    (tmp_path / "best.ckpt").touch()
    assert finished(folder, asked) is done


def test_resume_with_another_learning_rate_takes_it(whole: Path, tiny_set: Path, tmp_path: Path) -> None:
    # the advice after a loss that became NaN: lower train.lr and --resume
    out = shutil.copytree(whole, tmp_path / "run")
    nanogfl.train(tiny_set, out=out, resume=True, epochs=6, set=["train.lr=1e-4", "train.lr_end=1e-4"])
    assert [float(r["lr"]) for r in read_rows(out)[4:]] == pytest.approx([1e-4, 1e-4])


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
        ({"set": ["train.freeze=backbone"]}, r"train\.freeze .* has none, requested is backbone"),
        ({"set": ["model.share_levels=true"]}, r"model\.share_levels .* has False, requested is True"),
        ({"set": ["model.guidance=full"]}, r"model\.guidance .* has none, requested is full"),
        ({"size": "l"}, r"model\.size .* has s, requested is l"),
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
    with pytest.raises(UsageError, match=r"--out .* is not a folder; choose a writable folder"):
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
    assert len(read_rows(out)) == 1
    assert checkpoint(out / "last.ckpt")["global_step"] == 3
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
    other = write_coco(tmp_path / "set", {"": [block_picture(np.random.default_rng(0))] * 4})
    data, options = (tiny_set, {"size": "m"}) if mistake == "--size m" else (other, {})
    with pytest.raises(NanogflError):
        nanogfl.train(data, out=out, resume=True, epochs=6, **options)
    assert contents(out) == contents(whole)
    assert nanogfl.train(tiny_set, out=out, resume=True, epochs=5)["epochs"] == 5


def test_resume_and_overwrite_contradict_each_other(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be combined"):
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
    assert "/head.predict.0.weight" in "".join(
        different(checkpoint(other / "last.ckpt"), checkpoint(whole / "last.ckpt"))
    ).replace("detector.", "")


def test_loader_processes_change_nothing(tiny_set: Path, tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tiny_set, tmp_path / "none", epochs=2)
    tiny_train(tiny_set, tmp_path / "two", "train.workers=2", epochs=2)
    same_run(tmp_path / "two", tmp_path / "none")
