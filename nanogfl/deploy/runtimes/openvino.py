"""OpenVINO: Intel's own kernels, also for other x86 and ARM processors."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Checked where it is installed or not: an extra that the environment of the checks does not have.

from __future__ import annotations

from pathlib import Path
from typing import Any


def convert(core: Path, out: Path) -> None:
    """Core form to ``out`` (.xml) and its weights beside it (.bin), in the precision that they have.

    Read by the runtime itself: ``openvino.convert_model`` would report its use to a server.
    """
    import openvino

    openvino.save_model(openvino.Core().read_model(str(core)), str(out), compress_to_fp16=False)


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """On the CPU, in float32: its default on processors with bf16 is another precision."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(image: Any) -> dict[str, Any]:
        request.infer({"image": image})
        return {name: request.get_tensor(name).data for name in names}

    return run
