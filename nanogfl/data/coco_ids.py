"""Ids in COCO JSON files: which of them are equal, and which cause problems in other tools."""

from __future__ import annotations

from collections import Counter
from typing import Any

from nanogfl.data.findings import Findings

Key = int | str
LARGEST = 2**31 - 1


def key_of(value: object) -> Key | None:
    """Normalise an id: 7, 7.0 and "7" are the same id, "007" is text; return None if it is not an id."""
    if type(value) is int:  # the fast path: nearly all ids
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isdecimal() and value.isascii() and (value == "0" or value[0] != "0"):
        return int(value) if len(value) < 20 else value
    return value if isinstance(value, int | str) and value != "" else None


def look(file: str, document: dict[str, Any], notes: Findings) -> None:
    """Note ids that are 0, text or over 32 bits, and repeated annotation ids; the readers accept all of them."""
    for part in ("images", "annotations", "categories"):
        ids = [entry.get("id") for entry in document[part] if isinstance(entry, dict)]
        keys = [key_of(value) for value in ids]
        numbers = [key for key in keys if isinstance(key, int)]
        texts = [value for value in ids if isinstance(value, str)]
        large = [number for number in numbers if abs(number) > LARGEST]
        if 0 in numbers:
            notes.add("id-zero", file, part, f"{part} are numbered from {min(numbers)}")
        if texts:
            notes.add("id-text", file, part, f"{len(texts)} of {len(ids)}, such as {texts[0][:40]!r}")
        if large:
            notes.add("id-large", file, part, f"{len(large)} of {len(ids)}, such as {str(large[0])[:40]}")
        if part == "annotations" and len(set(keys)) < len(keys):
            counts = Counter(key for key in keys if key is not None)
            for key, count in counts.items():
                if count > 1:
                    notes.add("id-repeated", file, f"annotation {str(key)[:40]}", f"{count} annotations have this id")
