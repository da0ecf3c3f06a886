"""Commands that train and evaluate: quickstart, train, eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanogfl.cli.app import Config, Data, Input, Json, Model, Score, Split, app, say


@app.command(epilog="Example: nanogfl quickstart --out quickstart")
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for all results.")] = Path("quickstart"),
    seed: Annotated[
        int, typer.Option("--seed", help="Random seed of the pictures and the training.", min=0, max=2**32 - 1)
    ] = 0,
) -> None:
    """Draw a small set, train on it for two to three minutes, export, and show the boxes found."""
    from nanogfl.quickstart import run

    run(out, seed, say)


@app.command(epilog="Example: nanogfl train pictures/ --out runs/cells --init nanodet-plus-m_416 --epochs 100")
def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, log and summary.")],
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Recipe: name of a built-in one, or a YAML file.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="s | m | l; m, the default, is NanoDet-Plus-m, l its 1.5x.")
    ] = None,
    input: Input = None,  # noqa: A002
    init: Annotated[
        str | None,
        typer.Option("--init", help="Initial weights: a checkpoint, a published name, imagenet, or none (default)."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the pictures (default: by their number).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Pictures per batch in each process (default 16).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed (default 0).")] = None,
    freeze: Annotated[
        str | None, typer.Option("--freeze", help="backbone: do not train it; for very small datasets.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe key: key.path=value; may be repeated.")
    ] = None,
) -> None:
    """Train a detector on your pictures."""
    from nanogfl.training.folder import is_main
    from nanogfl.training.keeper import validated
    from nanogfl.training.run import train as run

    summary = run(
        data, out=out, recipe=recipe, resume=resume, overwrite=overwrite, set=set_ or (), size=size, input=input,
        init=init, epochs=epochs, batch=batch, seed=seed, freeze=freeze,
    )  # fmt: skip
    if not is_main():
        return
    best, scores = summary["best"], validated(out / "best.ckpt")
    if scores is not None:
        say(f"validation, epoch {best['epoch'] + 1}:\n{scores.to_table()}\n")
    speed = f"{summary['images_per_second']:.1f} pictures/s in the last epoch"
    say(f"epochs {summary['epochs']}, {summary['seconds']:.0f} s, {speed}")
    if scores is None:
        found = "no validation pictures; last weights"
    elif best["AP"] is None:
        found = "no boxes in the validation pictures, so no AP; last weights"
    else:
        found = f"best validation AP {best['AP']:.3f}, AP50 {best['AP50']:.3f} (epoch {best['epoch'] + 1})"
    say(f"{found}: {out / 'best.ckpt'}")
    say(f"next: nanogfl export {out / 'best.ckpt'} --out {out / 'model.onnx'}")


@app.command("eval", epilog="Example: nanogfl eval runs/cells/best.ckpt pictures/ --split test --report report/")
def evaluate(
    model: Model,
    data: Data,
    split: Split = None,
    input: Input = None,  # noqa: A002
    config: Config = None,
    score: Score = 0.05,
    json_file: Json = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Folder for an HTML report: errors, uncertainty, suspicious labels, pictures."),
    ] = None,
) -> None:
    """Measure average precision (pycocotools' twelve numbers, and AP per class)."""
    from nanogfl.evaluation.run import evaluate as run

    scores = run(
        model, data, split=split, input=input, config=config, score_threshold=score, json_file=json_file, report=report
    )
    say(scores.to_table())
    if report:
        say(f"\nreport: {report / 'report.html'}")
