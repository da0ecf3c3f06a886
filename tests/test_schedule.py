"""nanogfl.training.schedule: the plan of a run, and the laws of its curves."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from nanogfl.recipe import Recipe, TrainRecipe
from nanogfl.training.schedule import (
    averaging_decay,
    default_average,
    default_epochs,
    learning_rate,
    plan,
    with_plan,
)

COUNTS = [*range(1, 300), *np.geomspace(300, 10_000_000, 400).astype(int).tolist()]


@pytest.mark.parametrize(
    ("recipe", "pictures", "processes", "steps_per_epoch", "steps", "reason"),
    [
        (TrainRecipe(epochs=9, batch=8), 205, 1, 26, 234, "26 batches of 7 or 8"),
        (TrainRecipe(epochs=9, batch=8), 205, 2, 13, 117, "two processes share a step"),
        (TrainRecipe(epochs=2, batch=8, accumulate=4), 205, 1, 7, 14, "26 batches, the last step adds up two"),
        (TrainRecipe(epochs=2, batch=8, accumulate=13), 205, 1, 2, 4, "26 batches, thirteen each"),
        (TrainRecipe(epochs=2, batch=8, accumulate=100), 205, 1, 1, 2, "a step an epoch at least"),
        (TrainRecipe(epochs=3, batch=16), 7, 1, 1, 3, "fewer pictures than a batch"),
        (TrainRecipe(epochs=300, batch=96), 118_287, 1, 1233, 369_900, "NanoDet-Plus on COCO"),
    ],
)
def test_steps(
    recipe: TrainRecipe, pictures: int, processes: int, steps_per_epoch: int, steps: int, reason: str
) -> None:
    made = plan(recipe, pictures, processes)
    assert (made.steps_per_epoch, made.steps) == (steps_per_epoch, steps), reason


@pytest.mark.parametrize(
    ("pictures", "epochs", "reason"),
    [
        (1, 100, "no more than 100 however few"),
        (200, 100, "the first point"),
        (2_000, 80, "the second"),
        (20_000, 60, "the third"),
        (100_000, 50, "the last"),
        (5_000_000, 50, "no fewer than 50 however many"),
        (632, 90, "halfway in the logarithm between 200 and 2000"),
    ],
)
def test_passes_that_follow_from_the_size(pictures: int, epochs: int, reason: str) -> None:
    assert default_epochs(pictures) == epochs, reason
    assert plan(TrainRecipe(), pictures).epochs == epochs


def test_a_larger_set_never_gets_more_passes_nor_fewer_steps() -> None:
    passes = [default_epochs(n) for n in COUNTS]
    assert all(a >= b for a, b in pairwise(passes))
    assert all(p % 5 == 0 for p in passes)
    seen = [n * p for n, p in zip(COUNTS, passes, strict=True)]
    assert seen[-1] > seen[0]


def test_validation_by_itself_is_about_25_times_a_run() -> None:
    assert {e: plan(TrainRecipe(epochs=e), 500).validate_every for e in (3, 25, 50, 60, 97, 100, 300)} == {
        3: 1, 25: 1, 50: 2, 60: 3, 97: 4, 100: 4, 300: 12,
    }  # fmt: skip


def test_the_last_tenth_is_plain() -> None:
    assert all(plan(TrainRecipe(epochs=e), 500).reduced_from == e - e // 10 for e in range(1, 400))


def test_what_is_given_is_taken() -> None:
    made = plan(TrainRecipe(epochs=40, warmup=0, average=0.0, plain_epochs=7, validate_every=8), 500)
    assert (made.epochs, made.warmup, made.average, made.reduced_from, made.validate_every) == (40, 0, 0.0, 33, 8)
    assert plan(TrainRecipe(epochs=40, plain_epochs=0), 500).reduced_from == 40, "none is not: by itself"


@pytest.mark.parametrize(
    ("epochs", "warmup", "reason"),
    [(9, 15, "a fifteenth of 234"), (1000, 500, "500 at most"), (1, 1, "a step at least")],
)
def test_warm_up_by_itself(epochs: int, warmup: int, reason: str) -> None:
    assert plan(TrainRecipe(epochs=epochs, batch=8), 205 if epochs > 1 else 8).warmup == warmup, reason


def curve(recipe: TrainRecipe, pictures: int = 205) -> list[float]:
    made = plan(recipe, pictures)
    return [learning_rate(step, made, recipe) for step in range(made.steps + 1)]


def test_the_rate_rises_in_even_steps_to_one() -> None:
    recipe = TrainRecipe(epochs=9, batch=8, warmup=20)
    np.testing.assert_allclose(curve(recipe)[:20], np.arange(1, 21) / 20)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(TrainRecipe(epochs=9, batch=8), id="by itself"),
        pytest.param(TrainRecipe(epochs=9, batch=8, warmup=0), id="no warm-up"),
        pytest.param(TrainRecipe(epochs=9, batch=8, warmup=100, lr=0.004, lr_end=1e-6), id="long warm-up"),
        pytest.param(TrainRecipe(epochs=3, batch=8, lr=1e-3, lr_end=1e-3), id="level"),
    ],
)
def test_after_the_warm_up_the_rate_falls_to_its_end(recipe: TrainRecipe) -> None:
    factors, warmup = curve(recipe), plan(recipe, 205).warmup
    after = factors[warmup:]
    assert after[0] == pytest.approx(1)
    assert after[-1] * (recipe.lr or 2e-3) == pytest.approx(recipe.lr_end)
    assert all(a >= b for a, b in pairwise(after))
    assert max(factors) == pytest.approx(1)
    assert min(factors) > 0, "the first step too trains"


def test_the_cosine_is_half_way_in_the_middle() -> None:
    recipe = TrainRecipe(epochs=8, batch=8, warmup=0)
    middle = curve(recipe)[104]
    assert middle == pytest.approx((1 + recipe.lr_end / 2e-3) / 2)


def test_beyond_the_plan_the_rate_stays_at_its_end() -> None:
    recipe = TrainRecipe(epochs=2, batch=8)
    made = plan(recipe, 205)
    assert learning_rate(made.steps * 3, made, recipe) * made.lr == pytest.approx(recipe.lr_end)


def test_a_run_shorter_than_its_warm_up_only_rises() -> None:
    factors = curve(TrainRecipe(epochs=1, batch=8, warmup=1000))
    np.testing.assert_allclose(np.diff(factors), 1e-3)


def test_a_run_as_long_as_its_warm_up_ends_at_the_highest_rate() -> None:
    assert curve(TrainRecipe(epochs=1, batch=8, warmup=26))[-2:] == [1.0, 1.0]  # asked for once more behind the last


def test_a_longer_run_averages_over_a_fortieth_of_itself_until_nanodets_decay() -> None:
    assert default_average(4000) == pytest.approx(1 - 1 / 100)
    assert default_average(10**9) == 0.9998
    decays = [default_average(n) for n in (1, 10, 80, 100, 225, 1000, 10_000, 200_000, 10**6)]
    assert all(0 < d < 1 for d in decays)
    assert decays == sorted(decays)


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.9998])
def test_a_young_average_forgets_quickly(decay: float) -> None:
    decays = [averaging_decay(decay, n) for n in range(100_000)]
    assert decays == sorted(decays)
    assert decays[-1] == decay
    assert math.prod(decays[:200]) < 1e-9, "of the random start nothing is left after 200 steps"


@pytest.mark.parametrize("update", [0, 1, 100, 1000, 5000, 100_000])
def test_with_nanodets_decay_the_warm_up_is_nanodets(update: int) -> None:
    new = 0.9998 * math.exp(-(update + 1) / 2000) + 0.0002
    assert 1 - averaging_decay(0.9998, update) == pytest.approx(new, rel=1e-9)


def test_a_rate_below_the_last_one_stays() -> None:
    assert curve(TrainRecipe(epochs=4, batch=8, lr=1e-5, warmup=0)) == [1.0] * 105


def test_the_plan_written_out_makes_the_same_plan_again() -> None:
    for pictures in (3, 205, 4000):
        made = plan(TrainRecipe(batch=8), pictures)
        written = with_plan(Recipe(train=TrainRecipe(batch=8)), made)
        assert plan(written.train, pictures) == made
        assert plan(written.train, pictures * 10).epochs == made.epochs, "and holds when the data grows"
        assert written.loss == Recipe().loss
        said = (written.train.validate_every, written.train.plain_epochs)
        assert said == (made.validate_every, made.epochs - made.reduced_from), "for config.yaml"


def test_the_rate_follows_from_the_start_unless_given() -> None:
    rates = [plan(TrainRecipe(), 205, trained=trained).lr for trained in (True, False)]
    assert rates == [1e-3, 2e-3]
    assert plan(TrainRecipe(lr=5e-4), 205).lr == 5e-4
    assert with_plan(Recipe(), plan(TrainRecipe(), 205)).train.lr == 2e-3  # written out for config.yaml
