"""What several tests need: the folder of shared real data, and small pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden arrays, weights and real pictures; the test is skipped where it is missing."""
    folder = Path(os.environ.get("NANOGFL_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip("no folder of shared data (set NANOGFL_SHARED)")
    return folder
