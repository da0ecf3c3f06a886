"""What several tests need: the folder of shared real data, a small drawn set, and what a training on it leaves."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Networks this small gain nothing from a second thread, and where another program keeps the cores busy, threads
# that wait for each other make them a hundred times slower. Programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime before nanogfl

LIGHTNING_ADVICE = (
    "ignore:Checkpoint directory:UserWarning",
    "ignore:The dirpath has changed:UserWarning",
    "ignore:.*LeafSpec:FutureWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for what Lightning says of itself."""
    for line in LIGHTNING_ADVICE:
        config.addinivalue_line("filterwarnings", line)


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
    from runs import quick

    out = tmp_path_factory.mktemp("tiny") / "run"
    quick(tiny_set, out, input=96, epochs=2, set=["model.guidance=light"])
    return out


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path) -> Path:
    """The ONNX that the tiny run's best checkpoint exports to."""
    import nanogfl

    return nanogfl.export(tiny_run / "best.ckpt", out=tiny_run.parent / "tiny.onnx").path


@pytest.fixture(scope="session")
def tiny_train() -> Callable[..., dict[str, Any]]:
    """``nanogfl.train`` as small as it gets: one epoch, size s, 64 px, three steps of the tiny set."""

    def train(data: Path, out: Path, *assignments: str, **options: Any) -> dict[str, Any]:
        import nanogfl

        small: dict[str, Any] = {"size": "s", "input": 64, "epochs": 1, "batch": 8}
        return nanogfl.train(data, out=out, set=["train.workers=0", *assignments], **(small | options))

    return train


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set that is learnt in seconds: red, green and blue blocks on grey, 16 train and 6 val of 96 px."""
    import numpy as np
    from runs import block_picture, write_coco

    rng = np.random.default_rng(0)
    splits = {"train": [block_picture(rng) for _ in range(16)], "val": [block_picture(rng) for _ in range(6)]}
    return write_coco(tmp_path_factory.mktemp("blocks") / "set", splits)


@pytest.fixture(scope="session")
def learnt(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ten epochs on the blocks, validated twice; it finds most of them."""
    from runs import PLAIN, quick

    out = tmp_path_factory.mktemp("learnt") / "run"
    assignments = [*PLAIN, "train.lr=0.003", "train.validate_every=5"]
    quick(blocks, out, input=96, epochs=10, batch=2, set=assignments)
    return out


@pytest.fixture(scope="session")
def learnt_onnx(learnt: Path, blocks: Path) -> Path:
    """The ONNX that this run exports, proven on the blocks."""
    import nanogfl

    return nanogfl.export(learnt / "best.ckpt", out=learnt.parent / "learnt.onnx", data=blocks).path


class Said(NamedTuple):
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """``nanogfl ARGUMENTS`` in this process; logging is put back as it was."""
    own = logging.getLogger("nanogfl")
    handlers, level, propagate = own.handlers[:], own.level, own.propagate

    def run(*arguments: object) -> Said:
        from nanogfl.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as left, warnings.catch_warnings():
            main([str(argument) for argument in arguments])
        own.handlers[:] = handlers
        captured = capsys.readouterr()
        code = left.value.code
        return Said(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)

    yield run
    own.setLevel(level)
    own.propagate = propagate
