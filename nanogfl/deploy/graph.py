"""A small writer of ONNX graphs with nodes in order, deduplicated constants and readable names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 8  # that of onnxruntime 1.14, the first with opset 18; a newer one has no benefit and would exclude it
FLOAT, HALF, UINT8, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT64
Constant = NDArray[Any]
Maps = tuple[list[str], list[str]]  # names of the class maps and the side maps of each level


class Graph:
    """An ONNX model under construction: nodes, constants, inputs and outputs.

    Attributes:
        half: whether weights are stored as float16.
        widths: used channels and all channels of tensors that may be read in parts.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.widths: dict[str, tuple[int, int]] = {}
        self._stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count: Counter[str] = Counter()

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        *,
        name: str | None = None,
        outputs: int = 1,
        attributes: dict[str, Any] | None = None,
    ) -> Any:
        """Append a node; return the name of its output, or a tuple of names if it has several."""
        stem = name or f"{kind.lower()}_{self._count[kind]}"
        self._count[kind] += 1
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=stem, **(attributes or {})))
        return names[0] if outputs == 1 else tuple(names)

    def constant(self, value: Constant | Sequence[Any] | float, dtype: Any = None, name: str | None = None) -> str:
        """Store a constant, equal ones only once, and return its name."""
        array = np.asarray(value, dtype).copy(order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if name is None and key in self._stored:
            return self._stored[key]
        stored = name or f"constant_{len(self.constants)}"
        self.constants[stored] = numpy_helper.from_array(array, stored)
        self._stored.setdefault(key, stored)
        return stored

    def weight(self, value: NDArray[np.float32]) -> str:
        """Store a weight in the network's precision and return its name."""
        return self.constant(value, np.float16 if self.half else np.float32)

    def input(self, name: str, kind: int, shape: Sequence[int | str], default: Constant | None = None) -> str:
        """Declare an input and return its name; callers may omit an input that has a default."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        if default is not None:
            self.constants[name] = numpy_helper.from_array(default, name)
        return name

    def rename(self, old: str, new: str) -> None:
        """Rename a tensor wherever it is written or read."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
            if new in node.output:
                node.name = new

    def output(self, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """Declare an output."""
        self.outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def model(self, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
        """Return the finished model, checked by ``onnx.checker``."""
        graph = helper.make_graph(self.nodes, "nanogfl", self.inputs, self.outputs, list(self.constants.values()))
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION, producer_name="nanogfl"
        )
        helper.set_model_props(made, metadata)
        onnx.checker.check_model(made, full_check=True)
        return made
