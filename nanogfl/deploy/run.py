"""``nanogfl export``: build an ONNX file, verify it, and keep it only if it passes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nanogfl.atomic import atomic_file
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.int8 import Measured, to_int8
from nanogfl.deploy.pictures import verification_pictures
from nanogfl.deploy.verify import Parity, compare
from nanogfl.errors import ExportError, ModelError, UsageError
from nanogfl.predictor import Predictor, TorchDetector, load
from nanogfl.runtime.outputs import check_outputs
from nanogfl.runtime.session import OnnxDetector

MAX_DROP = 0.02  # default limit of the AP that int8 may lose


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: path of the file.
        megabytes: size of the file.
        nodes: number of nodes of each type.
        parity: comparison of the float model with the checkpoint.
        int8: measurements of the int8 model, if one was requested.
    """

    path: Path
    megabytes: float
    nodes: dict[str, int]
    parity: Parity
    int8: Measured | None = None


def export(
    checkpoint: str | Path,
    *,
    out: str | Path,
    input: str | int | tuple[int, int] | None = None,  # noqa: A002  (the option's name everywhere)
    config: str | Path | None = None,
    data: str | Path | None = None,
    form: Form | str = "frame",
    sigma: bool = False,
    int8: bool = False,
    calib: str | Path | None = None,
    max_drop: float = MAX_DROP,
) -> Exported:
    """Export a checkpoint to an ONNX file, and keep the file only if it finds the same boxes.

    Args:
        checkpoint: our or NanoDet's checkpoint, or a published name.
        out: the file to write, ending in .onnx.
        input: input size, if not the checkpoint's.
        config: a NanoDet ``.yml``.
        data: a data set on whose pictures the file is verified; synthetic pictures if None.
        form: frame, tensor or core; or a Form.
        sigma: whether to output the standard deviation of each side.
        int8: whether to quantise the verified float model; the int8 model is judged by AP.
        calib: a data set to calibrate and judge int8 on.
        max_drop: largest drop of AP on ``calib`` that int8 may cause.

    Raises:
        ExportError: the file failed the verification; no file is written.
        ModelError: the checkpoint cannot be used.
    """
    path = Path(out)
    if path.suffix != ".onnx":
        raise UsageError(f"--out {path}: the file must end in .onnx")
    check_outputs([checkpoint], {"--out": path})
    if isinstance(form, Form) and sigma and not form.sigma:
        raise UsageError("sigma: set it in the specified Form")
    asked = form if isinstance(form, Form) else Form(form, sigma=sigma)
    _check(asked, int8, calib, max_drop)
    detector = load(checkpoint, input=input, config=config)
    if not isinstance(detector, TorchDetector):
        raise ModelError(f"{checkpoint} is already an ONNX; export requires a checkpoint")
    model, measured = build(detector, asked), None
    with atomic_file(path) as partial:
        partial.write_bytes(model.SerializeToString())
        parity = check_equal(detector, OnnxDetector(partial), data)
        if calib is not None:
            model, measured = to_int8(model, calib, max_drop)
        said = parity.to_json() | ({} if measured is None else {"int8": measured.to_json()})
        next(p for p in model.metadata_props if p.key == "nanogfl.parity").value = json.dumps(said)
        partial.write_bytes(model.SerializeToString())
    nodes = Counter(node.op_type for node in model.graph.node)
    return Exported(path, path.stat().st_size / 1e6, dict(nodes), parity, measured)


def _check(form: Form, int8: bool, calib: str | Path | None, max_drop: float) -> None:
    if int8 and calib is None:
        raise UsageError("--int8 requires calibration pictures: add --calib DATA, preferably the training set")
    if calib is not None and not int8:
        raise UsageError("--calib requires --int8: add it, or omit --calib")
    if int8 and form.half:
        raise UsageError("--int8 and --fp16: use only one of them")
    if max_drop != MAX_DROP and not int8:
        raise UsageError("--max-drop requires --int8: add it, or omit --max-drop")
    if not 0 <= max_drop <= 1:
        raise UsageError(f"--max-drop {max_drop:g}: must be an AP from 0 to 1")


def check_equal(a: Predictor, b: Predictor, data: str | Path | None) -> Parity:
    """Compare two models on a data set's pictures, or on synthetic ones, and return the comparison.

    Raises:
        ExportError: the models differ, or nothing could be compared.
    """
    parity = compare(a, b, verification_pictures(data))
    decodes = any(isinstance(m, OnnxDetector) and m.card.form != "core" for m in (a, b))
    if parity.holds and not parity.boxes and (decodes or parity.raw is None):
        if parity.raw is None:
            raise ExportError("no box was found and the inputs differ, so nothing was compared; use --data")
        # equal raw outputs do not prove that boxes, labels and the mapping back to the frame are right
        parity = compare(a, b, verification_pictures(data), raised=parity.lift)
        if parity.holds and not parity.boxes:
            raise ExportError("no box was found, so none was compared; use --data with objects of its classes")
    if not parity.holds:
        int8 = any(isinstance(m, OnnxDetector) and m.card.precision == "int8" for m in (a, b))
        hint = "; an int8 file never returns the same boxes: compare AP with nanogfl eval" if int8 else ""
        raise ExportError(f"the two models differ: {parity.why} ({parity.to_text()}){hint}")
    return parity


def verify(a: str | Path, b: str | Path, data: str | Path | None = None, config: str | Path | None = None) -> Parity:
    """Run the verification of ``export`` on any two models and return the comparison.

    Args:
        a: a checkpoint or an exported file.
        b: the other one.
        data: a data set on whose pictures the models are compared; synthetic pictures if None.
        config: a NanoDet ``.yml`` for the NanoDet checkpoints among them.

    Raises:
        ExportError: the models differ, or nothing could be compared.
    """
    first, second = (load(m, config=None if Path(m).suffix.lower() == ".onnx" else config) for m in (a, b))
    if isinstance(second, TorchDetector) and second.input_size != first.input_size:
        second = load(b, input=first.input_size, config=config)
    if isinstance(first, TorchDetector) and second.input_size != first.input_size:
        first = load(a, input=second.input_size, config=config)
    return check_equal(first, second, data)


def nodes_text(nodes: dict[str, int]) -> str:
    """Format node counts by type, largest first."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(nodes.items(), key=lambda item: -item[1]))
