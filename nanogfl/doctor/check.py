"""A whole check: read patiently, look at every picture, note everything, measure, recommend."""

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
from nanogfl.doctor.labels import note_labels
from nanogfl.doctor.look import Look, Progress, look_at_all
from nanogfl.doctor.names import note_names, note_orphans
from nanogfl.doctor.pictures import note_pictures
from nanogfl.doctor.recommend import recommend
from nanogfl.doctor.statistics import measure
from nanogfl.doctor.twins import Twin, find_twins, note_twins

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Checkup:
    """What a check found, and all that a report or a cleaned copy needs.

    Attributes:
        table: the set as training would read it, or nearly: damaged annotation files left out instead of refused.
        looks: one a picture of the table.
        twins: pictures that are there again.
        problems: everything found, the gravest kinds first.
        statistics, recommended: plain values.
    """

    table: Table
    looks: tuple[Look, ...]
    twins: tuple[Twin, ...]
    problems: tuple[Finding, ...]
    statistics: dict[str, Any]
    recommended: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind, the gravest first."""
        return dict(Counter(p.kind for p in self.problems))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``nanogfl check --json`` writes them."""
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
    """Check a set: every picture and annotation, going on where training would refuse.

    Args:
        data: a set in any form that is known.
        start: told how many pictures there are, gives what hears how many more are done.
        approve: sees the set before its pictures are looked at, which takes long, and may refuse it.

    Raises:
        DataError: nothing there, or no known form.
    """
    table = read_table(data, patient=True)
    approve(table)
    looks = look_at_all([e.path for e in table.examples], start(len(table)) if start else None)
    recommended = recommend(table)
    notes = Findings(found=list(table.findings))
    note_pictures(table.examples, looks, notes)
    note_boxes(table.examples, table.names, recommended["input"], notes)
    note_labels(table, notes)
    note_names(table, notes)
    given, root = (os.path.normpath(p.absolute()) for p in (Path(data).expanduser(), table.root))
    note_orphans(table, notes, Path(root).is_relative_to(given))
    twins = find_twins(table.examples, looks)
    note_twins(table.examples, twins, notes)
    return Checkup(table, tuple(looks), tuple(twins), _sorted(notes.found), measure(table), recommended)


def _sorted(found: list[Finding]) -> tuple[Finding, ...]:
    """The gravest first, then by kind; within a kind as found."""
    return tuple(sorted(found, key=lambda f: (SEVERITIES.index(KINDS[f.kind].severity), f.kind)))
