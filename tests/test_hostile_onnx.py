"""ONNX files from strangers: they are read, or refused in one line, and reach for nothing outside themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nanogfl
from nanogfl.errors import ModelError, NanogflError

ODD = ["", "null", "-1", "1e999", "NaN", "[]", '"x"', "true", "<script>", "[[1]]", "9" * 20, "100000,100000"]
ODD += ["[" * 100_000, '{"a":' + "[" * 2000, "a" * 100_000, "é\n\r\u2028"]
PICTURE = np.zeros((50, 60, 3), np.uint8)


def external(location: str) -> bytes:
    """A model whose only weight lies in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("where", ["../secret.bin", "{}/secret.bin", "/etc/hostname"])
def test_no_weight_comes_from_outside_the_folder(where: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    path = tmp_path / "models" / "a.onnx"
    path.parent.mkdir()
    path.write_bytes(external(where.format(tmp_path)))
    with pytest.raises(ModelError, match="stores weights in a separate file"):
        nanogfl.load(path)


def hollow(path: Path) -> onnx.ModelProto:
    """The file with its inputs, outputs and metadata, but one box for every frame: it opens at once."""
    model = onnx.load(str(path))
    found = {"boxes": np.float32([[1, 2, 30, 40]]), "scores": np.float32([0.9]), "labels": np.int64([0])}
    assert {output.name for output in model.graph.output} == set(found)
    del model.graph.node[:]
    for name, value in found.items():
        model.graph.node.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
    inputs = {entry.name for entry in model.graph.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in inputs]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def test_any_metadata_is_read_or_refused_in_one_line(tiny_onnx: Path, tmp_path: Path) -> None:
    model, path = hollow(tiny_onnx), tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(nanogfl.load(path).predict(PICTURE)) == 1
    assert len(model.metadata_props) > 8
    refused = 0
    for entry in model.metadata_props:
        kept = entry.value
        for entry.value in ODD:
            path.write_bytes(model.SerializeToString())
            try:
                nanogfl.load(path).predict(PICTURE)
            except NanogflError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1100
        entry.value = kept
    assert refused > len(ODD) * 5


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(cut: float, tiny_onnx: Path, tmp_path: Path) -> None:
    whole, path = tiny_onnx.read_bytes(), tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(cut if cut >= 1 else cut * len(whole))])
    with pytest.raises(ModelError) as caught:
        nanogfl.load(path)
    assert "\n" not in str(caught.value)
