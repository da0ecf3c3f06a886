"""The starting point of a run: a detector with fresh or loaded weights, and its card."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from nanogfl.errors import ModelError, RecipeError
from nanogfl.model import zoo
from nanogfl.model.checkpoint import Card, read_card
from nanogfl.model.detector import Architecture, Detector, Family, initialise, make_guidance
from nanogfl.model.distribution import REG_MAX
from nanogfl.model.resnet import NAMES
from nanogfl.model.weights import Weights, backbone_size, read_weights, transplant
from nanogfl.recipe import ModelRecipe, Recipe
from nanogfl.view import parse_input

log = logging.getLogger(__name__)
DEFAULT_INPUT = 320
DEFAULT_RESIZE = "stretch"


@dataclass(frozen=True)
class Start:
    """A detector, the guidance that trains with it, its card, and whether it starts as a trained detector."""

    detector: Detector
    guidance: nn.Module | None
    card: Card
    trained: bool


def start(recipe: Recipe, names: tuple[str, ...], resumed: bool = False) -> Start:
    """Build detector and guidance for these classes and load the weights that ``recipe.init`` names.

    Args:
        recipe: recipe of the run.
        names: names of its classes.
        resumed: whether the weights are loaded later, from the run's own checkpoint.
    """
    if recipe.init == "none" and not resumed:
        log.info("starting from random weights; with few pictures, use --init nanodet-plus-m_320 or a checkpoint")
        if recipe.train.freeze == "backbone":
            log.warning("--freeze backbone freezes random weights, so little can be learnt; use --init as well")
    weights = None if resumed or recipe.init == "none" else read_weights(_init_file(recipe))
    former = None
    if weights is not None and weights.kind != "imagenet":
        former = read_card(weights, sized=recipe.input.size is not None)
    architecture = _architecture(recipe, weights, former, len(names))
    detector, guidance = Detector(architecture), make_guidance(recipe.model.guidance, architecture)
    initialise(detector)
    if guidance is not None:
        initialise(guidance)
    if weights is not None:
        _load(detector, guidance, weights, former, names)
    asked = recipe.input.size
    default = former.input_size if former else DEFAULT_INPUT
    card = Card(
        architecture, names, parse_input(default if asked is None else asked), recipe.input.resize or DEFAULT_RESIZE
    )
    return Start(detector, guidance, card, former is not None)


def _init_file(recipe: Recipe) -> Path:
    size = recipe.model.size or "m"
    return zoo.resolve(recipe.init, NAMES[size] if recipe.model.family == "resnet" else size)


def _architecture(recipe: Recipe, weights: Weights | None, former: Card | None, classes: int) -> Architecture:
    """Return the architecture that the recipe and the initial weights specify together."""
    size, family = _size(recipe, weights, former), _family(recipe, weights, former)
    model = recipe.model if former is None else complete_model(recipe.model, former.architecture)
    return Architecture(
        size,  # type: ignore[arg-type]
        classes,
        0 if model.sides == "dirac" else model.reg_max or (16 if family == "resnet" else REG_MAX),
        bool(model.share_levels),
        model.quality or "none",
        family,
        bool(model.separate_sides),
    )


def complete_model(model: ModelRecipe, was: Architecture) -> ModelRecipe:
    """Return the model recipe with everything that it leaves open taken from a detector's architecture.

    Raises:
        RecipeError: the two contradict each other.
    """
    sides = model.sides or ("distribution" if model.reg_max or was.reg_max else "dirac")
    dirac = sides == "dirac"
    try:
        return replace(
            model,
            size=model.size or was.size,
            family=model.family or was.family,
            share_levels=was.share_levels if model.share_levels is None else model.share_levels,
            separate_sides=was.separate_sides if model.separate_sides is None else model.separate_sides,
            sides=sides,
            reg_max=None if dirac else model.reg_max or was.reg_max or None,
            quality=model.quality or ("none" if dirac else was.quality),
        )
    except ValueError as error:
        raise RecipeError(f"the requested model does not match the checkpoint: {error}") from error


def _family(recipe: Recipe, weights: Weights | None, former: Card | None) -> Family:
    """Return the recipe's family, else the checkpoint's; raise ModelError if they contradict each other."""
    asked = recipe.model.family
    if former is not None:
        own = former.architecture.family
        if asked not in (None, own):
            raise ModelError(f"--init {recipe.init} is a detector of family {own}, not {asked}; omit model.family")
        return own
    if weights is None:
        return asked or "plus"
    resnet = backbone_size(weights.state)[0]
    if resnet != (asked == "resnet"):
        kind, other = ("a ResNet", "resnet") if resnet else ("a ShuffleNetV2", "plus or first")
        raise ModelError(f"--init {recipe.init} is {kind} backbone; set model.family={other}")
    return asked or "plus"


def _size(recipe: Recipe, weights: Weights | None, former: Card | None) -> str:
    """Return the recipe's size, else the checkpoint's; raise ModelError if they contradict each other."""
    asked = recipe.model.size
    if former is not None:
        own = former.architecture.size
        if asked not in (None, own):
            raise ModelError(f"--init {recipe.init} is a detector of size {own}, not {asked}; omit --size")
        return own
    if weights is not None:
        _, own = backbone_size(weights.state)
        if own is None or asked not in (None, own):
            raise ModelError(
                f"--init {recipe.init} is a backbone of size {own or 'unknown'}, not {asked}; change --size"
            )
        return own
    return asked or "m"


def _load(
    detector: Detector, guidance: nn.Module | None, weights: Weights, former: Card | None, names: tuple[str, ...]
) -> None:
    old = former.names if former else None
    kept = transplant(detector, weights, old, names)
    own = {k: v for k, v in weights.state.items() if k.startswith("guidance.")}
    if guidance is not None and own:
        wrapped = nn.ModuleDict({"guidance": guidance})
        transplant(wrapped, Weights(weights.source, weights.kind, own, weights.card), old, names)
    if former is not None:
        made = [name for name in names if name not in kept]
        log.info(
            "%s: class rows kept by name: %s; re-initialised: %s",
            weights.source.name,
            _listed(kept),
            _listed(made),
        )
        was, now = former.architecture, detector.architecture
        if (was.reg_max, was.separate_sides) != (now.reg_max, now.separate_sides):
            values = now.reg_max + 1, was.reg_max + 1
            log.info(
                "%s: side predictor re-initialised: %d values per side, checkpoint has %d", weights.source.name, *values
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12]) or "none"
    return f"{shown}, and {len(names) - 12} more" if len(names) > 12 else shown
