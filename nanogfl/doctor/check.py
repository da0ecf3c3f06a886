"""The whole check: read the dataset despite errors, inspect every picture, note problems, measure, recommend."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogfl.data.findings import KINDS, Finding, Findings
from nanogfl.data.readers import read_table
from nanogfl.data.table import Table
from nanogfl.doctor.boxes import note_boxes
from nanogfl.doctor.duplicates import Duplicate, find_duplicates, note_duplicates
from nanogfl.doctor.inspection import Inspection, Progress, inspect_all
from nanogfl.doctor.labels import note_labels
from nanogfl.doctor.names import note_names, note_orphans
from nanogfl.doctor.pictures import note_pictures
from nanogfl.doctor.recommend import recommend
from nanogfl.doctor.statistics import measure

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Checkup:
    """The result of a check, with all that a report or a cleaned copy needs.

    Attributes:
        table: the dataset as training would read it, except that damaged annotation files are left out, not refused.
        inspections: inspection result of each picture of the table.
        duplicates: pictures that duplicate another one.
        problems: everything found, most severe kinds first.
        statistics, recommended: plain values for JSON.
    """

    table: Table
    inspections: tuple[Inspection, ...]
    duplicates: tuple[Duplicate, ...]
    problems: tuple[Finding, ...]
    statistics: dict[str, Any]
    recommended: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind, most severe first."""
        return dict(Counter(p.kind for p in self.problems))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as ``nanogfl check --json`` writes them."""
        return {
            "images": len(self.table),
            "annotations": sum(len(e.boxes) for e in self.table.examples),
            "classes": list(self.table.names),
            "problems": [
                {
                    "kind": p.kind,
                    "severity": KINDS[p.kind].severity,
                    "file": p.file,
                    "where": p.where,
                    "detail": p.detail,
                    "fix": KINDS[p.kind].fix,
                }
                for p in self.problems
            ],
            "statistics": self.statistics,
            "recommended": self.recommended,
        }


def check(
    data: str | Path, start: Callable[[int], Progress] | None = None, approve: Callable[[Table], None] = lambda _: None
) -> Checkup:
    """Check every picture and annotation of a dataset, continuing after errors at which training would stop.

    Args:
        data: a dataset in any known format.
        start: called with the number of pictures; returns a callback for the number of pictures newly inspected.
        approve: called with the dataset before the long inspection of its pictures; may raise an error to stop.

    Raises:
        DataError: the dataset does not exist, or its format is unknown.
    """
    table = read_table(data, lenient=True)
    approve(table)
    inspections = inspect_all([e.path for e in table.examples], start(len(table)) if start else None)
    recommended = recommend(table, data)
    notes = Findings(found=list(table.findings))
    note_pictures(table.examples, inspections, notes)
    note_boxes(table.examples, table.names, recommended["input"], notes)
    note_labels(table, notes)
    note_names(table, notes)
    given, root = (os.path.normpath(p.absolute()) for p in (Path(data).expanduser(), table.root))
    note_orphans(table, notes, Path(root).is_relative_to(given))
    duplicates = find_duplicates(table.examples, inspections)
    note_duplicates(table.examples, duplicates, notes)
    return Checkup(table, tuple(inspections), tuple(duplicates), _sorted(notes.found), measure(table), recommended)


def _sorted(found: list[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity, most severe first, then by kind; keep the order within a kind."""
    return tuple(sorted(found, key=lambda f: (SEVERITIES.index(KINDS[f.kind].severity), f.kind)))
