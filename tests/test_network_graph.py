"""nanogfl.deploy.graph and network: the same maps as torch's, without a node that only moves channels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from models import random_detector
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from nanogfl.deploy.backbone import collect, readers
from nanogfl.deploy.families import write_network
from nanogfl.deploy.fuse import fuse, fused_parameters
from nanogfl.deploy.graph import FLOAT, INT64, Graph
from nanogfl.deploy.layers import Value, write_layers
from nanogfl.model.detector import WIDTHS, Architecture, Detector, count_parameters

SIZES = [Architecture("s", 3), Architecture("m", 3), Architecture("l", 3), Architecture("s", 2, share_levels=True)]
NAMED = pytest.mark.parametrize("architecture", SIZES, ids=["s", "m", "l", "one branch"])


def run(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # our nodes as they are
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def network(detector: Detector) -> onnx.ModelProto:
    """Only the network: a normalised image in, class maps and then side maps out."""
    graph = Graph()
    for names in write_network(graph, fuse(detector), graph.input("image", FLOAT, ["batch", 3, "height", "width"])):
        for name in names:
            graph.output(name, FLOAT, ["batch", f"{name} channels", f"{name} rows", f"{name} columns"])
    return graph.model(18, {})


@NAMED
def test_the_maps_are_torchs(architecture: Architecture) -> None:
    detector = random_detector(architecture)
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = [m.numpy() for m in detector.head.maps(detector.neck(detector.backbone(images)))]
    found = run(network(detector), {"image": images.numpy()})
    classes = architecture.classes
    for i, level in enumerate(expected):
        assert level.std() > 0.1 and np.abs(level[0] - level[1]).max() > 0.01, "a network that sees"
        assert found[i].shape[1] == classes
        np.testing.assert_allclose(found[i], level[:, :classes], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found[4 + i], level[:, classes:], rtol=1e-4, atol=1e-3)


@NAMED
def test_only_nodes_that_compute(architecture: Architecture) -> None:
    detector = random_detector(architecture)
    kinds = Counter(node.op_type for node in network(detector).graph.node)
    assert set(kinds) - {"Slice"} == {"Conv", "LeakyRelu", "MaxPool", "Concat", "Add", "Resize"}
    pieces = sum(len(orders) - 1 for half, units in halves(detector) for orders in readers(half, units))
    convolutions = sum(isinstance(m, nn.Conv2d) for m in detector.modules())
    again = 3 * 4 if architecture.share_levels else 0  # two separable blocks, read at three more levels
    predictors = len(detector.head.predict)
    assert (
        kinds["Conv"] == convolutions - predictors + again + 2 * 4 + pieces
    )  # classes and sides are two, at four levels
    assert kinds["MaxPool"] == 1 and kinds["Resize"] == 2
    assert kinds["Add"] == 4 + 1  # shortcuts of the ghost blocks, and the level that nothing else makes


@NAMED
def test_constants_are_stored_once_and_all_are_read(architecture: Architecture) -> None:
    detector = random_detector(architecture)
    model = network(detector)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert len({(str(a.dtype), a.shape, a.tobytes()) for a in arrays}) == len(arrays)
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    stored = sum(a.size for a in arrays if a.dtype == np.float32)
    learned = count_parameters(fuse(detector))
    filling = 1.15  # zeros up to whole blocks of eight channels
    assert learned - 100 <= stored <= filling * learned + 1000  # a bias for those without, the scale of Resize


def halves(detector: Detector) -> list[tuple[int, int]]:
    """For each stage: channels of a branch, and units behind the first."""
    stages = (detector.backbone.stage2, detector.backbone.stage3, detector.backbone.stage4)
    widths = WIDTHS[detector.architecture.size][0][1:]
    return [(width // 2, len(stage) - 1) for width, stage in zip(widths, stages, strict=True)]


@pytest.mark.parametrize(("half", "units", "pieces"), [(58, 3, True), (116, 7, False), (232, 3, True), (24, 3, False)])
def test_channels_are_grouped_by_who_reads_them(half: int, units: int, pieces: bool) -> None:
    """Every channel of every branch is written once; in pieces only where zeros cost less than 15 %."""
    parts = readers(half, units)
    assert len(parts) == units + 2
    for orders in parts:
        assert sorted(i for order in orders for i in order if i >= 0) == list(range(half))
        assert (len(orders) > 1) <= pieces and all(len(order) % 8 == 0 for order in orders if pieces)
    assert [len(orders) > 1 for orders in parts] == [pieces] * (units + 1) + [False]  # all read the last whole
    written = sum(len(order) for orders in parts for order in orders)
    assert written <= 1.15 * half * len(parts)


# One layer after a shuffle, by hand


def shuffled_input() -> tuple[Graph, Value, NDArray[np.float32]]:
    """Tensors ``a`` (3 channels) and ``b`` (2), of which the network's order is b1 a2 a0 b0 a1."""
    graph = Graph()
    for name, width in (("a", 3), ("b", 2)):
        graph.input(name, FLOAT, [1, width, 4, 4])
        graph.widths[name] = (width, width)
    order = [("b", 1), ("a", 2), ("a", 0), ("b", 0), ("a", 1)]
    rng = np.random.default_rng(0)
    feeds = {"a": rng.normal(size=(1, 3, 4, 4)), "b": rng.normal(size=(1, 2, 4, 4))}
    image = np.concatenate([feeds[name][:, [i]] for name, i in order], axis=1).astype(np.float32)
    return graph, collect(graph, order), image


def test_channels_are_collected_in_whole_tensors() -> None:
    graph, value, _ = shuffled_input()
    assert [(node.op_type, list(node.input)) for node in graph.nodes] == [("Concat", ["a", "b"])]
    assert value.order == (2, 4, 1, 3, 0)  # where a0 a1 a2 b0 b1 stand in the network's order


def test_a_part_of_a_tensor_is_one_slice() -> None:
    graph = Graph()
    graph.widths["a"] = (8, 8)
    value = collect(graph, [("a", 5), ("a", 3), ("a", 4)])
    assert [node.op_type for node in graph.nodes] == ["Slice"]
    ends = [numpy_helper.to_array(graph.constants[name]).tolist() for name in graph.nodes[0].input[1:]]
    assert ends == [[3], [5 + 1], [1]] and value.order == (1, 2, 0)


@pytest.mark.parametrize(
    "layers",
    [
        nn.Conv2d(5, 4, 3, padding=1),
        nn.Conv2d(5, 4, 1, bias=False),
        nn.Sequential(nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.LeakyReLU(0.1), nn.Conv2d(5, 2, 1)),
        nn.Sequential(
            nn.Identity(), nn.Sequential(nn.Conv2d(5, 5, 3, padding=1, stride=2, groups=5)), nn.Conv2d(5, 3, 1)
        ),
    ],
    ids=["full", "without a bias", "channel by channel, then full", "nested, with stride"],
)
def test_weights_follow_the_channels(layers: nn.Module) -> None:
    graph, value, image = shuffled_input()
    made = write_layers(graph, layers, value)
    assert made.order == tuple(range(len(made.order)))
    graph.output(made.name, FLOAT, ["n", "c", "h", "w"])
    a, b = image[:, [2, 4, 1]], image[:, [3, 0]]
    with torch.no_grad():
        expected = layers(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(run(graph.model(18, {}), {"a": a, "b": b})[0], expected, rtol=0, atol=1e-5)


def test_a_layer_that_nobody_wrote_is_an_error() -> None:
    graph, value, _ = shuffled_input()
    with pytest.raises(TypeError, match="ONNX export does not support Hardswish"):
        write_layers(graph, nn.Sequential(nn.Conv2d(5, 5, 1), nn.Hardswish()), value)


# The writer itself


def test_constants_of_one_value_are_one() -> None:
    graph = Graph()
    first = graph.constant([1.0, 2.0], np.float32)
    assert graph.constant(np.array([1, 2], np.float32)) == first
    others = [
        graph.constant([1.0, 2.0], np.float64),  # another type
        graph.constant([[1.0, 2.0]], np.float32),  # another shape
        graph.constant([2.0, 1.0], np.float32),  # another order
        graph.constant([1.0, 2.0], np.float32, name="mine"),  # a name of its own
    ]
    assert len({first, *others}) == 5 and others[3] == "mine"
    assert len(graph.constants) == 5


def test_a_view_is_stored_in_its_own_order() -> None:
    graph = Graph()
    columns = np.arange(6, dtype=np.float32).reshape(2, 3).T
    stored = numpy_helper.to_array(graph.constants[graph.constant(columns)])
    assert np.array_equal(stored, columns)


def test_an_input_with_a_default_may_be_left_away() -> None:
    graph = Graph()
    total = graph.node("Add", [graph.input("x", INT64, []), graph.input("y", INT64, [], np.array(5))], name="total")
    graph.output(total, INT64, [])
    model = graph.model(18, {"nanogfl.schema": "1"})
    assert run(model, {"x": np.array(1)})[0] == 6
    assert run(model, {"x": np.array(1), "y": np.array(2)})[0] == 3
    assert {p.key: p.value for p in model.metadata_props} == {"nanogfl.schema": "1"}


def test_a_graph_that_is_wrong_is_not_made() -> None:
    graph = Graph()
    graph.output(graph.node("Add", ["nowhere", "nothing"]), FLOAT, [])
    with pytest.raises(onnx.checker.ValidationError):
        graph.model(18, {})


def test_nodes_have_names_that_are_unique() -> None:
    model = network(random_detector(SIZES[0]))
    outputs = [name for node in model.graph.node for name in node.output]
    names = [node.name for node in model.graph.node]
    assert len(set(outputs)) == len(outputs) and len(set(names)) == len(names)


def test_what_fusing_gives_is_what_is_stored() -> None:
    detector = random_detector(SIZES[0])
    conv, norm = detector.backbone.conv1[0], detector.backbone.conv1[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    weight, bias = fused_parameters(conv, norm)
    model = network(detector)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert np.array_equal(arrays[first.input[1]], weight.numpy())
    assert np.array_equal(arrays[first.input[2]], bias.numpy())
