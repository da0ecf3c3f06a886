"""A set's files are found through links, and without what macOS adds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanogfl.data.folders import files_below, subfolders

JPG = frozenset({".jpg"})


def test_sub_folders_are_found_in_any_case(tmp_path: Path) -> None:
    for name in ("Train", "annotations", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    assert subfolders(tmp_path) == {"train": tmp_path / "Train", "annotations": tmp_path / "annotations"}
    assert subfolders(tmp_path / "file") == {}


def place(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def found(root: Path, folder: str) -> list[str]:
    return [path.relative_to(root / folder).as_posix() for path in files_below(root / folder, JPG)]


def test_files_below_are_those_of_the_set(tmp_path: Path) -> None:
    place(tmp_path, "b.JPG", "a/x.jpg", "a/x.txt", "._b.jpg", ".cache/c.jpg", "__MACOSX/d.jpg")
    assert found(tmp_path, ".") == ["a/x.jpg", "b.JPG"]
    assert found(tmp_path, "none") == []


@pytest.mark.skipif(os.name == "nt", reason="links want rights there")
@pytest.mark.parametrize(
    ("links", "expected", "reason"),
    [
        ({"in/link": "out"}, ["a/x.jpg", "link/y.jpg", "link/z/y.jpg"], "out of the folder"),
        ({"in/link": "out", "in/more": "out/z"}, ["a/x.jpg", "link/y.jpg", "link/z/y.jpg"], "what was there already"),
        ({"in/0": "in/a"}, ["a/x.jpg"], "to a folder that is there under its own name"),
        ({"in/a/up": "in"}, ["a/x.jpg"], "in a circle"),
        ({"in/link": "out", "out/back": "in"}, ["a/x.jpg", "link/y.jpg", "link/z/y.jpg"], "in a circle of two"),
        ({"in/a/up": "."}, ["a/x.jpg"], "above, where other splits lie"),
        ({"in/link": "none"}, ["a/x.jpg"], "to nothing"),
    ],
)
def test_links_to_folders_are_followed_once(
    tmp_path: Path, links: dict[str, str], expected: list[str], reason: str
) -> None:
    place(tmp_path, "in/a/x.jpg", "out/y.jpg", "out/z/y.jpg", "beside/w.jpg")
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert found(tmp_path, "in") == expected, reason
