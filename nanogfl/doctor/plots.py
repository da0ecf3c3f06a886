"""Plots as inline SVG: bars and stacked bars; colours follow the page's light or dark theme."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanogfl.page import Html, element

WIDE, HIGH = 520, 220  # SVG units; the drawing is scaled to the available width
LEFT, RIGHT, TOP, BOTTOM = 10, 10, 18, 34
SHADES = (0.25, 0.45, 0.65, 0.82, 1.0)  # opacities of the accent colour, small values to large
ROW = 24


def columns(title: str, names: Sequence[str], values: Sequence[float], unit: str = "") -> Html:
    """Draw one column per name, with its value above it if there are at most 12."""
    most = max(values, default=0) or 1
    step = (WIDE - LEFT - RIGHT) / max(1, len(names))
    every = -(-len(names) * 46 // (WIDE - LEFT - RIGHT))  # show every n-th name so that they do not overlap
    parts = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        high = (HIGH - TOP - BOTTOM) * value / most
        x, y = LEFT + i * step, HIGH - BOTTOM - high
        parts.append(_bar(x + step * 0.1, y, step * 0.8, high, 0.85, f"{name} {unit}: {value:g}"))
        if len(names) <= 12:
            parts.append(_label(x + step / 2, y - 5, f"{value:g}", "middle"))
        if i % every == 0:
            parts.append(_label(x + step / 2, HIGH - BOTTOM + 16, name, "middle"))
    line = element("line", x1=LEFT, x2=WIDE - RIGHT, y1=HIGH - BOTTOM, y2=HIGH - BOTTOM, style="stroke:var(--line)")
    parts += [line, _label(WIDE - RIGHT, HIGH - 4, unit, "end")]
    return _figure(title, HIGH, parts)


def histogram(title: str, values: NDArray[np.floating], edges: Sequence[float], unit: str) -> Html:
    """Draw columns of the number of values between the edges; the last column counts all values above."""
    counts = np.histogram(values, [*edges, np.inf])[0]
    names = [f"{edge:g}" for edge in edges[:-1]] + [f"{edges[-1]:g}+"]
    return columns(title, names, [int(c) for c in counts], unit)


def rows(title: str, names: Sequence[str], values: Sequence[float]) -> Html:
    """Draw one horizontal bar per name; names may be long."""
    most = max(values, default=0) or 1
    parts = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        y = i * ROW
        shown = name if len(name) <= 24 else name[:22] + "…"
        parts.append(_label(160, y + 16, shown, "end"))
        parts.append(_bar(168, y + 4, max(1.0, (WIDE - 230) * value / most), ROW - 8, 0.85, f"{name}: {value:g}"))
        parts.append(_label(174 + (WIDE - 230) * value / most, y + 16, f"{value:g}", "start"))
    return _figure(title, max(ROW, len(names) * ROW), parts)


def shares(title: str, names: Sequence[str], parts: Sequence[Sequence[float]], legend: Sequence[str]) -> Html:
    """Draw one stacked bar per name, of fractions of 1, later ones darker, with a legend below."""
    drawn = []
    for i, (name, row) in enumerate(zip(names, parts, strict=True)):
        x, y = 60.0, i * (ROW + 8)
        drawn.append(_label(52, y + 20, name, "end"))
        for part, shade, what in zip(row, SHADES, legend, strict=True):
            wide = (WIDE - 70) * part
            drawn.append(_bar(x, y + 4, wide, ROW, shade, f"{name}, {what}: {part:.1%}"))
            if wide > 38:
                ink = "card" if shade > 0.6 else "ink"
                drawn.append(_label(x + wide / 2, y + 20, f"{part:.0%}", "middle", f"fill:var(--{ink})"))
            x += wide
    y = len(names) * (ROW + 8) + 12
    for i, (what, shade) in enumerate(zip(legend, SHADES, strict=True)):
        x = 60 + i * (WIDE - 70) / len(legend)
        drawn += [_bar(x, y, 10, 10, shade, what), _label(x + 14, y + 10, what, "start")]
    return _figure(title, y + 18, drawn)


def _bar(x: float, y: float, wide: float, high: float, shade: float, told: str) -> Html:
    style = f"fill:var(--accent);fill-opacity:{shade:g}"
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{wide:.1f}", "height": f"{high:.1f}"}
    return element("rect", element("title", told), style=style, **place)


def _label(x: float, y: float, text: str, anchor: str, style: str = "") -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, style=style)


def _figure(title: str, high: float, parts: Sequence[Html]) -> Html:
    drawing = element("svg", *parts, viewBox=f"0 0 {WIDE:g} {high:g}", width="100%", role="img", aria_label=title)
    return element("figure", element("b", title), drawing)
