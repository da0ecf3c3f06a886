"""Adapter for OpenVINO, Intel's runtime, which also supports other x86 and ARM processors."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# The package is an optional extra that may be missing where pyright runs.

from __future__ import annotations

from pathlib import Path
from typing import Any


def convert(core: Path, out: Path) -> None:
    """Convert a file of the core form to ``out`` (.xml) and its weights (.bin) next to it, in unchanged precision.

    The runtime reads the file itself, because ``openvino.convert_model`` would report its use to a server.
    """
    import openvino

    openvino.save_model(openvino.Core().read_model(str(core)), str(out), compress_to_fp16=False)


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """Open a file on the CPU in float32; on processors with bf16, OpenVINO's default is another precision."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(image: Any) -> dict[str, Any]:
        request.infer({"image": image})
        return {name: request.get_tensor(name).data for name in names}

    return run
