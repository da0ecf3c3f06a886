"""Adapter for MNN, Alibaba's runtime for phones."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# The package is an optional extra that may be missing where pyright runs.

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanogfl.errors import ExportError


def convert(core: Path, out: Path) -> None:
    """Convert a file of the core form to ``out`` (.mnn), float32.

    The compiled converter is called directly, because its wrapper, ``mnnconvert``, installs a package with pip and
    reports to a server what was converted and where.
    """
    import _tools  # the converter's module in MNN's wheel

    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", str(core), "--MNNModel", str(out), "--bizCode", "x"])
    if not out.is_file():
        raise ExportError("MNN could not convert the network")


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """Open a file on the CPU; precision "high" keeps float32 on processors that support float16."""
    import MNN.nn
    import numpy as np
    from MNN import expr

    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    net = MNN.nn.load_module_from_file(str(path), ["image"], names, runtime_manager=manager)

    def run(image: Any) -> dict[str, Any]:
        variable = expr.placeholder(list(image.shape), expr.NCHW)
        variable.write(image)
        maps = net.forward([variable])
        if len(maps) < len(names):
            raise ExportError("MNN returns only some maps of this network; use a float32 file")
        return {n: np.array(expr.convert(m, expr.NCHW).read()) for n, m in zip(names, maps, strict=True)}

    return run
