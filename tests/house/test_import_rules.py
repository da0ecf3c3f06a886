"""Who may import whom: the contracts of pyproject.toml hold, and no module escapes them."""

import re
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[2]


def test_the_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    command = [linter, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_at_the_top_is_in_a_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = set(re.findall(r"nanogfl\.\w+", str(contracts)))
    top = {f"nanogfl.{path.stem}" for path in (ROOT / "nanogfl").iterdir() if is_module(path)}
    assert top <= named, "say in pyproject.toml ([tool.importlinter]) which room these belong to"


def is_module(path: Path) -> bool:
    """Modules and packages but the front door, which reaches every room; test_light_imports keeps it light."""
    return (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
