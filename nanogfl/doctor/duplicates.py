"""Finding duplicate pictures: files with the same bytes, or nearly identical pictures, within and across splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.findings import Findings
from nanogfl.data.table import SPLITS, Example
from nanogfl.doctor.inspection import Inspection
from nanogfl.errors import counted

# Limits on differing bits of the hash and on correlation of the thumbnails. They were checked by eye on blood cells,
# helmets and COCO: all pairs within both show the same scene, although cells look much alike. The closest other pairs
# differ in 24 bits, or have a correlation of 0.75.
BITS, ALIKE = 22, 0.85
TABLES, NEIGHBOURS = 40, 16  # number of sorted orders, and of following pictures compared in each


@dataclass(frozen=True)
class Duplicate:
    """A duplicate picture and its original, as indices into the examples; ``other`` is the one to keep."""

    index: int
    other: int
    same_bytes: bool


def find_duplicates(examples: Sequence[Example], inspections: Sequence[Inspection]) -> list[Duplicate]:
    """Return one entry per duplicate: all pictures but the first of each group, in the order of the splits.

    Among files with the same bytes, annotated ones come first. Damaged pictures are ignored, since a duplicate is only
    left out if an intact picture stays.
    """
    sound = [i for i, inspection in enumerate(inspections) if not inspection.flaw]
    order = sorted(sound, key=lambda i: (_rank(examples[i]), i))
    first: dict[bytes, int] = {}
    duplicates = [
        Duplicate(i, first[inspections[i].content], True)
        for i in sorted(order, key=lambda i: not len(examples[i].boxes))
        if first.setdefault(inspections[i].content, i) != i
    ]
    again = {duplicate.index for duplicate in duplicates}
    others = [i for i in order if i not in again and inspections[i].bits is not None]
    first_of = _grouped(_near_pairs([inspections[i] for i in others]), len(others))
    return duplicates + [Duplicate(others[b], others[a], False) for b, a in enumerate(first_of) if a != b]


def note_duplicates(examples: Sequence[Example], duplicates: Sequence[Duplicate], notes: Findings) -> None:
    """Note each duplicate with its original, and whether they are in different splits."""
    for duplicate in duplicates:
        one, other = examples[duplicate.index], examples[duplicate.other]
        detail = f"{'the same file as' if duplicate.same_bytes else 'nearly the same as'} {other.name}"
        if one.split != other.split:
            notes.add("split-leak", one.name, f"in {one.split}", f"{detail}, which is in {other.split}")
        elif duplicate.same_bytes:
            notes.add("picture-duplicate", one.name, "", detail + _disagreement(one, other))
        else:
            notes.add("picture-near-duplicate", one.name, "", detail)


def _rank(example: Example) -> int:
    return SPLITS.index(example.split) if example.split in SPLITS else len(SPLITS)


def _disagreement(one: Example, other: Example) -> str:
    def as_rows(e: Example) -> list[list[float]]:
        return sorted(np.column_stack([e.labels, e.boxes.round(1)]).tolist())

    same = as_rows(one) == as_rows(other)
    return "" if same else f", but annotated differently ({counted(len(one.boxes), 'box')} and {len(other.boxes)})"


def _grouped(pairs: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Return the smallest index in the connected component of each index, given the pairs as edges."""
    first = list(range(count))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    for a, b in pairs:
        a, b = sorted((root(a), root(b)))
        first[b] = a
    return [root(i) for i in range(count)]


def _near_pairs(inspections: Sequence[Inspection]) -> list[tuple[int, int]]:
    """Return the pairs of nearly identical pictures, in nearly linear time (locality-sensitive hashing).

    Pictures whose hashes agree in some random bits are adjacent when sorted by these bits. With log2(n) + 2 bits
    adjacency by chance is rare. With 40 such orders a pair that differs in 12 of the 127 bits is always found; one that
    differs in 22 is found in 98 of 100 cases among a thousand pictures, in 55 among a hundred thousand.
    """
    if len(inspections) < 2:
        return []
    bits = np.stack([inspection.bits for inspection in inspections if inspection.bits is not None])
    thumbs = np.stack([inspection.thumb for inspection in inspections if inspection.thumb is not None])
    words = np.packbits(bits, axis=1)
    found = [np.zeros(0, np.int64)]
    for a, b in _neighbours(bits):
        close = np.unpackbits(words[a] ^ words[b], axis=1).sum(axis=1) <= BITS
        a, b = a[close], b[close]
        alike = _correlation(thumbs[a], thumbs[b]) >= ALIKE
        found.append(a[alike] * len(inspections) + b[alike])
    pairs = np.unique(np.concatenate(found))
    return list(zip((pairs // len(inspections)).tolist(), (pairs % len(inspections)).tolist(), strict=True))


def _correlation(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return the correlation of corresponding rows: [N]; 0 if one of them is flat."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    product, lengths = np.einsum("ij,ij->i", x, y), np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return product / np.maximum(lengths, 1)


def _neighbours(bits: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of nearby rows that agree in one of the random choices of bits."""
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
