"""Where the pictures of COCO's jsons lie: where their names lead, else where the only file of such a name is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nanogfl.data import splits
from nanogfl.data.coco_files import Source
from nanogfl.data.folders import ANNOTATION_FOLDERS, PICTURE_FOLDERS, files_below, spellings, spelt, subfolders
from nanogfl.errors import DataError
from nanogfl.members import is_file
from nanogfl.pictures import SUFFIXES

Place = Path | tuple[Path, ...] | None  # where a name leads; several, where it may mean any of them
Found = dict[str, Place]
Lost = tuple[str, str | None]  # a file name that leads nowhere, and its split, where that has a folder


def find_pictures(
    root: Path, sources: Sequence[Source], files: Sequence[Sequence[str]], patient: bool = False
) -> list[Found]:
    """For each json: where each of its file names leads; None where that is out of the set.

    A name that leads nowhere, or out, means the only picture under the root that has its last part, else its stem: no
    picture that another name leads to, none that several such names could mean, and, where the split has a folder of
    its own, none in another split's.

    Raises:
        DataError: a name leads into a damaged tar; a patient reading finds out when it looks at the picture.
    """
    folders = [_picture_folders(root, source) for source in sources]
    found = [{f: _direct(f, *o, patient) for f in own} for own, o in zip(files, folders, strict=True)]
    parts = [splits.named(first.relative_to(root).name) for (first, *_), _ in folders]
    lost = {(file, part) for part, paths in zip(parts, found, strict=True) for file, at in paths.items() if at is None}
    named = {place for paths in found for place in paths.values() if isinstance(place, Path)}
    meant = _meant(root, lost, named) if lost else {}
    for part, paths, ((first, *_), _) in zip(parts, found, folders, strict=True):
        for file in (f for f, place in paths.items() if place is None):
            inner = inside(file)
            paths[file] = meant.get((file, part)) or (first / inner if inner else None)
    return found


def inside(file: str) -> PurePosixPath | None:
    """Read a file name as a relative path that stays where it starts; None where it does not."""
    path = PurePosixPath(file.replace("\\", "/"))
    harmful = not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":") or "\0" in file
    return None if harmful else path


def misleading(file: str, path: Path) -> bool:
    """Whether a name is that of another place than the one its picture was found in."""
    inner = inside(file)
    parts = tuple(map(spelt, path.parts))
    return inner is None or parts[-len(inner.parts) :] != tuple(map(spelt, inner.parts))


def _direct(file: str, folders: Sequence[Path], others: Sequence[Path], patient: bool) -> Place:
    """Look for the file in the usual folders, the likeliest first, then for the only one in the others."""
    inner = inside(file)
    if inner is None:
        return None
    found = next((path for folder in folders if (path := _there(folder, str(inner), patient))), None)
    if found:
        return found
    several = tuple(path for folder in others if (path := _there(folder, str(inner), patient)))
    return several[0] if len(several) == 1 else several or None


def _there(folder: Path, name: str, patient: bool) -> Path | None:
    """The file of this name in this folder, in any coding of the name."""
    return next((path for spelling in spellings(name) if _is_there(path := folder / spelling, patient)), None)


def _is_there(path: Path, patient: bool) -> bool:
    try:
        return is_file(path)
    except OSError:  # a name that no file system takes
        return False
    except DataError:  # in a damaged tar
        if not patient:
            raise
        return True


def _meant(root: Path, lost: set[Lost], named: set[Path]) -> dict[Lost, Place]:
    """The picture that each lost name means, where only one can be; all of them, where several can."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(root, SUFFIXES):
        by_name[spelt(path.name)].append(path)
        by_stem[spelt(path.stem)].append(path)
    meant: dict[Lost, Place] = {}
    for file, split in lost:
        name = spelt(PurePosixPath(file.replace("\\", "/")).name)
        options = by_name.get(name) or by_stem.get(name) or by_stem.get(PurePosixPath(name).stem) or []
        options = [path for path in options if not _of_another(split, path.relative_to(root))]
        if len(options) > 1:
            meant[file, split] = tuple(options)
        elif options and options[0] not in named:
            meant[file, split] = options[0]
    askers = Counter(place for _, place in {(file, place) for (file, _), place in meant.items()})
    return {asker: place for asker, place in meant.items() if isinstance(place, tuple) or askers[place] == 1}


def _of_another(split: str | None, inner: Path) -> bool:
    """Whether a picture lies in folders that are named for splits, and none for this one."""
    spoken = {splits.named(part) for part in inner.parts[:-1]} - {None}
    return bool(split and spoken) and split not in spoken


def _picture_folders(root: Path, source: Source) -> tuple[list[Path], list[Path]]:
    """Where this json's pictures may lie: its split's folders, beside it, the usual places, in that order; and others.

    Of a split's folders, and beside the json, those of pictures come right after what holds them.

    No folder is more likely than another of the others, which no name speaks for.
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
