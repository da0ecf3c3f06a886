"""``nanogfl quickstart``: the whole way once, as a newcomer runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nanogfl
from nanogfl.data.synthetic import NAMES
from nanogfl.pictures import read_picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that the command leaves, and what it said."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # all cores, as a newcomer has them
    command = [str(Path(sys.executable).with_name("nanogfl")), "quickstart", "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=environment)


def test_it_succeeds_and_tells_its_story(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, said = done
    assert said.returncode == 0, said.stderr
    assert [f"{i}/5" in said.stdout for i in range(1, 6)] == [True] * 5
    assert "nanogfl train" in said.stdout  # what comes next
    assert "Traceback" not in said.stderr
    assert str(out) in said.stdout


def test_the_folder_holds_what_it_says(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    assert sorted(p.name for p in out.iterdir()) == ["data", "found.png", "metrics.json", "model.onnx", "run"]
    left = sorted(p.name for p in (out / "run").iterdir())
    assert left == ["best.ckpt", "config.yaml", "last.ckpt", "metrics.csv", "summary.json"]
    sheet = read_picture(out / "found.png")
    assert sheet.std() > 10
    assert not list(out.rglob("*.partial*"))


def test_it_finds_at_least_half(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["images"] == 100
    assert metrics["AP"] >= 0.50
    assert set(metrics["per_class"]) == set(NAMES)
    assert nanogfl.evaluate(out / "model.onnx", out / "data").numbers["AP"] == pytest.approx(metrics["AP"], abs=1e-9)
    checkpoint = nanogfl.evaluate(out / "run" / "best.ckpt", out / "data")
    assert checkpoint.numbers["AP"] == pytest.approx(metrics["AP"], abs=1e-3)
