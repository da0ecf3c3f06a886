"""nanogfl.runtime.card: what a file says of itself survives the way into it and back, or is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanogfl.decode import Thresholds
from nanogfl.errors import ModelError
from nanogfl.runtime.card import FORMS, FileCard, read_card
from nanogfl.view import RULES

PATH = Path("a folder/model.onnx")
PARITY = {"pictures": 2, "boxes": 7, "box_px": 0.01, "raw": None}


def good(**changed: str) -> dict[str, str]:
    """Metadata of a file of ours, with some values changed."""
    said = FileCard(["a", "b"], (96, 160), "letterbox", "frame", "fp32", (8, 16, 32, 64), 7, PARITY).to_metadata()
    return said | {f"nanogfl.{key}": value for key, value in changed.items()}


@pytest.mark.parametrize("resize", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(resize: str, form: str) -> None:
    limits = Thresholds(0.2, 0.45, 7)
    card = FileCard(["größe", 'a "b", c'], (96, 160), resize, form, "fp16", (8, 16, 32), 9, PARITY, limits, 1.25)
    said = card.to_metadata()
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in said.items())
    assert read_card(said, PATH) == card


def test_the_strings_of_the_contract() -> None:
    assert good() == {
        "nanogfl.schema": "1",
        "nanogfl.classes": '["a", "b"]',
        "nanogfl.input_size": "96,160",
        "nanogfl.resize": "letterbox",
        "nanogfl.mean": "103.53,116.28,123.675",
        "nanogfl.std": "57.375,57.12,58.395",
        "nanogfl.strides": "8,16,32,64",
        "nanogfl.reg_max": "7",
        "nanogfl.form": "frame",
        "nanogfl.precision": "fp32",
        "nanogfl.parity": json.dumps(PARITY),
        "nanogfl.thresholds": "0.05,0.6,100",
        "nanogfl.temperature": "1.0",
    }


def test_the_first_files_do_not_say_their_thresholds() -> None:
    said = good()
    del said["nanogfl.thresholds"], said["nanogfl.temperature"]
    assert read_card(said, PATH) == read_card(good(), PATH)


def test_centred_priors_are_said() -> None:
    card = FileCard(["a"], (96, 160), "letterbox", "frame", "fp32", (8, 16, 32), 7, centred=True)
    assert card.to_metadata()["nanogfl.prior"] == "centre"
    assert read_card(card.to_metadata(), PATH).centred and not read_card(good(), PATH).centred


def test_keys_of_others_do_not_matter() -> None:
    assert read_card(good() | {"author": "someone"}, PATH).names == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "not an ONNX file of nanogfl (it has no nanogfl.schema); create one with: nanogfl export"),
        ({"schema": "1"}, "not an ONNX file of nanogfl"),
        (good(schema="2"), "has schema 2, expected 1; upgrade nanogfl"),
        (good(schema=""), "has schema"),
        (good(classes="a,b"), "has invalid metadata (JSONDecodeError"),
        (good(classes="7"), "has invalid metadata (TypeError"),
        (good(classes='{"a": 0}'), "unknown to this nanogfl"),
        (good(input_size="96"), "has invalid metadata (ValueError"),
        (good(input_size="96,160,3"), "has invalid metadata (ValueError"),
        (good(input_size="big,wide"), "has invalid metadata (ValueError"),
        (good(strides=""), "has invalid metadata (ValueError"),
        (good(reg_max="seven"), "has invalid metadata (ValueError"),
        (good(parity="{"), "has invalid metadata (JSONDecodeError"),
        (good(resize="crop"), "unknown to this nanogfl (resize crop, form frame, precision fp32)"),
        (good(form="video"), "unknown to this nanogfl (resize letterbox, form video, precision fp32)"),
        (good(precision="int4"), "unknown to this nanogfl (resize letterbox, form frame, precision int4)"),
        (good(thresholds="0.05,0.6"), "has invalid metadata (ValueError"),
        (good(thresholds="2,0.6,100"), "has invalid metadata (UsageError: score 2.0"),
        (good(thresholds="0.05,0.6,-1"), "has invalid metadata (UsageError: max_boxes -1"),
        (good(thresholds="0.05,nan,9"), "has invalid metadata (UsageError: iou nan"),
        (good(classes="[]"), "has invalid metadata (ValueError: input 96x160"),
        (good(temperature="warm"), "has invalid metadata (ValueError"),
        (good(parity="[1, 2]"), "has invalid metadata (ValueError"),
        (good(parity="3"), "has invalid metadata (ValueError"),
        (good(parity="[" * 10**5), "has invalid metadata (RecursionError"),
        (good(input_size="-96,160"), "has invalid metadata (ValueError: input -96x160"),
        (good(input_size=f"96,{2**40}"), "has invalid metadata (ValueError: input 96x"),
        (good(strides="8,0"), "has invalid metadata (ValueError"),
        (good(reg_max="-1"), "has invalid metadata (ValueError"),
        (good(classes='"ab"'), "unknown to this nanogfl"),
    ],
)
def test_what_cannot_be_read_is_one_line(said: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError) as error:
        read_card(said, PATH)
    assert words in str(error.value) and str(PATH) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["classes", "input_size", "resize", "form", "precision", "strides", "reg_max", "parity"]
)
def test_a_missing_key_is_named(key: str) -> None:
    said = good()
    del said[f"nanogfl.{key}"]
    with pytest.raises(ModelError, match=rf"has invalid metadata \(KeyError: 'nanogfl\.{key}'\); re-export it"):
        read_card(said, PATH)
