"""What the documents show works: every command's verb and options exist, and the README's Python runs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from models import write_models, write_scene

from nanogfl.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "export").rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[str]:
    """The lines of fenced shell blocks that start with ``nanogfl VERB``, continued lines joined."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if re.match(r"nanogfl [a-z]", line):
                yield line


def known_options() -> dict[str, set[str]]:
    """Every verb of the command line and the options that it takes."""
    group = typer.main.get_command(app)
    options = {}
    for verb, command in group.commands.items():
        shown = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        options[verb] = {option for option in shown if option.startswith("-")} | {"--help"}
    return options


def mistakes(line: str, known: dict[str, set[str]]) -> list[str]:
    """What in a command the command line does not know."""
    _, verb, *rest = shlex.split(line, comments=True)
    if verb not in known:
        return [f"no verb {verb}: {line}"]
    used = [word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [f"{verb} has no {option}: {line}" for option in used if option not in known[verb]]


def test_every_shown_command_exists() -> None:
    known = known_options()
    assert known
    wrong = [
        f"{path.relative_to(ROOT)}: {mistake}"
        for path in DOCUMENTS
        for line in commands(path.read_text())
        for mistake in mistakes(line, known)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("nanogfl eat my.onnx --salt 1", 0),
        ("nanogfl eat my.onnx --salt=1 -q  # --pepper", 0),
        ("nanogfl eat my.onnx --offset -3", 1),
        ("nanogfl drink my.onnx", 1),
        ("nanogfl eat --pepper --sugar", 2),
    ],
)
def test_the_check_itself(line: str, count: int) -> None:
    assert len(mistakes(line, {"eat": {"--salt", "-q"}})) == count


def test_commands_are_found_in_fenced_blocks_only() -> None:
    text = "nanogfl no\n```bash\nmake x\n$ nanogfl a \\\n  --b\n  nanogfl c\n```\n```python\nnanogfl no\n```\n"
    assert [line.split() for line in commands(text)] == [["nanogfl", "a", "--b"], ["nanogfl", "c"]]


def test_the_python_that_the_readme_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block alone, beside a model.onnx and a photo.jpg; both find the same."""
    write_models(tmp_path, (64, 64), background=-1.0)
    write_scene(tmp_path / "photo.jpg", seed=3)
    monkeypatch.chdir(tmp_path)
    left: list[dict[str, Any]] = []
    for block in PYTHON.findall((ROOT / "README.md").read_text()):
        left.append({})
        exec(compile(block, "README.md", "exec"), left[-1])
    ours, plain = left
    assert len(ours["found"]) > 3 and len(capsys.readouterr().out.splitlines()) == len(ours["found"])
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(plain[name], getattr(ours["found"], name))
