"""The exported file against the checkpoint that it was made of, run by onnxruntime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from runs import Drawn, write_coco
from untrained import NAMES, predictor, random_detector, scene, write_checkpoint

import nanogfl
from nanogfl.decode import Layout, decode
from nanogfl.deploy import run as deploy_run
from nanogfl.deploy.build import Form, build
from nanogfl.detections import Detections
from nanogfl.errors import ExportError, ModelError, NanogflError, UsageError
from nanogfl.model.detector import Detector
from nanogfl.pictures import Picture
from nanogfl.predictor import TorchDetector
from nanogfl.view import MEAN, RULES, STD, View, normalise

BOX_PX, SCORE, RAW = 1e-2, 1e-4, 1e-3  # boxes in px of the input: the frame's are the same divided by the scale
FRAMES = {
    "a scene": scene(100, 240, 320),
    "upright": scene(101, 200, 100),
    "larger than the input": scene(102, 700, 500),
    "a strip": scene(103, 37, 901),
    "one pixel off": scene(104, 97, 161),
    "blank": np.full((60, 80, 3), 255, np.uint8),
    "one pixel": np.full((1, 1, 3), 90, np.uint8),
}
BORDER = "onnxruntime's antialiased Resize counts the outermost pixels twice without exclude_outside=1"


@dataclass(frozen=True)
class Case:
    """What is exported."""

    form: str = "frame"
    resize: str = "stretch"
    input: tuple[int, int] = (96, 160)
    size: Any = "s"
    architecture: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0

    def detector(self) -> TorchDetector:
        network = network_of(self.size, tuple(self.architecture.items()))
        made = predictor(network, self.input, self.resize)
        return TorchDetector(network, replace(made.card, temperature=self.temperature), made.source, made.kind)


@lru_cache(maxsize=16)
def network_of(size: Any, architecture: tuple[tuple[str, Any], ...]) -> Detector:
    return random_detector(size, **dict(architecture))


class File:
    """An exported model under onnxruntime alone, with its raw logits as further outputs."""

    def __init__(self, model: onnx.ModelProto, case: Case) -> None:
        self.case, proto = case, onnx.ModelProto()
        proto.CopyFrom(model)
        self.outputs = [o.name for o in proto.graph.output]
        self.logits = [] if case.form == "core" else ["class_logits", "side_logits"]
        for name in self.logits:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, picture: Picture, **optional: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """All outputs by name."""
        names = [*self.outputs, *self.logits]
        values = self.session.run(names, {"image": self.image(picture), **optional})
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def image(self, picture: Picture) -> NDArray[Any]:
        if self.case.form == "frame":
            return picture
        return np.ascontiguousarray(self.view(picture).apply(picture).transpose(2, 0, 1))[None]

    def view(self, picture: Picture) -> View:
        return View(picture.shape[:2], self.case.input, self.case.resize)

    def raw(self, outputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """[P, C + 4 * (R + 1)]"""
        if self.case.form == "core":
            kinds = [[outputs[f"{kind}_{s}"][0] for s in (8, 16, 32, 64)] for kind in ("classes", "sides")]
            return np.concatenate([np.concatenate([m.reshape(len(m), -1) for m in maps], 1) for maps in kinds]).T
        return np.concatenate([outputs[name][0] for name in self.logits]).T

    def detections(self, picture: Picture, outputs: dict[str, NDArray[Any]]) -> Detections:
        """In the picture's frame, as an app would compute it from the form's outputs."""
        view = self.view(picture)
        if self.case.form == "core":
            return decode(self.raw(outputs), Layout(self.case.input, sigma=True), view, NAMES)
        boxes, sigma = outputs["boxes"], outputs.get("side_sigma")
        if self.case.form == "tensor":
            boxes, sigma = view.back(boxes), None if sigma is None else view.back_lengths(sigma)
        return Detections(boxes, outputs["scores"], outputs["labels"], list(NAMES), sigma)


class Difference(NamedTuple):
    """Largest differences of partners (box and sigma in input px), and how many boxes have none."""

    box: float
    score: float
    sigma: float
    alone: int


def difference(a: Detections, b: Detections, view: View) -> Difference:
    """Each box with the box of its class that is most like it, in place and score."""
    scale = np.array([view.scale[1], view.scale[0]] * 2)
    worst, partners = np.zeros(3), set()
    ends = [d.scores[-1] if len(d) == 100 else 0.05 for d in (a, b)]
    alone = 0
    for i in range(len(a)):
        box = np.where(a.labels[i] == b.labels, (np.abs(a.boxes[i] - b.boxes) * scale).max(axis=1), np.inf)
        cost = box + 10 * np.abs(a.scores[i] - b.scores)
        cost[list(partners)] = np.inf
        j = int(cost.argmin()) if len(b) else -1
        if j < 0 or cost[j] > 1:
            alone += a.scores[i] > max(ends) + SCORE
            continue
        partners.add(j)
        sigmas = (a.side_sigma, b.side_sigma)
        sigma = 0.0 if sigmas[0] is None or sigmas[1] is None else np.abs((sigmas[0][i] - sigmas[1][j]) * scale).max()
        worst = np.maximum(worst, [box[j], abs(a.scores[i] - b.scores[j]), sigma])
    alone += sum(b.scores[j] > max(ends) + SCORE for j in range(len(b)) if j not in partners)
    return Difference(*worst.tolist(), int(alone))


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-x))


FORMS = ("frame", "tensor", "core")
CASES = [Case(form, rule) for form in FORMS for rule in RULES] + [
    Case("frame", "letterbox", (160, 96), "m"),
    Case("frame", "stretch", (128, 128), "l"),
    Case("tensor", "stretch-corner", (128, 128), "m"),
    Case("core", "letterbox", (64, 224), "l"),
    Case("frame", "stretch-corner", size="m", architecture={"share_levels": True}),
    Case("core", "stretch", architecture={"share_levels": True}),
    Case("frame", "stretch", architecture={"quality": "top4"}),
    Case("frame", "letterbox", size="m", architecture={"quality": "moments"}, options={"sigma": True}),
    Case("tensor", "letterbox", architecture={"quality": "top4", "share_levels": True}, options={"fixed": True}),
    Case("tensor", "stretch", architecture={"quality": "moments"}),
    Case("frame", "letterbox", options={"sigma": True}, temperature=1.7),
    Case("tensor", "stretch", options={"sigma": True, "fixed": True}, temperature=0.5),
    Case("frame", "stretch", options={"fixed": True}),
    Case("frame", "stretch-corner", options={"opset": 20}),
    Case("frame", "stretch", architecture={"reg_max": 11}),
]


def label(case: Case) -> str:
    more = [f"{k}={v}" for k, v in (case.architecture | case.options).items()]
    return " ".join([case.form, case.resize, case.size, "{}x{}".format(*case.input), *more])


def marked(case: Case) -> Any:
    broken = case.form == "frame" and case.resize.endswith("antialias")
    marks = [pytest.mark.xfail(strict=True, reason=BORDER)] if broken else []
    return pytest.param(case, id=label(case), marks=marks)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_same_as_the_checkpoint(case: Case) -> None:
    detector = case.detector()
    file = File(build(detector, Form(case.form, **case.options)), case)
    total = 0
    for name, picture in FRAMES.items():
        outputs = file.run(picture)
        found, expected = file.detections(picture, outputs), detector.predict(picture, 0.05)
        total += len(expected)
        d = difference(expected, found, file.view(picture))
        assert d.box < BOX_PX and d.score < SCORE and d.sigma < BOX_PX and d.alone == 0, (name, d)
        check_outputs(found, picture, case)
        check_raw(file.raw(outputs), detector, file.view(picture).apply(picture))
    assert total > 100, "too few boxes to say anything"


def check_outputs(found: Detections, picture: Picture, case: Case) -> None:
    height, width = picture.shape[:2]
    assert found.boxes.dtype == np.float32 and found.scores.dtype == np.float32 and found.labels.dtype == np.int64
    assert (np.diff(found.scores) <= 0).all() and found.scores.min(initial=1) > 0.05 and found.scores.max(initial=0) < 1
    assert (
        (found.boxes >= 0).all() and (found.boxes[:, [0, 2]] <= width).all() and (found.boxes[:, 1::2] <= height).all()
    )
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert set(found.labels.tolist()) <= {0, 1, 2} and len(found) <= 100
    sigma = found.side_sigma
    assert (sigma is not None) == (case.form == "core" or bool(case.options.get("sigma")))
    assert sigma is None or (sigma.shape == (len(found), 4) and (sigma > 0).all())


def check_raw(raw: NDArray[np.float32], detector: TorchDetector, image: NDArray[np.float32]) -> None:
    expected = detector.raw(normalise(image)[None])[0]
    sides = expected.shape[1] - len(NAMES)
    assert np.abs(raw[:, -sides:] - expected[:, -sides:]).max() < RAW
    if detector.network.head.quality is None:  # else the file's class logits are those before the product
        assert np.abs(raw[:, :-sides] - expected[:, :-sides]).max() < RAW
    else:
        assert (sigmoid(raw[:, :-sides]) >= sigmoid(expected[:, :-sides]) - SCORE).all()


def test_the_pictures_decide_what_is_found() -> None:
    detector = Case().detector()
    first, second = (detector.predict(FRAMES[name], 0.05) for name in ("a scene", "larger than the input"))
    assert np.abs(first.scores[:10] - second.scores[:10]).max() > 100 * SCORE


PLAIN_OPERATORS = {"", "ai.onnx"}


@pytest.mark.parametrize("form", FORMS)
def test_what_the_file_is_made_of(form: str) -> None:
    model = build(Case().detector(), Form(form, sigma=form != "core"))
    assert {node.domain for node in model.graph.node} <= PLAIN_OPERATORS
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and model.ir_version == 8
    assert len(model.functions) == 0 and all(not t.external_data for t in model.graph.initializer)
    assert {node.name for node in model.graph.node} >= ({"nms", "boxes"} if form != "core" else {"classes_8"})
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("form", "inputs", "outputs"),
    [
        (
            "frame",
            {"image": ("UINT8", ["height", "width", 3])},
            {"boxes": ("FLOAT", ["boxes", 4]), "scores": ("FLOAT", ["boxes"]), "labels": ("INT64", ["boxes"])},
        ),
        (
            "tensor",
            {"image": ("FLOAT", [1, 3, 96, 160])},
            {"boxes": ("FLOAT", ["boxes", 4]), "scores": ("FLOAT", ["boxes"]), "labels": ("INT64", ["boxes"])},
        ),
        (
            "core",
            {"image": ("FLOAT", [1, 3, 96, 160])},
            {
                f"{kind}_{stride}": ("FLOAT", [1, channels, *cells])
                for kind, channels in (("classes", 3), ("sides", 32))
                for stride, cells in ((8, [12, 20]), (16, [6, 10]), (32, [3, 5]), (64, [2, 3]))
            },
        ),
    ],
)
def test_inputs_and_outputs(form: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    def spoken(values: Any) -> dict[str, tuple[str, list[Any]]]:
        return {
            v.name: (
                onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type),
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        }

    thresholds = {"score_threshold": ("FLOAT", []), "iou_threshold": ("FLOAT", []), "max_boxes": ("INT64", [])}
    model = build(Case().detector(), Form(form))
    assert spoken(model.graph.input) == (inputs if form == "core" else inputs | thresholds)
    assert spoken(model.graph.output) == outputs
    if form != "core":
        sigma = build(Case().detector(), Form(form, sigma=True, fixed=True))
        assert spoken(sigma.graph.input) == inputs
        assert spoken(sigma.graph.output) == outputs | {"side_sigma": ("FLOAT", ["boxes", 4])}


@pytest.fixture(scope="module")
def plain() -> File:
    case = Case()
    return File(build(case.detector(), Form()), case)


def test_the_defaults_of_the_optional_inputs(plain: File) -> None:
    picture = FRAMES["a scene"]
    silent = plain.run(picture)
    spoken = plain.run(
        picture,
        score_threshold=np.array(0.05, np.float32),
        iou_threshold=np.array(0.6, np.float32),
        max_boxes=np.array(100),
    )
    assert len(silent["scores"]) > 20
    assert all(np.array_equal(silent[name], spoken[name]) for name in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"score_threshold": np.array(0.1, np.float32)}, {"score": 0.1}),
        ({"score_threshold": np.array(0.02, np.float32)}, {"score": 0.02}),
        ({"iou_threshold": np.array(0.2, np.float32)}, {"iou": 0.2}),
        ({"max_boxes": np.array(7)}, {"max_boxes": 7}),
        (
            {"max_boxes": np.array(300), "score_threshold": np.array(0.03, np.float32)},
            {"max_boxes": 300, "score": 0.03},
        ),
    ],
    ids=lambda value: " ".join(value),
)
def test_each_optional_input_works(plain: File, given: dict[str, NDArray[Any]], asked: dict[str, Any]) -> None:
    picture = FRAMES["a scene"]
    usual = plain.run(picture)
    outputs = plain.run(picture, **given)
    expected = plain.case.detector().predict(picture, **({"score": 0.05} | asked))
    assert len(outputs["scores"]) == len(expected) != len(usual["scores"])
    np.testing.assert_allclose(outputs["scores"], expected.scores, atol=SCORE)


def test_no_box_at_all_is_an_empty_answer(plain: File) -> None:
    outputs = plain.run(FRAMES["a scene"], score_threshold=np.array(0.9999, np.float32))
    assert outputs["boxes"].shape == (0, 4) and outputs["scores"].shape == outputs["labels"].shape == (0,)
    assert plain.run(FRAMES["a scene"], max_boxes=np.array(0))["boxes"].shape == (0, 4)


def test_max_boxes_holds_over_all_classes(plain: File) -> None:
    outputs = plain.run(FRAMES["a scene"], max_boxes=np.array(5))
    assert len(outputs["scores"]) == 5
    assert np.array_equal(outputs["scores"], plain.run(FRAMES["a scene"])["scores"][:5])


# From a checkpoint on disk to a file on disk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``best.ckpt`` and a set of three pictures in ``set``."""
    root = tmp_path_factory.mktemp("export")
    write_checkpoint(root / "best.ckpt")
    drawn = [Drawn(scene(i, 120, 160), [[10, 10, 60, 60]], [0]) for i in range(3)]
    write_coco(root / "set", {"": drawn}, NAMES)
    return root


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    out = folder / "deep" / "er" / "model.onnx"
    made = nanogfl.export(folder / "best.ckpt", out=out, data=folder / "set")
    assert made.path == out
    return out


def test_one_file_and_nothing_beside_it(exported: Path) -> None:
    assert [p.name for p in exported.parent.iterdir()] == ["model.onnx"]
    assert 1.2e6 < exported.stat().st_size < 2e6  # size s: 0.35 M values of four bytes


def test_metadata_says_all_of_the_contract(exported: Path) -> None:
    meta = ort.InferenceSession(exported).get_modelmeta().custom_metadata_map
    said = {key.removeprefix("nanogfl."): value for key, value in meta.items()}
    parity = json.loads(said.pop("parity"))
    assert json.loads(said.pop("classes")) == list(NAMES)
    assert [float(v) for v in said.pop("mean").split(",")] == list(MEAN)
    assert [float(v) for v in said.pop("std").split(",")] == list(STD)
    assert said == {
        "schema": "1",
        "input_size": "96,160",
        "resize": "stretch",
        "strides": "8,16,32,64",
        "reg_max": "7",
        "form": "frame",
        "precision": "fp32",
    }
    assert parity["pictures"] == 8 and parity["boxes"] > 100 and parity["one_sided"] == 0
    assert 0 <= parity["box_px"] < 0.5 and 0 <= parity["score"] < 1e-3 and 0 <= parity["raw"] < 1e-2


BARE = """
import json, sys
import numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"image": np.load(sys.argv[2])})
print(json.dumps([boxes.tolist(), scores.tolist(), labels.tolist(), sorted({m.split(".")[0] for m in sys.modules})]))
"""


def test_onnxruntime_and_numpy_are_all_it_takes(exported: Path, folder: Path, tmp_path: Path) -> None:
    picture = FRAMES["upright"]
    np.save(tmp_path / "frame.npy", picture)
    command = [sys.executable, "-c", BARE, str(exported), str(tmp_path / "frame.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    boxes, scores, labels, modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"nanogfl", "torch", "cv2", "onnx"} & set(modules)
    found = Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels), list(NAMES))
    expected = nanogfl.load(folder / "best.ckpt").predict(picture, 0.05)
    d = difference(expected, found, View(picture.shape[:2], (96, 160), "stretch"))
    assert d.box < BOX_PX and d.score < SCORE and d.alone == 0


def test_another_input_size_is_that_of_the_checkpoint_at_that_size(folder: Path, tmp_path: Path) -> None:
    made = nanogfl.export(folder / "best.ckpt", out=tmp_path / "m.onnx", input="128x64", data=folder / "set")
    file, checkpoint = nanogfl.load(made.path), nanogfl.load(folder / "best.ckpt", input=(128, 64))
    assert file.input_size == checkpoint.input_size == (128, 64)
    picture = FRAMES["a scene"]
    view = View(picture.shape[:2], (128, 64), "stretch")
    d = difference(checkpoint.predict(picture, 0.05), file.predict(picture, 0.05), view)
    assert d.box < BOX_PX and d.alone == 0


@pytest.mark.parametrize(
    "quality",
    [
        pytest.param(
            quality,
            marks=pytest.mark.xfail(
                strict=True, raises=ExportError, reason="verify compares logits before the product"
            ),
        )
        for quality in ("top4", "moments")
    ],
)
def test_a_quality_predictor_is_exported(quality: str, folder: Path, tmp_path: Path) -> None:
    detector = predictor(random_detector("s", quality=quality))
    checkpoint = write_checkpoint(tmp_path / "q.ckpt", detector)
    made = nanogfl.export(checkpoint, out=tmp_path / "q.onnx", data=folder / "set")
    assert made.parity.holds


@pytest.mark.parametrize(
    "resize",
    [
        pytest.param(
            rule, marks=[pytest.mark.xfail(strict=True, raises=ExportError, reason=BORDER)] if "anti" in rule else []
        )
        for rule in RULES
    ],
)
def test_every_resize_rule_proves_itself(resize: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "r.ckpt", resize=resize)
    made = nanogfl.export(checkpoint, out=tmp_path / "r.onnx", data=folder / "set")
    assert made.parity.holds and made.parity.boxes > 200


# What is refused


def disturb(kind: str) -> Callable[[TorchDetector, Form], onnx.ModelProto]:
    """``build`` with one thing wrong in what it returns."""

    def broken(detector: TorchDetector, form: Form) -> onnx.ModelProto:
        model = build(detector, form)
        if kind == "nothing":
            return model
        if kind == "swapped labels":
            labels = next(n for n in model.graph.node if n.name == "labels")
            labels.op_type = "Neg"
            return model
        if kind == "an operator of nowhere":
            model.graph.node[5].op_type = "Nonsense"
            return model
        used = next(n for n in model.graph.node if n.op_type == "Conv" and n.output[0] == "conv_0").input[1]
        tensor = next(t for t in model.graph.initializer if t.name == used)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values *= 1.05
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, used))
        return model

    return broken


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("a weight", ExportError),
        ("swapped labels", ExportError),
        ("an operator of nowhere", ModelError),  # onnxruntime cannot open it
    ],
)
def test_a_wrong_file_is_not_kept_and_an_older_one_stays(
    kind: str, error: type[NanogflError], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy_run, "build", disturb(kind))
    with pytest.raises(error) as raised:
        nanogfl.export(folder / "best.ckpt", out=tmp_path / "new.onnx", data=folder / "set")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.onnx").write_bytes(b"what was there")
    with pytest.raises(error):
        nanogfl.export(folder / "best.ckpt", out=tmp_path / "old.onnx", data=folder / "set")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("old.onnx", b"what was there")]


def test_the_refusal_says_where_and_how_much(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_run, "build", disturb("a weight"))
    with pytest.raises(
        ExportError, match=r"differ, nothing was kept: .*\d px, scores by .*pictures, \d+ boxes compared"
    ):
        nanogfl.export(folder / "best.ckpt", out=tmp_path / "new.onnx", data=folder / "set")


def test_an_interrupted_export_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy_run, "prove", interrupt)
    with pytest.raises(KeyboardInterrupt):
        nanogfl.export(folder / "best.ckpt", out=tmp_path / "new.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"out": "model.pt"}, ExportError, "must end in .onnx"),
        ({"out": "model"}, ExportError, "must end in .onnx"),
        ({"input": "7x7"}, UsageError, "multiples of 32, at least 64; try 64x64"),
        ({"input": 100}, UsageError, "multiples of 32"),
        ({"form": "mobile"}, UsageError, "one of frame, tensor, core"),
        ({"form": Form(opset=18), "data": "nowhere"}, NanogflError, "nowhere"),
    ],
)
def test_what_export_does_not_take(
    options: dict[str, Any], error: type[NanogflError], words: str, folder: Path, tmp_path: Path
) -> None:
    options = {"out": "model.onnx"} | options
    with pytest.raises(error, match=words):
        nanogfl.export(folder / "best.ckpt", **(options | {"out": tmp_path / options["out"]}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [17, 0, 99])
def test_an_operator_set_without_what_is_needed_is_refused(opset: int) -> None:
    with pytest.raises(UsageError, match=r"--opset .*: give 18 to"):
        Form(opset=opset)


def test_an_exported_file_cannot_be_exported_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is an ONNX already; export takes a checkpoint"):
        nanogfl.export(exported, out=tmp_path / "again.onnx")


def test_core_form_cannot_hold_a_quality_predictor() -> None:
    with pytest.raises(UsageError, match="--form tensor or frame"):
        build(predictor(random_detector("s", quality="top4")), Form("core"))


@pytest.mark.xfail(strict=True, reason="the file of form core has no sigma, and nothing says so")
def test_core_form_with_sigma_is_refused_or_obeyed() -> None:
    with pytest.raises(UsageError, match="--sigma"):
        build(Case().detector(), Form("core", sigma=True))
