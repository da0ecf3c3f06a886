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


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn COCO set: 24 train, 6 val and 6 test pictures of 96 px, six classes."""
    from nanogfl.data.synthetic import draw_set

    return draw_set(tmp_path_factory.mktemp("tiny") / "set", train=24, val=6, test=6, size=96)


@pytest.fixture(scope="session")
def tiny_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs on the tiny set: size s, input 96."""
    import nanogfl

    out = tmp_path_factory.mktemp("tiny") / "run"
    nanogfl.train(tiny_set, out=out, size="s", input=96, epochs=2, batch=8, set=["train.workers=0"])
    return out


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path) -> Path:
    """The ONNX that the tiny run's best checkpoint exports to."""
    import nanogfl

    return nanogfl.export(tiny_run / "best.ckpt", out=tiny_run.parent / "tiny.onnx").path
