"""``nanogfl quickstart``: the whole way once, as a newcomer runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanogfl
from nanogfl.data.synthetic import NAMES
from nanogfl.pictures import read_picture
from nanogfl.quickstart import MARK, run


def begun(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quickstart that is interrupted once its pictures are drawn."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nanogfl.quickstart.train", interrupt)
    monkeypatch.setattr(
        "nanogfl.quickstart.synthetic.draw_set", lambda data, **_: (data / "images").mkdir(parents=True)
    )
    with pytest.raises(KeyboardInterrupt):
        run(out, 0, lambda _: None)


@pytest.mark.parametrize("theirs", ["data/thesis.txt", "run/best.ckpt", "metrics.json", "notes.md", "quickstart.txt"])
def test_a_folder_of_somebody_elses_is_refused_untouched(
    command: Callable[..., Any], tmp_path: Path, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("x")
    monkeypatch.chdir(tmp_path)
    said = command("quickstart", "--out", ".")
    assert said.code == 2
    assert said.err.startswith(f"error: --out . contains {theirs.split('/')[0]}")
    assert len(said.err.splitlines()) == 1
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [theirs]


def test_a_file_is_no_folder(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for out in ("x", "x/y"):
        said = command("quickstart", "--out", tmp_path / out)
        assert (said.code, len(said.err.splitlines())) == (2, 1)


def test_an_interrupted_quickstart_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out in (tmp_path / "new/er", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        begun(out, monkeypatch)
        (out / "data/stale.txt").write_text("x")
        begun(out, monkeypatch)
        assert not (out / "data/stale.txt").exists()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that the command leaves, and what it said."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # all cores, as a newcomer has them
    command = [str(Path(sys.executable).with_name("nanogfl")), "quickstart", "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=environment)


@pytest.mark.slow
def test_it_succeeds_and_tells_its_story(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, said = done
    assert said.returncode == 0, said.stderr
    assert [f"{i}/5" in said.stdout for i in range(1, 6)] == [True] * 5
    assert "nanogfl train" in said.stdout  # what comes next
    assert "Traceback" not in said.stderr
    assert str(out) in said.stdout


@pytest.mark.slow
def test_the_folder_holds_what_it_says(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    assert sorted(p.name for p in out.iterdir()) == ["data", "found.png", "metrics.json", "model.onnx", MARK, "run"]
    left = sorted(p.name for p in (out / "run").iterdir())
    assert left == ["best.ckpt", "config.yaml", "last.ckpt", "metrics.csv", "summary.json"]
    sheet = read_picture(out / "found.png")
    assert sheet.std() > 10
    assert not list(out.rglob("*.partial*"))


@pytest.mark.slow
def test_it_finds_at_least_half(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["images"] == 100
    assert metrics["AP"] >= 0.50
    assert set(metrics["per_class"]) == set(NAMES)
    assert nanogfl.evaluate(out / "model.onnx", out / "data").numbers["AP"] == pytest.approx(metrics["AP"], abs=1e-9)
    checkpoint = nanogfl.evaluate(out / "run" / "best.ckpt", out / "data")
    assert checkpoint.numbers["AP"] == pytest.approx(metrics["AP"], abs=1e-3)
