"""nanogfl export --int8: what is quantized and how, and that AP decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import scene, write_checkpoint
from onnx import numpy_helper
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime import __version__ as RUNTIME
from runs import block_picture, write_coco

import nanogfl
from nanogfl.decode import Thresholds
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.calibrate import METHODS, Statistics, calibration_table, observe
from nanogfl.deploy.candidates import opened
from nanogfl.deploy.equalise import correct_biases, equalise
from nanogfl.deploy.inner import network_of
from nanogfl.deploy.int8 import Measured, float_share, to_int8
from nanogfl.deploy.pictures import spread
from nanogfl.deploy.quantize import quantize, to_bytes, weight_scales
from nanogfl.errors import DataError, ExportError, UsageError
from nanogfl.model.detector import Architecture
from nanogfl.pictures import Picture
from nanogfl.predictor import TorchDetector

FUSES_LESS = tuple(map(int, RUNTIME.split(".")[:2])) < (1, 20)
SCENES = [scene(seed=i) for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A float model of random weights, of the core form, 64x96."""
    path = write_checkpoint(tmp_path_factory.mktemp("int8") / "c.ckpt", Architecture("s", 3), input_size=(64, 96))
    detector = nanogfl.load(path)
    assert isinstance(detector, TorchDetector)
    return build(detector, Form("core"))


@pytest.fixture(scope="module")
def seen(model: onnx.ModelProto) -> Statistics:
    return observe(model, opened(model), SCENES)


def maps(model: onnx.ModelProto) -> np.ndarray:
    """Raw rows of two pictures that were not observed."""
    detector = opened(model)
    pictures = (scene(seed=9), scene(100, 60, seed=10))
    return np.concatenate([detector.rows(detector.run(detector.prepare([p]), Thresholds())) for p in pictures])


@pytest.mark.parametrize("shape", [(8, 5, 1, 1), (8, 6, 1, 1), (4, 3, 3, 3), (1, 1, 1, 1)])
def test_neighbouring_products_cannot_overflow(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=shape) * rng.uniform(0.01, 10, (shape[0], 1, 1, 1))).astype(np.float32)
    weight[0] = 0
    scales = weight_scales(weight)
    stored = to_bytes(weight, scales)
    assert np.abs(stored * scales[:, None, None, None] - weight).max() <= 0.5001 * scales.max()
    for rows in (stored.reshape(shape[0], -1), stored.transpose(0, 2, 3, 1).reshape(shape[0], -1)):
        magnitude = np.abs(np.pad(rows.astype(int), ((0, 0), (0, rows.shape[1] % 2))))
        assert 255 * magnitude.reshape(shape[0], -1, 2).sum(axis=2).max() <= 32767
    assert (stored[0] == 0).all() and np.isfinite(scales).all() and (scales > 0).all()


def test_single_channels_use_all_bits() -> None:
    weight = np.random.default_rng(0).normal(size=(16, 1, 5, 5)).astype(np.float32)
    assert (np.abs(to_bytes(weight, weight_scales(weight))).max(axis=(1, 2, 3)) == 127).all()


def test_what_is_quantized(model: onnx.ModelProto, seen: Statistics) -> None:
    made = quantize(model, seen.ranges("minmax"))
    writer = {name: node for node in made.graph.node for name in node.output}
    network = network_of(model)
    last = {node.name for node in network.last}
    assert len(last) == 8, "classes and sides of four levels"
    arrays = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    convolutions = [n for n in made.graph.node if n.op_type == "Conv"]
    assert len(convolutions) + len(last) == sum(n.op_type == "Conv" for n in model.graph.node)
    for node in convolutions:
        image, weight = (writer[name] for name in node.input[:2])
        assert image.op_type == weight.op_type == writer[node.input[2]].op_type == "DequantizeLinear"
        stored, scale, zero = (arrays[name] for name in weight.input)
        assert stored.dtype == np.int8 and scale.shape == zero.shape == (len(stored),) and (zero == 0).all()
        assert arrays[image.input[2]].dtype == np.uint8 and arrays[image.input[1]].shape == ()
    read = {name for node in made.graph.node for name in node.input}
    assert set(arrays) <= read, "constants that nobody reads"
    assert not read & {o.name for o in made.graph.output}, "outputs are float and not quantized"
    assert next(p.value for p in made.metadata_props if p.key == "nanogfl.precision") == "int8"
    assert len(made.SerializeToString()) < 0.5 * len(model.SerializeToString())


def test_classes_and_sides_are_products_of_bytes_that_give_floats(model: onnx.ModelProto, seen: Statistics) -> None:
    made = quantize(model, seen.ranges("minmax"))
    writer = {name: node for node in made.graph.node for name in node.output}
    arrays = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    products, scales = [node for node in made.graph.node if node.op_type == "MatMul"], []
    assert len(products) == 8 and {t.elem_type for t in (o.type.tensor_type for o in made.graph.output)} == {1}
    for node in products:
        pixels, matrix = (writer[name] for name in node.input)
        assert pixels.op_type == matrix.op_type == "DequantizeLinear" and arrays[pixels.input[2]].dtype == np.uint8
        stored, scale = (arrays[name] for name in matrix.input[:2])
        assert stored.dtype == np.int8 and scale.shape == stored.shape[1:], "a scale for each class and side"
        scales.append(matrix.input[1])
    assert len(set(scales)) == 8, "classes and sides never under one scale"
    after = [n for n in made.graph.node if set(n.input) & {o for p in products for o in p.output}]
    assert {n.op_type for n in after} == {"Sub"}, "the biases: nothing rounds what the products give"


def test_what_passes_values_on_keeps_their_scale(model: onnx.ModelProto, seen: Statistics) -> None:
    """A map that is a part of another has its scale, so that its bytes are copied and not computed again."""
    made = quantize(model, seen.ranges("minmax"))
    writer = {name: node for node in made.graph.node for name in node.output}
    reader = {node.input[0]: node for node in made.graph.node}
    passing = [node for node in made.graph.node if node.op_type in ("MaxPool", "Slice", "Resize", "Concat")]
    assert {node.op_type for node in passing} == {"MaxPool", "Slice", "Resize", "Concat"}
    for node in passing:
        given = reader[node.output[0]].input[1:]
        read = [writer[name].input[1:] for name in node.input if name in writer]
        assert read and all(list(scale) == list(given) for scale in read)


def test_a_shared_scale_holds_all_that_share_it(model: onnx.ModelProto, seen: Statistics) -> None:
    ranges = seen.ranges("minmax")
    made = quantize(model, ranges)
    arrays = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in (n for n in made.graph.node if n.op_type == "QuantizeLinear"):
        low, high = ranges[node.input[0]]
        step, zero = (float(arrays[name]) for name in node.input[1:])
        assert -zero * step <= low + 0.51 * step and high - 0.51 * step <= (255 - zero) * step


@pytest.mark.skipif(FUSES_LESS, reason="onnxruntime before 1.20 keeps conversions between bytes and floats")
def test_onnxruntime_computes_it_in_bytes(model: onnx.ModelProto, seen: Statistics, tmp_path: Path) -> None:
    """What makes it fast, without a clock: the kernels that onnxruntime takes, the stem alone in float."""
    stem = next(node.name for node in network_of(model).nodes if node.op_type == "Conv")
    made = quantize(model, seen.ranges("minmax"), (stem,))
    options = SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert kinds["Conv"] == 1 and kinds["QLinearConv"] == convolutions - 9 and kinds["MatMulIntegerToFloat"] == 8
    assert kinds["Gemm"] == 0 and kinds["LeakyRelu"] == 1, "the stem's, behind its pool"
    assert kinds["DequantizeLinear"] <= 2


@pytest.mark.parametrize("method", METHODS)
def test_int8_is_near_float(model: onnx.ModelProto, seen: Statistics, method: str) -> None:
    expected = maps(model)
    found = maps(quantize(model, seen.ranges(method)))
    assert np.abs(found - expected).mean() < 0.45 * expected.std(), "random weights amplify what rounding leaves"
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.85


def test_left_float_is_nearer(model: onnx.ModelProto, seen: Statistics) -> None:
    ranges = seen.ranges("minmax")
    names = [node.name for node in network_of(model).nodes if node.op_type == "Conv"]
    expected = maps(model)
    errors = [np.abs(maps(quantize(model, ranges, floats)) - expected).mean() for floats in ((), names[:20], names)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.15 * expected.std(), "only weights are in bytes"


def test_weights_of_what_is_left_float_use_all_bits(model: onnx.ModelProto, seen: Statistics) -> None:
    """Nothing is summed in bytes there, so that neighbours leave each other no room; each is within half a step."""
    network = network_of(model)
    left = [node for node in network.nodes if node.op_type == "Conv"]
    made = quantize(model, seen.ranges("minmax"), [node.name for node in left])
    arrays = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in left:
        stored, step = (arrays[f"{node.name}_weight_{part}"] for part in ("bytes", "scale"))
        weight = network.weights[node.input[1]]
        alive = np.abs(weight).max(axis=(1, 2, 3)) > 0
        assert (np.abs(stored.astype(int)).max(axis=(1, 2, 3)) == 127 * alive).all(), node.name
        assert (np.abs(stored * step - weight) <= 0.501 * step).all(), node.name


def test_what_is_left_float_is_counted(model: onnx.ModelProto, seen: Statistics) -> None:
    ranges = seen.ranges("minmax")
    names = [node.name for node in network_of(model).nodes if node.op_type == "Conv"]
    every = len(names) + 8
    assert float_share(model, quantize(model, ranges, names[:3])) == f"3 of {every} convolutions float"
    assert float_share(model, quantize(model, ranges, names)) == f"{every} of {every} convolutions float"


def test_equalised_is_the_same_function(model: onnx.ModelProto) -> None:
    even = equalise(model)
    expected = maps(model)
    np.testing.assert_allclose(maps(even), expected, atol=2e-3 * np.abs(expected).max())
    before, after = (network_of(m).weights for m in (model, even))
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(changed) > 40
    assert [t.name for t in model.graph.initializer] == [t.name for t in even.graph.initializer]


def test_corrected_biases_keep_the_means(model: onnx.ModelProto, seen: Statistics) -> None:
    """The mean of what one convolution gives, with rounded weights."""
    fixed = correct_biases(model, seen)
    node = next(n for n in network_of(model).nodes if n.op_type == "Conv" and n.name != "conv_0")
    weight, bias = (network_of(model).weights[name] for name in node.input[1:3])
    scales = weight_scales(weight)
    rounded = to_bytes(weight, scales) * scales[:, None, None, None]
    mean = np.mean(seen.means[node.input[0]], axis=0)
    per_channel = mean if weight.shape[1] > 1 else mean[:, None]
    wanted, plain, corrected = (
        (w.sum(axis=(2, 3)) * per_channel).sum(axis=1) + b
        for w, b in ((weight, bias), (rounded, bias), (rounded, network_of(fixed).weights[node.input[2]]))
    )
    assert np.abs(corrected - wanted).max() < 1e-4 < np.abs(plain - wanted).max()


@pytest.mark.parametrize(("ends", "step"), [((1.0, 5.0), 5 / 255), ((-5.0, -1.0), 5 / 255), ((0.0, 0.0), 1e-6 / 255)])
def test_zero_is_among_the_bytes(
    model: onnx.ModelProto, seen: Statistics, ends: tuple[float, float], step: float
) -> None:
    made = quantize(model, dict.fromkeys(seen.ranges("minmax"), ends))
    scalars = [t for t in made.graph.initializer if t.name.endswith("_scale") and not t.dims]
    assert [float(numpy_helper.to_array(t)) for t in scalars] == pytest.approx([step] * len(scalars), rel=1e-5)
    assert len(scalars) > 40


def test_equalised_ranges_are_even(model: onnx.ModelProto) -> None:
    """What a convolution gives and what the next reads of it, by channel, through LeakyReLU or not."""

    def unevenness(made: onnx.ModelProto) -> list[float]:
        network, found = network_of(made), []
        nodes = [*network.nodes, *network.last]
        for first in (node for node in network.nodes if node.op_type == "Conv"):
            readers = [node for node in nodes if first.output[0] in node.input]
            if [node.op_type for node in readers] == ["LeakyRelu"]:
                readers = [node for node in nodes if readers[0].output[0] in node.input]
            if [node.op_type for node in readers] == ["Conv"]:
                gives, reads = (np.abs(network.weights[node.input[1]]) for node in (first, readers[0]))
                read = reads.max(axis=(1, 2, 3) if reads.shape[1] == 1 else (0, 2, 3))
                found.append(float(np.median(np.abs(np.log((gives.max(axis=(1, 2, 3)) + 1e-9) / (read + 1e-9))))))
        return found

    before, after = unevenness(model), unevenness(equalise(model))
    assert len(before) > 40 and np.mean(after) < 0.1 * np.mean(before)


def test_biases_are_corrected_where_weights_are_bytes(model: onnx.ModelProto, seen: Statistics) -> None:
    network = network_of(model)
    convolutions = [n for n in [*network.nodes, *network.last] if n.op_type == "Conv"]
    left, uses = convolutions[3], Counter(n.input[2] for n in convolutions)
    after = network_of(correct_biases(model, seen, [left.name])).weights
    same = [n.name for n in convolutions if np.array_equal(after[n.input[2]], network.weights[n.input[2]])]
    assert same == [n.name for n in convolutions if n is left or uses[n.input[2]] > 1], "equal ones are one constant"
    assert {n.name for n in network.last} - set(same), "of those that give classes and sides too"


def test_ranges() -> None:
    seen, picks = Statistics(), np.random.default_rng(1)
    values = np.random.default_rng(0).normal(size=(1, 4, 50, 50)).astype(np.float32)
    values[0, 0, 0, 0], values[0, 1, 0, 0] = 100, -50
    seen.add("a", values, picks)
    assert seen.ranges("minmax")["a"] == (-50, 100)
    for method in ("percentile", "mse"):
        low, high = seen.ranges(method)["a"]
        assert -50 <= low < -2 and 2 < high < 100, method
    seen.add("a", 2 * values, picks)
    assert seen.ranges("minmax")["a"] == (-100, 200), "what came since counts"
    positive = Statistics()
    positive.add("a", np.abs(values) + 1, picks)
    assert positive.ranges("minmax")["a"][0] == 0, "zero is always among the values"


def test_what_leakyrelu_makes_small_may_be_cut() -> None:
    """Half of the values reach down to -10 and become a tenth; the others need the small steps."""
    values = (
        np.concatenate([np.linspace(-10, 0, 5000), np.linspace(0, 2, 5000)]).astype(np.float32).reshape(1, 1, 100, 100)
    )
    lows = []
    for slopes in ({}, {"a": 0.001}):
        seen = Statistics(slopes=slopes)
        seen.add("a", values, np.random.default_rng(0))
        lows.append(seen.ranges("mse")["a"][0])
    assert lows[0] < -9 and lows[1] > -5


def test_calibration_takes_the_pictures_that_teach(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [e.split for e in calibration_table(tiny_set).examples] == ["train"] * 24
    monkeypatch.setattr("nanogfl.deploy.calibrate.AP_PICTURES", 10)
    assert len(calibration_table(tiny_set)) == 10


def test_spread_takes_from_everywhere() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2] and spread([], 4) == []


@pytest.mark.parametrize(("there", "most"), [(160, 160), (161, 160), (49, 48), (319, 160), (1000, 3)])
def test_spread_takes_as_many_as_it_may(there: int, most: int) -> None:
    taken = spread(range(there), most)
    assert len(taken) == most and len(set(taken)) == most and taken[-1] >= there - -(-there // most)


# --- the whole ---


def test_what_was_measured_is_a_table() -> None:
    measured = Measured(16, 0.51234, 0.49876, 12.3456, 6.5, 3.21, 1.05, "mse", "1 of 3 convolutions float")
    assert measured.to_text().splitlines() == [
        "          AP       ms     MB",
        "fp32  0.5123    12.35   3.21",
        "int8  0.4988     6.50   1.05",
        "AP on 16 calibration pictures; CPU ms per frame, one thread; mse; 1 of 3 convolutions float",
        "int8 was selected by this AP, which is optimistic: measure it with nanogfl eval on val",
    ]
    said = measured.to_json()
    assert (said["pictures"], said["fp32_ap"], said["fp32_ms"], said["method"]) == (16, 0.5123, 12.3456, "mse")


def test_export_int8(
    learnt: Path, blocks: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "int8.onnx"
    sizes: list[list[int]] = []

    def timed(models: Sequence[onnx.ModelProto], picture: Picture) -> list[float]:
        sizes.append([len(model.SerializeToString()) for model in models])
        return [4.0, 2.0]

    monkeypatch.setattr("nanogfl.deploy.int8.latencies", timed)
    said = command("export", learnt / "best.ckpt", "--out", out, "--int8", "--calib", blocks)
    assert said.code == 0, said
    for word in ("fp32 ", "int8 ", "calibration pictures", "convolutions float", "before int8 equal"):
        assert word in said.out
    first = next(node for node in onnx.load(out).graph.node if node.op_type == "Conv")
    assert first.input[0] == "sub_0", "the camera's three channels are read as floats"
    card = nanogfl.load(out).describe()
    measured = card["parity"]["int8"]
    assert card["kind"] == "ONNX, form frame, int8" and measured["pictures"] == 16
    assert measured["fp32_ap"] > 0.3 and measured["int8_ap"] > measured["fp32_ap"] - 0.02
    assert measured["int8_mb"] < 0.55 * measured["fp32_mb"]
    assert [[round(size / 1e6, 4) for size in pair] for pair in sizes] == [[measured["fp32_mb"], measured["int8_mb"]]]
    assert (measured["fp32_ms"], measured["int8_ms"]) == (4, 2), "each is timed under its own name"
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]
    found = nanogfl.evaluate(out, blocks, split="val").numbers["AP"]
    expected = nanogfl.evaluate(learnt / "best.ckpt", blocks, split="val").numbers["AP"]
    assert found is not None and expected is not None and abs(found - expected) < 0.05


def test_what_the_float_model_does_not_find_judges_nothing(learnt: Path, tmp_path: Path) -> None:
    empty = write_coco(tmp_path / "set", {"": [block_picture(np.random.default_rng(0))._replace(boxes=[], labels=[])]})
    detector = nanogfl.load(learnt / "best.ckpt")
    assert isinstance(detector, TorchDetector)
    with pytest.raises(DataError, match=r"detects none of the labelled objects \(AP 0\)"):
        to_int8(build(detector, Form()), empty, 1.0)


def test_a_heavy_network_is_refused(blocks: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", Architecture("s", 3, family="resnet"), input_size=(64, 64))
    detector = nanogfl.load(path)
    assert isinstance(detector, TorchDetector)
    with pytest.raises(UsageError, match=r"not model\.family=resnet"):
        to_int8(build(detector, Form()), blocks, 1.0)


def test_the_first_nanodet_is_quantized_on_all_levels(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", Architecture("s", 3, family="first"), input_size=(64, 64))
    detector = nanogfl.load(path)
    assert isinstance(detector, TorchDetector)
    network = network_of(build(detector, Form("core")))
    convolutions = sum(n.op_type == "Conv" for n in build(detector, Form("core")).graph.node)
    assert len(network.last) == 6 and sum(n.op_type == "Conv" for n in network.nodes) == convolutions - 6


def test_a_bias_that_no_byte_of_its_channel_can_hold_stays(model: onnx.ModelProto, seen: Statistics) -> None:
    """A dead channel has tiny weights and a bias all the same, which is counted in their scale."""
    dead, changed = network_of(model).nodes[0], onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in dead.input[1:3]:
            value = numpy_helper.to_array(tensor).copy()
            value[0] = 2.0 if tensor.name == dead.input[2] else 1e-12
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    made = {t.name: numpy_helper.to_array(t) for t in quantize(changed, seen.ranges("minmax")).graph.initializer}
    stored = [made[f"{dead.name}_bias_{part}"][0] for part in ("bytes", "scale")]
    assert float(stored[0]) * float(stored[1]) == pytest.approx(2.0, rel=1e-6)


def test_too_large_a_drop_is_refused(learnt: Path, blocks: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = nanogfl.load(learnt / "best.ckpt")
    assert isinstance(detector, TorchDetector)
    with pytest.raises(ExportError, match=r"int8 has AP .*, float32 .* it drops by more than --max-drop -1"):
        to_int8(build(detector, Form()), blocks, -1)
    assert f"--calib {blocks}: 16 pictures are too few to measure AP; use at least 20" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"int8": True}, "--int8 requires calibration pictures: add --calib DATA"),
        ({"calib": "set"}, "--calib requires --int8"),
        ({"max_drop": 0.1}, "--max-drop requires --int8"),
        ({"int8": True, "calib": "set", "form": Form(half=True)}, "use only one of them"),
        ({"int8": True, "calib": "set", "max_drop": -0.1}, "--max-drop -0.1: must be an AP"),
        ({"int8": True, "calib": "set", "max_drop": float("nan")}, "--max-drop nan: must be an AP"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        nanogfl.export("no.ckpt", out=tmp_path / "m.onnx", **options)


def test_a_calibration_set_without_pictures(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "c.ckpt", input_size=(64, 64))
    data = write_coco(tmp_path / "set", {"": [block_picture(np.random.default_rng(0))]})
    for picture in data.rglob("*.png"):
        picture.unlink()
    with pytest.raises(DataError):
        nanogfl.export(checkpoint, out=tmp_path / "m.onnx", int8=True, calib=data)
    assert not list(tmp_path.glob("m.onnx*"))
