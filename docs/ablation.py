"""The paper's ablation on your own data set: the effect of each part of the loss and of the assignment.

Every row is a separate `nanogfl train`, as short as NanoDet's own example schedule (9 epochs, batch 8, 320 px), on a
GPU if there is one, followed by `nanogfl eval` on the test split. Rows run seed by seed. Runs that the results file
already contains are skipped, so that a long ablation can be done in parts. The table and the picture are made at the
end, or immediately with --jobs 0.

    python docs/ablation.py BCCD --init nanodet-plus-m_416 --seeds 0,1,2 --jobs 2 --results docs/ablation.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nanogfl.atomic import atomic_file, write_json

ROWS = {
    "focal loss, Dirac box": ["loss.classes=focal", "model.sides=dirac"],
    "+ QFL": ["model.sides=dirac"],
    "general distribution, no DFL": ["loss.dfl=0"],
    "+ DFL (the default)": [],
    "+ DGQP, top 4": ["model.quality=top4"],
    "+ DGQP, moments": ["model.quality=moments"],
    "ATSS instead of dynamic soft labels": ["loss.assign=atss"],
    "ATSS, sides apart": ["loss.assign=atss", "model.separate_sides=true"],
    "focal loss instead of QFL": ["loss.classes=focal"],
    "guidance, light": ["model.guidance=light"],
    "guidance, NanoDet-Plus' own": ["model.guidance=full"],
}
TEACHER = "a teacher, {}"  # row of the teacher that --teacher names
SCHEDULE = ["--epochs", "9", "--input", "320", "--size", "m"]
LAST = ["--set", "train.workers=0", "--set", "train.validate_every=9"]  # best.ckpt is from the last epoch
COMMAND = [sys.executable, "-m", "nanogfl"]
Record = dict[str, Any]


def planned(given: argparse.Namespace, done: Sequence[Record]) -> Iterator[Record]:
    """Yield the runs that are still to be done, seed by seed."""
    known = {identity(record) for record in done}
    rows = [row for row in [*ROWS, *teachers(given)] if re.search(given.rows, row)]
    changed = {"set": " ".join(given.set)} if given.set else {}
    for seed in given.seeds:
        for row in rows:
            what = {"data": Path(given.data).name, "init": Path(given.init).stem, "row": row}
            record = what | {"seed": seed, "batch": given.batch} | changed
            if identity(record) not in known:
                yield record


def identity(record: Record) -> tuple[Any, ...]:
    """Return the key that identifies a run."""
    return tuple(record.get(name, "") for name in ("data", "init", "row", "seed", "batch", "set"))


def teachers(given: argparse.Namespace) -> dict[str, list[str]]:
    """Return the row of the teacher given by --teacher, if any."""
    name, _, checkpoint = (given.teacher or "").rpartition("=")
    return {TEACHER.format(name or Path(checkpoint).stem): [f"train.teacher={checkpoint}"]} if checkpoint else {}


def run(record: Record, given: argparse.Namespace) -> Record:
    """Train and evaluate one row."""
    keys = (ROWS | teachers(given))[record["row"]]
    settings = [word for key in [*keys, *given.set] for word in ("--set", key)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // given.jobs))}
    with TemporaryDirectory(prefix="ablation") as folder:
        out, scores = Path(folder) / "run", Path(folder) / "scores.json"
        start = [*COMMAND, "train", given.data, "--out", out, "--init", given.init, "--seed", str(record["seed"])]
        start += ["--batch", str(given.batch)]
        evaluate = [*COMMAND, "eval", out / "best.ckpt", given.data, "--split", "test", "--json", scores]
        for command in ([*start, *SCHEDULE, *LAST, *settings], evaluate):
            done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{record}: {done.stderr.strip().splitlines()[-1]}")
        found, summary = json.loads(scores.read_text()), json.loads((out / "summary.json").read_text())
    numbers = {name: round(found[name], 4) for name in ("AP", "AP50", "AP75")}
    return record | numbers | {"seconds": summary["seconds"], "machine": machine()}


def machine() -> str:
    """Return the name of the GPU, or ``CPU``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def groups(done: Sequence[Record]) -> dict[tuple[str, str], dict[str, list[Record]]]:
    """Group records by (data set, initial weights), then by row, in the order of ROWS; teachers come last."""
    found: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for row in in_order(done):
        for record in done:
            if record["row"] == row:
                found.setdefault((record["data"], record["init"]), {}).setdefault(row, []).append(record)
    return found


def in_order(done: Sequence[Record]) -> list[str]:
    """Return the rows that were run, in the order of ROWS, then the teachers."""
    present = [record["row"] for record in done]
    return [row for row in dict.fromkeys([*ROWS, *present]) if row in present]


def table(done: Sequence[Record]) -> str:
    """Return a Markdown table with mean and standard deviation over the seeds."""
    lines = []
    for (data, init), rows in groups(done).items():
        every = [record for records in rows.values() for record in records]
        batch, where = (" and ".join(sorted({str(r[name]) for r in every})) for name in ("batch", "machine"))
        lines += [
            f"{data}, from {init} (batch {batch}; {where}):\n",
            "| row | seeds | AP | AP50 | AP75 |",
            "|---|---|---|---|---|",
        ]
        for row, records in rows.items():
            cells = [_spread([r[name] for r in records]) for name in ("AP", "AP50", "AP75")]
            lines.append(f"| {row} | {len(records)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    text = f"{mean(values):.3f}"
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def picture(done: Sequence[Record], path: Path) -> None:
    """Plot runs as dots and means as bars, one panel per data set and initial weights, two panels side by side."""
    found = groups(done)
    columns = min(2, len(found))
    lines = -(-len(found) // columns)
    figure = Figure((1.8 + 4.8 * columns, (0.36 * len(ROWS) + 1.6) * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    panels = grid.flat[: len(found)]
    names = in_order(done)
    for panel, ((data, init), rows) in zip(panels, found.items(), strict=True):
        for place, row in enumerate(names):
            values = [r["AP"] for r in rows.get(row, [])]
            if values:
                panel.plot(
                    [min(values), max(values)], [place, place], color="0.75", linewidth=6, solid_capstyle="round"
                )
                panel.plot(values, [place] * len(values), "o", color="#d1495b", markersize=4)
                panel.plot([mean(values)], [place], "|", color="#1d3557", markersize=16, markeredgewidth=2.5)
        panel.set_title(f"{data}, from {'random weights' if init == 'none' else init}")
        panel.set_xlabel("AP on the test split: seeds, and their mean")
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in grid.flat[len(found) :]:
        panel.set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def main() -> None:
    """Run what is missing, then print the table and write the picture beside the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--init", default="none", help="where all rows start: a checkpoint, a published name, or none")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--rows", default="", help="only rows whose name this regular expression finds")
    parser.add_argument("--teacher", help="NAME=CKPT, of a larger detector: one row more, by that name")
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--set", action="append", default=[], help="key.path=value for every row")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once; they share the cores; 0 trains nothing")
    parser.add_argument("--results", type=Path, default=Path("ablation.json"))
    given = parser.parse_args()
    done: list[Record] = json.loads(given.results.read_text()) if given.results.exists() else []
    lock = Lock()

    def one(record: Record) -> None:
        record = run(record, given)
        with lock:
            done.append(record)
            write_json(given.results, done)
            print(record, flush=True)

    if given.jobs:
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(one, list(planned(given, done))))
    if not done:
        parser.error("no row is called so, and there are no results yet")
    print(table(done))
    picture(done, given.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
