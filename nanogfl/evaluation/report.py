"""``nanogfl eval --report``: the results of a model on a set as an HTML page, PNGs of the plots, and report.json."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nanogfl.atomic import atomic_file, write_json
from nanogfl.data.table import Table
from nanogfl.detections import Detections
from nanogfl.evaluation import figures, mistakes
from nanogfl.evaluation.coco import MEANINGS
from nanogfl.evaluation.gallery import draw_cut, draw_whole
from nanogfl.evaluation.matching import pool
from nanogfl.evaluation.study import Study
from nanogfl.evaluation.suspects import MISNAMED, UNFOUND, UNLABELLED, Suspect
from nanogfl.page import Html, Section, element, folded, grid, picture, table, text, tiles, write_page

IOUS = (0.5, 0.75, 0.9)
SHOWN_PICTURES = 6
SHOWN_SUSPECTS = 18
SHOWN_PAIRS = 12
INCH_PX = 112  # px on the page per inch of a plot
AREAS = (0, 32**2, 96**2, np.inf)

WHAT_ERRORS_ARE = {
    "duplicate": "a second box on something that is found already",
    "class": "the right place, another class",
    "localization": "the right class, a place that overlaps too little (IoU 0.1 to 0.5)",
    "class and localization": "near a label of another class (IoU 0.1 to 0.5)",
    "background": "no label there",
    "missed": "a label that no box finds",
}
WHAT_SUSPECTS_ARE = {
    UNLABELLED: "Confident detections where no label is: a label may have been forgotten.",
    MISNAMED: "Labels that the model finds in the same place as another class: one of the two is wrong.",
    UNFOUND: "Labels that no detection of any class is near, largest first: there may be nothing, or the box is off.",
}


def write_report(out: Path, study: Study) -> Path:
    """Write report.html, report.json and a PNG of each plot to ``out``; return the path of the page."""
    shown = {}
    for name, figure in _figures(study):
        data = _png(figure)
        with atomic_file(out / f"{name}.png") as partial:
            partial.write_bytes(data)
        shown[name] = picture(data, alt=name.replace("_", " "), width=round(INCH_PX * figure.get_figwidth()))
    write_json(out / "report.json", study.to_json())
    page = out / "report.html"
    write_page(page, "Evaluation", study.title, list(_sections(study, shown)))
    return page


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figures.use_all_letters(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # in a class name; the page's table shows it
        figure.savefig(stream, format="png")
    return stream.getvalue()


def _figures(study: Study) -> Iterator[tuple[str, Figure]]:
    curves = {iou: mistakes.class_curves(pool(study.table, study.detections, iou)) for iou in IOUS}
    if curves[0.5]:
        means = {f"IoU {iou}": np.mean([c.at_recalls() for c in of.values()], axis=0) for iou, of in curves.items()}
        counts = study.pool.counts()
        yield "precision_recall", figures.precision_recall(means, curves[0.5], study.table.names, counts)
        yield "classes", figures.class_bars(study.scores)
        yield "sizes", figures.sizes(study.scores, _size_counts(study.table))
    if len(study.total.scores):
        yield "scores", figures.score_choice(study.total, study.threshold)
    yield "errors", figures.error_bars(study.kinds)
    yield "confusion", figures.confusion_cells(study.confusion, study.table.names)
    if study.sigma is not None:
        yield "sigma", figures.sigma_lines(study.sigma)


def _size_counts(data: Table) -> list[int]:
    areas = np.concatenate([np.zeros(0), *(e.areas[~e.crowd] for e in data.examples)])
    return np.histogram(areas, AREAS)[0].tolist()


def _sections(study: Study, plots: dict[str, Html]) -> Iterator[Section]:
    numbers = study.scores.numbers
    top = [(key, _number(numbers[key]) or "–") for key in ("AP", "AP50", "AP75")]
    top.append((f"best F1, at score {study.threshold:.2f}", f"{study.total.f1.max(initial=0):.3f}"))
    top += [("pictures", str(len(study.table))), ("boxes", str(len(study.pool.truth_labels)))]
    top += [("suspected labels", str(len(study.suspects)))]
    twelve = table(["", "", "means"], [[key, _number(numbers[key]), meaning] for key, meaning in MEANINGS.items()])
    yield Section("Summary", [tiles(top), folded("All twelve numbers", twelve)])
    yield Section("Precision and recall", [plots[name] for name in ("precision_recall", "scores") if name in plots])
    yield Section("Classes", _classes(study, plots))
    yield Section("Size", [plots["sizes"]] if "sizes" in plots else [text("The set has no boxes.")])
    yield Section("Errors", _errors(study, plots))
    yield Section("Confusions", _confusions(study, plots))
    yield Section("Sigma: how sure each side is", _sigma(study, plots))
    yield Section("Suspected label errors", list(_suspects(study)))
    yield Section("Pictures", list(_pictures(study)))


def _classes(study: Study, plots: dict[str, Html]) -> list[Html]:
    rows = [[name, _number(s.AP), _number(s.AP50), s.boxes] for name, s in study.scores.per_class.items()]
    listed = folded(f"All {len(rows)} classes", table(["class", "AP", "AP50", "boxes"], rows))
    return [plots["classes"], listed] if "classes" in plots else [listed]


def _errors(study: Study, plots: dict[str, Html]) -> list[Html]:
    rows = [[name, kind.count, f"{100 * kind.gain:+.1f}", WHAT_ERRORS_ARE[name]] for name, kind in study.kinds.items()]
    said = text(
        f"Counted from the score {study.threshold:.2f} up. The gain is what AP50 would rise by, in points, if all "
        "errors of the kind, at any score, were put right: a wrong class or place where its label is not found "
        "otherwise, all others taken away."
    )
    return [said, plots["errors"], table(["kind", "count", "gain", "is"], rows)]


def _confusions(study: Study, plots: dict[str, Html]) -> list[Html]:
    names = study.table.names
    apart = study.confusion[:-1, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    cells = np.argsort(-apart, axis=None, kind="stable")[:SHOWN_PAIRS]
    pairs = [(int(i // len(names)), int(i % len(names))) for i in cells] if names else []
    rows = [[names[a], names[b], int(apart[a, b])] for a, b in pairs if apart[a, b]]
    listed = table(["labelled", "found as", "times"], rows) if rows else text("No class is taken for another.")
    return [plots["confusion"], listed]


def _sigma(study: Study, plots: dict[str, Html]) -> list[Html]:
    found = study.sigma
    if found is None:
        given = any(one.side_sigma is not None for one in study.detections)
        none = "the model does not give it (files do by nanogfl export --sigma; model.sides=dirac has none)"
        why = "too few boxes were found" if given else none
        return [text(f"Not known: {why}.")]
    whole = found.whole
    said = text(
        f"Rank correlation of sigma and error (Spearman): {found.spearman:.3f}. {100 * whole.within_one:.0f} % of "
        f"{whole.sides} sides lie within one sigma of the label and {100 * whole.within_two:.0f} % within two; 68 and "
        f"95 % would be calibrated. A factor of {found.factor:.2f} on sigma would put 68 % within one."
    )
    rows = [
        [b.sides, *(f"{v:.1f}" for v in (b.sigma, b.spread, b.error)), f"{b.within_one:.2f}", f"{b.within_two:.2f}"]
        for b in found.bins
    ]
    header = ["sides", "sigma, px", "68 % of errors below, px", "mean error, px", "within sigma", "within two"]
    return [said, plots["sigma"], folded("The bins", table(header, rows))]


def _suspects(study: Study) -> Iterator[Html]:
    yield text("What a model contradicts is no proof, but the first place to look. All of them are in report.json.")
    total = Counter(suspect.kind for suspect in study.suspects)
    for kind, meaning in WHAT_SUSPECTS_ARE.items():
        few = [suspect for suspect in study.suspects if suspect.kind == kind][:SHOWN_SUSPECTS]
        shown = f", {len(few)} shown" if len(few) < total[kind] else ""
        title = f"{kind[0].upper()}{kind[1:]}: {total[kind]}{shown}"
        yield folded(title, text(meaning), grid([_cut(study, s) for s in few], 230), unfolded=bool(few))


def _cut(study: Study, suspect: Suspect) -> Html:
    example, names = study.table.examples[suspect.picture], list(study.table.names)
    given = [] if suspect.found is None else [suspect]
    found = Detections(
        np.array([s.box for s in given], np.float32).reshape(-1, 4),
        np.array([s.score for s in given], np.float32),
        np.array([names.index(s.found or "") for s in given], np.int64),
        names,
    )
    said = [f"labelled {suspect.labelled}"] if suspect.labelled else []
    said += [] if suspect.found is None else [f"found {suspect.found} {suspect.score:.2f}"]
    if suspect.kind == UNFOUND:  # only this label, so that it is clear which one is meant
        only = (example.boxes == suspect.box).all(axis=1)
        example = replace(example, boxes=example.boxes[only], labels=example.labels[only])
    place = "at " + ", ".join(f"{value:.0f}" for value in suspect.box)
    caption = _lines(", ".join(said), example.name, place)
    return picture(draw_cut(example, found, suspect.box), caption, alt=f"{suspect.kind} in {example.name}")


def _pictures(study: Study) -> Iterator[Html]:
    yield text(f"Labels are dashed; boxes are shown from the score {study.threshold:.2f} up.")
    seen = mistakes.by_picture(study.pool, len(study.table), study.threshold)
    work = seen.hits + seen.wrong + seen.missed
    worst = np.lexsort((-work, seen.f1))[:SHOWN_PICTURES]
    best = [i for i in np.lexsort((-work, -seen.f1)) if i not in worst][:SHOWN_PICTURES]
    for name, rows in (("Worst", worst), ("Best", best)):
        drawn = []
        for i in rows:
            example, found = study.table.examples[i], study.detections[i]
            counts = f"{seen.hits[i]} right, {seen.wrong[i]} wrong, {seen.missed[i]} missed"
            caption = _lines(f"F1 {seen.f1[i]:.2f}: {counts}", example.name)
            data = draw_whole(example, found.select(found.scores >= study.threshold))
            drawn.append(picture(data, caption, alt=f"{name} picture {example.name}"))
        yield folded(f"{name} pictures", grid(drawn, 320), unfolded=True)


def _lines(*parts: str) -> Html:
    return element("div", *(element("div", part) for part in parts))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
