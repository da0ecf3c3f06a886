"""What is kept under version control stays small, short, and free of anybody's machine."""

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_BYTES = 1_000_000
FILE_LINES = 250
FUNCTION_LINES = 60
# Path from the root -> why it may be longer.
LONG_FILES: dict[str, str] = {
    "nanogfl/data/synthetic.py": "one drawn world: things and scenes; to be cut at draw_sprite",
    "nanogfl/recipe.py": "the records and their reading; half of it is their documentation",
    "nanogfl/runtime/draw.py": "drawing and its palette",
}
# Folders of one kind of machine, spelt so that this file passes its own test; `some/work/` is not one.
MACHINE_PATH = re.compile(r"(?<![\w.~$}\-/])/(?:work|root)/")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git tracks and that is still there."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_large(tracked: list[Path]) -> None:
    assert [short(path) for path in tracked if path.stat().st_size > FILE_BYTES] == []


def test_no_file_names_a_folder_of_this_machine(tracked: list[Path]) -> None:
    named = {
        f"{short(path)}:{number}"
        for path in tracked
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    }
    assert named == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /" + "work/main", True),
        ('"/' + 'root/.cache"', True),
        ("(/" + "root/x)", True),
        ("some/" + "work/here", False),
        ("$HOME/" + "work/x", False),
        ("./" + "work/x", False),
    ],
)
def test_what_counts_as_a_folder_of_a_machine(text: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is found


def test_python_files_are_short(tracked: list[Path]) -> None:
    sources = [path for path in tracked if path.suffix == ".py" and not short(path).startswith("tests/")]
    lengths = {short(path): len(path.read_text().splitlines()) for path in sources}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES and name not in LONG_FILES} == {}
    assert [name for name in LONG_FILES if lengths.get(name, 0) <= FILE_LINES] == []


def test_functions_are_short(tracked: list[Path]) -> None:
    long = [
        f"{short(path)}:{node.lineno} {node.name}: {lines} lines"
        for path in tracked
        if path.suffix == ".py"
        for node, lines in functions(path)
        if lines > FUNCTION_LINES
    ]
    assert long == []


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Each function of a file and its length in lines, decorators left out."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def test_everything_that_is_asked_for_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pinned = {line.partition("==")[0].lower() for line in lines}
    asked = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requires("nanogfl") or []}
    assert asked <= pinned
