"""Length, learning rate and averaging of a run; what the recipe leaves open follows from the size of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from nanogfl.data.order import batches_an_epoch
from nanogfl.recipe import Recipe, TrainRecipe

# (pictures, epochs): larger sets need fewer epochs; in between, interpolated in the logarithm of the pictures.
PASSES = ((200, 100), (2_000, 80), (20_000, 60), (100_000, 50))


@dataclass(frozen=True)
class Plan:
    """The schedule of a run in numbers.

    Attributes:
        epochs: passes over the training pictures.
        steps_per_epoch: optimizer steps per epoch.
        lr: highest learning rate.
        warmup: steps until the highest learning rate.
        average: decay of the averaged weights, 0 for none.
        validate_every: epochs between validations; the last epoch is always validated.
        reduced_from: epoch from which augmentation is weaker.
        shift: added to the step after a resume, so that the learning rate continues at the same epoch although epochs
            now have another number of steps; else 0.
    """

    epochs: int
    steps_per_epoch: int
    lr: float
    warmup: int
    average: float
    validate_every: int
    reduced_from: int
    shift: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch


def plan(recipe: TrainRecipe, pictures: int, processes: int = 1, trained: bool = False) -> Plan:
    """Return the plan of a run over this many training pictures; ``trained`` if it starts from a trained detector."""
    given = recipe.epochs
    epochs = given if given is not None else default_epochs(pictures)
    steps_per_epoch = math.ceil(batches_an_epoch(pictures, recipe.batch, processes) / recipe.accumulate)
    steps = epochs * steps_per_epoch
    average = recipe.average if recipe.average is not None else default_average(steps)
    warmup = recipe.warmup if recipe.warmup is not None else min(500, max(1, steps // 15))
    plain = recipe.plain_epochs if recipe.plain_epochs is not None else epochs // 10
    every = recipe.validate_every or math.ceil(epochs / 25)
    lr = recipe.lr if recipe.lr is not None else default_rate(trained)
    return Plan(epochs, steps_per_epoch, lr, warmup, average, every, epochs - plain)


def default_epochs(pictures: int) -> int:
    """Return the number of epochs for a set: 100 up to 200 pictures, 50 from 100,000, in multiples of 5."""
    if pictures <= PASSES[0][0]:
        return PASSES[0][1]
    for (few, high), (many, low) in pairwise(PASSES):
        if pictures <= many:
            part = math.log(pictures / few) / math.log(many / few)
            return 5 * round((high + part * (low - high)) / 5)
    return PASSES[-1][1]


def default_rate(trained: bool) -> float:
    """Return NanoDet-Plus' learning rate for trained weights, most of which are to be kept, else twice as much."""
    return 1e-3 if trained else 2e-3


def default_average(steps: int) -> float:
    """Return the decay that averages over about a fortieth of the run, at most NanoDet-Plus' .9998."""
    return min(0.9998, 1 - 40 / max(steps, 80))


def averaging_decay(decay: float, updates: int) -> float:
    """Return the decay after a number of updates; low at first, so that the average soon forgets its random start.

    ``decay * (1 - exp(-(updates + 1) / t))`` with t = .4 / (1 - decay), which is NanoDet-Plus' 2000 at its .9998.
    """
    return -decay * math.expm1(-(updates + 1) * (1 - decay) / 0.4)


def learning_rate(step: int, plan: Plan, recipe: TrainRecipe) -> float:
    """Return the factor on the highest rate at a step: linear warm-up, then cosine decay to ``lr_end``."""
    step += plan.shift
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    part = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    low = min(1.0, recipe.lr_end / plan.lr)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def with_plan(recipe: Recipe, made: Plan) -> Recipe:
    """Return the recipe with everything filled in that follows from the data."""
    train = replace(
        recipe.train,
        epochs=made.epochs,
        lr=made.lr,
        warmup=made.warmup,
        average=made.average,
        validate_every=made.validate_every,
        plain_epochs=made.epochs - made.reduced_from,
    )
    return replace(recipe, train=train)
