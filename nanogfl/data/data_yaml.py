"""Parsing of YOLO's data.yaml: class names, and the keys of the splits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from nanogfl.data.findings import Findings
from nanogfl.data.folders import is_hidden
from nanogfl.data.table import numbered
from nanogfl.errors import DataError

KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
CLASS_LIMIT = 10_000  # a larger class index is a number from another column
MOST_BYTES, DEEPEST = 1 << 20, 50  # 10,000 class names take a quarter of a megabyte and three levels


def find_config(root: Path) -> Path | None:
    """Return the yaml file that has classes and splits, data.yaml before others; None if there is none."""
    found = (p for p in (*root.glob("*.yaml"), *root.glob("*.yml")) if not is_hidden(p.name))
    files = sorted(found, key=lambda p: (p.stem.lower() != "data", p))
    for file in files:
        try:
            document = load(file)
        except DataError:
            if file.stem.lower() == "data":
                raise
            continue  # a yaml file of another tool, with custom tags
        if isinstance(document, dict) and document.keys() & {"names", "nc"} and document.keys() & KEYS.keys():
            return file
    return None


def load(file: Path) -> Any:
    """Parse a yaml file safely. Raises DataError if it is unreadable, invalid, too long or nested too deeply."""
    try:
        data = file.read_bytes()
        if len(data) > MOST_BYTES or _depth(data) > DEEPEST:
            raise ValueError("too long, or nested too deeply")  # parsing time is quadratic in both
        return yaml.safe_load(data)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; check the file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid YAML: {error}; correct it") from error


def class_names(file: Path, document: dict[Any, Any], notes: Findings) -> dict[int, str]:
    """Return class names by index, given as a list, a mapping, or only a count. Raises DataError if invalid."""
    names = document.get("names")
    count = document.get("nc")
    if names is None and isinstance(count, int) and 0 < count <= CLASS_LIMIT:
        names = [*numbered(count)]
    items = list(enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ())
    wrong = [f"{str(k)[:40]}: {str(n)[:40]}" for k, n in items if not (_is_index(k) and _is_name(n))]
    if not items or wrong:
        first = f", got {wrong[0]}; correct it" if wrong else ""
        raise DataError(f"{file}: names must be a list of class names, or a mapping of index to name{first}")
    for index, name in items:
        if isinstance(name, bool) or not str(name).strip():
            read = f"is read as {str(name).lower()}" if isinstance(name, bool) else "is blank"
            raise DataError(f"{file}: the name of class {index} {read}; put the name in quotes")
    if isinstance(count, int) and count != len(items):
        notes.add("class-count", file.name, "nc", f"nc is {str(count)[:20]}, but {len(items)} names are listed")
    return {int(k): str(n).strip() for k, n in items}


def points(document: dict[Any, Any]) -> int:
    """Return how many key point numbers follow each box; 0 if it is not a pose dataset."""
    match document.get("kpt_shape"):
        case [int(count), int(numbers)] if count > 0 and numbers in (2, 3):
            return count * numbers
    return 0


def _is_index(key: object) -> bool:
    if isinstance(key, str):
        return len(key) < 10 and key.isascii() and key.isdecimal()
    return type(key) is int and 0 <= key < 10**9


def _is_name(name: object) -> bool:
    return isinstance(name, str | float) or (isinstance(name, int) and abs(name) < 10**18)


def _depth(data: bytes) -> int:
    """Return the depth of nested brackets, including brackets inside quotes."""
    depth = most = 0
    for bracket in re.findall(rb"[\[\]{}]", data):
        depth += 1 if bracket in b"[{" else -1
        most = max(most, depth)
    return most
