"""nanogfl export --format: another runtime's own file, kept only where it gives what the checkpoint gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_checkpoint

from nanogfl.deploy import formats
from nanogfl.deploy.agreement import add_raw
from nanogfl.deploy.formats import export_format
from nanogfl.deploy.runtimes import RUNTIMES, Runtime, runtime
from nanogfl.deploy.runtimes.onnxruntime import open_network
from nanogfl.deploy.verify import Parity
from nanogfl.errors import ExportError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at 64 px."""
    return write_checkpoint(tmp_path_factory.mktemp("formats") / "best.ckpt", input_size=(64, 64))


@pytest.mark.parametrize("name", [r.name for r in RUNTIMES if r.suffix])
def test_a_format(name: str, checkpoint: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    if runtime(name).missing:
        pytest.skip(runtime(name).missing or "")
    said = command("export", checkpoint, "--out", tmp_path / "phone", "--format", name)
    assert said.code == 0, said.err
    assert "equal to the checkpoint" in said.out
    suffixes = {
        "ncnn": [".bin", ".json", ".param"],
        "openvino": [".bin", ".json", ".xml"],
        "mnn": [".json", ".mnn"],
        "executorch": [".json", ".pte"],
        "litert": [".json", ".tflite"],
    }
    assert sorted(p.name for p in (tmp_path / "phone").iterdir()) == [f"model{s}" for s in suffixes[name]]
    about = json.loads((tmp_path / "phone/model.json").read_text())
    assert about["nanogfl.input_size"] == "64,64" and json.loads(about["nanogfl.parity"])["boxes"] > 0


def copied(given: Path, out: Path) -> None:
    """A converter that hands the core form on."""
    out.write_bytes(given.read_bytes())


def wrong(path: Path, threads: int, names: list[str]) -> Callable[..., Any]:
    """A runtime that is a little off."""
    network = open_network(path, threads, names)
    return lambda image: {name: np.asarray(m) * 1.05 for name, m in network(image).items()}


class Here:
    """A worker that converts in this process."""

    def __init__(self, _command: list[str]) -> None: ...
    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...
    def ask(self, do: str, *, given: str, out: str, **_: object) -> None:
        copied(Path(given), Path(out))


@pytest.mark.parametrize(("opener", "held"), [(open_network, True), (wrong, False)])
def test_kept_only_where_equal(
    opener: Any, held: bool, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = Runtime("mine", ("numpy",), opener, suffix=".mine", convert=copied)
    monkeypatch.setattr(formats, "Worker", Here)
    monkeypatch.setattr(formats, "runtime", lambda _name, _option: stand_in)
    monkeypatch.setattr("nanogfl.deploy.runtimes.detector.runtime", lambda _name: stand_in)
    if held:
        made = export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
        assert [p.name for p in made.files] == ["a.mine", "a.json"] and made.parity.boxes > 0
        return
    with pytest.raises(ExportError, match="does not give what the checkpoint gives, nothing was kept"):
        export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
    assert not (tmp_path / "new").exists()


def test_an_interrupt_leaves_no_file_without_the_others(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_old: Path, new: Path) -> None:
        assert new.with_suffix(".json").exists(), "the graph comes last"
        raise KeyboardInterrupt

    stand_in = Runtime("mine", ("numpy",), open_network, suffix=".mine", convert=copied)
    monkeypatch.setattr(formats, "Worker", Here)
    monkeypatch.setattr(formats, "runtime", lambda _name, _option: stand_in)
    monkeypatch.setattr("nanogfl.deploy.runtimes.detector.runtime", lambda _name: stand_in)
    monkeypatch.setattr(formats, "_move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--format tflite", "--format tflite: no such runtime"),
        ("--format opncv", "did you mean opencv?"),
        ("--format mnn --int8 --calib set --opset 20", "network alone, in float32; leave out --int8, --calib, --opset"),
        ("--format mnn --form tensor --max-drop 0.1", "leave out --form, --max-drop"),
        ("--format torch", "has no file of its own; give one of onnx, openvino, ncnn, mnn"),
    ],
)
def test_mistakes(options: str, said: str, checkpoint: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    left = command("export", checkpoint, "--out", tmp_path / "m", *options.split())
    assert left.code == 2 and said in left.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "largest"),
    [([[0, 0, 0, 1]], 0.1), ([[4, 0, 0, 0]], 0.482), ([[np.nan, 0, 0, 0]], np.inf)],
)
def test_raw_outputs_are_compared(other: list[list[float]], largest: float) -> None:
    parity = Parity()
    add_raw(parity, np.zeros((1, 4), np.float32), np.array(other, np.float32), classes=1)
    assert parity.raw == pytest.approx(largest, abs=1e-3) and not parity.holds


def test_raw_outputs_of_another_shape() -> None:
    parity = Parity()
    add_raw(parity, np.zeros((2, 4), np.float32), np.zeros((1, 8), np.float32), classes=1)
    assert not parity.holds and "instead of (2, 4)" in parity.worst[0]
