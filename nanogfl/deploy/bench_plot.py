"""A benchmark's plot of AP against the latency of the network; better models are towards the upper left."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#b3a100")  # Okabe and Ito
MARKS = "osD^vP*X"


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Write the plot as PNG: colour by runtime, marker by model, marker size by threads."""
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    models = list(dict.fromkeys((row["model"], row["precision"]) for row in rows))
    for row in rows:
        latency = row["network_p50_ms"] or row["frame_p50_ms"]
        axes.scatter(
            latency,
            row["AP"] or 0,
            s=60 + 25 * row["threads"],
            c=COLOURS[runtimes.index(row["runtime"]) % len(COLOURS)],
            marker=MARKS[models.index((row["model"], row["precision"])) % len(MARKS)],
            edgecolors="white",
            alpha=0.75,  # keeps overlapping marks visible
            zorder=3,
        )
    for i, runtime in enumerate(runtimes):
        axes.scatter([], [], c=COLOURS[i % len(COLOURS)], s=70, label=runtime)
    for i, (model, precision) in enumerate(models if len(models) > 1 else []):
        axes.scatter([], [], c="#888888", marker=MARKS[i % len(MARKS)], s=70, label=f"{model}, {precision}")
    several = len({row["threads"] for row in rows}) > 1
    axes.set_xlabel("network, median ms" + (" (larger marks: more threads)" if several else ""))
    highest = max(row["network_p50_ms"] or row["frame_p50_ms"] for row in rows)
    axes.set_xlim(0, 1.1 * highest)
    scores = [row["AP"] for row in rows if row["AP"] is not None]
    axes.set_ylabel("AP" if scores else "AP: not measured, no set was given")
    axes.set_ylim(0, 1.25 * max(scores) if scores and max(scores) else 1)
    axes.grid(color="#dddddd", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title(fill(title, 120), fontsize=7, loc="left", color="#555555")
    figure.savefig(path, format="png")
