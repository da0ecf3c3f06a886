"""The numbers of docs/reports.md: the errors that `nanogfl mine` finds, and sigma's calibration on held-out pictures.

Mining: pictures are ranked without labels; then the model's errors (missed and wrong boxes at the score of the best
F1, IoU 0.5) are counted in the first fifth of each ranking. Sigma: the factor is fitted on a random half of the
pictures and tested on the other half, twenty times.

    python docs/uncertainty.py nanodet-plus-m_416 COCO_VAL [SPLIT,SPLIT]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

import nanogfl
from nanogfl.data.readers import read_table
from nanogfl.data.splits import evaluation_split, select
from nanogfl.data.table import Table
from nanogfl.detections import Detections
from nanogfl.evaluation.calibrate import fit_temperature, matched_sides, spearman
from nanogfl.evaluation.matching import pool
from nanogfl.evaluation.mistakes import by_picture, total_curve
from nanogfl.evaluation.run import EVALUATION, in_model_order, predict_all
from nanogfl.runtime.mine import doubt, side_spread

PART = 0.2
DRAWS = 5000
HALVES = 20


RANKINGS: dict[str, Callable[[Detections], float]] = {
    "doubt (nanogfl mine)": doubt,
    "doubt x (1 + 4 spread)": lambda found: doubt(found) * (1 + 4 * (side_spread(found) or 0)),
    "spread of sides": lambda found: side_spread(found) or 0,
    "boxes above 0.3": lambda found: float((found.scores > 0.3).sum()),
    "1 - best score": lambda found: 1 - float(found.scores.max(initial=0)),
}


def rankings(detections: Sequence[Detections], errors: np.ndarray, f1: np.ndarray) -> list[str]:
    """Return one line per ranking: errors per picture, and 1 - F1, in its first fifth."""
    count, rng = len(errors), np.random.default_rng(0)
    first = round(PART * count)
    values = np.stack([errors, 1 - f1])
    draws = np.stack([values[:, rng.permutation(count)[:first]].mean(axis=1) for _ in range(DRAWS)])
    (mean, lack), (spread, lack_spread) = draws.mean(axis=0), draws.std(axis=0)
    lines = [f"{first} of {count} pictures        errors a picture    1 - F1"]
    lines.append(f"{'at random':28} {mean:6.2f} +- {spread:.2f}    {lack:.3f} +- {lack_spread:.3f}")
    for name, rank in RANKINGS.items():
        chosen = np.argsort([-rank(found) for found in detections], kind="stable")[:first]
        got, got_lack = values[:, chosen].mean(axis=1)
        lines.append(f"{name:28} {got:6.2f} ({got / mean:.2f} x)    {got_lack:.3f} ({got_lack / lack:.2f} x)")
    best = np.sort(errors)[::-1][:first].mean()
    lines.append(f"{'the most there is':28} {best:6.2f} ({best / mean:.2f} x)")
    return lines


def held_out(table: Table, detections: Sequence[Detections], stored: float) -> list[str]:
    """Fit the factor on one half of the pictures and test it on the other; return mean and deviation over the draws.

    Sigma is taken without the factor ``stored`` in the model.
    """
    detections = [
        found if found.side_sigma is None else replace(found, side_sigma=found.side_sigma / np.float32(stored))
        for found in detections
    ]
    rng, rows = np.random.default_rng(0), []
    for _ in range(HALVES):
        order = rng.permutation(len(table))
        fitted, tried = (
            matched_sides(
                replace(table, examples=tuple(table.examples[i] for i in part)), [detections[i] for i in part]
            )
            for part in np.array_split(order, 2)
        )
        factor, ratio = fit_temperature(fitted), tried.error / tried.sigma
        rows.append([factor, *((ratio <= limit).mean() for limit in (1, 2, factor, 2 * factor))])
    names = ("factor", "within one raw sigma", "within two", "within one calibrated sigma", "within two")
    told = zip(names, np.mean(rows, axis=0), np.std(rows, axis=0), strict=True)
    sides = matched_sides(table, detections)
    lines = [f"{len(sides)} sides, Spearman of sigma and error {spearman(sides.sigma, sides.error):.3f}"]
    return lines + [f"{name:28} {mean:6.3f} +- {spread:.3f}" for name, mean, spread in told]


def main(model: str, data: str, split: str | None = None) -> None:
    """Predict on the pictures of a set, and print the rankings and the calibration."""
    predictor = nanogfl.load(model)
    table = read_table(data)
    parts = [select(table, part) for part in (split or evaluation_split(table)).split(",")]
    table = replace(table, examples=tuple(example for part in parts for example in part.examples))
    table = in_model_order(table, predictor.names)
    detections = list(predict_all(predictor, table.examples, EVALUATION))
    pooled = pool(table, detections)
    seen = by_picture(pooled, len(table), total_curve(pooled).best_score)
    lines = [*rankings(detections, seen.wrong + seen.missed, seen.f1), ""]
    lines += held_out(table, detections, predictor.describe()["temperature"])
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(f"usage: {__doc__.strip().splitlines()[-1].strip()}")
    main(*sys.argv[1:])
