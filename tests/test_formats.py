"""nanogfl export --format: another runtime's own file, kept only where it gives what the checkpoint gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_checkpoint, write_onnx
from onnxruntime import InferenceSession
from runs import block_picture, write_coco

import nanogfl
from nanogfl.deploy import formats
from nanogfl.deploy.agreement import add_raw
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.formats import export_format
from nanogfl.deploy.runtimes import RUNTIMES, Runtime, runtime
from nanogfl.deploy.runtimes.onnxruntime import open_network
from nanogfl.deploy.verify import Parity
from nanogfl.errors import ExportError, ModelError, UsageError
from nanogfl.predictor import TorchDetector
from nanogfl.runtime.card import read_card


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


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make a runtime with this opener the one that is asked for; its files end in .mine."""

    def use(opener: Any) -> None:
        mine = Runtime("mine", ("numpy",), opener, suffix=".mine", convert=copied)
        monkeypatch.setattr(formats, "Worker", Here)
        monkeypatch.setattr(formats, "runtime", lambda _name, _option: mine)
        monkeypatch.setattr("nanogfl.deploy.runtimes.detector.runtime", lambda _name: mine)

    return use


class FromCheckpoint(Here):
    """A worker whose converter starts from the checkpoint."""

    def ask(self, do: str, *, given: str, out: str, **_: object) -> None:
        detector = nanogfl.load(given)
        assert isinstance(detector, TorchDetector)
        Path(out).write_bytes(build(detector, Form("core")).SerializeToString())


def taller(path: Path, threads: int, names: list[str]) -> Callable[..., Any]:
    """A runtime that gives a row less."""
    network = open_network(path, threads, names)
    return lambda image: {name: np.asarray(m)[:, :, 1:] for name, m in network(image).items()}


def test_kept_where_equal(checkpoint: Path, tmp_path: Path, stand_in: Callable[[Any], None]) -> None:
    stand_in(open_network)
    made = export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
    assert [p.name for p in made.files] == ["a.mine", "a.json"] and made.parity.boxes > 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.json", "a.mine"]


def test_what_is_asked_for_is_in_the_file(
    shared: Path, tmp_path: Path, stand_in: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the converter starts from a checkpoint, which is written anew: all that the options say is in it."""
    config, given = tmp_path / "n.yml", shared / "reference" / "nanodet_plus_m_10cls.ckpt"
    names = [f"kind {i}" for i in range(10)]
    config.write_text(f"class_names: {names}\ndata: {{val: {{input_size: [320, 320], keep_ratio: true}}}}\n")
    rng = np.random.default_rng(0)
    pictures = write_coco(tmp_path / "set", {"": [block_picture(rng) for _ in range(2)]})
    stand_in(open_network)
    for worker in (Here, FromCheckpoint):
        monkeypatch.setattr(formats, "Worker", worker)
        mine = Runtime("mine", ("numpy",), open_network, "core" if worker is Here else "checkpoint", ".mine")
        monkeypatch.setattr(formats, "runtime", lambda _name, _option, mine=mine: mine)
        out = tmp_path / worker.__name__ / "a.mine"
        made = export_format(given, out=out, format="mine", input="64x96", config=config, data=pictures)
        card = read_card(json.loads(out.with_suffix(".json").read_text()), out)
        assert (card.names, card.input_size, card.resize, card.form) == (names, (64, 96), "letterbox", "core")
        assert card.parity == made.parity.to_json() and made.parity.pictures == 2 + 5
        assert [i.shape for i in InferenceSession(out).get_inputs()] == [[1, 3, 64, 96]]


def test_an_onnx_is_no_checkpoint(checkpoint: Path, tmp_path: Path, stand_in: Callable[[Any], None]) -> None:
    stand_in(open_network)
    file = write_onnx(checkpoint, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"is already an ONNX; export requires a checkpoint"):
        export_format(file, out=tmp_path / "a.mine", format="mine")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_the_checkpoint_is_not_written_over(
    checkpoint: Path, tmp_path: Path, stand_in: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(open_network)
    for name in ("a.mine", "a.json"):
        given = tmp_path / name
        given.write_bytes(checkpoint.read_bytes())
        with pytest.raises(UsageError, match=f"{name} would overwrite the input"):
            export_format(given, out=tmp_path / "a.mine", format="mine")
        assert given.read_bytes() == checkpoint.read_bytes()
        given.unlink()


@pytest.mark.parametrize(
    ("opener", "said"),
    [
        (wrong, "results differ from the checkpoint's, nothing was kept"),
        (taller, r"mine gives raw outputs of \(\d+, 35\) instead of \(85, 35\)"),
    ],
)
def test_kept_only_where_equal(
    opener: Any, said: str, checkpoint: Path, tmp_path: Path, stand_in: Callable[[Any], None]
) -> None:
    stand_in(opener)
    with pytest.raises(ExportError, match=said):
        export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("copies", [0, 1])
def test_an_interrupt_leaves_what_was_there(
    copies: int, checkpoint: Path, tmp_path: Path, stand_in: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing at first; and of a second export the files of the first one."""
    stand_in(open_network)
    copy, done = formats.shutil.copyfile, []

    def interrupted(old: Path, new: Path) -> None:
        if len(done) == copies:
            raise KeyboardInterrupt
        done.append(copy(old, new))

    for there in ((), ("a.json", "a.mine")):
        if there:
            export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
        before = {file.name: file.read_bytes() for file in (tmp_path / "new").glob("*")}
        done.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(formats.shutil, "copyfile", interrupted)
            export_format(checkpoint, out=tmp_path / "new/a.mine", format="mine")
        after = {file.name: file.read_bytes() for file in (tmp_path / "new").glob("*")}
        assert after == before and sorted(after) == sorted(there)


@pytest.mark.parametrize("text", ['{"images": "my labels"}', "[]", "3", "no json"])
def test_nobodys_json_is_replaced(text: str, checkpoint: Path, tmp_path: Path, stand_in: Callable[[Any], None]) -> None:
    stand_in(open_network)
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UsageError, match=r"train.json already exists and is not from an export"):
        export_format(checkpoint, out=tmp_path / "train.mine", format="mine")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("train.json", text)]


@pytest.mark.parametrize(("name", "suffix"), [("ncnn", ".param"), ("openvino", ".xml")])
def test_nobodys_weights_are_replaced(
    name: str, suffix: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Runtime(name, ("numpy",), open_network, suffix=suffix, convert=copied)
    monkeypatch.setattr(formats, "runtime", lambda _name, _option: mine)
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(UsageError, match=r"a.bin already exists"):
        export_format(checkpoint, out=tmp_path / f"a{suffix}", format=name)


def test_a_converter_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Runtime("mine", ("no_such_module",), open_network, suffix=".mine")
    monkeypatch.setattr(formats, "runtime", lambda _name, _option: absent)
    with pytest.raises(UsageError, match="--format mine: not installed: pip install no_such_module"):
        export_format("no.ckpt", out=tmp_path / "a.mine", format="mine")


@pytest.mark.parametrize(
    ("out", "file"),
    [
        ("phone", "phone/model.param"),
        ("phone.v2", "phone.v2/model.param"),
        ("a.param", "a.param"),
        ("a.mnn", None),
        ("a.onnx", None),
    ],
)
def test_a_folder_may_have_a_dot_in_its_name(
    out: str, file: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Runtime("ncnn", ("numpy",), open_network, suffix=".param", convert=copied)
    monkeypatch.setattr(formats, "runtime", lambda _name, _option: mine)
    if file:
        assert formats._asked("ncnn", tmp_path / out)[1] == tmp_path / file
        (tmp_path / out).mkdir()
        assert formats._asked("ncnn", tmp_path / out)[1] == tmp_path / out / "model.param", "it is a folder"
        return
    with pytest.raises(UsageError, match=r"a file for ncnn must end in .param"):
        formats._asked("ncnn", tmp_path / out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--format tflite", "--format tflite: no such runtime"),
        ("--format opncv", "did you mean opencv?"),
        ("--format mnn --int8 --calib set --opset 20", "only the network, in float32; omit --int8, --calib, --opset"),
        ("--format mnn --form tensor --max-drop 0.1", "omit --form, --max-drop"),
        ("--format torch", "torch has no file format; use one of onnx, openvino, ncnn, mnn"),
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
