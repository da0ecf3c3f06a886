"""Files and metadata that were once stumbled over, or that reach into corners; tests/fuzz.py adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import PLACES, Model, annotations_hold, metadata_holds, prepare, recipe_holds

SEEDS = sorted((Path(__file__).parent / "seeds").iterdir())


def kind(seed: Path) -> str:
    return seed.name.split("-")[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("seed", [s for s in SEEDS if kind(s) in PLACES], ids=lambda seed: seed.name)
def test_the_readers_stand_it(seed: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    annotations_hold(prepare(kind(seed), root), seed.read_bytes(), root)


@pytest.mark.parametrize("seed", [s for s in SEEDS if kind(s) == "recipe"], ids=lambda seed: seed.name)
def test_recipes_stand_it(seed: Path, tmp_path: Path) -> None:
    recipe_holds(tmp_path / "recipe.yaml", seed.read_bytes())


@pytest.mark.parametrize("seed", [s for s in SEEDS if kind(s) == "metadata"], ids=lambda seed: seed.name)
def test_models_stand_it(seed: Path, model: Model) -> None:
    metadata_holds(model, seed.read_bytes())


def test_each_kind_of_file_has_seeds() -> None:
    assert {kind(seed) for seed in SEEDS} == {*PLACES, "recipe", "metadata"}
