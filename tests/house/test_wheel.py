"""The wheel holds all that a user needs, and works far from the checkout."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Where a command may not look: the wheel must stand on its own.
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints to stdout; it must succeed."""
    env = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with this wheel, and with our dependencies lent by the running one."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    # Only after pip, which would find the checkout's own installation there. Python does not follow .pth files in a
    # folder that is itself named by one, so an editable nanogfl stays out of sight.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_wheel_holds_every_module_and_every_recipe(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nanogfl").rglob("*.py")}
    recipes = {f"nanogfl/config/{path.name}" for path in (ROOT / "config").glob("*.yaml")}
    assert modules | recipes <= held


def test_the_wheel_holds_the_page_without_the_runtime(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    page = {f"nanogfl/web_page/{path.name}" for path in (ROOT / "demo" / "web").iterdir() if path.is_file()}
    assert page <= held and not [name for name in held if "/ort/" in name]


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    strange = [name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("nanogfl")]
    assert strange == []


def test_the_installed_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = Path(run(installed / "python", "-c", "import nanogfl; print(nanogfl.__file__)", cwd=tmp_path).strip())
    assert installed.parent in where.parents
    assert ROOT not in where.parents


def test_the_installed_package_finds_its_recipes(installed: Path, tmp_path: Path) -> None:
    code = "from nanogfl.recipe import available; print(*available())"
    assert run(installed / "python", "-c", code, cwd=tmp_path).split()


@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"]])
def test_the_installed_command_answers(arguments: list[str], installed: Path, tmp_path: Path) -> None:
    assert re.search(r"usage:.*nanogfl", run(installed / "nanogfl", *arguments, cwd=tmp_path), re.IGNORECASE)


@pytest.mark.slow
def test_the_base_install_runs_a_model_without_torch(wheel: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    """From the package registry, with no extra: what `pip install nanogfl` gives."""
    venv.create(tmp_path / "bare", with_pip=True)
    bare = tmp_path / "bare" / "bin"
    run(bare / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((90, 120, 3), 114, np.uint8))
    run(bare / "nanogfl", "predict", tiny_onnx, "photo.png", "--json", "found.json", "--draw", "drawn", cwd=tmp_path)
    (said,) = json.loads((tmp_path / "found.json").read_text())
    assert (said["width"], said["height"]) == (120, 90) and (tmp_path / "drawn" / "photo.png").is_file()
    held = run(bare / "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert "onnxruntime" in held and not re.search("^(torch|pytorch-lightning|onnx)=", held, re.MULTILINE)
