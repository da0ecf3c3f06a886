"""Where results may be written: not over a set's own files, and not where the next reading takes them for its own."""

from __future__ import annotations

from pathlib import Path

from nanogfl.data import coco_files
from nanogfl.data.table import Table
from nanogfl.errors import UsageError
from nanogfl.pictures import SUFFIXES

READ = SUFFIXES | {".xml", ".txt", ".yaml", ".yml", ".tar"}


def spare_the_set(table: Table, data: object, *targets: str | Path | None) -> None:
    """Refuse a file to write that is one of the set's, or a json where COCO's are looked for.

    Args:
        table: the set.
        data: what was given for it; beside an annotation file that was itself given, other jsons are no part of it.
        targets: files to be written; None for those that nobody asked for.

    Raises:
        UsageError: one of them.
    """
    own = Path(data).expanduser().resolve() if isinstance(data, str | Path) else None
    root = table.root.resolve()
    for target in filter(None, targets):
        place = Path(target).resolve()
        suffix, inside = place.suffix.lower(), place.is_relative_to(root)
        if place == own or (inside and suffix in READ and place.exists()):
            raise UsageError(f"{target} is a file of the set {table.root}, which is never touched; name another file")
        given_alone = own is not None and own.is_file()
        if suffix == ".json" and not given_alone and _looks_for_json(table, root, place.parent):
            raise UsageError(f"{target} would be read as annotations of the set {table.root}; name a file elsewhere")


def keep_apart(table: Table, folder: Path) -> None:
    """Refuse a folder for a report where the set's files lie: it would take their names, or be read as theirs.

    Raises:
        UsageError: it is the set's root, lies where its pictures lie at any depth, or is one of annotations.
    """
    root, place = table.root.resolve(), folder.resolve()
    pictures = {p.resolve() for p in {e.path.parent for e in table.examples}} - {root}
    tops = {root / p.relative_to(root).parts[0] if p.is_relative_to(root) else p for p in pictures}
    if place == root or any(place.is_relative_to(top) for top in tops) or _looks_for_json(table, root, place):
        raise UsageError(f"{folder} is a folder of the set {table.root}, which is never touched; name another folder")


def _looks_for_json(table: Table, root: Path, folder: Path) -> bool:
    """Whether a reading of the set as a folder takes the jsons of this one for COCO's."""
    if table.form == "voc" or (table.form == "yolo" and any(root.glob("*.y*ml"))):
        return False
    return folder.is_relative_to(root) and coco_files.looks_in(folder.relative_to(root))
