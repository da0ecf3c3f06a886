"""nanogfl export: the file finds what the checkpoint finds, says what it is, and is only kept when it proved that."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import NAMES, assert_same, scene, write_checkpoint
from onnx import numpy_helper
from runs import block_picture, write_coco

import nanogfl
from nanogfl.decode import Thresholds, sigmoid
from nanogfl.deploy import run as deploy_run
from nanogfl.deploy.build import Form, build
from nanogfl.detections import Detections
from nanogfl.errors import ExportError, ModelError, UsageError
from nanogfl.model.detector import Architecture, Quality
from nanogfl.pictures import Picture
from nanogfl.predictor import TorchDetector
from nanogfl.runtime.card import FORMS
from nanogfl.runtime.session import OnnxDetector
from nanogfl.view import MEAN, RULES, STD, View, normalise

FRAMES: dict[str, Picture] = {
    "scene": scene(),
    "blank": np.full((70, 90, 3), 200, np.uint8),
    "one pixel": np.full((1, 1, 3), 90, np.uint8),
    "strip": scene(37, 901, seed=1),
}
KEYS = ["schema", "classes", "input_size", "resize", "mean", "std", "strides", "reg_max", "form", "precision", "parity",
        "thresholds", "temperature"]  # fmt: skip


def pair(folder: Path, architecture: Architecture, form: Form, **card: Any) -> tuple[TorchDetector, OnnxDetector]:
    """A random checkpoint and the file made of it, not proven."""
    checkpoint = nanogfl.load(write_checkpoint(folder / "best.ckpt", architecture, **card))
    assert isinstance(checkpoint, TorchDetector)
    path = folder / "model.onnx"
    path.write_bytes(build(checkpoint, form).SerializeToString())
    return checkpoint, OnnxDetector(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("export") / "best.ckpt", input_size=(64, 64))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two pictures, so that a proof is short."""
    rng = np.random.default_rng(0)
    return write_coco(tmp_path_factory.mktemp("export") / "set", {"": [block_picture(rng) for _ in range(2)]})


@pytest.fixture(scope="module")
def exported(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> deploy_run.Exported:
    """A proven file in a folder that was not there."""
    out = tmp_path_factory.mktemp("export") / "not" / "there" / "model.onnx"
    return nanogfl.export(checkpoint, out=out, data=pictures, sigma=True)


SMALL = Architecture("s", 3)
SAME = [
    *(pytest.param(SMALL, (96, 96), r, Form("frame"), id=r) for r in RULES),
    pytest.param(SMALL, (96, 160), "letterbox", Form("frame", sigma=True), id="wide, letterbox, sigma"),
    pytest.param(SMALL, (160, 96), "letterbox", Form("tensor", sigma=True), id="high, tensor, sigma"),
    pytest.param(SMALL, (96, 160), "letterbox-antialias", Form("tensor"), id="tensor, antialias outside the file"),
    pytest.param(SMALL, (96, 160), "stretch-antialias", Form("core"), id="core"),
    pytest.param(SMALL, (96, 160), "stretch", Form("frame", fixed=True, sigma=True), id="fixed, sigma"),
    pytest.param(SMALL, (96, 96), "stretch", Form("tensor", fixed=True), id="fixed tensor"),
    pytest.param(SMALL, (96, 96), "stretch", Form("frame", opset=20), id="a newer operator set"),
    pytest.param(SMALL, (64, 64), "stretch", Form("frame"), id="the smallest input, one cell at stride 64"),
    pytest.param(Architecture("m", 3), (96, 160), "stretch-corner", Form("frame", sigma=True), id="m"),
    pytest.param(Architecture("l", 3), (96, 160), "stretch", Form("core"), id="l, core"),
    pytest.param(Architecture("l", 3), (96, 160), "letterbox", Form("frame"), id="l"),
    pytest.param(Architecture("s", 1), (96, 96), "stretch", Form("frame"), id="one class"),
    pytest.param(Architecture("s", 3, share_levels=True), (96, 160), "stretch", Form("frame"), id="one branch"),
    pytest.param(
        Architecture("s", 3, share_levels=True), (96, 160), "stretch", Form("core"), id="one branch, four maps"
    ),
    pytest.param(
        Architecture("s", 3, quality="top4"), (96, 160), "stretch", Form("frame", sigma=True), id="quality top4"
    ),
    pytest.param(Architecture("s", 3, quality="moments"), (96, 160), "letterbox", Form("frame"), id="quality moments"),
    pytest.param(
        Architecture("m", 3, share_levels=True, quality="top4"),
        (96, 96),
        "stretch",
        Form("tensor"),
        id="m, one branch, quality, tensor",
    ),
]


@pytest.mark.parametrize(("architecture", "size", "rule", "form"), SAME)
def test_the_file_finds_what_the_checkpoint_finds(
    tmp_path: Path, architecture: Architecture, size: tuple[int, int], rule: str, form: Form
) -> None:
    names = NAMES[: architecture.classes]
    torch, file = pair(tmp_path, architecture, form, input_size=size, resize=rule, names=names, temperature=1.7)
    assert file.names == list(names) and file.input_size == size and file.card.form == form.form
    for name, frame in FRAMES.items():
        expected, found = torch.predict(frame, 0.05), file.predict(frame, 0.05)
        assert len(expected) >= 10, f"{name}: too few to say anything"
        assert_same(found, expected, 1e-2 * max(1, max(frame.shape) / min(size)))  # 1e-2 px of the input
        assert (found.side_sigma is not None) == (form.sigma or form.form == "core")
        assert found.labels.dtype == np.int64 and found.boxes.dtype == found.scores.dtype == np.float32
        assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("form", ["frame", "tensor", "core"])
def test_what_is_in_the_file(tmp_path: Path, form: str) -> None:
    _, file = pair(tmp_path, SMALL, Form(form, sigma=form != "core"))
    model = onnx.load(str(file.path), load_external_data=False)
    nodes = Counter(node.op_type for node in model.graph.node)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    assert nodes["BatchNormalization"] == 0
    assert nodes["Transpose"] == {"frame": 3, "tensor": 2, "core": 0}[form]  # picture, boxes, sigma; never a shuffle
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "model.onnx"]
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    assert {tensor.name for tensor in model.graph.initializer} <= used, "dead constants"
    assert {name for node in model.graph.node for name in node.output if name} & used, "dead nodes"


def test_inputs_and_outputs_are_the_contract(exported: deploy_run.Exported) -> None:
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "image": ("tensor(uint8)", ["height", "width", 3])
    }
    assert {i.name: (i.type, i.shape) for i in session.get_overridable_initializers()} == {
        "score_threshold": ("tensor(float)", []),
        "iou_threshold": ("tensor(float)", []),
        "max_boxes": ("tensor(int64)", []),
    }
    assert [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()] == [
        ("boxes", "tensor(float)", [4]),
        ("scores", "tensor(float)", []),
        ("labels", "tensor(int64)", []),
        ("side_sigma", "tensor(float)", [4]),
    ]


def test_core_gives_the_networks_own_maps(tmp_path: Path) -> None:
    torch, file = pair(tmp_path, SMALL, Form("core"), input_size=(96, 160))
    resized = View((120, 160), (96, 160), "stretch").apply(scene())
    outputs = file.run(resized.transpose(2, 0, 1)[None].copy(), Thresholds())
    assert {name: value.shape for name, value in outputs.items()} == {
        **{f"classes_{s}": (1, 3, -(-96 // s), -(-160 // s)) for s in (8, 16, 32, 64)},
        **{f"sides_{s}": (1, 32, -(-96 // s), -(-160 // s)) for s in (8, 16, 32, 64)},
    }
    kinds = ("classes", "sides")
    rows = [np.concatenate([outputs[f"{k}_{s}"].reshape(-1, -(-96 // s) * -(-160 // s)) for k in kinds])
            for s in (8, 16, 32, 64)]  # fmt: skip
    raw = torch.raw(normalise(resized)[None])[0]
    np.testing.assert_allclose(np.concatenate(rows, axis=1).T, raw, atol=1e-4)


def test_the_shapes_of_maps_are_declared(tmp_path: Path) -> None:
    """Other runtimes' converters go by them."""
    architecture = Architecture("s", 2, reg_max=5, quality="top4")
    form = Form("core", batch=2)
    _, file = pair(tmp_path, architecture, form, input_size=(96, 160), names=("a", "b"))
    declared = {
        output.name: [axis.dim_value for axis in output.type.tensor_type.shape.dim]
        for output in onnx.load(file.path).graph.output
    }
    assert declared == {
        f"{kind}_{stride}": [2, channels, -(-96 // stride), -(-160 // stride)]
        for kind, channels in (("classes", 2), ("sides", 24), ("quality", 1))
        for stride in (8, 16, 32, 64)
    }


# --- with nothing but onnxruntime ---


def bare(path: Path) -> Callable[..., dict[str, Any]]:
    """The file as an app runs it."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda image, **asked: dict(zip(names, session.run(None, {"image": image, **asked}), strict=True))


def as_detections(outputs: dict[str, Any]) -> Detections:
    return Detections(outputs["boxes"], outputs["scores"], outputs["labels"], list(NAMES), outputs["side_sigma"])


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_onnxruntime_alone_gives_the_boxes(exported: deploy_run.Exported, checkpoint: Path, frame: Picture) -> None:
    outputs = bare(exported.path)(frame)
    expected = nanogfl.load(checkpoint).predict(frame, 0.05, iou=0.6, max_boxes=100)
    assert_same(as_detections(outputs), expected)
    height, width = frame.shape[:2]
    assert (outputs["boxes"] >= 0).all() and (outputs["boxes"] <= [width, height, width, height]).all()
    assert (outputs["scores"] > 0.05).all() and (outputs["side_sigma"] >= 0).all()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"score_threshold": 0.3}, "only the sure ones"),
        ({"score_threshold": 0.05, "iou_threshold": 0.6, "max_boxes": 100}, "the defaults, said aloud"),
        ({"iou_threshold": 0.2}, "fewer neighbours"),
        ({"iou_threshold": 1.0, "max_boxes": 1000}, "no suppression"),
        ({"max_boxes": 7}, "the best of all classes together"),
        ({"max_boxes": 1}, "the best"),
        ({"max_boxes": 0}, "none"),
        ({"score_threshold": 0.0, "max_boxes": 300}, "everything"),
        ({"score_threshold": 1.0}, "nothing"),
    ],
)
def test_optional_inputs(exported: deploy_run.Exported, checkpoint: Path, asked: dict[str, float], reason: str) -> None:
    kinds = {"score_threshold": np.float32, "iou_threshold": np.float32, "max_boxes": np.int64}
    outputs = bare(exported.path)(scene(), **{k: np.array(v, kinds[k]) for k, v in asked.items()})
    limits = {"score": 0.05, "iou": 0.6, "max_boxes": 100}
    limits |= {{"score_threshold": "score", "iou_threshold": "iou"}.get(k, k): v for k, v in asked.items()}
    expected = nanogfl.load(checkpoint).predict(scene(), **limits)
    assert_same(as_detections(outputs), expected)
    assert len(outputs["scores"]) <= limits["max_boxes"], reason
    assert outputs["boxes"].shape == outputs["side_sigma"].shape == (len(expected), 4)


def test_fixed_thresholds_are_no_inputs(tmp_path: Path) -> None:
    form = Form("frame", fixed=True, thresholds=Thresholds(0.2, 0.4, 9))
    torch, file = pair(tmp_path, SMALL, form)
    assert [i.name for i in file.session.get_inputs()] == ["image"]
    assert not file.session.get_overridable_initializers() and file.card.thresholds == form.thresholds
    assert_same(file.predict(scene(), 0.2), torch.predict(scene(), 0.2, iou=0.4, max_boxes=9))
    assert (file.predict(scene(), 0.3).scores > 0.3).all()  # a higher one is applied on top


@pytest.mark.parametrize("fixed", [pytest.param(True, id="fixed"), pytest.param(False, id="asked")])
def test_predict_asks_the_file_for_what_it_was_asked(tmp_path: Path, fixed: bool) -> None:
    torch, file = pair(tmp_path, SMALL, Form("frame", fixed=fixed))
    for score, boxes in ((0.05, 100), (0.2, 100), (0.2, 4)):
        assert_same(file.predict(scene(), score, max_boxes=boxes), torch.predict(scene(), score, max_boxes=boxes))


@pytest.mark.parametrize(("score", "iou", "boxes"), [(0.01, 0.6, 100), (0.05, 0.2, 100), (0.05, 0.9, 300)])
def test_predict_passes_thresholds_on(
    exported: deploy_run.Exported, checkpoint: Path, score: float, iou: float, boxes: int
) -> None:
    file, torch = nanogfl.load(exported.path), nanogfl.load(checkpoint)
    expected = torch.predict(scene(), score, iou=iou, max_boxes=boxes)
    assert_same(file.predict(scene(), score, iou=iou, max_boxes=boxes), expected)


# --- what the file says of itself ---


def test_metadata(exported: deploy_run.Exported) -> None:
    model = onnx.load(str(exported.path))
    said = {p.key: p.value for p in model.metadata_props}
    assert sorted(said) == sorted(f"nanogfl.{key}" for key in KEYS)
    said = {key.removeprefix("nanogfl."): value for key, value in said.items()}
    assert said["schema"] == "1" and said["precision"] == "fp32" and said["form"] == "frame"
    assert json.loads(said["classes"]) == list(NAMES)
    assert said["input_size"] == "64,64"
    assert said["resize"] == "stretch"
    assert [float(v) for v in said["mean"].split(",")] == list(MEAN)
    assert [float(v) for v in said["std"].split(",")] == list(STD)
    assert [int(v) for v in said["strides"].split(",")] == [8, 16, 32, 64]
    assert int(said["reg_max"]) == 7
    parity = json.loads(said["parity"])
    assert parity == exported.parity.to_json()
    assert parity["pictures"] == 2 + 5 and parity["boxes"] > 50 and parity["one_sided"] == 0
    assert 0 <= parity["box_px"] < 0.5 and 0 <= parity["score"] < 1e-3 and parity["raw"] < 1e-2


def test_what_export_returns(exported: deploy_run.Exported) -> None:
    assert exported.megabytes == exported.path.stat().st_size / 1e6
    assert sum(exported.nodes.values()) == len(onnx.load(str(exported.path)).graph.node)
    assert [p.name for p in exported.path.parent.iterdir()] == ["model.onnx"]
    assert exported.parity.holds


def test_names_of_any_kind_survive(tmp_path: Path) -> None:
    names = ("größe", 'a "quoted", name', "赤")
    _, file = pair(tmp_path, SMALL, Form(), names=names)
    assert file.names == list(names)


def test_another_input_size(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    made = nanogfl.export(checkpoint, out=tmp_path / "m.onnx", input="64x96", data=pictures)
    file, torch = nanogfl.load(made.path), nanogfl.load(checkpoint, input=(64, 96))
    assert file.input_size == (64, 96)
    assert_same(file.predict(scene(), 0.05), torch.predict(scene(), 0.05))


# --- proof ---


def test_without_data_it_is_proven_on_drawn_pictures(checkpoint: Path, tmp_path: Path) -> None:
    made = nanogfl.export(checkpoint, out=tmp_path / "m.onnx")
    assert made.parity.pictures == 24 + 5 and made.parity.boxes > 200 and made.parity.holds


QUALITIES = ("none", "top4", "moments")
PROVEN = [
    *(pytest.param(SMALL, r, Form("frame", sigma=True), id=r) for r in RULES),
    *(pytest.param(Architecture("s", 3, quality=q), "letterbox", Form(f), id=f"quality {q}, {f}")
      for q in QUALITIES for f in FORMS),
    pytest.param(Architecture("s", 3, reg_max=11, quality="top4"), "stretch", Form(), id="reg_max 11"),
    pytest.param(Architecture("s", 1, reg_max=4, quality="moments"), "stretch", Form("core"), id="reg_max 4, core"),
    pytest.param(SMALL, "letterbox", Form("tensor", batch=3, sigma=True), id="three pictures"),
    pytest.param(SMALL, "stretch", Form("tensor", batch=2, fixed=True, uint8=True), id="two pictures of bytes, fixed"),
    pytest.param(SMALL, "stretch", Form("core", batch=4), id="four pictures, maps"),
    pytest.param(SMALL, "letterbox-antialias", Form("core", uint8=True), id="maps of bytes"),
    pytest.param(SMALL, "stretch", Form("frame", half=True), id="float16"),
    pytest.param(Architecture("s", 3, quality="top4"), "stretch", Form("core", half=True), id="float16, quality, maps"),
    pytest.param(SMALL, "stretch", Form("frame", fixed=True, thresholds=Thresholds(0.2, 0.4, 9)), id="fixed, others"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "rule", "form"), PROVEN)
def test_export_proves_every_kind(
    tmp_path: Path, pictures: Path, architecture: Architecture, rule: str, form: Form
) -> None:
    names = NAMES[: architecture.classes]
    checkpoint = write_checkpoint(tmp_path / "best.ckpt", architecture, resize=rule, input_size=(64, 96), names=names)
    parity = nanogfl.export(checkpoint, out=tmp_path / "m.onnx", data=pictures, form=form).parity
    assert parity.raw is not None and parity.pictures == 2 + 5 and parity.boxes > 20 and parity.one_sided == 0
    assert (parity.tolerances.score > 1e-3) == form.half and parity.box_px < parity.tolerances.box_px
    file = nanogfl.load(tmp_path / "m.onnx")
    assert isinstance(file, OnnxDetector)
    assert file.card.precision == ("fp16" if form.half else "fp32") and file.batch == form.batch


def test_float16_is_half_the_size(tmp_path: Path) -> None:
    _, full = pair(tmp_path, SMALL, Form("core"))
    size = full.path.stat().st_size
    _, half = pair(tmp_path, SMALL, Form("core", half=True))
    assert half.path.stat().st_size < 0.6 * size


def test_a_batch_gives_what_its_pictures_give_alone(tmp_path: Path) -> None:
    torch, file = pair(tmp_path, SMALL, Form("tensor", batch=3, sigma=True))
    frames = [*FRAMES.values(), scene(200, 90, seed=3)]  # one more than fits twice
    together = file.predict_batch(frames, Thresholds(0.05))
    for frame, found in zip(frames, together, strict=True):
        assert_same(found, torch.predict(frame, 0.05), 0.1)
    outputs = file.run(file.prepare(frames[:3]), Thresholds(0.05))
    assert outputs["counts"].tolist() == [len(found) for found in together[:3]]
    assert len(outputs["boxes"]) == outputs["counts"].sum()


def disturb(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Build as before, but with one weight of a convolution changed."""

    def wrong(detector: TorchDetector, form: Form) -> onnx.ModelProto:
        model = build(detector, form)
        weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
        name = weights[0 if which == "first" else -1]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += 2.0
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        return model

    monkeypatch.setattr(deploy_run, "build", wrong)


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_file_that_differs_is_not_kept(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    disturb(monkeypatch, which)
    with pytest.raises(ExportError, match="the two models differ"):
        nanogfl.export(checkpoint, out=tmp_path / "new" / "m.onnx", data=pictures)
    assert not list((tmp_path / "new").glob("*"))


def test_an_older_file_stays_when_the_new_one_differs(
    checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    old = tmp_path / "m.onnx"
    old.write_bytes(b"the older file")
    disturb(monkeypatch, "first")
    said = command("export", checkpoint, "--out", old, "--data", pictures)
    assert said.code == 1 and said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "px" in lines[0] and "000.png" not in lines[0] and "scores by" in lines[0]
    assert old.read_bytes() == b"the older file" and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_an_interrupt_leaves_nothing(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy_run, "check_equal", interrupted)
    (tmp_path / "m.onnx").write_bytes(b"the older file")
    with pytest.raises(KeyboardInterrupt):
        nanogfl.export(checkpoint, out=tmp_path / "m.onnx", data=pictures)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"the older file"


def test_the_command(checkpoint: Path, pictures: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    out = tmp_path / "a" / "b" / "m.onnx"
    options = ["--data", pictures, "--input", "96x64", "--form", "tensor", "--sigma", "--fixed", "--opset", "19"]
    said = command("export", checkpoint, "--out", out, *options)
    assert said.code == 0 and f"{out}: " in said.out and " MB, " in said.out and "Conv" in said.out
    assert "equal to the checkpoint: 7 pictures" in said.out
    model = onnx.load(str(out))
    assert model.opset_import[0].version == 19
    assert [i.name for i in model.graph.input] == ["image"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 64]
    assert [o.name for o in model.graph.output] == ["boxes", "scores", "labels", "side_sigma"]


@pytest.mark.parametrize(
    ("options", "code", "said", "reason"),
    [
        (["--out", "m.pt"], 2, "must end in .onnx", "another suffix"),
        (["--out", "m"], 2, "must end in .onnx", "no suffix"),
        (["--out", "file/m.onnx"], 2, "is a file, not a folder", "a file stands where a folder should"),
        (["--out", "folder.onnx"], 2, "--out folder.onnx is a folder", "said before the proof"),
        (["--out", "m.onnx", "--input", "7x7"], 2, "64x64", "no multiple of 32"),
        (["--out", "m.onnx", "--form", "frames"], 2, "frame, tensor, core", "an unknown form"),
        (["--out", "m.onnx", "--opset", "17"], 2, "use 18 to", "Resize has no antialias before 18"),
        (["--out", "m.onnx", "--opset", "999"], 2, "use 18 to", "not yet known"),
        (["--out", "m.onnx", "--data", "nowhere"], 1, "nowhere", "no such set"),
        ([], 2, "--out", "nowhere to write"),
    ],
)
def test_refusals(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    options: list[str],
    code: int,
    said: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("folder.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))
    left = command("export", checkpoint, *options)
    errors = [line for line in left.err.splitlines() if line.startswith("error: ")]
    assert left.code == code and len(errors) == 1 and said in errors[0], (reason, left)
    assert "Traceback" not in left.err and "unexpected" not in left.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_onnx_is_no_checkpoint(exported: deploy_run.Exported, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is already an ONNX; export requires a checkpoint"):
        nanogfl.export(exported.path, out=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quality", ["top4", "moments"])
def test_core_gives_the_quality_as_maps(tmp_path: Path, quality: Quality) -> None:
    torch, file = pair(tmp_path, Architecture("s", 3, quality=quality), Form("core"), input_size=(96, 160))
    outputs = file.run(file.prepare([scene()]), Thresholds())
    assert {n: v.shape for n, v in outputs.items() if n.startswith("quality")} == {
        f"quality_{s}": (1, 1, -(-96 // s), -(-160 // s)) for s in (8, 16, 32, 64)
    }
    view = View((120, 160), (96, 160), "stretch")
    raw = torch.raw(normalise(view.apply(scene()))[None])[0]
    np.testing.assert_allclose(sigmoid(file.rows(outputs)[0, :, :3]), sigmoid(raw[:, :3]), atol=1e-5)
    classes = np.concatenate([outputs[f"classes_{s}"].reshape(3, -1) for s in (8, 16, 32, 64)], axis=1).T
    assert np.abs(sigmoid(classes) - sigmoid(raw[:, :3])).max() > 0.01, "the class maps alone are not the score"


def test_what_fixed_thresholds_cannot_give_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, file = pair(tmp_path, SMALL, Form("frame", fixed=True))
    file.predict(scene(), 0.3)
    file.predict(scene(), 0.3, max_boxes=5)
    assert not caplog.records
    for _ in range(2):
        file.predict(scene(), 0.3, iou=0.5)
    (record,) = caplog.records
    assert "are fixed at score 0.05, IoU 0.6 and 100 boxes" in record.getMessage()


@pytest.mark.parametrize("asked", [{"score": 0.01}, {"max_boxes": 101}, {"iou": 0.7}])
def test_each_limit_that_a_fixed_file_cannot_give_is_said(
    tmp_path: Path, asked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    _, file = pair(tmp_path, SMALL, Form("frame", fixed=True))
    file.predict(scene(), **asked)
    assert ["are not available" in record.getMessage() for record in caplog.records] == [True]


def test_fewer_boxes_and_higher_scores_can_be_had_from_a_fixed_file(tmp_path: Path) -> None:
    _, file = pair(tmp_path, SMALL, Form("tensor", fixed=True))
    found = file.predict(scene(), 0.05)
    assert len(found) > 5
    assert_same(file.predict(scene(), 0.05, max_boxes=5), found.select(np.arange(5)))
    middle = float(found.scores[3])
    assert_same(file.predict(scene(), middle), found.select(np.flatnonzero(found.scores > middle)))


@pytest.mark.parametrize("form", ["tensor", "core"])
def test_bytes_are_rounded_and_not_cut(tmp_path: Path, form: str) -> None:
    _, file = pair(tmp_path, SMALL, Form(form, uint8=True))
    image = View(scene().shape[:2], file.input_size, file.card.resize).apply(scene())
    assert (image % 1 > 0.6).any()
    np.testing.assert_array_equal(file.prepare([scene()])[0], np.rint(image).transpose(2, 0, 1))


def test_the_deviation_of_maps_has_its_temperature(tmp_path: Path) -> None:
    torch, file = pair(tmp_path, SMALL, Form("core"), temperature=1.7)
    found, expected = file.predict(scene(), 0.05), torch.predict(scene(), 0.05)
    assert expected.side_sigma is not None and expected.side_sigma.max() > 1
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"form": "frame", "batch": 2}, "takes one frame"),
        ({"form": "tensor", "batch": 0}, "--batch 0"),
        ({"form": "frame", "uint8": True}, "takes bytes anyway"),
        ({"form": "core", "sigma": True}, "omit --fixed and --sigma"),
        ({"form": "core", "fixed": True}, "omit --fixed and --sigma"),
    ],
)
def test_forms_that_make_no_sense(form: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Form(**form)


def test_operators_from_the_first_antialiased_resize_to_onnxs_newest() -> None:
    newest = onnx.defs.onnx_opset_version()
    assert [Form(opset=opset).opset for opset in (18, newest)] == [18, newest]
    for opset in (17, newest + 1):
        with pytest.raises(UsageError, match=f"^--opset {opset}: use 18 to {newest}$"):
            Form(opset=opset)
