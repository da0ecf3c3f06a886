"""The two scripts of demo/, as a person starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from models import write_models, write_scene

import nanogfl

DEMO = Path(__file__).parents[1] / "demo"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_models(folder, (64, 64))
    write_scene(folder / "photo.png", seed=3)
    return folder


def test_a_picture_is_drawn_and_what_was_found_is_said(folder: Path) -> None:
    done = run("image.py", folder / "model.onnx", folder / "photo.png", folder / "drawn.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 1 and (folder / "drawn.png").read_bytes() != (folder / "photo.png").read_bytes()


def test_mistakes_are_one_line(folder: Path) -> None:
    missing = run("image.py", folder / "model.onnx", folder / "none.png", folder / "drawn.png")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ") and missing.stderr.count("\n") == 1
    assert "python demo/image.py model.onnx" in run("image.py").stderr
    for drawn in ("nowhere/drawn.png", "drawn.xyz"):
        lost = run("image.py", folder / "model.onnx", folder / "photo.png", folder / drawn)
        assert lost.returncode == 1 and lost.stderr.startswith(f"error: {folder / drawn} could not be written"), lost
        assert lost.stderr.count("\n") == 1
    absent = run("webcam.py", folder / "model.onnx", "--source", folder / "none.mp4")
    assert absent.returncode == 1
    assert absent.stderr.startswith("error: ") and absent.stderr.count("\n") == 1


def test_the_webcam_demo_takes_the_options_of_the_command(folder: Path) -> None:
    done = run("webcam.py", folder / "model.onnx", "--source", folder / "photo.png", "--headless")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"source": ') and done.stdout.count("\n") == 1


def test_the_loop_for_a_raspberry_pi(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands in export/raspberry_pi/README.md: a line a frame, and an end where the camera is unplugged."""

    class Camera:
        def __init__(self, number: int) -> None:
            assert number == 0
            self.left = 3

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def read(self) -> tuple[bool, Any]:
            self.left -= 1
            return (self.left >= 0, cv2.imread("photo.png") if self.left >= 0 else None)

    text = (DEMO.parent / "export/raspberry_pi/README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    found = nanogfl.load("model.onnx").predict("photo.png", 0.3)
    pairs = zip(found.labels, found.scores, strict=True)
    assert len(found) and lines == 3 * [str([(found.names[label], round(float(score), 2)) for label, score in pairs])]
