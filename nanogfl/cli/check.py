"""The command that checks data sets: check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanogfl.cli.app import Data, Json, app, bar, say
from nanogfl.errors import UsageError, counted

if TYPE_CHECKING:
    from nanogfl.data.table import Table
    from nanogfl.doctor.check import Checkup

LONGEST = 400  # characters; a name or a value in a broken file can have any length


@app.command(epilog="Example: nanogfl check pictures/ --report report.html --fix cleaned/")
def check(
    data: Data,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if anything was found.")] = False,
    json_file: Json = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write one HTML page with plots and pictures.")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option("--fix", help="Write a cleaned copy of the dataset to this new folder.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option("--shards", help="With --fix: write tars of this many pictures, for very large datasets.", min=1),
    ] = None,
) -> None:
    """Check every picture and annotation, and report what is wrong, where, and what to do."""
    from nanogfl.atomic import write_json
    from nanogfl.doctor.check import check as run
    from nanogfl.runtime.outputs import check_outputs, refuse_overwriting

    if shards and not fix:
        raise UsageError("--shards requires --fix; specify --fix FOLDER too")
    written = {"--json": json_file, "--report": report}
    check_outputs([data], written, {"--fix": fix})
    refuse_overwriting([], [(option, path) for option, path in {**written, "--fix": fix}.items() if path])
    with ExitStack() as bars:
        found = run(
            data,
            lambda count: bars.enter_context(bar(count)),
            lambda table: _check_outputs(table, data, fix, json_file, report),
        )
    for line in _summary(found):
        say(line)
    if json_file:
        write_json(json_file, found.to_json())
    if report:
        from nanogfl.doctor.report import write_report

        write_report(found, report)
        say(f"page: {report}")
    if fix:
        from nanogfl.doctor.fix import write_copy

        say(f"cleaned copy: {write_copy(found, fix, shards)}")
    if strict and found.problems:
        raise typer.Exit(1)


def _check_outputs(table: Table, data: str, fix: Path | None, *files: Path | None) -> None:
    """Refuse outputs that cannot be written, before the pictures are checked."""
    from nanogfl.data.outputs import refuse_dataset_files
    from nanogfl.doctor.fix import check_place

    refuse_dataset_files(table, data, *files)
    if fix:
        check_place(table, fix.absolute())


def _summary(found: Checkup) -> Iterator[str]:
    """Yield a line about the set, three per kind of problem (count, first one, fix), and the command for training."""
    from nanogfl.data.findings import KINDS

    table = found.table
    boxes = sum(len(e.boxes) for e in table.examples)
    splits = ", ".join(f"{n} {s}" for s, n in found.statistics["pictures"]["splits"].items() if s != "none")
    parts = f" ({splits})" if splits else ""
    pictures, classes = counted(len(table), "picture"), counted(len(table.names), "class")
    yield f"{table.form} dataset, {pictures}{parts}, {counted(boxes, 'box')}, {classes}"
    for kind, count in found.counts.items():
        first = next(p for p in found.problems if p.kind == kind)
        yield f"{KINDS[kind].severity:8}{count:6}  {kind}: {KINDS[kind].phrase}"
        where = ": ".join(filter(None, (" ".join(filter(None, (first.file, first.where))), first.detail)))
        yield _line(f"{'':16}{where}")
        yield f"{'':16}-> {KINDS[kind].fix}"
    if not found.problems:
        yield "no problems found"
    yield f"train with: {found.recommended['command']}"
    yield f"{'':12}{found.recommended['reasons']['input']}"


def _line(text: str) -> str:
    """Return the text as one line that any terminal can show, truncated to LONGEST characters."""
    plain = "".join(c if c.isprintable() else " " for c in text).encode("utf-8", "replace").decode()
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 3] + "..."
