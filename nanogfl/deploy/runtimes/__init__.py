"""The runtimes that a trained network can be run by: one small adapter each, every import inside its functions.

An adapter takes the core form (or the checkpoint, where its converter starts from torch), makes its own file of it,
and runs one image float32 [1, 3, H, W], BGR 0 to 255, to the maps ``classes_8 .. sides_64`` or to one raw output
[P, C + 4 * (R + 1)] named ``raw``. Everything before and behind is nanogfl's own View and decode.
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
"""One image to its maps by name."""


@dataclass(frozen=True)
class Runtime:
    """How a network is brought to a runtime.

    Attributes:
        name: on the command line.
        modules: what must be installed to run it.
        converter: what must be installed besides to make its file.
        takes: ``core`` (our ONNX) or ``checkpoint``.
        suffix: of its own file; None where it reads what it is given.
        convert: (given file, file to write) -> nothing; only where there is a suffix.
        open: (file, threads, names of the maps) -> the network.
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
        """Why it cannot be used here; None where it can."""
        absent = [m for m in (*self.modules, *self.converter) if find_spec(m) is None]
        return f"not installed: pip install {' '.join(PACKAGES.get(m, m) for m in absent)}" if absent else None

    @property
    def version(self) -> str | None:
        """Of what runs it; None where it is not installed."""
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
FORMATS = ["onnx", *(r.name for r in RUNTIMES if r.suffix)]  # what --format knows


def runtime(name: str, option: str = "--runtime") -> Runtime:
    """The runtime of this name, in any case. Raises UsageError for an unknown one."""
    known = {r.name: r for r in RUNTIMES}
    if name.lower() not in known:
        asked = FORMATS if option == "--format" else known
        hint = nearest(name.lower(), known) or f"; known: {', '.join(asked)}"
        raise UsageError(f"{option} {name}: no such runtime{hint}")
    return known[name.lower()]


def files_of(path: Path) -> list[Path]:
    """All files that belong to a converted one: ncnn's and OpenVINO's weights lie beside the graph."""
    return [path, *(p for p in (path.with_suffix(".bin"),) if path.suffix in (".param", ".xml") and p.is_file())]
