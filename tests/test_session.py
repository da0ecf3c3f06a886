"""nanogfl.runtime.session: files of ours open, whatever else is given is refused in one line."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import NAMES, scene, write_checkpoint, write_scene
from onnx import TensorProto, helper

import nanogfl
from nanogfl.decode import Thresholds
from nanogfl.deploy import device_runner
from nanogfl.deploy.build import Form, build
from nanogfl.errors import DataError, ModelError, UsageError
from nanogfl.predictor import TorchDetector
from nanogfl.runtime.session import OnnxDetector, open_session

RUNNER = Path(device_runner.__file__)  # copied to devices, which have no nanogfl


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the frame form, 64x96."""
    folder = tmp_path_factory.mktemp("session")
    detector = nanogfl.load(write_checkpoint(folder / "best.ckpt", input_size=(64, 96)))
    assert isinstance(detector, TorchDetector)
    path = folder / "model.onnx"
    path.write_bytes(build(detector, Form("frame")).SerializeToString())
    return path


def foreign(operator: str = "Identity") -> bytes:
    """A model that copies its input."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node(operator, ["a"], ["b"])], "copy", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def with_metadata(path: Path, key: str, value: str) -> bytes:
    """The file with another value of one key."""
    made = onnx.load(str(path))
    next(entry for entry in made.metadata_props if entry.key == f"nanogfl.{key}").value = value
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(lambda p: None, "no such file; check the path", id="missing"),
        pytest.param(lambda p: b"", "is not an ONNX model that onnxruntime", id="empty"),
        pytest.param(lambda p: b"no model", "is not an ONNX model that onnxruntime", id="garbage"),
        pytest.param(lambda p: p.read_bytes()[:5000], "is not an ONNX model that onnxruntime", id="cut early"),
        pytest.param(lambda p: p.read_bytes()[:-20000], "is not an ONNX model that onnxruntime", id="cut late"),
        pytest.param(lambda p: foreign("Teleport"), "is not an ONNX model that onnxruntime", id="unknown operator"),
        pytest.param(lambda p: foreign(), "is not an ONNX file of nanogfl", id="not ours"),
        pytest.param(lambda p: with_metadata(p, "schema", "2"), "has schema 2", id="newer schema"),
        pytest.param(lambda p: with_metadata(p, "classes", "{"), "has invalid metadata", id="broken metadata"),
    ],
)
def test_what_is_no_file_of_ours_is_one_line(
    model: Path, tmp_path: Path, content: Callable[[Path], bytes | None], words: str
) -> None:
    path, data = tmp_path / "given.onnx", content(model)
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelError) as error:
        nanogfl.load(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("form", "key", "value"),
    [
        ("frame", "form", "tensor"),
        ("frame", "form", "core"),
        ("tensor", "form", "frame"),
        ("tensor", "form", "core"),
        ("core", "form", "tensor"),
        ("core", "strides", "8,16,32,128"),
        ("tensor", "input_size", "96,64"),
        ("core", "input_size", "128,128"),
    ],
)
def test_a_file_that_is_not_what_it_says(tmp_path: Path, form: str, key: str, value: str) -> None:
    """Another dtype, shape or output than its metadata promise."""
    detector = nanogfl.load(write_checkpoint(tmp_path / "best.ckpt", input_size=(64, 96)))
    assert isinstance(detector, TorchDetector)
    (tmp_path / "m.onnx").write_bytes(build(detector, Form(form)).SerializeToString())
    (tmp_path / "m.onnx").write_bytes(with_metadata(tmp_path / "m.onnx", key, value))
    with pytest.raises(ModelError, match=r"m\.onnx does not match its metadata \(form .*re-export it") as error:
        nanogfl.load(tmp_path / "m.onnx")
    assert "\n" not in str(error.value)


def test_a_class_without_a_name_is_no_index_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "two.onnx").write_bytes(with_metadata(model, "classes", '["red", "green"]'))
    with pytest.raises(ModelError, match=r"two\.onnx returns labels beyond its 2 classes; re-export it"):
        nanogfl.load(tmp_path / "two.onnx").predict(scene(), 0.05)


def test_weights_that_lie_elsewhere_are_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx.load(str(model)), str(path), save_as_external_data=True, location="m.onnx.data")
    with pytest.raises(ModelError, match=r"m\.onnx stores weights in a separate file"):
        nanogfl.load(path)


def test_optional_inputs_are_described(model: Path, tmp_path: Path) -> None:
    said = nanogfl.load(model).describe()
    assert list(said["inputs"]) == ["image", "max_boxes", "iou_threshold", "score_threshold"]
    assert said["inputs"]["max_boxes"] == "tensor(int64) [], 100 where not given" and "fixed" not in said
    detector = nanogfl.load(write_checkpoint(tmp_path / "best.ckpt", input_size=(64, 96)))
    assert isinstance(detector, TorchDetector)
    form = Form(fixed=True, thresholds=Thresholds(0.2, 0.5, 9))
    (tmp_path / "m.onnx").write_bytes(build(detector, form).SerializeToString())
    said = nanogfl.load(tmp_path / "m.onnx").describe()
    assert list(said["inputs"]) == ["image"]
    assert said["fixed"] == {"score_threshold": 0.2, "iou_threshold": 0.5, "max_boxes": 9}


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(ModelError, match="no such file; check the path"):
        nanogfl.load(tmp_path / "a.onnx")


def test_the_input_size_is_fixed(model: Path) -> None:
    assert nanogfl.load(model, input="64x96").input_size == (64, 96)
    with pytest.raises(UsageError, match=r"--input 96x96: .*model\.onnx requires 64x96; export the checkpoint with"):
        nanogfl.load(model, input=96)


def test_describe(model: Path) -> None:
    said = nanogfl.load(model).describe()
    assert said["file"] == str(model) and said["bytes"] == model.stat().st_size
    assert said["kind"] == "ONNX, form frame, fp32"
    assert said["classes"] == list(NAMES) and said["input_size"] == [64, 96] and said["resize"] == "stretch"
    assert said["strides"] == [8, 16, 32, 64] and said["reg_max"] == 7
    assert said["inputs"]["image"] == "tensor(uint8) ['height', 'width', 3]"
    assert list(said["outputs"]) == ["boxes", "scores", "labels"]


def test_a_file_has_no_torch_module(model: Path) -> None:
    detector = nanogfl.load(str(model), threads=1)
    assert isinstance(detector, OnnxDetector) and detector.network is None and detector.names == list(NAMES)


def test_a_path_and_its_array_give_the_same(model: Path, tmp_path: Path) -> None:
    detector = nanogfl.load(model)
    of_path = detector.predict(write_scene(tmp_path / "a.png"), 0.05)
    of_array = detector.predict(scene(), 0.05)
    assert len(of_path) > 5
    np.testing.assert_array_equal(of_path.boxes, of_array.boxes)
    np.testing.assert_array_equal(of_path.scores, of_array.scores)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(scene().astype(np.float32), id="float"),
        pytest.param(scene()[..., 0], id="grey"),
        pytest.param(scene()[:0], id="no rows"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), id="transparency"),
        pytest.param("nowhere.png", id="missing"),
    ],
)
def test_what_is_no_picture_is_a_data_error(model: Path, picture: np.ndarray | str) -> None:
    with pytest.raises(DataError):
        nanogfl.load(model).predict(picture)


def test_a_part_of_a_picture_need_not_be_contiguous(model: Path) -> None:
    detector, part = nanogfl.load(model), scene()[10:90:2, ::-1]
    assert not part.flags.c_contiguous
    np.testing.assert_array_equal(detector.predict(part, 0.05).boxes, detector.predict(part.copy(), 0.05).boxes)


def test_what_was_found_is_the_callers_own(model: Path) -> None:
    detector = nanogfl.load(model)
    one, two = (detector.predict(scene(), 0.05) for _ in range(2))
    one.names[0] = "changed"
    assert detector.names == two.names == list(NAMES) and one != two and len({one, two}) == 2


def test_a_detector_opens_itself_in_another_process(model: Path) -> None:
    detector = nanogfl.load(model, threads=1)
    sent = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(sent.predict(scene(), 0.05).boxes, detector.predict(scene(), 0.05).boxes)
    assert sent.session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize("threads", [0, -1, 1025, 2.5, "2", True])
def test_threads_are_a_whole_number(model: Path, threads: Any) -> None:
    with pytest.raises(UsageError, match="must be an integer from 1 to 1024"):
        nanogfl.load(model, threads=threads)


@pytest.mark.parametrize("source", [None, 3, b"model.onnx"])
def test_what_is_no_path_is_not_loaded(source: Any) -> None:
    with pytest.raises(UsageError, match="load expects a file or a published name, got"):
        nanogfl.load(source)


@pytest.mark.parametrize("options", [{"score": None}, {"score": "0.3"}, {"iou": np.array([0.3, 0.4])}])
def test_thresholds_are_numbers(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be a number from 0 to 1"):
        nanogfl.load(model).predict(scene(), **options)


def test_a_file_that_may_not_be_read_is_not_called_damaged(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match=r"^cannot read .*: Permission denied; check its permissions$"):
        nanogfl.load(model)


def test_a_session_of_bytes_names_the_model() -> None:
    assert open_session(foreign()).get_inputs()[0].name == "a"
    with pytest.raises(ModelError, match="the model is not an ONNX model"):
        open_session(b"no model")


@pytest.mark.parametrize("first", ["nanogfl", "device_runner"])
def test_onnxruntime_reports_nothing_to_its_makers(model: Path, tmp_path: Path, first: str) -> None:
    """Since 1.29 it keeps an identity and a queue of reports below the home folder, unless it is told not to."""
    told = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME", "ORT_RUNNING_UNIT_TESTS")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    session = f"import onnxruntime; onnxruntime.InferenceSession({str(model)!r})"
    alone = f"import sys; sys.path.insert(0, {str(RUNNER.parent)!r}); import device_runner; {session}"
    opened = {"nanogfl": f"import nanogfl; nanogfl.load({str(model)!r})", "device_runner": alone}
    code = f"import os; {opened[first]}; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    run = [sys.executable, "-c", code]
    subprocess.run(run, env=environment | {"HOME": str(tmp_path)}, capture_output=True, timeout=60, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_variable_that_is_set_already_is_left_alone() -> None:
    code = "import os, nanogfl; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    asked = os.environ | {"ORT_DISABLE_TELEMETRY": "0"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=asked, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout == "0\n"
