"""``nanogfl export --format``: conversion of a checkpoint's network to another runtime's file format, with a check."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nanogfl.atomic import atomic_file, write_json
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.pictures import verification_pictures
from nanogfl.deploy.probe import decode_outputs
from nanogfl.deploy.runtimes import FORMATS, RUNTIMES, Runtime, files_of, runtime
from nanogfl.deploy.runtimes.detector import network_image, open_detector
from nanogfl.deploy.verify import LIMITS, Parity, take
from nanogfl.deploy.worker import LOCAL, Worker
from nanogfl.errors import ExportError, ModelError, UsageError
from nanogfl.predictor import TorchDetector, load
from nanogfl.runtime.card import FileCard, read_card
from nanogfl.runtime.outputs import check_outputs


@dataclass(frozen=True)
class Converted:
    """The result of a conversion: the files (graph, then weights if separate, then card) and the comparison."""

    files: list[Path]
    parity: Parity


def export_format(
    checkpoint: str | Path,
    *,
    out: str | Path,
    format: str,  # noqa: A002  (the option's name)
    input: str | int | tuple[int, int] | None = None,  # noqa: A002
    config: str | Path | None = None,
    data: str | Path | None = None,
) -> Converted:
    """Convert the network of a checkpoint, run both on pictures, and keep the file only if the results agree.

    ``NAME.json``, next to the file, holds the metadata of our ONNX files, which these formats cannot store.

    Args:
        checkpoint: our or NanoDet's checkpoint, or a published name.
        out: the file to write, or a folder, in which the file is called ``model`` with the format's suffix.
        format: a runtime with its own file format.
        input: input size, if not the checkpoint's.
        config: a NanoDet ``.yml``.
        data: a data set on whose pictures the file is checked; synthetic pictures if None.

    Raises:
        ExportError: the converter failed, or its file gives different results; existing files are left unchanged.
        UsageError: there is no such format, or its converter is not installed.
    """
    chosen, path = _asked(format, Path(out))
    _check_place(checkpoint, path)
    detector = load(checkpoint, input=input, config=config)
    if not isinstance(detector, TorchDetector):
        raise ModelError(f"{checkpoint} is already an ONNX; export requires a checkpoint")
    core = build(detector, Form("core"))
    card = read_card({p.key: p.value for p in core.metadata_props}, Path(checkpoint))
    with TemporaryDirectory(prefix="nanogfl-export-") as folder:
        made = Path(folder, path.name)
        if chosen.takes == "core":
            given = Path(folder, "core.onnx")
            given.write_bytes(core.SerializeToString())
        else:
            given = detector.save(Path(folder, "network.ckpt"))
        with Worker(LOCAL) as converter:
            converter.ask("convert", runtime=chosen.name, given=str(given), out=str(made))
        parity = _check_equal(detector, chosen.name, made, card, [o.name for o in core.graph.output], data)
        about = Path(folder, "card.json")
        write_json(about, card.to_metadata() | {"nanogfl.parity": json.dumps(parity.to_json())})
        files = {path.with_suffix(file.suffix): file for file in files_of(made)} | {path.with_suffix(".json"): about}
        # Files get their final names after all are written, the graph last: if it exists, the others are complete.
        with ExitStack() as stack:
            for target, file in files.items():
                shutil.copyfile(file, stack.enter_context(atomic_file(target)))
    return Converted(list(files), parity)


def _asked(name: str, out: Path) -> tuple[Runtime, Path]:
    """Return the runtime and the path of its file; raise UsageError if the format or the path is not possible."""
    chosen = runtime(name, "--format")
    if chosen.suffix is None:
        raise UsageError(f"--format {name}: {chosen.name} has no file format; use one of {', '.join(FORMATS)}")
    if chosen.missing:
        raise UsageError(f"--format {name}: {chosen.missing}")
    named = out.suffix in (".onnx", chosen.suffix, *(r.suffix for r in RUNTIMES)) and not out.is_dir()
    path = out if named else out / f"model{chosen.suffix}"
    if path.suffix != chosen.suffix:
        raise UsageError(f"--out {path}: a file for {chosen.name} must end in {chosen.suffix}")
    return chosen, path


def _check_place(checkpoint: str | Path, path: Path) -> None:
    """Refuse to replace files except the one given by ``--out`` and those that an earlier export wrote next to it."""
    about = path.with_suffix(".json")
    beside = [path.with_suffix(".bin")] if path.suffix in (".param", ".xml") else []
    for target in (path, *beside, about):
        check_outputs([checkpoint], {"--out": target})
    there = [file for file in (*beside, about) if file.exists()]
    if there and not _is_card(about):
        raise UsageError(f"--out {path}: {there[0]} already exists and is not from an export; choose another path")


def _is_card(path: Path) -> bool:
    """Return whether a file is a card written by an export."""
    try:
        return "nanogfl.schema" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_equal(
    detector: TorchDetector, name: str, file: Path, card: FileCard, outputs: list[str], data: str | Path | None
) -> Parity:
    """Compare boxes and raw outputs of file and checkpoint on each picture; raise ExportError if they differ."""
    made, parity, layout = open_detector(name, file, 1, card, outputs), Parity(), detector.card.layout
    for title, picture in verification_pictures(data):
        view, image = detector.see(picture)
        raws = detector.raw(image[None])[0], made.raw(network_image(picture, view))
        if raws[0].shape != raws[1].shape:
            raise ExportError(f"{name} gives raw outputs of {raws[1].shape} instead of {raws[0].shape}")
        ours, its = (decode_outputs(raw, layout, view, detector.names, LIMITS) for raw in raws)
        take(parity, title, ours, its, layout, LIMITS)
    if not parity.holds:
        raise ExportError(f"{name}: results differ from the checkpoint's, nothing was kept: {parity.why}")
    return parity
