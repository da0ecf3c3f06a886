"""The report of a check as one HTML page: problems and fixes, plots, recommendation, pictures with their boxes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nanogfl.data.findings import KINDS, Finding
from nanogfl.data.folders import relative
from nanogfl.data.table import Example
from nanogfl.data.yolo_labels import Labels
from nanogfl.detections import Detections
from nanogfl.doctor.check import Checkup
from nanogfl.doctor.plots import histogram, rows, shares
from nanogfl.doctor.statistics import aspects, lengths
from nanogfl.errors import DataError
from nanogfl.page import Content, Html, Section, badge, code, folded, grid, picture, table, text, tiles, write_page
from nanogfl.pictures import Picture, read_picture
from nanogfl.runtime.draw import draw_detections

TONES = {"error": "bad", "warning": "warn", "note": "plain"}
LISTED, SHOWN, PLAIN_SHOWN = 200, 4, 8  # findings listed per kind, pictures shown per kind, sample pictures
SIDE = 480  # longer side in px of a picture on the page
CLASSES = 40
CORNERS = re.compile(r"\[" + ", ".join([r"(-?\d+\.\d+)"] * 4) + r"\]$")
SMALL = 40  # px; boxes whose half diagonal plus 6 px is at most this are marked by a ring


def write_report(found: Checkup, path: Path) -> None:
    """Write the page atomically, creating parent folders."""
    sections = [
        Section("Summary", list(_summary(found))),
        Section("Problems", list(_problems(found)) or [text("Nothing is wrong with this set.")]),
        Section("Boxes and pictures", list(_plots(found))),
        Section("What to train with", list(_advice(found))),
        Section("Pictures as annotated", [grid(list(_samples(found)))]),
    ]
    lead = f"{found.table.root}, {found.table.form} set"
    write_page(path, f"Data check: {found.table.root.name}", lead, sections)


def _summary(found: Checkup) -> Iterator[Content]:
    boxes = sum(len(e.boxes) for e in found.table.examples)
    splits = found.statistics["pictures"]["splits"]
    yield tiles(
        [
            ("pictures", len(found.table)),
            ("boxes", boxes),
            ("classes", len(found.table.names)),
            *((f"in {name}", count) for name, count in splits.items() if name != "none"),
            ("problems", len(found.problems)),
        ]
    )
    if found.problems:
        listed = [
            [
                badge(KINDS[kind].severity, TONES[KINDS[kind].severity]),
                code(kind),
                KINDS[kind].phrase,
                count,
                KINDS[kind].fix,
            ]
            for kind, count in found.counts.items()
        ]
        yield table(["", "kind", "what", "found", "what to do"], listed)
        yield text(
            "All that can be mended is mended in the copy that ", code("nanogfl check DATA --fix OUT"), " writes."
        )


def _problems(found: Checkup) -> Iterator[Html]:
    """Yield one collapsible section per kind of problem: the first pictures and a list."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for problem in found.problems:
        by_kind[problem.kind].append(problem)
    for kind, problems in by_kind.items():
        tone = TONES[KINDS[kind].severity]
        title = Html(badge(str(len(problems)), tone).markup + code(kind).markup)
        listed = table(["file", "where", "what"], [[p.file, p.where, p.detail] for p in problems[:LISTED]])
        more = [text(f"and {len(problems) - LISTED} more; the JSON has them all")] if len(problems) > LISTED else []
        shown = list(_pictures_of(found, problems))
        told = text(f"{KINDS[kind].phrase}: {KINDS[kind].fix}")
        yield folded(title, told, *([grid(shown)] if shown else []), listed, *more, unfolded=tone != "plain")


def _pictures_of(found: Checkup, problems: list[Finding]) -> Iterator[Html]:
    """Yield the pictures of the first problems, with the boxes at fault marked and duplicates beside each other."""
    examples = {e.name: e for e in found.table.examples}
    of_labels, labels = found.table.examples if found.table.form == "yolo" else (), Labels()
    by_label = {relative(file, found.table.root): e for e in of_labels for file in labels.of(e.path)}
    duplicates = {found.table.examples[t.index].name: t.other for t in found.duplicates}
    count = 0
    for problem in problems:
        example = examples.get(problem.file) or by_label.get(problem.file)
        if example is None or count >= SHOWN:
            continue
        count += 1
        yield from _shown(example, found, problem)
        if problem.kind in ("split-leak", "picture-near-duplicate", "picture-duplicate") and example.name in duplicates:
            yield from _shown(found.table.examples[duplicates[example.name]], found, None)


def _samples(found: Checkup) -> Iterator[Html]:
    """Yield a few sample pictures, evenly spaced over the dataset."""
    examples = found.table.examples
    chosen = np.unique(np.linspace(0, len(examples) - 1, PLAIN_SHOWN).astype(int)) if examples else []
    for index in chosen:
        yield from _shown(examples[index], found, None)


def _shown(example: Example, found: Checkup, problem: Finding | None) -> Iterator[Html]:
    """Yield a picture with its boxes; nothing if it cannot be read."""
    try:
        canvas = read_picture(example.path)
    except DataError:
        return
    scale = SIDE / max(canvas.shape[:2])
    size = (max(1, round(canvas.shape[1] * scale)), max(1, round(canvas.shape[0] * scale)))
    canvas = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), np.uint8)
    boxes = (example.boxes * scale).astype(np.float32)
    seen = Detections(boxes, np.ones(len(boxes), np.float32), example.labels, list(found.table.names))
    drawn = draw_detections(canvas, seen, show_scores=False)
    if problem:
        for box in _boxes_at_fault(example, problem) * scale:
            _ring(drawn, box)
    data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
    caption = f"{example.name}{f' ({example.split})' if example.split else ''}"
    yield picture(data, f"{caption}: {problem.where} {problem.detail}" if problem else caption, caption)


def _boxes_at_fault(example: Example, problem: Finding) -> NDArray[np.float64]:
    """Return the boxes at the places of the problem, else the removed box that its detail quotes: [N, 4]."""
    if not problem.kind.startswith("box-"):
        return np.zeros((0, 4))
    words = set(problem.where.replace(",", " ").split())
    marks = [] if example.marks is None else example.marks.tolist()
    rows = [row for row, mark in enumerate(marks) if str(mark) in words]
    left_out = CORNERS.search(problem.detail)
    if rows or not left_out:
        return example.boxes[rows]
    return np.clip([[float(v) for v in left_out.groups()]], 0, [example.width, example.height] * 2)


def _ring(canvas: Picture, box: NDArray[np.float64]) -> None:
    """Mark a box in red and white in place: with a ring if it is small, else with a frame."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    reach = round(float(np.hypot(x2 - x1, y2 - y1)) / 2) + 6
    for paint, line in (((255, 255, 255), 6), ((40, 40, 230), 3)):
        if reach > SMALL:
            cv2.rectangle(canvas, (x1 - 4, y1 - 4), (x2 + 4, y2 + 4), paint, line)
        else:
            cv2.circle(canvas, ((x1 + x2) // 2, (y1 + y2) // 2), max(14, reach), paint, line, cv2.LINE_AA)


def _plots(found: Checkup) -> Iterator[Content]:
    if not found.table.examples:
        return
    inputs = found.statistics["inputs"]
    legend = list(inputs[0]["lengths"])
    parts = [list(entry["lengths"].values()) for entry in inputs]
    counts = np.array([len(e.boxes) for e in found.table.examples], np.float64)
    edges = [0, 1, 2, 3, 5, 10, 20, 50, 100]
    classes = dict(sorted(found.statistics["boxes"]["per_class"].items(), key=lambda item: -item[1])[:CLASSES])
    sizes = found.statistics["pictures"]["sizes"]
    yield text(
        "The network looks with cells of 8, 16, 32 and 64 px; a box shorter than 8 px at the input is less than one."
    )
    yield grid(
        [
            shares("Boxes by length in px, at each input (px)", [str(i["input"]) for i in inputs], parts, legend),
            histogram(
                "Boxes by length in the pictures", lengths(found.table, None), [0, 8, 16, 32, 64, 128, 256, 512], "px"
            ),
            histogram("Pictures by number of boxes", counts, edges, "boxes"),
            histogram(
                "Boxes by width / height", aspects(found.table), [0, 0.25, 0.5, 0.8, 1.25, 2, 4], "width / height"
            ),
            rows(
                f"Boxes by class{f', the {CLASSES} fullest' if len(classes) == CLASSES else ''}",
                list(classes),
                list(classes.values()),
            ),
            rows("Pictures by size in px, the ten most frequent", list(sizes), list(sizes.values())),
        ],
        420,
    )


def _advice(found: Checkup) -> Iterator[Html]:
    yield text(code(found.recommended["command"]))
    yield table(["", "because"], [[name, reason] for name, reason in found.recommended["reasons"].items()])
