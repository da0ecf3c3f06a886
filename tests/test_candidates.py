"""nanogfl.deploy.candidates: which int8 model is taken, by rules and without a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nanogfl.deploy import candidates
from nanogfl.deploy.calibrate import Statistics
from nanogfl.deploy.candidates import AP_CANDIDATES, AP_NOISE, MAX_LOSS, Block, Candidate, best_method, choose

STEM = ("stem",)


class Judged:
    """A judge that knows the answers; a candidate stands for its own model."""

    def __init__(self, ap: Callable[[Candidate], float], error: Callable[[Candidate], float] = lambda _: 0.0) -> None:
        self.average_precision, self.error, self.asked = ap, error, []


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Candidate, "make", lambda self: self)
    for name in ("equalise", "opened", "observe"):
        monkeypatch.setattr(candidates, name, lambda *_: "even")


def plain() -> Candidate:
    return Candidate("float", Statistics(), "mse", floats=STEM)  # pyright: ignore[reportArgumentType]


def described(candidate: Candidate) -> tuple[str, bool, bool]:
    return candidate.method, candidate.equalised, candidate.corrected


def ways(values: dict[tuple[str, bool, bool], float], other: float) -> Callable[[Candidate], float]:
    return lambda candidate: values.get(described(candidate), other)


def test_ap_decides_between_ways() -> None:
    judge: Any = Judged(ways({("minmax", True, False): 0.3 + 2 * AP_NOISE}, 0.3), lambda one: 1.0 - one.equalised)
    best, ap = best_method(plain(), judge, [])
    assert described(best) == ("minmax", True, False) and ap == 0.3 + 2 * AP_NOISE


def test_what_ap_cannot_tell_the_error_decides() -> None:
    aps = {("mse", False, True): 0.3, ("percentile", True, True): 0.3 + 0.9 * AP_NOISE}
    errors = {("mse", False, True): 0.1, ("percentile", True, True): 0.2}
    judge: Any = Judged(ways(aps, 0.2), ways(errors, 0.5))
    best, ap = best_method(plain(), judge, [])
    assert described(best) == ("mse", False, True) and ap == 0.3, "the higher AP is within chance"
    judge = Judged(ways(aps | {("percentile", True, True): 0.3 + 1.1 * AP_NOISE}, 0.2), ways(errors, 0.5))
    assert described(best_method(plain(), judge, [])[0]) == ("percentile", True, True)


def test_only_likely_ways_are_evaluated() -> None:
    asked = []
    judge: Any = Judged(lambda candidate: asked.append(described(candidate)) or 0.3)
    judge.error = lambda candidate: 1.0 if candidate.method == "minmax" else 0.5
    best_method(plain(), judge, [])
    assert len(asked) == len(set(asked)) == AP_CANDIDATES and not any(method == "minmax" for method, *_ in asked)


def chosen(monkeypatch: pytest.MonkeyPatch, blocks: list[Block], lost: dict[int, float]) -> Candidate:
    """With these blocks, where so much of AP is lost with so many convolutions in float."""
    monkeypatch.setattr(candidates, "examine", lambda *_: blocks)
    judge: Any = Judged(lambda candidate: 0.5 - lost[len(candidate.floats)])
    return choose(plain(), judge, [], 0.5)[0]


def test_what_int8_makes_slower_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [Block(("a", "b"), 0.1, -0.05), Block(("c",), 0.9, 0.02)]
    assert chosen(monkeypatch, blocks, {3: 0.0}).floats == (*STEM, "a", "b")


def test_nothing_more_stays_float_where_ap_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, [Block(("a",), 0.9, 0.1)], {1: 0.99 * MAX_LOSS}).floats == STEM


def test_blocks_that_take_most_error_for_their_time_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [Block(("dear",), 0.5, 0.5), Block(("cheap", "pair"), 0.2, 0.05), Block(("useless",), 0.0, 0.01)]
    assert chosen(monkeypatch, blocks, {1: 0.03, 3: 0.5 * MAX_LOSS}).floats == (*STEM, "cheap", "pair")
    assert chosen(monkeypatch, blocks, {1: 0.03, 3: 0.02, 4: 0.5 * MAX_LOSS}).floats == (*STEM, "cheap", "pair", "dear")


def test_the_best_is_kept_where_none_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [Block(("a", "b"), 0.5, 0.1), Block(("c",), 0.1, 0.1)]
    assert chosen(monkeypatch, blocks, {1: 0.05, 3: 0.03, 4: 0.04}).floats == (*STEM, "a", "b")
