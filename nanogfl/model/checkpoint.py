"""Checkpoint metadata: reading it, choosing defaults when it is missing, and writing checkpoints."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from nanogfl.atomic import atomic_file
from nanogfl.decode import Layout
from nanogfl.errors import ModelError, counted
from nanogfl.model import zoo
from nanogfl.model.coco_names import COCO_NAMES
from nanogfl.model.detector import WIDTHS, Architecture, Family, Quality
from nanogfl.model.nanodet_yml import check_supported, listed, read_config
from nanogfl.model.weights import Weights, recognise
from nanogfl.view import MAX_SIDE, RULES, is_side

log = logging.getLogger(__name__)
SCHEMA = 1


@dataclass(frozen=True)
class Card:
    """The metadata of a checkpoint: everything about its detector except the tensors.

    Attributes:
        architecture: the architecture of the network.
        names: class names, in the order of the class columns.
        input_size: input size (H, W) in px that the detector was trained at.
        resize: name of the resize rule; one of nanogfl.view.RULES.
        temperature: factor on the standard deviation of each side; 1 if none was fitted.
    """

    architecture: Architecture
    names: tuple[str, ...]
    input_size: tuple[int, int]
    resize: str
    temperature: float = 1.0

    @property
    def layout(self) -> Layout:
        """The layout of the network's raw output."""
        a = self.architecture
        return Layout(self.input_size, a.strides, a.reg_max, a.centred, a.reg_max > 0, self.temperature)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that a checkpoint stores under the key ``nanogfl``."""
        return {
            "schema": SCHEMA,
            "architecture": dict(vars(self.architecture)),
            "names": list(self.names),
            "input_size": list(self.input_size),
            "resize": self.resize,
            "temperature": self.temperature,
        }


def write_detector(path: Path, detector: nn.Module, card: Mapping[str, Any], **beside: Any) -> None:
    """Write a checkpoint for inference: the detector's tensors, its card, and the extra entries in ``beside``."""
    state = {f"detector.{key}": value.detach().cpu() for key, value in detector.state_dict().items()}
    with atomic_file(path) as partial:
        torch.save({"nanogfl": card, **beside, "state_dict": state}, partial)


def read_card(weights: Weights, config: Path | None = None, sized: bool = False) -> Card:
    """Return the card stored in our own checkpoint, or infer a NanoDet file's from tensors, ``.yml`` and file name.

    A NanoDet file whose input size is not told gets 320x320, with a warning unless the caller has a size (``sized``).
    """
    if weights.kind == "imagenet":
        raise ModelError(f"{weights.source} is a backbone only; use it with: nanogfl train --init {weights.source}")
    if weights.kind == "nanogfl":
        if config is not None:
            log.warning("--config %s is ignored: %s describes itself", config, weights.source.name)
        return _own_card(weights)
    architecture = recognise(weights.state, weights.source)
    zoo.check_cached(weights.source, architecture.size, architecture.classes)
    said = read_config(weights.source, config)
    check_supported(said, architecture)
    size, size_from = said.input_size, "its .yml"
    if size is None:
        size, size_from = _guess_size(weights.source, sized)
    names, names_from = said.names, "its .yml"
    if not all(map(is_side, size)):
        raise ModelError(
            f"{said.path} has input {size[0]}x{size[1]}; sides must be multiples of 32 from 64 to {MAX_SIDE}"
        )
    if names is not None and len(names) != architecture.classes:
        raise ModelError(
            f"{said.path} lists {counted(len(names), 'class')}, {weights.source} has "
            f"{architecture.classes}; use the matching --config"
        )
    if names is None:
        coco = architecture.classes == len(COCO_NAMES)
        names = COCO_NAMES if coco else tuple(f"class_{i}" for i in range(architecture.classes))
        names_from = "COCO's list" if coco else "numbers"
    keep = architecture.family == "first" if said.keep_ratio is None else said.keep_ratio
    rule = "letterbox" if keep else "stretch-corner"
    log.info(
        "%s: family %s, size %s, input %dx%d from %s, class names from %s, resize %s",
        weights.source.name,
        architecture.family,
        architecture.size,
        *size,
        size_from,
        names_from,
        rule,
    )
    return Card(architecture, names, size, rule)


def _guess_size(source: Path, sized: bool) -> tuple[tuple[int, int], str]:
    """Return the input size that the file name tells, else the default, and which of them it is."""
    told = [int(n) for n in re.findall(r"_(\d{2,4})(?!\d)", source.stem) if is_side(int(n))]
    if told:
        return (told[0], told[0]), "the file name"
    if not sized:
        log.warning("%s: input size unknown, 320x320 assumed; specify --input, or --config with its .yml", source.name)
    return (320, 320), "the default"


def _own_card(weights: Weights) -> Card:
    card = weights.card
    schema = card.get("schema")
    if not isinstance(schema, int) or schema != SCHEMA:
        raise ModelError(f"{weights.source} has schema {schema}, this nanogfl reads {SCHEMA}; upgrade nanogfl")
    try:
        result = Card(
            Architecture(**card["architecture"]),
            listed(card["names"]),
            (int(card["input_size"][0]), int(card["input_size"][1])),
            str(card["resize"]),
            float(card.get("temperature", 1.0)),
        )
        _check_values(result)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise ModelError(f"{weights.source} has invalid metadata ({error}); it is not a complete checkpoint") from error
    if result.architecture.size not in WIDTHS or not all(map(is_side, result.input_size)):
        raise ModelError(
            f"{weights.source} has an unknown size {result.architecture.size} or input {result.input_size}; "
            "upgrade nanogfl"
        )
    if result.resize not in RULES or len(result.names) != result.architecture.classes:
        raise ModelError(
            f"{weights.source} is inconsistent (resize {result.resize}, {len(result.names)} names); "
            "use the original checkpoint"
        )
    rows, bias = result.architecture.outputs, weights.state.get("head.predict.0.bias")
    if bias is not None and tuple(bias.shape) != (rows,):
        raise ModelError(
            f"{weights.source} is inconsistent (a head with {list(bias.shape)} rows, not {rows}); "
            "use the original checkpoint"
        )
    return result


def _check_values(card: Card) -> None:
    """Raise ValueError if a value has a type or range that our own checkpoints never have."""
    a = card.architecture
    for name, value in (("classes", a.classes), ("reg_max", a.reg_max)):
        if type(value) is not int or value < (name == "classes"):
            raise ValueError(f"{name} {value}")
    if {type(a.share_levels), type(a.separate_sides)} != {bool} or a.family not in get_args(Family):
        raise ValueError(f"family {a.family}, share_levels {a.share_levels}, separate_sides {a.separate_sides}")
    if type(a.size) is not str or a.quality not in get_args(Quality) or (a.quality != "none" and a.reg_max < 3):
        raise ValueError(f"size {a.size}, quality {a.quality}, reg_max {a.reg_max}")
    if not 0 < card.temperature < math.inf:
        raise ValueError(f"temperature {card.temperature}")
