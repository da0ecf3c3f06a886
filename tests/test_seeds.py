"""Annotation files that the readers once stumbled over, or that reach into corners; tests/fuzz_annotations.py adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import PLACES, holds, prepare

SEEDS = sorted((Path(__file__).parent / "seeds").iterdir())


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_the_readers_stand_it(seed: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    holds(prepare(seed.name.split("-")[0], root), seed.read_bytes(), root)


def test_each_kind_of_file_has_seeds() -> None:
    assert {seed.name.split("-")[0] for seed in SEEDS} == set(PLACES)
