"""Selecting the pictures for training, validation and test."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection

from nanogfl.data.folders import nfc
from nanogfl.data.table import SPLITS, Table
from nanogfl.errors import DataError, UsageError

log = logging.getLogger(__name__)

VAL_FROM, TEST_FROM = 0.8, 0.9  # pictures whose ``share`` is below 0.8 are train, below 0.9 val, else test
_WORD = re.compile(r"(?<![a-z])(trainval|train|training|val|valid|validation|test|testing)(?![a-z])")


def named(text: str) -> str | None:
    """Return the split that a file or folder name indicates: ``instances_val2017`` -> ``val``; None if it does not."""
    word = _WORD.search(text.lower())
    return next(s for s in SPLITS if word[1].startswith(s)) if word else None


def select(table: Table, split: str) -> Table:
    """Return the pictures of train, val, test or all.

    A dataset without splits is divided 80/10/10 by a hash of the picture names, in the same way on every machine.

    Raises:
        DataError: the dataset has no picture in this split.
        UsageError: ``split`` is not the name of a split.
    """
    wanted = {"valid": "val", "validation": "val"}.get(split, split)
    if wanted == "all":
        return table
    if wanted not in SPLITS:
        raise UsageError(f"unknown split {split!r}; use train, val, test or all")
    members = {name for name, part in _membership(table).items() if part == wanted}
    if not members:
        raise DataError(f"{table.root} has no split {wanted}; it has {_present(table)}; use one of these, or all")
    return table.where(lambda e: e.name in members)


def evaluation_split(table: Table) -> str:
    """Return the default split for evaluation: test if the dataset has one, else val, else all."""
    present = {e.split for e in table.examples}
    return next((s for s in ("test", "val") if s in present), "all")


def for_training(table: Table) -> tuple[Table, Table]:
    """Return the pictures for training and for validation (the latter empty only if there is one picture to train on).

    If a dataset has splits but no val, a tenth of its train pictures is used for validation, never its test pictures.

    Raises:
        DataError: there are no pictures to train on.
    """
    membership = _membership(table)
    if "train" not in membership.values():
        raise DataError(
            f"{table.root} has no split train; it has {_present(table)}; "
            "name the training split train, or use pictures without splits, which are divided"
        )
    if table.unnamed:
        log.warning("%s has no class names, so they are class_0 ...; write a classes.txt or a data.yaml", table.root)
    train = select(table, "train")
    if "val" in membership.values():
        return train, select(table, "val")
    members = _tenth({e.name for e in train.examples})
    said = f"validation uses {len(members)} of its {len(train)} train pictures, chosen by a hash of their names"
    said = said if members else "its only train picture is not used for validation"
    log.warning("%s has no val split: %s", table.root, said)
    return train.where(lambda e: e.name not in members), train.where(lambda e: e.name in members)


def share(name: str) -> float:
    """Map a picture's name to [0, 1), uniformly and equally on all machines (by sha256, unlike Python's hash)."""
    # accents have two Unicode codings, and file systems differ in which one they return
    code = nfc(name).encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(code).digest()[:6], "big") / 2**48


def _membership(table: Table) -> dict[str, str | None]:
    """Return the split of each picture by name: the dataset's own, else the division by hash."""
    if table.has_splits:
        return {e.name: e.split for e in table.examples}
    return dict(_cut({e.name for e in table.examples}))


def _cut(names: Collection[str]) -> dict[str, str]:
    """Divide names 80/10/10; from two pictures on there are train and val, from three on also test."""
    order = sorted(names, key=lambda n: (share(n), n))
    train, val = (sum(share(n) < limit for n in order) for limit in (VAL_FROM, TEST_FROM))
    val = min(max(val, 2), len(order) - (len(order) > 2))
    train = min(max(train, 1), max(val - 1, 1))
    return {n: SPLITS[(i >= train) + (i >= val)] for i, n in enumerate(order)}


def _tenth(names: Collection[str]) -> set[str]:
    """Return the val part of these names: about a tenth, at least one name if there are two, and never all."""
    order = sorted(names, key=lambda n: (share(n), n))
    chosen = {n for n in order if VAL_FROM <= share(n) < TEST_FROM} or set(order[-1:])
    return chosen if len(chosen) < len(order) else set(order[1:])


def _present(table: Table) -> str:
    """Return the names of the existing splits for error messages."""
    found = set(_membership(table).values())
    return ", ".join(s for s in SPLITS if s in found) or "no pictures"
