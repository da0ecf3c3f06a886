"""nanogfl.training.finite: a number that is none stops the run, at once on a CPU, and in time on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Train, checkpoint, finite, read_rows
from torch import Tensor

from nanogfl.errors import TrainingError
from nanogfl.training.finite import LAG, NAMED, FiniteCheck, _Number
from nanogfl.training.task import DetectionTask

GOOD, BAD = torch.tensor(1.5), torch.tensor(float("nan"))


class Event:
    """Notes when it was waited for."""

    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


def number(mean: Tensor, event: Event | None = None, name: str = "a.jpg") -> _Number:
    return _Number(mean, mean, event, "loss", 3, [name])


def test_a_cpu_stops_at_once_and_names_the_batch() -> None:
    watch = FiniteCheck()
    watch.add(GOOD, GOOD, "loss", 0, ["a.jpg"])
    with pytest.raises(TrainingError, match=r"the gradient became nan at epoch 8 in the batch of b\.jpg, c\.jpg; "):
        watch.add(BAD, BAD, "gradient", 7, ["b.jpg", "c.jpg"])


def test_infinity_stops_too() -> None:
    with pytest.raises(TrainingError, match=r"the loss became -inf at epoch 1 in the batch of a\.jpg; "):
        FiniteCheck().add(-GOOD / 0, -GOOD / 0, "loss", 0, ["a.jpg"])


def test_who_has_a_finite_number_himself_names_nothing() -> None:
    with pytest.raises(TrainingError) as told:
        FiniteCheck().add(GOOD, BAD, "loss", 0, ["innocent.jpg"])
    assert "innocent" not in str(told.value)


@pytest.mark.parametrize("count", [NAMED, NAMED + 1])
def test_a_long_batch_is_named_in_the_log(count: int, caplog: pytest.LogCaptureFixture) -> None:
    files = [f"{i}.jpg" for i in range(count)]
    with pytest.raises(TrainingError) as told:
        FiniteCheck().add(BAD, BAD, "loss", 0, files)
    said = str(told.value).partition("batch of ")[2].partition(";")[0].split(", ")
    assert said == files if count == NAMED else [*files[:NAMED], "..."]
    assert (files[-1] in caplog.text) == (count > NAMED)


def test_what_travels_is_only_waited_for_when_it_is_old() -> None:
    watch, events = FiniteCheck(), [Event() for _ in range(LAG + 3)]
    for event in events:
        watch.waiting.append(number(GOOD, event))
        watch.check(LAG)
    assert [e.waited for e in events] == [1, 1, 1] + [0] * LAG
    watch.check()
    assert [e.waited for e in events] == [1] * (LAG + 3)


def test_the_first_bad_number_is_told_not_those_that_follow_from_it() -> None:
    watch = FiniteCheck()
    for i in range(LAG):
        watch.waiting.append(number(BAD if i >= 2 else GOOD, name=f"{i}.jpg"))
    watch.check(LAG)
    with pytest.raises(TrainingError, match=r"of 2\.jpg"):
        watch.check()


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4], ids=["validated", "not validated"])
def test_late_news_reach_the_run_before_anything_is_written(
    every: int, tiny_set: Path, tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: three steps an epoch are fewer than may be behind, so that the epoch's end must ask."""

    def late(self: FiniteCheck, own: Tensor, mean: Tensor, what: str, epoch: int, names: list[str]) -> None:
        self.waiting.append(_Number(own.detach(), mean, None, what, epoch, names))
        self.check(LAG)

    original = DetectionTask.losses

    def spoilt(self: DetectionTask, *others: Any) -> dict[str, Tensor]:
        parts = original(self, *others)
        return {k: v * float("nan") for k, v in parts.items()} if self.current_epoch == 1 else parts

    monkeypatch.setattr(FiniteCheck, "add", late)
    monkeypatch.setattr(DetectionTask, "losses", spoilt)
    with pytest.raises(TrainingError, match="the loss became nan at epoch 2 in the batch of"):
        tiny_train(tiny_set, tmp_path / "run", f"train.validate_every={every}", epochs=4)
    assert [row["epoch"] for row in read_rows(tmp_path / "run")] == ["0"]
    last = checkpoint(tmp_path / "run" / "last.ckpt")
    assert last["epoch"] == 0 and finite(last)
    best = tmp_path / "run" / "best.ckpt"
    assert finite(checkpoint(best)) if every == 1 else not best.exists()
