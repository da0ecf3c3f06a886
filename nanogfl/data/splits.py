"""Which pictures teach, which choose, and which judge."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Collection

from nanogfl.data.table import SPLITS, Table
from nanogfl.errors import DataError, UsageError

log = logging.getLogger(__name__)

VAL_FROM, TEST_FROM = 0.8, 0.9  # a picture whose share of the hash lies below is train, then val, then test
_WORD = re.compile(r"(?<![a-z])(trainval|train|training|val|valid|validation|test|testing)(?![a-z])")


def named(text: str) -> str | None:
    """Name the split that a file's or folder's name speaks of: ``instances_val2017`` -> ``val``."""
    word = _WORD.search(text.lower())
    return next(s for s in SPLITS if word[1].startswith(s)) if word else None


def select(table: Table, split: str) -> Table:
    """Keep the pictures of train, val, test or all.

    A set without splits is cut 80/10/10 by a hash of each picture's name, the same on every machine.

    Raises:
        DataError: the set has no picture of this split.
        UsageError: ``split`` is no split.
    """
    wanted = {"valid": "val", "validation": "val"}.get(split, split)
    if wanted == "all":
        return table
    if wanted not in SPLITS:
        raise UsageError(f"no split is called {split!r}; use train, val, test or all")
    members = {name for name, part in _membership(table).items() if part == wanted}
    if not members:
        raise DataError(f"{table.root} has no split {wanted}; it has {_present(table)}; name one of these, or all")
    return table.where(lambda e: e.name in members)


def evaluation_split(table: Table) -> str:
    """Name what an evaluation takes unless told: test where the set has one, else val, else all."""
    present = {e.split for e in table.examples}
    return next((s for s in ("test", "val") if s in present), "all")


def for_training(table: Table) -> tuple[Table, Table]:
    """Part the pictures that teach from those that measure while training (empty only for a set of one picture).

    A set with splits but without val gives a tenth of its train, never of its test.
    """
    membership = _membership(table)
    if "train" not in membership.values():
        raise DataError(
            f"{table.root} has no split train; it has {_present(table)}; "
            "name what teaches train, or give pictures without splits, which are cut"
        )
    train = select(table, "train")
    if "val" in membership.values():
        return train, select(table, "val")
    members = _tenth({e.name for e in train.examples})
    said = f"{len(members)} of its {len(train)} train pictures, chosen by a hash of their names, measure the training"
    said = said if members else f"{len(train)} train pictures are too few to measure the training by some of them"
    log.warning("%s has no val split: %s", table.root, said)
    return train.where(lambda e: e.name not in members), train.where(lambda e: e.name in members)


def share(name: str) -> float:
    """Say where a picture's name falls in [0, 1), evenly and the same everywhere (sha256, not Python's hash)."""
    # one accent has two spellings in Unicode, and file systems differ in which they hand out
    spelt = unicodedata.normalize("NFC", name).encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(spelt).digest()[:6], "big") / 2**48


def _membership(table: Table) -> dict[str, str | None]:
    """Map picture names to splits: the set's own, or the cut."""
    if table.has_splits:
        return {e.name: e.split for e in table.examples}
    return dict(_cut({e.name for e in table.examples}))


def _cut(names: Collection[str]) -> dict[str, str]:
    """Cut 80/10/10; two pictures or more have a train and a val, three or more also a test."""
    order = sorted(names, key=lambda n: (share(n), n))
    train, val = (sum(share(n) < limit for n in order) for limit in (VAL_FROM, TEST_FROM))
    val = min(max(val, 2), len(order) - (len(order) > 2))
    train = min(max(train, 1), max(val - 1, 1))
    return {n: SPLITS[(i >= train) + (i >= val)] for i, n in enumerate(order)}


def _tenth(names: Collection[str]) -> set[str]:
    """Choose the val part of a cut of these names alone; at least one of two, never all."""
    order = sorted(names, key=lambda n: (share(n), n))
    chosen = {n for n in order if VAL_FROM <= share(n) < TEST_FROM} or set(order[-1:])
    return chosen if len(chosen) < len(order) else set(order[1:])


def _present(table: Table) -> str:
    """Name the splits that there are, in words."""
    found = set(_membership(table).values())
    return ", ".join(s for s in SPLITS if s in found) or "no pictures"
