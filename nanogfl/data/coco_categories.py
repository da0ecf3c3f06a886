"""Classes of a COCO dataset: category ids are local to a JSON file, classes are merged over all files by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nanogfl.data.coco_files import Source
from nanogfl.data.coco_ids import Key, key_of
from nanogfl.data.findings import Findings
from nanogfl.errors import DataError

Places = dict[Key | None, int]  # index of each category id of a JSON file in the dataset's classes


def read_categories(sources: Sequence[Source], notes: Findings) -> tuple[tuple[str, ...], list[Places]]:
    """Return all class names in the order of their first ids, and the class index of each category id, per JSON file.

    Categories of the same name are one class. Raises DataError if there are none, or a file's are invalid.
    """
    own = [notes.attempt(s.name, lambda s=s: _own_categories(s), {}) for s in sources]
    first: dict[str, Key] = {}
    for names in own:
        for key in sorted(names, key=_order):
            first.setdefault(names[key], key)
    if not first:
        raise DataError(f"{sources[0].path} has no categories; re-export the annotations with their classes")
    _note_repeated(sources, own, notes)
    _note_renumbered(sources, own, notes)
    place = {name: i for i, name in enumerate(sorted(first, key=lambda name: _order(first[name])))}
    return tuple(place), [{key: place[name] for key, name in names.items()} for names in own]


def _own_categories(source: Source) -> dict[Key, str]:
    """Return the class names of one JSON file by id. Raises DataError if an entry is invalid or an id has two names."""
    names: dict[Key, str] = {}
    for key, name in (_category(source, entry) for entry in source.document["categories"]):
        if names.setdefault(key, name) != name:
            raise DataError(f"{source.path}: category {key} is both {names[key]!r} and {name!r}; re-export it")
    return names


def _category(source: Source, entry: object) -> tuple[Key, str]:
    key = key_of(entry.get("id")) if isinstance(entry, dict) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    if key is None or isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
        raise DataError(f"{source.path}: category {str(entry)[:80]} needs an id and a name; add them")
    return key, str(name).strip()


def _note_repeated(sources: Sequence[Source], own: Sequence[dict[Key, str]], notes: Findings) -> None:
    """Note classes that one JSON file lists under several ids; each is noted once, for the first such file."""
    told: set[str] = set()
    for source, names in zip(sources, own, strict=True):
        repeated = [name for name, ids in _ids(names).items() if len(ids) > 1 and name not in told]
        told.update(repeated)
        if repeated:
            notes.add("class-repeated", source.name, "categories", f"{_few(repeated)} has several category ids")


def _note_renumbered(sources: Sequence[Source], own: Sequence[dict[Key, str]], notes: Findings) -> None:
    """Note ids that stand for another class in an earlier JSON file, and classes that have other ids there."""
    ids: dict[str, tuple[set[Key], str]] = {}
    classes: dict[Key, tuple[str, str]] = {}
    for source, names in zip(sources, own, strict=True):
        file, differing = source.name, []
        for key, name in names.items():
            before, where = classes.setdefault(key, (name, file))
            if before != name:
                differing.append(f"category {str(key)[:40]} is {name[:80]!r}, in {where} {before[:80]!r}")
        for name, mine in _ids(names).items():
            known, where = ids.setdefault(name, (mine, file))
            if known != mine and not any(classes[key][0] != name for key in mine):
                differing.append(f"{name[:80]!r} is category {_few(mine)}, in {where} {_few(known)}")
        if differing:
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            notes.add("class-renumbered", file, "categories", differing[0] + more)


def _ids(names: dict[Key, str]) -> dict[str, set[Key]]:
    """Return the ids of each class name."""
    ids: dict[str, set[Key]] = defaultdict(set)
    for key, name in names.items():
        ids[name].add(key)
    return ids


def _few(things: Sequence[object] | set[Key]) -> str:
    return ", ".join(str(thing)[:40] for thing in list(things)[:5])


def _order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key
