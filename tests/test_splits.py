from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanogfl.data.splits import evaluation_split, for_training, named, select, share
from nanogfl.data.table import Example, Table
from nanogfl.errors import DataError, UsageError


def table(*splits: str | None) -> Table:
    """One picture a split given, named by its position."""
    none = np.zeros(0)
    examples = [
        Example(
            Path(f"/set/images/{i}.jpg"),
            f"images/{i}.jpg",
            8,
            8,
            none.reshape(0, 4),
            none.astype(np.int64),
            none.astype(bool),
            none,
            split,
        )
        for i, split in enumerate(splits)
    ]
    return Table(Path("/set"), "coco", ("a",), tuple(examples))


def names(part: Table) -> set[str]:
    return {e.name for e in part.examples}


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("instances_train2017", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("instances_val2017", "val"),
        ("my-test_images", "test"),
        ("training", "train"),
        ("trainval", "train"),
        ("contest", None),
        ("latest", None),
        ("valuable", None),
        ("terrain", None),
        ("images", None),
    ],
)
def test_a_name_speaks_of_a_split_only_as_a_word(text: str, split: str | None) -> None:
    assert named(text) == split


def test_the_share_is_that_of_the_written_law() -> None:
    digest = hashlib.sha256(b"images/0.jpg").hexdigest()
    assert share("images/0.jpg") == int(digest[:12], 16) / 16**12
    assert share("images/\u00e9.jpg") == share("images/e\u0301.jpg"), "both unicode_variants of an accent are one name"
    assert share("images/\u00e9.jpg") == int(hashlib.sha256(b"images/\xc3\xa9.jpg").hexdigest()[:12], 16) / 16**12
    assert 0 <= share("images/\udcff.jpg") < 1, "a name that is no utf-8"


def test_a_set_without_splits_is_cut_80_10_10_by_name_alone() -> None:
    whole = table(*[None] * 4000)
    parts = {s: names(select(whole, s)) for s in ("train", "val", "test")}
    assert {s: round(len(p) / 4000, 1) for s, p in parts.items()} == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert set.union(*parts.values()) == names(whole)
    assert sum(map(len, parts.values())) == 4000
    assert parts["val"] == {n for n in names(whole) if 0.8 <= share(n) < 0.9}
    fewer = whole.where(lambda e: int(e.path.stem) % 2 == 0)
    assert names(select(fewer, "test")) == parts["test"] & names(fewer), "other pictures do not move a picture"


@pytest.mark.parametrize("count", range(2, 12))
def test_tiny_sets_have_a_train_and_a_val(count: int) -> None:
    whole = table(*[None] * count)
    train, val = for_training(whole)
    assert len(train) >= 1
    assert len(val) >= 1
    assert names(train) == names(select(whole, "train"))
    assert names(val) == names(select(whole, "val")), "training measures on what --split val names"
    if count > 2:
        assert len(select(whole, "test")) == count - len(train) - len(val) >= 1


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.8), (0.8, 0.9), (0.9, 1.0)], ids=["train", "val", "test"])
def test_tiny_sets_whose_hashes_all_say_one_part_have_every_part(low: float, high: float, count: int) -> None:
    whole = table(*[None] * 200)
    chosen = sorted((n for n in names(whole) if low <= share(n) < high), key=share)[:count]
    few = whole.where(lambda e: e.name in chosen)
    assert len(few) == count
    parts = {s: names(select(few, s)) for s in ("train", "val", "test")[: 2 + (count > 2)]}
    assert all(parts.values()) and sum(map(len, parts.values())) == count


def test_one_picture_trains_alone() -> None:
    train, val = for_training(table(None))
    assert (len(train), len(val)) == (1, 0)


def test_splits_of_the_set_are_honoured() -> None:
    own = table("train", "val", "test", "train")
    assert names(select(own, "train")) == {"images/0.jpg", "images/3.jpg"}
    assert names(select(own, "valid")) == names(select(own, "val")) == {"images/1.jpg"}
    assert names(select(own, "validation")) == {"images/1.jpg"}
    assert select(own, "all") is own
    train, val = for_training(own)
    assert names(train) | names(val) == {"images/0.jpg", "images/1.jpg", "images/3.jpg"}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "val", "test"), "test"),
        (("train", "val"), "val"),
        (("train",), "all"),
        ((None, None), "all"),
    ],
)
def test_evaluation_takes_test_then_val_then_all(splits: tuple[str | None, ...], expected: str) -> None:
    assert evaluation_split(table(*splits)) == expected


def test_a_missing_split_is_named_beside_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"no split test; it has train, val;"):
        select(table("train", "val"), "test")
    with pytest.raises(DataError, match="no split train; it has val, test; name the training split train"):
        for_training(table("val", "test"))
    with pytest.raises(UsageError, match="unknown split 'trian'"):
        select(table("train"), "trian")


@pytest.mark.parametrize("train_count", [2, 3, 5, 400])
def test_val_is_cut_from_train_never_from_test(train_count: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = table(*["train"] * train_count, "test", "test")
    train, val = for_training(whole)
    assert names(train) | names(val) == {e.name for e in whole.examples if e.split == "train"}
    assert not names(train) & names(val)
    assert len(train) >= 1
    assert 1 <= len(val) <= max(1, train_count * 0.15)
    assert f"{len(val)} of its {train_count} train pictures" in caplog.text


@pytest.mark.parametrize(
    ("form", "names", "told"),
    [
        ("yolo", ("class_0", "class_1"), True),
        ("yolo", ("class_0", "cat"), False),
        ("yolo", (), False),
        ("coco", ("class_0",), False),
    ],
)
def test_training_on_numbered_classes_is_told(
    form: str, names: tuple[str, ...], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for_training(replace(table("train", "val"), form=form, names=names))
    said = "/set has no class names, so they are class_0 ...; write a classes.txt or a data.yaml"
    assert caplog.messages == [said] * told
