"""export/aarch64_parity.sh: the exported file finds the same boxes in aarch64 onnxruntime, emulated."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import write_checkpoint

SCRIPT = Path(__file__).parents[1] / "export" / "aarch64_parity.sh"


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator's package is fetched for x86-64")
@pytest.mark.skipif(not (shutil.which("apt-get") and shutil.which("dpkg")), reason="needs Debian's package tools")
def test_the_same_boxes_on_arm(tmp_path: Path, command: Callable[..., Any]) -> None:
    checkpoint, model = write_checkpoint(tmp_path / "best.ckpt", input_size=(64, 64)), tmp_path / "model.onnx"
    said = command("export", checkpoint, "--out", model)
    assert said.code == 0, said.err
    ran = subprocess.run(
        ["bash", SCRIPT, model, tmp_path / "work"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if not (tmp_path / "work" / "ready").exists():
        pytest.skip(f"emulator or packages cannot be had: {ran.stderr.strip().splitlines()[-1:]}")
    assert ran.returncode == 0, ran.stderr
    line, numbers = ran.stdout.strip().splitlines()[-2:]
    assert line.startswith("aarch64, onnxruntime ")
    parity = json.loads(numbers)
    assert parity["boxes"] > 0 and parity["one_sided"] == 0
    assert parity["box_px"] <= 0.5 and parity["score"] <= 0.001
