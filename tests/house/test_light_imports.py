"""What an app installs stays light: geometry and runtime import where nothing of ``[train]`` is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Run in a fresh interpreter, because this one has imported torch for other tests. Modules are found on disk: a new
# file in the runtime is covered from its first day.
IMPORT_WITHOUT_TRAIN = """
import importlib, json, pkgutil, sys

BLOCKED = set(json.loads(sys.argv[1]))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not part of the base install")

sys.meta_path.insert(0, Blocker())
import nanogfl, nanogfl.runtime

top = {module.name for module in pkgutil.iter_modules(nanogfl.__path__, "nanogfl.")}
names = sorted(top & {f"nanogfl.{name}" for name in json.loads(sys.argv[2])})
names += [module.name for module in pkgutil.walk_packages(nanogfl.runtime.__path__, "nanogfl.runtime.")]
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps({"imported": names, "failed": failed}))
"""
TRAIN_ONLY = ["torch", "pytorch_lightning", "lightning", "onnx", "onnxscript", "pydantic", "yaml", "pycocotools"]
TRAIN_ONLY += ["defusedxml", "PIL", "matplotlib"]
GEOMETRY = ["errors", "boxes", "detections", "pictures", "view", "decode"]


def python(*arguments: str, cwd: Path) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_geometry_and_runtime_import_without_anything_of_train(tmp_path: Path) -> None:
    found = json.loads(python("-c", IMPORT_WITHOUT_TRAIN, json.dumps(TRAIN_ONLY), json.dumps(GEOMETRY), cwd=tmp_path))
    assert found["failed"] == {}
    assert {"nanogfl.boxes", "nanogfl.detections", "nanogfl.errors", "nanogfl.pictures"} <= set(found["imported"])


@pytest.mark.parametrize("module", ["nanogfl", "nanogfl.cli"])
def test_starting_up_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    loaded = python("-c", f"import sys, {module}; print(*sys.modules)", cwd=tmp_path).split()
    assert module in loaded
    assert not {"torch", "pytorch_lightning", "lightning", "matplotlib"} & set(loaded)
