"""The metadata of exported ONNX files: class names, input size, form and thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from nanogfl.decode import Layout, Thresholds
from nanogfl.errors import ModelError, UsageError
from nanogfl.view import MEAN, RULES, STD, is_side

SCHEMA = "1"
FORMS = ("frame", "tensor", "core")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class FileCard:
    """The metadata of an exported file.

    Attributes:
        names: class names in the order of the labels.
        input_size: (H, W) of the network's input in px.
        resize: resize rule of nanogfl.view.
        form: ``frame`` (uint8 [H, W, 3] in, boxes out), ``tensor`` (resized [1, 3, H, W] in, boxes out), ``core``
            (resized in, maps of each level out).
        precision: fp32 | fp16 | int8.
        strides, reg_max: of the head; with reg_max = 0, each side has one value.
        centred: whether priors lie at the centres of the cells instead of their corners.
        parity: differences from the checkpoint that the export measured.
        thresholds: defaults of the optional inputs, or the constants in the file.
        temperature: factor for each side's deviation when decoding the core form; the other forms apply it themselves.
    """

    names: list[str]
    input_size: tuple[int, int]
    resize: str
    form: str
    precision: str
    strides: tuple[int, ...]
    reg_max: int
    parity: Mapping[str, Any] | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    temperature: float = 1.0
    centred: bool = False

    @property
    def layout(self) -> Layout:
        """Layout of the network's raw output."""
        return Layout(self.input_size, self.strides, self.reg_max, self.centred, self.reg_max > 0, self.temperature)

    @property
    def defaults(self) -> dict[str, float]:
        """Thresholds by their input names in the graph."""
        return dict(zip(("score_threshold", "iou_threshold", "max_boxes"), astuple(self.thresholds), strict=True))

    def to_metadata(self) -> dict[str, str]:
        """Return the card as the strings that are stored in the file."""
        values = {
            "schema": SCHEMA,
            "classes": json.dumps(self.names, ensure_ascii=False),
            "input_size": "{},{}".format(*self.input_size),
            "resize": self.resize,
            "mean": ",".join(map(str, MEAN)),
            "std": ",".join(map(str, STD)),
            "strides": ",".join(map(str, self.strides)),
            "reg_max": str(self.reg_max),
            "form": self.form,
            "precision": self.precision,
            "parity": json.dumps(dict(self.parity or {})),
            "thresholds": ",".join(map(str, astuple(self.thresholds))),
            "temperature": str(self.temperature),
        }
        if self.centred:
            values["prior"] = "centre"  # without this entry, priors lie at the corners
        return {f"nanogfl.{key}": value for key, value in values.items()}


def read_card(metadata: Mapping[str, str], path: Path) -> FileCard:
    """Read a file's card from its metadata strings.

    Raises:
        ModelError: the file was not exported by nanogfl, has another schema, or is damaged.
    """
    schema = metadata.get("nanogfl.schema")
    if schema is None:
        raise ModelError(
            f"{path} is not an ONNX file of nanogfl (it has no nanogfl.schema); create one with: nanogfl export"
        )
    if schema != SCHEMA:
        raise ModelError(f"{path} has schema {schema}, expected {SCHEMA}; upgrade nanogfl, or re-export the file")
    try:
        names = json.loads(metadata["nanogfl.classes"])
        height, width = (int(v) for v in metadata["nanogfl.input_size"].split(","))
        card = FileCard(
            [str(name) for name in names],
            (height, width),
            metadata["nanogfl.resize"],
            metadata["nanogfl.form"],
            metadata["nanogfl.precision"],
            tuple(int(v) for v in metadata["nanogfl.strides"].split(",")),
            int(metadata["nanogfl.reg_max"]),
            json.loads(metadata["nanogfl.parity"]),
            _thresholds(metadata.get("nanogfl.thresholds", "0.05,0.6,100")),  # missing in early files
            float(metadata.get("nanogfl.temperature", "1")),
            metadata.get("nanogfl.prior") == "centre",
        )
        if (
            not (isinstance(card.parity, dict) and names)
            or min(card.strides) < 1
            or card.reg_max < 0
            or not all(map(is_side, (height, width)))
            or not 0 < card.temperature < math.inf
        ):
            shape = f"input {height}x{width}, strides {card.strides}, reg_max {card.reg_max}"
            raise ValueError(f"{shape}, temperature {card.temperature}, {card.parity}, classes {str(names)[:80]}")
    except (KeyError, ValueError, TypeError, RecursionError, UsageError) as error:
        raise ModelError(f"{path} has invalid metadata ({type(error).__name__}: {error}); re-export it") from error
    known = card.resize in RULES and card.form in FORMS and card.precision in PRECISIONS and isinstance(names, list)
    if not known:
        raise ModelError(
            f"{path} has metadata unknown to this nanogfl (resize {card.resize}, form {card.form}, "
            f"precision {card.precision}); re-export it"
        )
    return card


def _thresholds(text: str) -> Thresholds:
    score, iou, boxes = text.split(",")
    return Thresholds(float(score), float(iou), int(boxes))
