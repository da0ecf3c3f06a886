"""The plots of the report as matplotlib figures, each of one property of a model on a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from nanogfl.errors import counted
from nanogfl.evaluation.calibrate import WITHIN_ONE, WITHIN_TWO, Reliability
from nanogfl.evaluation.coco import Scores
from nanogfl.evaluation.mistakes import RECALLS, Curve, ErrorKind
from nanogfl.runtime.draw import class_color

INK, SOFT, LINE = "#1b1f24", "#5c6773", "#dde2e8"
BLUE, ORANGE, GREY = "#0b6bcb", "#d9730d", "#b8c0ca"
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False, "labelcolor": INK}
DPI = 160
CURVES = 10  # more curves would be unreadable
BARS = 40
CELLS = 20
LONGEST = 22  # maximum number of characters of a class name
OTHER_SCRIPTS = (  # fonts for other scripts that come with Linux, macOS and Windows
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans GB", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS"),
)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure in the report's style, and its axes; width and height in inches."""
    figure = Figure((width, height), dpi=DPI, facecolor="white", layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(colors=SOFT, labelsize=8.5, length=0)
        axis.grid(color=LINE, linewidth=0.7)
    return figure, axes


def use_all_letters(figure: Figure) -> None:
    """Let characters that matplotlib's own font lacks fall back to fonts of the system, if installed."""
    there = {font.name for font in fontManager.ttflist}
    families = [*rcParams["font.family"], *(name for name in OTHER_SCRIPTS if name in there)]
    for words in figure.findobj(lambda artist: isinstance(artist, Text) and not artist.get_text().isascii()):
        words.set_fontfamily(families)  # type: ignore[attr-defined]


def _titles(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10.5, color=INK, loc="left", pad=8, weight="bold")
    axis.set_xlabel(x, fontsize=9, color=SOFT)
    axis.set_ylabel(y, fontsize=9, color=SOFT)


def plain(name: str) -> str:
    """Return a class name that matplotlib renders literally: no formulas, one line, truncated if long."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(name.split()))
    shown = shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
    return shown.replace("$", r"\$")


def precision_recall(
    means: dict[str, NDArray[np.float64]], curves: dict[int, Curve], names: Sequence[str], counts: NDArray[np.int64]
) -> Figure:
    """Plot precision over recall: the mean of all classes at several IoUs, and the most frequent classes at IoU 0.5."""
    figure, (left, right) = new_figure(9.6, 3.9, 2)
    for (name, values), color in zip(means.items(), (BLUE, ORANGE, SOFT), strict=False):
        left.plot(RECALLS, values, color=color, linewidth=2, label=f"{name}: AP {values.mean():.3f}")
    _titles(left, "Mean of all classes", "recall", "precision")
    left.legend(loc="upper right", **LEGEND)
    shown = sorted(curves, key=lambda label: -counts[label])[:CURVES]
    for label in shown:
        values = curves[label].at_recalls()
        name = f"{plain(names[label])} {values.mean():.3f}"
        right.plot(RECALLS, values, color=_color(label), linewidth=1.6, label=name)
    rest = len(curves) - len(shown)
    title = "Each class at IoU 0.5" if not rest else f"The {len(shown)} classes with most labels, at IoU 0.5"
    _titles(right, title, "recall", "precision")
    right.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), **LEGEND)
    for axis in (left, right):
        axis.set(xlim=(0, 1), ylim=(0, 1.03))
    return figure


def score_choice(curve: Curve, threshold: float) -> Figure:
    """Plot precision, recall and F1 of all classes together over the score threshold."""
    figure, (axis,) = new_figure(7.2, 3.4)
    steps = slice(None, None, max(1, len(curve.scores) // 2000))
    for values, name, color in ((curve.precision, "precision", BLUE), (curve.recall, "recall", ORANGE)):
        axis.plot(curve.scores[steps], values[steps], color=color, linewidth=1.6, label=name)
    axis.plot(curve.scores[steps], curve.f1[steps], color=INK, linewidth=2.2, label="F1")
    axis.axvline(threshold, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    best = f" {threshold:.2f}: F1 {curve.f1.max(initial=0):.2f}"
    side = "right" if threshold > 0.7 else "left"
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # curves may run behind the text
    axis.text(threshold, 0.03, best + " " * (side == "right"), fontsize=8.5, color=SOFT, ha=side, bbox=ground)
    axis.set(xlim=(0, 1), ylim=(0, 1.03))
    _titles(axis, "Which score to ask for", "boxes above this score are shown", "all classes together")
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), **LEGEND)
    return figure


def class_bars(scores: Scores) -> Figure:
    """Plot AP and AP50 of each class, best first; of many classes only the best and the worst."""
    rows = [(name, s.AP, s.AP50) for name, s in scores.per_class.items() if s.AP is not None and s.AP50 is not None]
    rows.sort(key=lambda row: -row[1])
    title = "AP of each class"
    if len(rows) > BARS:
        title = f"AP of the {BARS // 2} best and the {BARS // 2} worst of {len(rows)} classes"
        rows = rows[: BARS // 2] + rows[-BARS // 2 :]
    figure, (axis,) = new_figure(7.6, 1.1 + 0.23 * max(len(rows), 2))
    y = np.arange(len(rows))
    axis.barh(y, [row[2] for row in rows], 0.72, color=LINE, label="AP50")
    axis.barh(y, [row[1] for row in rows], 0.72, color=BLUE, label="AP")
    for at, row in enumerate(rows):
        axis.text(row[2] + 0.006, at, f"{row[1]:.3f} | {row[2]:.3f}", va="center", fontsize=7.5, color=SOFT)
    axis.set_yticks(y, [plain(row[0]) for row in rows])
    axis.set(xlim=(0, 1.12), ylim=(len(rows) - 0.4, -0.6))
    axis.grid(visible=False, axis="y")
    _titles(axis, title, "AP (blue) | AP50 (grey)", "")
    return figure


def sizes(scores: Scores, counts: Sequence[int]) -> Figure:
    """Plot AP and AR of small, medium and large boxes."""
    figure, (axis,) = new_figure(5.6, 3.4)
    for offset, kind, color in ((-0.2, "AP", BLUE), (0.2, "AR", GREY)):
        for at, size in enumerate("SML"):
            value = scores.numbers[f"{kind}_{size}"]
            axis.bar(at + offset, value or 0, 0.36, color=color, label=kind if not at else None)
            axis.text(at + offset, (value or 0) + 0.02, "–" if value is None else f"{value:.3f}", ha="center",
                      fontsize=8.5, color=INK)  # fmt: skip
    words = ("small\nto 32 px", "medium\nto 96 px", "large\nfrom 96 px")
    boxes = [f"{word}\n{counted(count, 'box')}" for word, count in zip(words, counts, strict=True)]
    axis.set_xticks(range(3), boxes)
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0, 1.05)
    _titles(axis, "By size of the box (square root of its area)", "", "AP, and AR of 100 boxes a picture")
    axis.legend(loc="upper left", **LEGEND)
    return figure


def error_bars(errors: dict[str, ErrorKind]) -> Figure:
    """Plot how often each kind of error happens, and what it costs."""
    figure, (left, right) = new_figure(9.0, 2.9, 2)
    names = list(errors)
    columns = ([e.count for e in errors.values()], [100 * e.gain for e in errors.values()])
    for axis, values, color in ((left, columns[0], GREY), (right, columns[1], BLUE)):
        axis.barh(names, values, 0.66, color=color)
        room = max(*(abs(v) for v in values), 1e-9)
        for at, value in enumerate(values):
            shown = f"{value:.1f}" if axis is right else str(value)
            axis.text(max(value, 0) + 0.015 * room, at, shown, va="center", fontsize=8.5, color=INK)
        axis.set_xlim(min(0, *values) * 1.1, 1.15 * room)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
    right.set_yticks(range(len(names)), [""] * len(names))
    _titles(left, "How often", "at the score threshold", "")
    _titles(right, "What it costs", "AP50 in points that mending it would gain", "")
    return figure


def confusion_cells(matrix: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Plot the confusion matrix; of many classes only those with the most mistakes."""
    classes = len(names)
    mistakes = matrix.sum(0)[:classes] + matrix.sum(1)[:classes] - 2 * matrix.diagonal()[:classes]
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:CELLS])
    kept = np.append(shown, classes)
    cells = matrix[np.ix_(kept, kept)]
    side = 2.6 + 0.36 * len(kept)
    figure, (axis,) = new_figure(side + 0.6, side)
    axis.grid(visible=False)
    axis.imshow(np.where(cells > 0, cells, np.nan), cmap="Blues", norm=LogNorm(1, max(2, int(cells.max()))))
    dark = max(2, int(cells.max())) ** 0.6
    for row, column in zip(*np.nonzero(cells), strict=True):
        count = int(cells[row, column])
        axis.text(column, row, str(count), ha="center", va="center", fontsize=7.5,
                  color="white" if count > dark else INK)  # fmt: skip
    words = [plain(names[int(label)]) for label in shown]
    axis.set_xticks(range(len(kept)), [*words, "nothing"], rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(kept)), [*words, "nothing"])
    title = "Confusions" if classes <= CELLS else f"The {CELLS} classes with most mistakes"
    _titles(axis, title, "found as", "labelled as")
    return figure


def sigma_lines(found: Reliability) -> Figure:
    """Plot error over predicted sigma (left), and the fraction of sides within one and two sigma (right)."""
    figure, (left, right) = new_figure(9.0, 3.6, 2)
    sigma = [b.sigma for b in found.bins]
    ends = [min(sigma), max(sigma)]
    left.plot(ends, ends, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="as promised")
    left.plot(
        sigma, [b.spread for b in found.bins], "o-", color=BLUE, markersize=4, label="68 % of the errors are below"
    )
    left.plot(sigma, [b.error for b in found.bins], "o-", color=GREY, markersize=4, label="mean error")
    left.set(xscale="log", yscale="log")
    for ticks in (left.xaxis, left.yaxis):
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_minor_locator(NullLocator())
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _titles(left, "Error over sigma", "predicted sigma, px", "distance from the label, px")
    left.legend(loc="upper left", **LEGEND)
    at = np.arange(1, len(found.bins) + 1)
    for values, promise, name, color in (
        ([b.within_one for b in found.bins], WITHIN_ONE, "within one sigma", BLUE),
        ([b.within_two for b in found.bins], WITHIN_TWO, "within two sigma", ORANGE),
    ):
        right.axhline(promise, color=color, linewidth=1, linestyle=(0, (4, 3)))
        right.plot(at, values, "o-", color=color, markersize=4, label=name)
    right.set(ylim=(0, 1.03), xticks=at)
    _titles(right, "Part of the sides that lies", "tenths of the sides, from the surest to the least sure", "")
    right.legend(loc="lower left", **LEGEND)
    return figure


def _color(label: int) -> tuple[float, float, float]:
    blue, green, red = class_color(label)
    return red / 255, green / 255, blue / 255
