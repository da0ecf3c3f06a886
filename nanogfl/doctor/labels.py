"""Problems of classes: spelling variants, classes without boxes, imbalance, classes that are tested but not trained."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from nanogfl.data.findings import Findings
from nanogfl.data.folders import nfc
from nanogfl.data.table import Table
from nanogfl.errors import counted

UNEQUAL = 10  # a class is rare if the most frequent class has at least this many times its boxes
BETWEEN_WORDS = re.compile(  # whole runs of separators, as a partly removed run would make variants differ
    r"(?<![\d\s_.-])[\s_.-]+(?![\d\s_.-])|(?<=\d)[\s_]+(?![\d\s_.-])|(?<![\d\s_.-])[\s_]+(?=\d)"
)


def note_labels(table: Table, notes: Findings) -> None:
    """Note the problems of the dataset's classes."""
    counts = boxes_by_class(table)
    kept = canonical_names(table.names, counts)
    for name, best in kept.items():
        if name != best:
            first = next(e for e in table.examples if table.names.index(name) in e.labels) if counts[name] else None
            detail = f"{name!r} ({counted(counts[name], 'box')}) is {best!r} ({counted(counts[best], 'box')})"
            notes.add("class-variant", first.name if first else table.root.name, "", detail)
    if table.unnamed and all(f.kind != "annotation-unreadable" for f in notes.found):  # else the names may be in there
        notes.add("class-unnamed", table.root.name, "", " to ".join(dict.fromkeys((table.names[0], table.names[-1]))))
    unused = [name for name in table.names if not counts[name] and kept[name] == name]
    for name in unused:
        notes.add("class-unused", table.root.name, "", name)
    merged = Counter(
        {best: sum(counts[n] for n, b in kept.items() if b == best) for best in dict.fromkeys(kept.values())}
    )
    _note_imbalance(table, merged, notes)
    _note_untaught(table, kept, notes)


def boxes_by_class(table: Table) -> dict[str, int]:
    """Return the number of boxes of each class, in the dataset's order."""
    counts: Counter[int] = Counter()
    for example in table.examples:
        counts.update(example.labels.tolist())
    return {name: counts[i] for i, name in enumerate(table.names)}


def canonical_names(names: Sequence[str], counts: dict[str, int]) -> dict[str, str]:
    """Map each class name to its most frequent variant: names that differ in case, Unicode coding, blanks, -, _, dots.

    Names with fewer than two letters, such as numbers, are not merged, since they may differ in these only.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_folded(name)].append(name)
    return {name: max(group, key=lambda n: counts[n]) for group in alike.values() for name in group}


def _folded(name: str) -> str:
    """Return a key that is equal for variants; a dot or - next to a digit and separators between digits are kept."""
    if sum(map(str.isalpha, name)) < 2:
        return nfc(name)
    return BETWEEN_WORDS.sub("", unicodedata.normalize("NFKC", name).casefold())


def _note_imbalance(table: Table, counts: Counter[str], notes: Findings) -> None:
    used = {name: count for name, count in counts.items() if count}
    if len(used) < 2:
        return
    most, least = max(used, key=lambda n: used[n]), min(used, key=lambda n: used[n])
    rare = [name for name, count in used.items() if count * UNEQUAL <= used[most]]
    if rare:
        many, few = counted(used[most], "box"), counted(len(rare), "class")
        detail = f"{many} of {most}, {used[least]} of {least}; at most a tenth of that: {few}"
        notes.add("class-imbalance", table.root.name, "", detail)


def _note_untaught(table: Table, kept: dict[str, str], notes: Findings) -> None:
    by_split: dict[str | None, set[str]] = defaultdict(set)
    for example in table.examples:
        by_split[example.split] |= {kept[table.names[label]] for label in example.labels}
    for split in ("val", "test"):
        for name in sorted(by_split[split] - by_split["train"] if by_split.get("train") else ()):
            notes.add("class-untaught", table.root.name, split, f"{name} is in {split}, but never in train")
