"""docs/peers.py, whose figures docs/export.md shows: others' deployments beside ours, on the same pictures."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import scene
from onnx import TensorProto, helper, numpy_helper

import nanogfl
from nanogfl.decode import sigmoid
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.runtimes.detector import network_image
from nanogfl.predictor import TorchDetector
from nanogfl.view import MEAN, STD

SCRIPT = Path(__file__).parents[1] / "docs" / "peers.py"


def table(*given: Path) -> list[list[str]]:
    said = subprocess.run([sys.executable, SCRIPT, *given], capture_output=True, text=True, check=True).stdout
    return [re.split(r" \| ", line.strip("| \n")) for line in said.splitlines()[2:]]


def as_nanodet_writes_it(checkpoint: Path, out: Path) -> Path:
    """Our network in the layout of NanoDet's exporter: ``data`` normalised, output [1, P, C + 32] after the sigmoid."""
    detector = nanogfl.load(checkpoint)
    assert isinstance(detector, TorchDetector)
    model = build(detector, Form("core"))
    graph, image = model.graph, model.graph.input[0]
    constants = {
        "mean": np.array(MEAN, np.float32).reshape(1, 3, 1, 1),
        "std": np.array(STD, np.float32).reshape(1, 3, 1, 1),
        "flat": np.array([0, 0, -1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    before = [
        helper.make_node("Mul", ["data", "std"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["image"]),
    ]
    names = [output.name for output in graph.output]
    after = [helper.make_node("Reshape", [name, "flat"], [f"{name}_flat"]) for name in names]
    for kind in ("classes", "sides"):
        rows = [f"{name}_flat" for name in names if name.startswith(kind)]
        after.append(helper.make_node("Concat", rows, [kind], axis=2))
    after += [
        helper.make_node("Sigmoid", ["classes"], ["scores"]),
        helper.make_node("Concat", ["scores", "sides"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["output"], perm=[0, 2, 1]),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    image.name = "data"
    graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, None))
    onnx.save(model, out)
    return out


def test_the_same_network_in_another_layout_has_the_same_ap(learnt: Path, blocks: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.onnx"
    nanogfl.export(learnt / "best.ckpt", out=ours)
    theirs = as_nanodet_writes_it(learnt / "best.ckpt", tmp_path / "theirs.onnx")
    first, second = table(blocks, ours, theirs)
    assert [first[0], second[0]] == ["ours.onnx", "theirs.onnx"] and first[1:3] == second[1:3]
    assert float(first[1]) == pytest.approx(nanogfl.evaluate(ours, blocks, split="all").numbers["AP"], abs=1e-3)
    assert first[5] == "1.000" and float(second[3]) == pytest.approx(theirs.stat().st_size / 1e6, abs=0.01)


def test_without_files_it_says_how_it_is_called() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("usage: python docs/peers.py COCO_VAL")


def test_nanodets_own_file(shared: Path) -> None:
    """The published weights as NanoDet's exporter writes them give the raw output of ours."""
    weights, picture = shared / "weights", scene()
    ours = nanogfl.load(weights / "nanodet-plus-m_320.ckpt")
    assert isinstance(ours, TorchDetector)
    view, image = ours.see(picture)
    theirs = runpy.run_path(str(SCRIPT))["deployment"](weights / "peers" / "nanodet-plus-m_320.onnx")
    found = theirs.network(network_image(picture, view))["raw"]
    expected = ours.raw(image[None])[0]
    np.testing.assert_allclose(sigmoid(found[:, :80]), sigmoid(expected[:, :80]), atol=1e-5)
    np.testing.assert_allclose(found[:, 80:], expected[:, 80:], atol=1e-3)
