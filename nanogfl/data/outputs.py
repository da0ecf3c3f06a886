"""Checks of output paths: results must not overwrite a dataset's files, nor be read as its files next time."""

from __future__ import annotations

from pathlib import Path

from nanogfl.data import coco_files
from nanogfl.data.table import Table
from nanogfl.errors import UsageError
from nanogfl.pictures import SUFFIXES

READ = SUFFIXES | {".xml", ".txt", ".yaml", ".yml", ".tar"}


def refuse_dataset_files(table: Table, data: object, *targets: str | Path | None) -> None:
    """Refuse output files that are files of the dataset, or JSON files in a folder searched for COCO JSON files.

    Args:
        table: the dataset.
        data: the path given for the dataset; if it is an annotation file, no folder is searched for JSON files.
        targets: files to be written; None for outputs that were not requested.

    Raises:
        UsageError: one of the files is refused.
    """
    own = Path(data).expanduser().resolve() if isinstance(data, str | Path) else None
    root = table.root.resolve()
    for target in filter(None, targets):
        place = Path(target).resolve()
        suffix, inside = place.suffix.lower(), place.is_relative_to(root)
        if place == own or (inside and suffix in READ and place.exists()):
            raise UsageError(
                f"{target} is a file of the dataset {table.root}, which is never modified; choose another file"
            )
        given_alone = own is not None and own.is_file()
        if suffix == ".json" and not given_alone and _looks_for_json(table, root, place.parent):
            raise UsageError(
                f"{target} would be read as annotations of the dataset {table.root}; choose a file elsewhere"
            )


def refuse_dataset_folder(table: Table, folder: Path) -> None:
    """Refuse a report folder among the dataset's files: the report might overwrite them or be read as one of them.

    Raises:
        UsageError: the folder is the dataset's root, lies in a top-level folder that has pictures, or is searched for
            COCO JSON files.
    """
    root, place = table.root.resolve(), folder.resolve()
    pictures = {p.resolve() for p in {e.path.parent for e in table.examples}} - {root}
    tops = {root / p.relative_to(root).parts[0] if p.is_relative_to(root) else p for p in pictures}
    if place == root or any(place.is_relative_to(top) for top in tops) or _looks_for_json(table, root, place):
        raise UsageError(
            f"{folder} is a folder of the dataset {table.root}, which is never modified; choose another folder"
        )


def _looks_for_json(table: Table, root: Path, folder: Path) -> bool:
    """Return whether JSON files in this folder would be read as COCO's if the dataset is given as a folder."""
    if table.form == "voc" or (table.form == "yolo" and any(root.glob("*.y*ml"))):
        return False
    return folder.is_relative_to(root) and coco_files.looks_in(folder.relative_to(root))
