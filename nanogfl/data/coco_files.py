"""COCO JSON files: finding them in a folder, loading them, and the split of each."""

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
    """A loaded JSON file: its path, its name (the path relative to the dataset's root), its split and its content."""

    path: Path
    name: str
    split: str | None
    document: Record


def open_file(path: Path, root: Path) -> Source:
    """Load one JSON file; its split follows from its name. Raises DataError if it is not a COCO JSON file."""
    source = Source(path, path.relative_to(root).as_posix(), splits.named(path.stem), _load(path))
    _check(source)
    return source


def find(root: Path, notes: Findings) -> list[Source]:
    """Find the COCO JSON files in a folder, its split folders, and the annotation folders in any of these.

    If the name of any file or its folder indicates a split, JSON files without a split are ignored. Raises DataError if
    there are several files without a split.
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
        raise DataError(f"{root} has several COCO JSON files ({names}) whose names indicate no split; choose one")
    return sources


def looks_in(inner: Path) -> bool:
    """Return whether ``find`` searches this folder (relative to the dataset's root), which need not exist."""
    parts = inner.parts[:-1] if inner.name.lower() in ANNOTATION_FOLDERS else inner.parts
    return not parts or (len(parts) == 1 and splits.named(parts[0]) is not None)


def _of_split(root: Path, paths: list[Path], split: str | None, notes: Findings) -> Iterator[Source]:
    """Load the JSON files of one split; prefer instances to captions and key points, and train to trainval."""
    paths = [p for p in paths if "instances" in p.stem.lower()] or paths
    paths = [p for p in paths if "trainval" not in p.stem.lower()] or paths
    for path in paths:
        name = path.relative_to(root).as_posix()
        source = notes.attempt(name, lambda path=path, name=name: _source(path, name, split), None)
        if source:
            yield source


def _source(path: Path, name: str, split: str | None) -> Source | None:
    """Load a COCO JSON file; return None if it is another kind of JSON. Raises DataError if it is damaged."""
    document = _load(path)
    lists = [document[name] for name in LISTS[:2] if name in document] if isinstance(document, dict) else []
    if len(lists) < 2 or not any(isinstance(one, list) for one in lists):  # nanogfl's own results hold counts
        log.info("%s has no boxes in COCO format; it is ignored", path)
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
        raise DataError(f"{path} is not valid JSON: {error}; re-export the annotations") from error


def _check(source: Source) -> None:
    """Raise DataError unless the file has COCO's three lists."""
    document = source.document
    if not isinstance(document, dict):
        raise DataError(f"{source.path} is not a COCO JSON file: expected an object with the lists {', '.join(LISTS)}")
    for name in LISTS:
        if not isinstance(document.get(name), list):
            found = type(document[name]).__name__ if name in document else "missing"
            raise DataError(f"{source.path} is not a COCO JSON file: {name!r} must be a list, but is {found}")
