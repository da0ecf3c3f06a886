"""Pictures that are there more than once: the same bytes, or nearly the same view, in one split or across splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.findings import Findings
from nanogfl.data.table import SPLITS, Example
from nanogfl.doctor.look import Look

# Looked at pair by pair on blood cells, helmets and COCO: all pairs within both limits show the same scene (the
# closest other pairs differ in 24 bits, or agree to .75), although cells look much alike.
BITS, ALIKE = 22, 0.85
TABLES, NEIGHBOURS = 40, 64  # sorted orders that are looked through, and how far in each


@dataclass(frozen=True)
class Twin:
    """A picture that is another again: indices into the examples; ``other`` is the one to keep."""

    index: int
    other: int
    same_bytes: bool


def find_twins(examples: Sequence[Example], looks: Sequence[Look]) -> list[Twin]:
    """One entry for each picture but the first of each group, splits in their order."""
    order = sorted(range(len(examples)), key=lambda i: (_rank(examples[i]), i))
    first: dict[bytes, int] = {}
    twins = [
        Twin(i, first[looks[i].content], True)
        for i in order
        if looks[i].content and first.setdefault(looks[i].content, i) != i
    ]
    again = {twin.index for twin in twins}
    others = [i for i in order if i not in again and looks[i].bits is not None]
    kept: dict[int, int] = {}
    for a, b in sorted(_near_pairs([looks[i] for i in others])):
        kept.setdefault(b, kept.get(a, a))
    return twins + [Twin(others[b], others[a], False) for b, a in sorted(kept.items())]


def note_twins(examples: Sequence[Example], twins: Sequence[Twin], notes: Findings) -> None:
    """Say of each which picture it is again, and whether one of the two teaches what the other judges."""
    for twin in twins:
        one, other = examples[twin.index], examples[twin.other]
        detail = f"{'the same file as' if twin.same_bytes else 'nearly the same as'} {other.name}"
        if one.split != other.split:
            notes.add("split-leak", one.name, f"in {one.split}", f"{detail}, which is in {other.split}")
        elif twin.same_bytes:
            notes.add("picture-duplicate", one.name, "", detail + _disagreement(one, other))
        else:
            notes.add("picture-near-duplicate", one.name, "", detail)


def _rank(example: Example) -> int:
    return SPLITS.index(example.split) if example.split in SPLITS else len(SPLITS)


def _disagreement(one: Example, other: Example) -> str:
    def as_rows(e: Example) -> list[list[float]]:
        return sorted(np.column_stack([e.labels, e.boxes.round(1)]).tolist())

    same = as_rows(one) == as_rows(other)
    return "" if same else f", but annotated differently ({len(one.boxes)} boxes and {len(other.boxes)})"


def _near_pairs(looks: Sequence[Look]) -> set[tuple[int, int]]:
    """Pairs i < j of nearly the same pictures, in nearly linear time: few are compared with few.

    Pictures whose hashes agree in some random bits lie side by side when sorted by these bits. With log2(n) + 2 bits
    chance neighbours are rare, and of 40 such orders a pair that differs in 22 of 127 bits shares one in 19 of 20 cases
    for a thousand pictures, one that differs in 12 bits always.
    """
    if len(looks) < 2:
        return set()
    bits = np.stack([look.bits for look in looks if look.bits is not None])
    thumbs = np.stack([look.thumb for look in looks if look.thumb is not None])
    words = np.packbits(bits, axis=1)
    pairs: set[tuple[int, int]] = set()
    for a, b in _neighbours(bits):
        differ = _count(words[a] ^ words[b])
        close = differ <= BITS
        a, b = a[close], b[close]
        alike = np.einsum("ij,ij->i", thumbs[a], thumbs[b]) >= ALIKE
        pairs.update(zip(np.minimum(a, b)[alike].tolist(), np.maximum(a, b)[alike].tolist(), strict=True))
    return pairs


def _neighbours(bits: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows that agree in one of the random choices of bits."""
    rng = np.random.default_rng(0)
    chosen = int(np.ceil(np.log2(len(bits)))) + 2
    for _ in range(TABLES):
        weights = 1 << np.arange(chosen, dtype=np.int64)
        keys = bits[:, rng.permutation(bits.shape[1])[:chosen]] @ weights
        order = np.lexsort((rng.permutation(len(bits)), keys))
        keys = keys[order]
        for step in range(1, min(NEIGHBOURS, len(keys) - 1) + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(same):
                break
            yield order[same], order[same + step]


def _count(words: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of bits set in each row."""
    return np.unpackbits(words, axis=1).sum(axis=1, dtype=np.int64)


def groups(twins: Sequence[Twin]) -> dict[int, list[int]]:
    """Indices of the twins by the picture that is kept."""
    found: dict[int, list[int]] = defaultdict(list)
    for twin in twins:
        found[twin.other].append(twin.index)
    return dict(found)
