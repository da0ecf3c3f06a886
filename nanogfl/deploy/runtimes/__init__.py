"""Adapters for the runtimes that can run a trained network; each imports its runtime inside functions only.

An adapter converts the core form (or, if its converter starts from torch, the checkpoint) to its own file format and
maps one image float32 [1, 3, H, W], BGR 0 to 255, to the maps ``classes_8 .. sides_64`` or to one raw output
[P, C + 4 * (R + 1)] named ``raw``. All steps before and after the network are nanogfl's own View and decode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nanogfl.deploy.runtimes import executorch, litert, mnn, ncnn, onnxruntime, opencv, openvino, torch
from nanogfl.errors import UsageError, nearest

Network = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]
"""A function that maps one image to its outputs by name."""


@dataclass(frozen=True)
class Runtime:
    """The adapter of a runtime.

    Attributes:
        name: name on the command line.
        modules: modules required to run a network.
        converter: additional modules required to convert a network.
        takes: the input of conversion and opening: ``core`` (our ONNX) or ``checkpoint``.
        suffix: suffix of its own file format; None if it has none and opens the given file.
        convert: function of (given file, file to write); None without a suffix.
        open: function of (file, threads, names of the maps) that returns the network.
    """

    name: str
    modules: tuple[str, ...]
    open: Callable[[Path, int, list[str]], Network]
    takes: str = "core"
    suffix: str | None = None
    converter: tuple[str, ...] = ()
    convert: Callable[[Path, Path], None] | None = None

    @property
    def missing(self) -> str | None:
        """Why the runtime cannot be used here; None if it can."""
        absent = [m for m in (*self.modules, *self.converter) if find_spec(m) is None]
        return f"not installed: pip install {' '.join(PACKAGES.get(m, m) for m in absent)}" if absent else None

    @property
    def version(self) -> str | None:
        """Version of the runtime's package; None if it is not installed."""
        try:
            return version(PACKAGES.get(self.modules[0], self.modules[0]))
        except PackageNotFoundError:
            return None


PACKAGES = {"cv2": "opencv-python", "ai_edge_litert": "ai-edge-litert", "litert_torch": "litert-torch"}
RUNTIMES = (
    Runtime("onnxruntime", ("onnxruntime",), onnxruntime.open_network),
    Runtime("openvino", ("openvino",), openvino.open_network, suffix=".xml", convert=openvino.convert),
    Runtime("ncnn", ("ncnn",), ncnn.open_network, suffix=".param", converter=("pnnx",), convert=ncnn.convert),
    Runtime("mnn", ("MNN",), mnn.open_network, suffix=".mnn", convert=mnn.convert),
    Runtime(
        "executorch",
        ("executorch",),
        executorch.open_network,
        takes="checkpoint",
        suffix=".pte",
        convert=executorch.convert,
    ),
    Runtime(
        "litert",
        ("ai_edge_litert",),
        litert.open_network,
        takes="checkpoint",
        suffix=".tflite",
        converter=("litert_torch",),
        convert=litert.convert,
    ),
    Runtime("opencv", ("cv2",), opencv.open_network),
    Runtime("torch", ("torch",), torch.open_network, takes="checkpoint"),
)
FORMATS = ["onnx", *(r.name for r in RUNTIMES if r.suffix)]  # the values of --format


def runtime(name: str, option: str = "--runtime") -> Runtime:
    """Return the runtime of this name (case-insensitive); raise UsageError if there is none."""
    known = {r.name: r for r in RUNTIMES}
    if name.lower() not in known:
        asked = FORMATS if option == "--format" else known
        hint = nearest(name.lower(), known) or f"; known: {', '.join(asked)}"
        raise UsageError(f"{option} {name}: no such runtime{hint}")
    return known[name.lower()]


def files_of(path: Path) -> list[Path]:
    """Return all files of a converted network; ncnn and OpenVINO store weights in a second file next to the graph."""
    return [path, *(p for p in (path.with_suffix(".bin"),) if path.suffix in (".param", ".xml") and p.is_file())]
