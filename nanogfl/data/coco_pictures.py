"""Locating the pictures of COCO JSON files: by path, else by a file name that is unique in the dataset."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nanogfl.data import splits
from nanogfl.data.coco_files import Source
from nanogfl.data.folders import ANNOTATION_FOLDERS, PICTURE_FOLDERS, files_below, nfc, subfolders, unicode_variants
from nanogfl.errors import DataError
from nanogfl.members import is_file
from nanogfl.pictures import SUFFIXES

Place = Path | tuple[Path, ...] | None  # where a file name leads; a tuple if it is ambiguous
Found = dict[str, Place]
Unresolved = tuple[str, str | None]  # a file name that leads to no file, and its split if that has a folder


def find_pictures(
    root: Path, sources: Sequence[Source], files: Sequence[Sequence[str]], lenient: bool = False
) -> list[Found]:
    """Map the file names of each JSON file to their pictures; to None if the name leads out of the dataset.

    A name that leads to no file is matched to the only picture under the root with the same last path component, else
    with the same stem. Pictures that another name leads to, or that several such names match, are not used; nor, if the
    split has a folder of its own, are pictures in the folder of another split.

    Raises:
        DataError: a name leads into a damaged tar archive, and ``lenient`` is not set. Otherwise the damage is noted
            when the picture is read.
    """
    folders = [_picture_folders(root, source) for source in sources]
    found = [{f: _direct(f, *o, lenient) for f in own} for own, o in zip(files, folders, strict=True)]
    parts = [splits.named(first.relative_to(root).name) for (first, *_), _ in folders]
    lost = {(file, part) for part, paths in zip(parts, found, strict=True) for file, at in paths.items() if at is None}
    named = {place for paths in found for place in paths.values() if isinstance(place, Path)}
    meant = _match_by_name(root, lost, named) if lost else {}
    for part, paths, ((first, *_), _) in zip(parts, found, folders, strict=True):
        for file in (f for f, place in paths.items() if place is None):
            inner = inside(file)
            paths[file] = meant.get((file, part)) or (first / inner if inner else None)
    return found


def inside(file: str) -> PurePosixPath | None:
    """Parse a file name as a relative path without ``..``; return None if it is anything else."""
    path = PurePosixPath(file.replace("\\", "/"))
    harmful = not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":") or "\0" in file
    return None if harmful else path


def misleading(file: str, path: Path) -> bool:
    """Return whether a file name does not match the path at which its picture was found."""
    inner = inside(file)
    parts = tuple(map(nfc, path.parts))
    return inner is None or parts[-len(inner.parts) :] != tuple(map(nfc, inner.parts))


def _direct(file: str, folders: Sequence[Path], others: Sequence[Path], lenient: bool) -> Place:
    """Return the file in the first usual folder that has it, else in the other folders (a tuple if several have it)."""
    inner = inside(file)
    if inner is None:
        return None
    found = next((path for folder in folders if (path := _there(folder, str(inner), lenient))), None)
    if found:
        return found
    several = tuple(path for folder in others if (path := _there(folder, str(inner), lenient)))
    return several[0] if len(several) == 1 else several or None


def _there(folder: Path, name: str, lenient: bool) -> Path | None:
    """Return the file of this name in this folder, in any Unicode normalisation; None if there is none."""
    return next((path for spelling in unicode_variants(name) if _is_there(path := folder / spelling, lenient)), None)


def _is_there(path: Path, lenient: bool) -> bool:
    try:
        return is_file(path)
    except OSError:  # the name is not valid on this file system
        return False
    except DataError:  # the tar archive is damaged
        if not lenient:
            raise
        return True


def _match_by_name(root: Path, lost: set[Unresolved], named: set[Path]) -> dict[Unresolved, Place]:
    """Return the picture that each lost name matches, or a tuple if it matches several; see ``find_pictures``."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(root, SUFFIXES):
        by_name[nfc(path.name)].append(path)
        by_stem[nfc(path.stem)].append(path)
    meant: dict[Unresolved, Place] = {}
    for file, split in lost:
        name = nfc(PurePosixPath(file.replace("\\", "/")).name)
        options = by_name.get(name) or by_stem.get(name) or by_stem.get(PurePosixPath(name).stem) or []
        options = [path for path in options if not _of_another(split, path.relative_to(root))]
        if len(options) > 1:
            meant[file, split] = tuple(options)
        elif options and options[0] not in named:
            meant[file, split] = options[0]
    askers = Counter(place for _, place in {(file, place) for (file, _), place in meant.items()})
    return {asker: place for asker, place in meant.items() if isinstance(place, tuple) or askers[place] == 1}


def _of_another(split: str | None, inner: Path) -> bool:
    """Return whether a picture's folders are named after splits, but none after this split."""
    spoken = {splits.named(part) for part in inner.parts[:-1]} - {None}
    return bool(split and spoken) and split not in spoken


def _picture_folders(root: Path, source: Source) -> tuple[list[Path], list[Path]]:
    """Return the usual folders for this JSON file's pictures, the likeliest first, and the other possible folders.

    The usual folders are those of the split, the JSON file's own folder, the root, and the root's picture folders; each
    of the first two kinds is followed by the picture folders inside it. The other folders, whose names indicate
    nothing, are equally likely.
    """
    usual = _usual(root)
    inner = [f for place in (root, *usual) for f in subfolders(place).values() if f not in usual]
    own = [f for f in inner if source.split and splits.named(f.name) == source.split]
    exact = [f for f in own if source.path.stem.endswith(f.name)]
    others = [f for f in inner if not splits.named(f.name) and f.name.lower() not in ANNOTATION_FOLDERS]
    own = [place for folder in (*exact, *own, source.path.parent) for place in (folder, *_usual(folder))]
    first = list(dict.fromkeys([*own, root, *usual]))
    return first, [f for f in others if f not in first]


def _usual(folder: Path) -> list[Path]:
    return [f for name, f in subfolders(folder).items() if name in PICTURE_FOLDERS]
