"""COCO's jsons: which files of a folder they are, and the split of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogfl.data import splits
from nanogfl.data.findings import Findings
from nanogfl.data.folders import ANNOTATION_FOLDERS, files_in, subfolders
from nanogfl.data.table import SPLITS
from nanogfl.errors import DataError

log = logging.getLogger(__name__)

Record = dict[str, Any]
LISTS = ("images", "annotations", "categories")
JSON = frozenset({".json"})


@dataclass(frozen=True)
class Source:
    """One json, read, its name (relative to the set), and the split that it holds."""

    path: Path
    name: str
    split: str | None
    document: Record


def open_file(path: Path, root: Path) -> Source:
    """Read this one json, of the split that its name says. Raises DataError where it is no COCO json."""
    source = Source(path, path.relative_to(root).as_posix(), splits.named(path.stem), _load(path))
    _check(source)
    return source


def find(root: Path, notes: Findings) -> list[Source]:
    """Find the COCO jsons in a folder, its splits' folders, and in annotations in any of these; or none.

    Where names speak of splits, the other jsons are no part of the set.
    """
    places = [(None, root), *((splits.named(name), folder) for name, folder in subfolders(root).items())]
    places = [(split, place) for split, place in places if split or place == root]
    places += [(s, f) for s, place in places for name, f in subfolders(place).items() if name in ANNOTATION_FOLDERS]
    files = [(p, splits.named(p.stem) or split) for split, place in places for p in files_in(place, JSON)]
    chosen = [f for f in files if f[1]] or files
    parts = [(split, [p for p, of in chosen if of == split]) for split in (*SPLITS, None)]
    sources = [source for split, paths in parts for source in _of_split(root, paths, split, notes)]
    if len(sources) > 1 and sources[0].split is None:
        names = ", ".join(s.name for s in sources[:5])
        raise DataError(f"{root} holds several COCO jsons ({names}) whose names say no split; give one of them")
    return sources


def looks_in(inner: Path) -> bool:
    """Whether ``find`` looks for jsons in this folder, which need not be there yet; relative to the set's root."""
    parts = inner.parts[:-1] if inner.name.lower() in ANNOTATION_FOLDERS else inner.parts
    return not parts or (len(parts) == 1 and splits.named(parts[0]) is not None)


def _of_split(root: Path, paths: list[Path], split: str | None, notes: Findings) -> Iterator[Source]:
    """Load the jsons of one split: instances before captions and key points, train before trainval."""
    paths = [p for p in paths if "instances" in p.stem.lower()] or paths
    paths = [p for p in paths if "trainval" not in p.stem.lower()] or paths
    for path in paths:
        name = path.relative_to(root).as_posix()
        source = notes.attempt(name, lambda path=path, name=name: _source(path, name, split), None)
        if source:
            yield source


def _source(path: Path, name: str, split: str | None) -> Source | None:
    """Load a json and look at its lists; None where it is something else's. Raises DataError where it is damaged."""
    document = _load(path)
    lists = [document[name] for name in LISTS[:2] if name in document] if isinstance(document, dict) else []
    if len(lists) < 2 or not any(isinstance(one, list) for one in lists):  # counts are what our own results hold
        log.info("%s holds no boxes in COCO's form; it is left out", path)
        return None
    source = Source(path, name, split, document)
    _check(source)
    return source


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid json: {error}; export the annotations again") from error


def _check(source: Source) -> None:
    """Raise DataError unless the three lists of the form are there."""
    document = source.document
    if not isinstance(document, dict):
        raise DataError(f"{source.path} is no COCO json: an object with the lists {', '.join(LISTS)} is expected")
    for name in LISTS:
        if not isinstance(document.get(name), list):
            found = type(document[name]).__name__ if name in document else "missing"
            raise DataError(f"{source.path} is no COCO json: {name!r} must be a list, it is {found}")
