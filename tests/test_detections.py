"""nanogfl.detections: the value itself, what can be chosen from it, and its JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from nanogfl.detections import Detections, class_indices
from nanogfl.errors import UsageError

NAMES = ["cat", "dog", "bird"]


def three(sigma: bool = False) -> Detections:
    boxes = np.array([[0, 1, 2, 3], [10.12345, 11, 12, 13], [20, 21, 22, 23]], np.float32)
    spread = (boxes / 10).astype(np.float32) if sigma else None
    return Detections(boxes, np.array([0.9, 0.8, 0.123456], np.float32), np.array([1, 0, 1]), NAMES, spread)


@pytest.mark.parametrize(
    ("boxes", "labels", "reason"),
    [
        (np.zeros((1, 4)), np.zeros(2), "a box too few"),
        (np.zeros((2, 5)), np.zeros(2), "five numbers a box"),
        (np.zeros(8), np.zeros(2), "flat boxes"),
        (np.zeros((2, 4)), np.zeros(3), "a label too many"),
        (np.zeros((2, 4)), np.zeros((2, 1)), "labels in a column"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(boxes: np.ndarray, labels: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match="do not match 2 scores"):
        Detections(boxes.astype(np.float32), np.zeros(2, np.float32), labels.astype(np.int64), NAMES)


def test_the_value_is_frozen_and_knows_its_length() -> None:
    made = three()
    assert len(made) == 3
    with pytest.raises(FrozenInstanceError):
        made.names = []  # type: ignore[misc]


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(np.array([False, True, True]), id="mask"),
        pytest.param(np.array([1, 2]), id="indices"),
    ],
)
def test_select_takes_mask_or_indices_of_everything(keep: np.ndarray) -> None:
    whole, part = three(sigma=True), three(sigma=True).select(keep)
    assert whole.side_sigma is not None
    assert part.side_sigma is not None
    np.testing.assert_array_equal(part.boxes, whole.boxes[1:])
    np.testing.assert_array_equal(part.scores, whole.scores[1:])
    np.testing.assert_array_equal(part.labels, [0, 1])
    np.testing.assert_array_equal(part.side_sigma, whole.side_sigma[1:])
    assert part.names == NAMES
    assert three().select(keep).side_sigma is None


@pytest.mark.parametrize(
    ("classes", "labels", "reason"),
    [
        (None, [1, 0, 1], "all"),
        (["dog"], [1, 1], "one class, order kept"),
        (["dog", "cat"], [1, 0, 1], "the order of the names does not matter"),
        (["bird"], [], "a class that was not found"),
        ([], [], "no class at all"),
    ],
)
def test_of_classes(classes: list[str] | None, labels: list[int], reason: str) -> None:
    assert three().of_classes(classes).labels.tolist() == labels, reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dgo", "--classes: the model has no class 'dgo' (did you mean dog?)"),
        ("xylophone", "--classes: the model has no class 'xylophone'; its classes are cat, dog, bird"),
        ("Cat", "--classes: the model has no class 'Cat' (did you mean cat?)"),
    ],
)
def test_an_unknown_class_is_a_usage_error_with_advice(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        three().of_classes(["cat", name])
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_class_indices_follow_the_question() -> None:
    assert class_indices(["bird", "cat"], NAMES) == [2, 0]


def test_records_are_plain_json() -> None:
    records = json.loads(json.dumps(list(three().records())))
    assert records[1] == {"class": "cat", "label": 0, "score": 0.8, "box": [10.123, 11, 12, 13]}
    assert [r["score"] for r in records] == [0.9, 0.8, 0.12346]
    assert "side_sigma" not in records[0]


def test_records_carry_the_side_sigma_where_there_is_one() -> None:
    assert [r["side_sigma"] for r in three(sigma=True).records()][2] == [2.0, 2.1, 2.2, 2.3]
