"""The results of a benchmark, written as JSON, as a Markdown table, or as a plot of AP against latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogfl.atomic import atomic_file, write_json

BUSY = 0.5  # load per core above which only ratios are meaningful
COLUMNS = {
    "model": "model",
    "precision": "precision",
    "runtime": "runtime",
    "threads": "threads",
    "AP": "AP",
    "AP50": "AP50",
    "mb": "MB",
    "load_ms": "load ms",
    "network_p50_ms": "network ms p50",
    "network_p90_ms": "p90",
    "frame_p50_ms": "frame ms p50",
    "frame_p90_ms": "p90",
    "peak_mb": "peak MB",
    "ratio": "ratio",
}
NOTE = (
    "Network: one image of the network's input. Frame: a 640 x 480 frame to boxes; where the runtime is not "
    "onnxruntime with the frame form, resize and decode are numpy's. Load: the Python package imported and the file "
    "opened. Peak: of the whole process, Python with it. Ratio: the network's time over the first row's (the frame's "
    "where there is no network alone), median of interleaved rounds."
)


@dataclass(frozen=True)
class BenchCard:
    """A benchmark's results: the description of the machine, and the rows, skipped ones last."""

    machine: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The rows that were not skipped."""
        return [row for row in self.rows if "skipped" not in row]

    @property
    def busy(self) -> bool:
        """Whether other work was using the processor."""
        return (self.machine["load"] or 0) > BUSY * self.machine["cores"]

    def to_json(self) -> dict[str, Any]:
        """Return ``{machine, rows}``."""
        return {"machine": self.machine, "rows": self.rows}

    def to_markdown(self) -> str:
        """Return the machine, the table, the skipped rows with reasons, and a note on the columns, as Markdown."""
        cells = [list(COLUMNS.values()), *([_cell(row[key]) for key in COLUMNS] for row in self.measured)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        left = [key in ("model", "precision", "runtime") for key in COLUMNS]
        lines = [
            "| "
            + " | ".join(c.ljust(w) if to else c.rjust(w) for c, w, to in zip(line, widths, left, strict=True))
            + " |"
            for line in cells
        ]
        rule = (
            "|"
            + "|".join("-" * (w + 2) if to else "-" * (w + 1) + ":" for w, to in zip(widths, left, strict=True))
            + "|"
        )
        table = [lines[0], rule, *lines[1:]]
        skipped = [f"- {r['model']} in {r['runtime']}: {r['skipped']}" for r in self.rows if "skipped" in r]
        left_out = ["", "Skipped:", "", *skipped] if skipped else []
        return "\n".join([self.machine_text(), "", *table, *left_out, "", NOTE])

    def machine_text(self) -> str:
        """Describe the machine in one or two sentences."""
        m = self.machine
        features = f", {' '.join(m['features'])}" if m["features"] else ""
        memory = f"{m['memory_gb']} GB, " if m["memory_gb"] else ""
        versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
        text = (
            f"{m['cpu']} ({m['architecture']}, {m['cores']} cores{features}), {memory}{m['system']}, "
            f"Python {m['python']}; {versions}."
        )
        if self.busy:
            text += f" Busy while measuring (load {m['load']}): trust the ratios, not the milliseconds."
        return text

    def write_json(self, path: Path) -> None:
        """Write the results as JSON."""
        write_json(path, self.to_json())

    def write_markdown(self, path: Path) -> None:
        """Write the results as Markdown."""
        with atomic_file(path) as partial:
            partial.write_text(self.to_markdown() + "\n", encoding="utf-8")

    def write_plot(self, path: Path) -> None:
        """Write a PNG: AP against the median latency of the network (of a frame if not measured), one mark per row."""
        from nanogfl.deploy.bench_plot import plot

        with atomic_file(path) as partial:
            plot(self.measured, self.machine_text(), partial)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) and value < 1 else str(value)
