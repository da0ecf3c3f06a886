"""nanogfl bench: every row proven before it is timed, the same numbers in every form, one line for mistakes."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from models import scene, write_checkpoint, write_models, write_onnx
from runs import block_picture, write_coco

import nanogfl
from nanogfl.data.readers import read_table
from nanogfl.decode import Thresholds
from nanogfl.deploy import bench as bench_module
from nanogfl.deploy.bench import bench
from nanogfl.deploy.bench_card import COLUMNS, BenchCard
from nanogfl.deploy.bench_models import prepare
from nanogfl.deploy.bench_rows import _ratio
from nanogfl.deploy.build import Form
from nanogfl.deploy.calibrate import observe
from nanogfl.deploy.cut import cut_core
from nanogfl.deploy.device_runner import FrameFile
from nanogfl.deploy.quantize import quantize
from nanogfl.deploy.runtimes import RUNTIMES, runtime
from nanogfl.deploy.runtimes.detector import RuntimeDetector, open_detector, rows
from nanogfl.deploy.runtimes.torch import example, ready
from nanogfl.deploy.worker import LOCAL, Worker, WorkerError
from nanogfl.errors import ModelError, UsageError
from nanogfl.model.detector import Architecture
from nanogfl.runtime.session import OnnxDetector

SIZE, SMALL = (64, 64), Architecture("s", 3)
KEYS = {"model", "precision", "runtime", "threads", "AP", "AP50", "mb", "load_ms", "network_p50_ms", "network_p90_ms"}
KEYS |= {"frame_p50_ms", "frame_p90_ms", "peak_mb", "ratio"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.ckpt, its model.onnx, a set of three pictures, and an ONNX of somebody else."""
    folder = tmp_path_factory.mktemp("bench")
    write_models(folder, SIZE)
    rng = np.random.default_rng(0)
    write_coco(folder / "set", {"": [block_picture(rng) for _ in range(3)]})
    (folder / "empty").mkdir()
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])])  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(other, opset_imports=opset, ir_version=8), folder / "other.onnx")
    return folder


@pytest.fixture(scope="module")
def card(folder: Path) -> BenchCard:
    """The file in three runtimes, of which one cannot take it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "ROUNDS", 2)
        model, names = str(folder / "model.onnx"), ["onnxruntime", "OpenCV", "torch"]
        return bench([model], data=read_table(folder / "set"), split="all", runtimes=names, threads=[1, 2])


def test_rows_and_their_order(card: BenchCard) -> None:
    named = [(row["runtime"], row["threads"]) for row in card.measured]
    assert named == [("onnxruntime", 1), ("onnxruntime", 2), ("opencv", 1), ("opencv", 2)]
    skipped = {"model": "model.onnx", "runtime": "torch"}
    assert card.rows[-1] == skipped | {"skipped": "requires a checkpoint; use that, not its ONNX"}
    assert all(set(row) >= KEYS for row in card.measured)


def test_the_numbers_of_a_row(card: BenchCard, folder: Path) -> None:
    first = card.measured[0]
    assert (first["ratio"], first["frame_ratio"]) == (1.0, 1.0)
    assert first["mb"] == round((folder / "model.onnx").stat().st_size / 1e6, 2)
    for row in card.measured:
        assert 0 < row["network_p50_ms"] <= row["network_p90_ms"] and 0 < row["frame_p50_ms"] <= row["frame_p90_ms"]
        assert 20 < row["peak_mb"] < 2000 and row["load_ms"] > 0 and row["precision"] == "fp32"
        assert row["parity"]["pictures"] == 3 and row["parity"]["boxes"] > 0 and row["parity"]["raw"] < 1e-4


def test_ap_is_what_eval_says(card: BenchCard, folder: Path) -> None:
    expected = nanogfl.evaluate(folder / "model.onnx", folder / "set", split="all")
    for row in card.measured:
        assert row["AP"] == pytest.approx(expected.numbers["AP"], abs=1e-3)
        assert row["AP50"] == pytest.approx(expected.numbers["AP50"], abs=1e-3)


def test_json_table_and_picture(card: BenchCard, tmp_path: Path) -> None:
    card.write_json(tmp_path / "new/b.json")
    card.write_markdown(tmp_path / "new/b.md")
    card.write_plot(tmp_path / "new/b.png")
    content = json.loads((tmp_path / "new/b.json").read_text())
    assert content == {"machine": card.machine, "rows": card.rows}
    assert {"cpu", "cores", "system", "load", "versions"} <= set(content["machine"])
    table = [line for line in (tmp_path / "new/b.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert len(table) == 2 + len(card.measured)
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == list(COLUMNS.values())
    assert "torch: requires a checkpoint" in card.to_markdown()
    assert (tmp_path / "new/b.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["b.json", "b.md", "b.png"]


AS_ON_WINDOWS = """
import os, runpy, sys
from nanogfl.deploy import device_runner
sys.modules["resource"] = None
del os.sysconf, os.getloadavg
device_runner._text = lambda _: ""  # there is no /proc
runpy.run_module("nanogfl.deploy.runtimes.process", run_name="__main__")
"""


def test_what_a_machine_does_not_tell_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "ROUNDS", 1)
    monkeypatch.setattr(bench_module, "LOCAL", [sys.executable, "-c", AS_ON_WINDOWS])
    made = bench([str(folder / "model.onnx")], runtimes=["onnxruntime"])
    (row,) = made.measured
    assert row["peak_mb"] is None and row["frame_p50_ms"] > 0
    assert made.machine["memory_gb"] is None and " GB" not in made.to_markdown()


@pytest.mark.slow
def test_a_checkpoint_without_data(folder: Path, command: Callable[..., Any], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_module, "ROUNDS", 1)
    out = tmp_path / "b.json"
    said = command("bench", folder / "best.ckpt", "--runtime", "torch, onnxruntime", "--json", out)
    assert said.code == 0, said.err
    rows = json.loads(out.read_text())["rows"]
    assert [(row["runtime"], row["AP"], row["AP50"]) for row in rows] == [
        ("torch", None, None),
        ("onnxruntime", None, None),
    ]
    assert rows[0]["mb"] == round((folder / "best.ckpt").stat().st_size / 1e6, 2)
    assert "| best.ckpt | fp32      | torch" in said.out


def test_a_ratio_is_the_median_of_rounds() -> None:
    busy = [[2.0, 2.0, 90.0], [200.0, 220.0, 210.0], [4.0, 4.0, 4.0]]
    base = [[1.0, 1.0, 1.0], [100.0, 105.0, 110.0], [1.0, 1.0, 1.0]]
    assert _ratio(busy, base) == 2.0
    assert _ratio([], base) is None


def test_nanodets_checkpoint_is_what_its_yml_says(shared: Path, tmp_path: Path) -> None:
    """For the runtimes that start from torch as well, which read a checkpoint that was written anew."""
    config, names = tmp_path / "n.yml", [f"kind {i}" for i in range(10)]
    config.write_text(f"class_names: {names}\ndata: {{val: {{input_size: [96, 64], keep_ratio: false}}}}\n")
    given = shared / "reference" / "nanodet_plus_m_10cls.ckpt"
    made = prepare(str(given), "n", tmp_path / "m", [scene()], config)
    assert made.checkpoint is not None
    assert (made.card.names, made.card.input_size) == (names, (64, 96))
    assert ready(made.checkpoint)(*example(made.checkpoint)).shape[2] == 10 + 32


# --- the network alone ---


def test_the_cut_network_finds_the_same(folder: Path, tmp_path: Path) -> None:
    whole = OnnxDetector(folder / "model.onnx")
    core = cut_core(folder / "model.onnx", whole.card)
    assert [o.name for o in core.graph.output] == [f"{k}_{s}" for k in ("classes", "sides") for s in (8, 16, 32, 64)]
    assert not {"Resize", "NonMaxSuppression", "TopK"} & {n.op_type for n in core.graph.node[:2]}
    (tmp_path / "core.onnx").write_bytes(core.SerializeToString())
    again = OnnxDetector(tmp_path / "core.onnx")
    outputs = [o.name for o in core.graph.output]
    for seed in range(3):
        picture = scene(seed=seed)
        found = whole.predict(picture, 0.05)
        for detector in (again, open_detector("onnxruntime", tmp_path / "core.onnx", 1, again.card, outputs)):
            same = detector.predict(picture, 0.05)
            assert len(found) == len(same) > 0
            np.testing.assert_allclose(np.sort(found.scores), np.sort(same.scores), atol=1e-5)


def test_the_deviation_of_an_older_file_is_cut_off_with_the_mean(folder: Path, tmp_path: Path) -> None:
    """Today's files have it in the first convolution's weights."""
    model = onnx.load(folder / "model.onnx")
    means = {node.output[0] for node in model.graph.node if node.op_type == "Sub"}
    (at,) = (i for i, node in enumerate(model.graph.node) if node.op_type == "Conv" and node.input[0] in means)
    stem = model.graph.node[at]
    divide = onnx.helper.make_node("Div", [stem.input[0], "deviation"], ["divided"])
    stem.input[0] = "divided"
    model.graph.node.insert(at, divide)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "deviation"))
    onnx.save(model, tmp_path / "old.onnx")
    card = OnnxDetector(tmp_path / "old.onnx").card
    made, expected = (cut_core(file, card).graph for file in (tmp_path / "old.onnx", folder / "model.onnx"))
    assert [n.op_type for n in made.node][:3] == ["Sub", "Div", "Conv"]
    assert [n.op_type for n in made.node if n is not made.node[1]] == [n.op_type for n in expected.node]


def hide(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["hidden" if name == "class_logits" else name for name in names]


def join_otherwise(model: onnx.ModelProto) -> None:
    """What is joined is not what a Reshape gives."""
    (joined,) = (node for node in model.graph.node if "class_logits" in node.output)
    for node in model.graph.node:
        node.op_type = "Identity" if set(node.output) & set(joined.input) else node.op_type


def join_an_input(model: onnx.ModelProto) -> None:
    (joined,) = (node for node in model.graph.node if "class_logits" in node.output)
    joined.input[0] = "image"


def choose_otherwise(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.op_type = "Mine" if node.op_type == "NonMaxSuppression" else node.op_type


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        *((spoil, "its maps are not named") for spoil in (hide, join_otherwise, join_an_input)),
        (choose_otherwise, "it has the quality predictor"),
    ],
)
def test_a_file_whose_network_cannot_be_found_is_said(
    spoil: Callable[[onnx.ModelProto], None], why: str, folder: Path, tmp_path: Path
) -> None:
    model = onnx.load(folder / "model.onnx")
    spoil(model)
    onnx.save(model, tmp_path / "hidden.onnx")
    with pytest.raises(ModelError, match=f"the network cannot be extracted, {why}"):
        cut_core(tmp_path / "hidden.onnx", OnnxDetector(folder / "model.onnx").card)


def test_a_network_with_a_quality_predictor_is_not_taken_out(tmp_path: Path) -> None:
    """Its class maps alone are not the score."""
    write_checkpoint(tmp_path / "q.ckpt", Architecture("s", 3, quality="top4"), input_size=SIZE)
    file = write_onnx(tmp_path / "q.ckpt", tmp_path / "q.onnx")
    with pytest.raises(ModelError, match="the network cannot be extracted, it has the quality predictor"):
        cut_core(file, OnnxDetector(file).card)


FORMS = [
    pytest.param(SMALL, Form(half=True), id="frame, float16"),
    pytest.param(SMALL, Form("tensor", fixed=True, sigma=True), id="tensor"),
    pytest.param(SMALL, Form("tensor", uint8=True), id="tensor of bytes"),
    pytest.param(SMALL, Form("core"), id="core"),
    pytest.param(Architecture("s", 3, family="first"), Form(), id="the first NanoDet"),
]


@pytest.mark.parametrize(("architecture", "form"), FORMS)
def test_what_is_taken_out_is_the_core_form(architecture: Architecture, form: Form, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.ckpt", architecture, input_size=(64, 96))
    whole = write_onnx(tmp_path / "c.ckpt", tmp_path / "whole.onnx", form)
    write_onnx(tmp_path / "c.ckpt", tmp_path / "core.onnx", Form("core"))
    given, core = onnx.load(whole), cut_core(whole, OnnxDetector(whole).card)
    onnx.checker.check_model(core)
    (tmp_path / "cut.onnx").write_bytes(core.SerializeToString())
    made, expected = (OnnxDetector(tmp_path / f"{name}.onnx") for name in ("cut", "core"))
    assert made.card == replace(expected.card, precision="fp16" if form.half else "fp32")
    assert [(i.name, i.type, i.shape) for i in made.session.get_inputs()] == [
        ("image", "tensor(float)", [1, 3, 64, 96])
    ]
    assert (core.ir_version, core.opset_import) == (given.ir_version, given.opset_import)
    assert {t.name for t in core.graph.initializer} <= {name for node in core.graph.node for name in node.input}
    image = scene(64, 96).transpose(2, 0, 1)[None].astype(np.float32)
    maps, others = (file.run(image, Thresholds()) for file in (made, expected))
    assert list(maps) == list(others) and [m.shape for m in maps.values()] == [m.shape for m in others.values()]
    for name, found in maps.items():
        np.testing.assert_allclose(found, others[name], atol=0.05 if form.half else 1e-5)


def test_rows_puts_levels_and_quality_together() -> None:
    maps = {"classes_8": np.zeros((1, 2, 2, 2), np.float32), "classes_16": np.ones((1, 2, 1, 1), np.float32)}
    maps |= {f"sides_{s}": np.full((1, 3, n, n), s, np.float32) for s, n in ((8, 2), (16, 1))}
    raw = rows(maps)
    assert raw.shape == (5, 5)
    assert raw[:4, 2:].tolist() == [[8] * 3] * 4 and raw[4].tolist() == [1, 1, 16, 16, 16]
    quality = {f"quality_{s}": np.full((1, 1, n, n), 0.5, np.float32) for s, n in ((8, 2), (16, 1))}
    assert rows(maps | quality)[0, 0] == pytest.approx(np.log(0.25 / 0.75))  # half of a score of one half


def test_the_runner_multiplies_the_quality_in(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "q.ckpt", Architecture("s", 3, quality="top4"), input_size=SIZE)
    for form in ("frame", "core"):
        write_onnx(tmp_path / "q.ckpt", tmp_path / f"{form}.onnx", Form(form))
    file, image = FrameFile(str(tmp_path / "frame.onnx"), 1), scene(*SIZE).transpose(2, 0, 1)[None].astype(np.float32)
    file.add_network(str(tmp_path / "core.onnx"), 1)
    core = OnnxDetector(tmp_path / "core.onnx")
    expected = core.rows(core.run(image, Thresholds()))[0]
    np.testing.assert_allclose(file.raw(image), expected, rtol=1e-5, atol=1e-5)


def test_the_network_of_an_int8_file_is_taken_out(folder: Path, tmp_path: Path) -> None:
    """It is compared on frames that need no resizing: exactly the same there, though not where a resize differs."""
    given = onnx.load(folder / "model.onnx")
    whole = OnnxDetector(folder / "model.onnx")
    frames = [scene(480, 640, seed=i) for i in range(3)]
    onnx.save(quantize(given, observe(given, whole, frames).ranges("mse")), tmp_path / "int8.onnx")
    model = prepare(str(tmp_path / "int8.onnx"), "int8", tmp_path / "m", frames)
    assert not model.why_not and model.core is not None and model.card.precision == "int8"
    kinds = {node.op_type for node in onnx.load(model.core).graph.node}
    assert {"MatMul", "QuantizeLinear"} < kinds and "NonMaxSuppression" not in kinds


@pytest.mark.parametrize(("options", "benched"), [({}, True), ({"batch": 2}, False), ({"uint8": True}, False)])
def test_which_tensor_files_are_benched(options: dict[str, Any], benched: bool, folder: Path, tmp_path: Path) -> None:
    file = write_onnx(folder / "best.ckpt", tmp_path / "t.onnx", Form("tensor", **options))
    made = prepare(str(file), "t.onnx", tmp_path / "m", [scene()])
    assert (made.core is not None) == benched
    assert benched or "takes resized uint8 input, or several pictures at once" in made.why_not


# --- other runtimes, where they are installed ---


@pytest.mark.parametrize("name", [r.name for r in RUNTIMES if r.suffix])
def test_a_converted_network_equals_onnxruntime(name: str, folder: Path, tmp_path: Path) -> None:
    chosen = runtime(name)
    if chosen.missing:
        pytest.skip(chosen.missing)
    whole = OnnxDetector(folder / "model.onnx")
    core = cut_core(folder / "model.onnx", whole.card)
    (tmp_path / "core.onnx").write_bytes(core.SerializeToString())
    given = tmp_path / "core.onnx" if chosen.takes == "core" else folder / "best.ckpt"
    out = tmp_path / f"made{chosen.suffix}"
    with Worker(LOCAL) as converter:
        converter.ask("convert", runtime=name, given=str(given), out=str(out))
    made = open_detector(name, out, 1, whole.card, [o.name for o in core.graph.output])
    assert isinstance(made, RuntimeDetector)
    found, expected = made.predict(scene(), 0.05), whole.predict(scene(), 0.05)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_what_is_not_installed_is_said_with_its_package() -> None:
    absent = [r for r in RUNTIMES if r.missing]
    assert all(r.missing and r.missing.startswith("not installed: pip install ") for r in absent)
    assert runtime("onnxruntime").missing is None


# --- mistakes ---


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("model.onnx --runtime onnxrutime", 2, "did you mean onnxruntime?"),
        ("model.onnx --runtime tensorrt-llm", 2, "known: onnxruntime, openvino, ncnn"),
        ("model.onnx --threads 0", 2, "--threads 0"),
        ("model.onnx --runtime ,", 2, "--runtime ',' contains no runtime"),
        ("model.onnx --split val", 2, "--split selects a part of --data"),
        ("model.onnx --plot plot.txt", 2, "--plot plot.txt: the plot is a PNG"),
        ("model.onnx --threads 1,x", 2, "--threads 1,x"),
        ("other.onnx", 1, "not an ONNX file of nanogfl"),
        ("no.onnx", 1, "no.onnx"),
        ("model.onnx --data empty", 1, "empty"),
        ("model.onnx --data set --split tset", 2, "tset"),
        ("model.onnx --runtime torch", 1, "nothing could be measured"),
        ("model.onnx --target telnet://pi", 2, "ssh://user@host"),
        ("model.onnx --target ssh://pi:70000", 2, "ssh://user@host"),
        ("model.onnx --target ssh://pi --runtime ncnn", 2, "onnxruntime only"),
        ("model.onnx --target ssh://127.0.0.1:1", 1, "check that the device is on"),
    ],
)
def test_one_line(folder: Path, command: Callable[..., Any], line: str, code: int, said: str) -> None:
    words = [folder / w if (folder / w).exists() else w for w in line.split()]
    left = command("bench", *words)
    errors = [text for text in left.err.splitlines() if text.startswith("error:")]
    assert left.code == code and len(errors) == 1 and said in errors[0], left


def test_classes_of_another_set(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_coco(tmp_path / "set", {"": [block_picture(rng) for _ in range(2)]}, names=("x", "y", "z"))
    with pytest.raises(nanogfl.NanogflError, match="no class in common"):
        bench([str(folder / "model.onnx")], data=read_table(tmp_path / "set"), split="all", runtimes=["onnxruntime"])


def test_a_worker_that_dies_says_how() -> None:
    with (
        pytest.raises(WorkerError, match="killed by signal 6"),
        Worker([sys.executable, "-c", "import os; os.abort()"]) as w,
    ):
        w.ask("machine")
    with pytest.raises(WorkerError, match="code 1: bad luck"), Worker([sys.executable, "-c", "exit('bad luck')"]) as w:
        w.ask("machine")


def test_a_worker_that_is_gone_says_how_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")  # what Windows makes of a pipe without a reader

    with Worker([sys.executable, "-c", "exit('bad luck')"]) as worker:
        pipe = worker._process.stdin
        assert pipe is not None
        pipe.close()
        monkeypatch.setattr(worker._process, "stdin", SimpleNamespace(write=refuse, flush=refuse, close=refuse))
        with pytest.raises(WorkerError, match="code 1: bad luck"):
            worker.ask("machine")


def test_opencv_reads_a_network_from_a_folder_of_any_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows OpenCV itself opens no names beyond ASCII, so it is given bytes."""
    given: list[object] = []
    monkeypatch.setattr("cv2.dnn.readNetFromONNX", given.append)
    runtime("opencv").open(folder / "model.onnx", 1, [])
    assert [np.asarray(one).tobytes() for one in given] == [(folder / "model.onnx").read_bytes()]


def test_unknown_runtime_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean ncnn"):
        runtime("ncn")
