"""Commands for exported files: export, verify, info, bench."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer

from nanogfl.cli.app import Config, Input, Json, Model, Split, app, listed, named, say
from nanogfl.errors import UsageError


@app.command(epilog="Example: nanogfl export nanodet-plus-m_416_checkpoint.ckpt --out model.onnx")
def export(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint (ours or NanoDet's), or a published name.")],
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    input: Input = None,  # noqa: A002
    form: Annotated[str, typer.Option("--form", help="frame (camera frame in, boxes out) | tensor | core.")] = "frame",
    sigma: Annotated[
        bool, typer.Option("--sigma", help="Also output the standard deviation of each side (px).")
    ] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Make the thresholds constants, for runtimes without optional inputs.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", help="Batch size, for tensor and core.")] = 1,
    uint8: Annotated[bool, typer.Option("--uint8", help="Tensor and core take resized uint8 pictures.")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Weights and network in float16: half the size, slower on most CPUs.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8; needs --calib, verified by AP.")] = False,
    calib: Annotated[
        str | None, typer.Option("--calib", help="Dataset for int8 calibration, best the training data.")
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="Largest loss of AP by int8.")] = 0.02,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set version.")] = 18,
    data: Annotated[str | None, typer.Option("--data", help="Verify the file on this dataset's pictures.")] = None,
    config: Config = None,
    format_: Annotated[
        str, typer.Option("--format", help="onnx, or the network alone: openvino | ncnn | mnn | executorch | litert.")
    ] = "onnx",
) -> None:
    """Make one ONNX file that takes a frame and returns boxes, kept only if it equals the checkpoint."""
    if format_.lower() != "onnx":
        from nanogfl.deploy.formats import export_format

        _refuse_beside(
            format_, form=form not in ("frame", "core"), sigma=sigma, fixed=fixed, batch=batch != 1, uint8=uint8,
            fp16=fp16, int8=int8, calib=calib, max_drop=max_drop != 0.02, opset=opset != 18,
        )  # fmt: skip
        converted = export_format(checkpoint, out=out, format=format_, input=input, config=config, data=data)
        say(f"{', '.join(map(str, converted.files))}\nequal to the checkpoint: {converted.parity.to_text()}")
        return
    from nanogfl.deploy.build import Form
    from nanogfl.deploy.run import export as run
    from nanogfl.deploy.run import nodes_text

    asked = Form(form, opset=opset, fixed=fixed, sigma=sigma, batch=batch, half=fp16, uint8=uint8)
    made = run(
        checkpoint,
        out=out,
        input=input,
        config=config,
        data=data,
        form=asked,
        int8=int8,
        calib=calib,
        max_drop=max_drop,
    )
    say(f"{made.path}: {made.megabytes:.2f} MB, {sum(made.nodes.values())} nodes ({nodes_text(made.nodes)})")
    if made.int8 is None:
        say(f"equal to the checkpoint: {made.parity.to_text()}")
    else:
        say(f"before int8 equal to the checkpoint: {made.parity.to_text()}\n{made.int8.to_text()}")


def _refuse_beside(format_: str, **given: object) -> None:
    """Refuse options that only ONNX files support."""
    asked = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if asked:
        raise UsageError(f"--format {format_} contains only the network, in float32; omit {', '.join(asked)}")


@app.command(epilog="Example: nanogfl verify best.ckpt model.onnx --data pictures/")
def verify(
    a: Model,
    b: Annotated[str, typer.Argument(help="The other model.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Compare on this dataset's pictures (default: drawn ones).")
    ] = None,
    config: Config = None,
) -> None:
    """Check that two models find the same boxes."""
    from nanogfl.deploy.run import verify as run

    say(f"equal: {run(a, b, data, config).to_text()}")


@app.command(epilog="Example: nanogfl info model.onnx")
def info(
    file: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    config: Config = None,
) -> None:
    """Describe a checkpoint or an exported file."""
    from nanogfl.predictor import load

    card = load(file, config=config).describe()
    if as_json:
        say(json.dumps(card, indent=1))
        return
    for key, value in card.items():
        parts = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else value
        say(f"{key:12} {_shortened(parts if isinstance(parts, list) else [parts])}")


def _shortened(parts: Iterable[object]) -> str:
    """Join the parts by commas; after about 400 characters, say how many more there are."""
    words = [*map(str, parts)]
    shown = max(1, sum(end <= 400 for end in accumulate(len(word) + 2 for word in words)))
    text = ", ".join(words[:shown])
    more = f" and {len(words) - shown} more" if len(words) > shown else ""
    return (text if len(text) <= 400 else text[:400] + " ...") + more


@app.command(epilog="Example: nanogfl bench model.onnx --data pictures/ --threads 1,2 --json bench.json")
def bench(
    models: Annotated[list[str], typer.Argument(help="Exported ONNX files, checkpoints, or published names.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Dataset for AP and timing (default: drawn pictures, no AP).")
    ] = None,
    split: Split = None,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="Only these runtimes, separated by commas: onnxruntime, openvino, ncnn ..."),
    ] = None,
    threads: Annotated[str, typer.Option("--threads", help="Numbers of threads, separated by commas.")] = "1",
    target: Annotated[
        str | None, typer.Option("--target", help="Device to measure on: ssh://user@host[:port], adb or adb:SERIAL.")
    ] = None,
    python: Annotated[str, typer.Option("--python", help="Python on the target; it needs onnxruntime.")] = "python3",
    config: Config = None,
    json_file: Json = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the table to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Plot AP against latency to this .png.")] = None,
) -> None:
    """Measure AP, latency, size and memory of models in every runtime that is installed, here or on a device."""
    from nanogfl.data.outputs import refuse_dataset_files
    from nanogfl.data.readers import read_table
    from nanogfl.deploy.bench import bench as run
    from nanogfl.runtime.outputs import check_outputs

    if split and not data:
        raise UsageError("--split selects a part of --data; specify --data too, or omit it")
    if plot and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: the plot is a PNG; use a name that ends in .png")
    sources = [*models, *(given for given in (data, config) if given)]
    check_outputs(sources, {"--json": json_file, "--markdown": markdown, "--plot": plot})
    table = read_table(data) if data else None
    if table is not None:
        refuse_dataset_files(table, data, json_file, markdown, plot)
    card = run(
        models, data=table, split=split, runtimes=named("--runtime", runtime, "runtime") or [],
        threads=_counts(threads), target=target, python=python, config=config,
    )  # fmt: skip
    say(card.to_markdown())
    for path, write in ((json_file, card.write_json), (markdown, card.write_markdown), (plot, card.write_plot)):
        if path:
            write(path)


def _counts(text: str) -> list[int]:
    words = listed(text)
    if not words or not all(word.isdecimal() and 0 < int(word) < 1000 for word in words):
        raise UsageError(f"--threads {text}: use integers from 1, separated by commas, such as 1,2")
    return list(dict.fromkeys(map(int, words)))
