"""nanogfl.recipe: what a run is, and how a wrong word is answered."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanogfl.errors import RecipeError, UsageError
from nanogfl.recipe import (
    AugmentRecipe,
    ModelRecipe,
    Recipe,
    TrainRecipe,
    available,
    folder,
    from_dict,
    load_recipe,
    to_dict,
)
from nanogfl.view import parse_input

SECTIONS = ("model", "input", "augment", "train", "loss")


def changed(recipe: Recipe) -> dict[str, Any]:
    """Dotted keys and values that differ from the defaults."""
    plain, default = asdict(recipe), asdict(Recipe())
    pairs = {f"{s}.{k}": v for s in SECTIONS for k, v in plain[s].items() if v != default[s][k]}
    return pairs | ({"init": recipe.init} if recipe.init != Recipe().init else {})


def message(assignment: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(None, [assignment])
    text = str(error.value)
    assert "\n" not in text
    assert error.value.exit_code == 2
    return text


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_without_a_source_the_recipe_is_the_defaults() -> None:
    assert load_recipe() == Recipe()
    assert Recipe().train.lr is None  # follows from what the run starts from
    assert (Recipe().loss.qfl, Recipe().loss.giou, Recipe().loss.dfl, Recipe().loss.beta) == (1, 2, 0.25, 2)


def test_the_defaults_train_as_nanodet_plus_does() -> None:
    """Its published configuration: AdamW, the cosine's end, how pictures vary; then other losses'."""
    train, augment, loss = Recipe().train, Recipe().augment, Recipe().loss
    assert (train.weight_decay, train.lr_end, train.clip) == (0.05, 5e-5, 35)
    assert (augment.scale, augment.stretch, augment.translate, augment.flip) == ((0.6, 1.4), (0.8, 1.2), 0.2, 0.5)
    assert (augment.brightness, augment.contrast, augment.saturation) == (0.2, (0.6, 1.4), (0.5, 1.2))
    assert (loss.anchor, loss.teach_classes, loss.teach_sides, loss.temperature) == (5, 1, 0.25, 10)


def test_what_costs_or_risks_nothing_is_on_and_the_rest_off() -> None:
    train, augment = Recipe().train, Recipe().augment
    assert train.cuda_graphs and not train.compile and not train.sync_batch_norm
    assert (train.save_every, train.patience, train.freeze, train.teacher) == (1000, 0, "none", "none")
    geometry = ("flip_vertical", "rotate", "shear", "perspective", "mosaic")
    assert {getattr(augment, name) for name in geometry} == {0.0}


@pytest.mark.parametrize(
    ("assignment", "expected", "reason"),
    [
        ("train.lr=0.002", {"train.lr": 0.002}, "a float"),
        ("train.lr=2e-3", {"train.lr": 0.002}, "YAML alone takes 2e-3 for a word"),
        ("train.lr=1", {"train.lr": 1.0}, "a whole number where a float belongs"),
        ("train.weight_decay=1E-2", {"train.weight_decay": 0.01}, "a capital E"),
        ("train.epochs=3", {"train.epochs": 3}, "a whole number"),
        ("train.epochs=null", {}, "None: follows from the data"),
        ("train.warmup=0", {"train.warmup": 0}, "0 is not None"),
        ("augment.scale=[0.5, 2]", {"augment.scale": (0.5, 2.0)}, "a pair"),
        ("augment.scale=[1, 1]", {"augment.scale": (1.0, 1.0)}, "a pair without width"),
        ("model.share_levels=true", {"model.share_levels": True}, "yes or no"),
        ("model.size=s", {"model.size": "s"}, "one of a few words"),
        ("train.freeze=backbone", {"train.freeze": "backbone"}, "one of a few words"),
        ("input.size=256x416", {"input.size": "256x416"}, "height x width"),
        ("input.size=320", {"input.size": 320}, "a square"),
        ("init=nanodet-plus-m_416", {"init": "nanodet-plus-m_416"}, "a key without section"),
        ("init=a=b.ckpt", {"init": "a=b.ckpt"}, "the first = parts"),
        (" train.epochs = 4", {"train.epochs": 4}, "spaces"),
        ("train={epochs: 3, batch: 4}", {"train.epochs": 3, "train.batch": 4}, "a whole section"),
    ],
)
def test_assignments(assignment: str, expected: dict[str, Any], reason: str) -> None:
    made = changed(load_recipe(None, [assignment]))
    assert made == expected, reason
    assert all(type(made[key]) is type(value) for key, value in expected.items()), "of the field's own type"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("trian.lr=1", "the recipe: unknown key trian (did you mean train?)"),
        ("train.epoch=1", "the recipe: unknown key train.epoch (did you mean epochs?)"),
        ("augment.flip_vertcal=1", "the recipe: unknown key augment.flip_vertcal (did you mean flip_vertical?)"),
        ("flip=0", "the recipe: unknown key flip (did you mean augment.flip?)"),
        ("size=s", "the recipe: unknown key size (did you mean model.size or input.size?)"),
        ("split=1", "the recipe: unknown key split"),
        ("zzz=1", "the recipe: unknown key zzz"),
        (
            "model.arch.name=NanoDetPlus",
            "the recipe is a NanoDet configuration; use a recipe, such as nanodet-plus-m_416",
        ),
        ("train.lr.high=1", "the recipe: train.lr: should be a valid number, not {'high': 1}"),
        ("train.epochs=true", "the recipe: train.epochs: should be a number or a string, not True"),
        ("train.freeze=no", "the recipe: train.freeze: should be a number or a string, not False"),
        ("augment.translate=.nan", "the recipe: augment.translate must be a number between 0 and 1, not nan"),
        ("train.epochs=0", "the recipe: train.epochs must be at least 1, not 0"),
        ("train.batch=-8", "the recipe: train.batch must be at least 1, not -8"),
        ("train.accumulate=0", "the recipe: train.accumulate must be at least 1, not 0"),
        ("train.validate_every=0", "the recipe: train.validate_every must be at least 1, not 0"),
        ("train.epochs=1000001", "the recipe: train.epochs must be at most 1000000, not 1000001"),
        ("train.warmup=-1", "the recipe: train.warmup must be at least 0, not -1"),
        ("train.workers=1000", "the recipe: train.workers must be at most 256, not 1000"),
        ("train.devices=-1", "the recipe: train.devices must be at least 0, not -1"),
        ("train.devices=257", "the recipe: train.devices must be at most 256, not 257"),
        ("loss.topk=0", "the recipe: loss.topk must be at least 1, not 0"),
        ("model.reg_max=65", "the recipe: model.reg_max must be between 3 and 64, not 65"),
        ("loss.beta=0.5", "the recipe: loss.beta must be 0 or at least 1, not 0.5"),
        ("augment.scale=[0.001, 1]", "the recipe: augment.scale must be between 0.01 and 100, not 0.001 to 1"),
        ("augment.contrast=[1, 1e9]", "the recipe: augment.contrast must be between 0.01 and 100, not 1 to 1e+09"),
        ("train.lr=0", "the recipe: train.lr must be between 1e-12 and 100, not 0.0"),
        ("train.lr=-1e-3", "the recipe: train.lr must be between 1e-12 and 100, not -0.001"),
        ("train.lr=.nan", "the recipe: train.lr must be between 1e-12 and 100, not nan"),
        ("train.lr_end=1e308", "the recipe: train.lr_end must be between 1e-12 and 100, not 1e+308"),
        ("train.clip=.nan", "the recipe: train.clip must be above 0, not nan"),
        ("train.seed=-1", "the recipe: train.seed must be a number between 0 and 4294967295, not -1"),
        ("train.average=1", "the recipe: train.average must be at least 0 and below 1, not 1.0"),
        ("model=5", "the recipe: model: should be a section of keys, not 5"),
        ("train=5", "the recipe: train: should be a section of keys, not 5"),
        ("model.size=xl", "the recipe: model.size: should be 's', 'm' or 'l', not 'xl'"),
        ("augment.flip=1.5", "the recipe: augment.flip must be between 0 and 1"),
        ("augment.mosaic=-0.1", "the recipe: augment.mosaic must be between 0 and 1"),
        ("augment.flip=.nan", "the recipe: augment.flip must be between 0 and 1"),
        ("augment.scale=[2, 1]", "the recipe: augment.scale must be [from, to] with 0 < from <= to"),
        ("augment.stretch=[0, 1]", "the recipe: augment.stretch must be [from, to] with 0 < from <= to"),
        ("augment.contrast=[.nan, 1]", "the recipe: augment.contrast must be [from, to] with 0 < from <= to"),
        ("augment.scale=2", "the recipe: augment.scale: should be a valid tuple, not 2"),
        ("epochs", "--set epochs: expected key.path=value, such as train.lr=0.002"),
        ("=3", "--set =3: expected key.path=value, such as train.lr=0.002"),
    ],
)  # fmt: skip
def test_wrong_assignments_are_one_line(assignment: str, expected: str) -> None:
    assert message(assignment) == expected


COUNTS = {
    1: "train.epochs train.batch train.accumulate train.nodes train.validate_every train.save_every loss.topk",
    0: "train.warmup train.patience train.plain_epochs",
}
WEIGHTS = "train.weight_decay train.backbone_lr train.detach_guidance loss.qfl loss.giou loss.dfl loss.teach_classes"
PARTS = "augment.flip augment.flip_vertical augment.mosaic augment.translate augment.brightness"
BOUNDS: list[tuple[str, float, float, float, float]] = [
    *((key, least, 10**6, least - 1, 10**6 + 1) for least, keys in COUNTS.items() for key in keys.split()),
    *((key, 0, 256, -1, 257) for key in ("train.workers", "train.devices")),
    *((key, 0, 1e300, -1e-9, math.inf) for key in [*WEIGHTS.split(), "loss.teach_sides", "loss.beta"]),
    *((key, 1e-300, 1e300, 0, math.inf) for key in ("train.clip", "loss.anchor", "loss.temperature")),
    *((key, 1e-12, 100, 9e-13, 101) for key in ("train.lr", "train.lr_end")),
    *((key, 0, 1, -1e-9, 1.001) for key in PARTS.split()),
    ("augment.rotate", 0, 180, -1, 181),
    ("augment.shear", 0, 60, -1, 61),
    ("augment.perspective", 0, 0.5, -1e-9, 0.51),
    ("train.average", 0, 0.9999, -1e-9, 1),
    ("train.seed", 0, 2**32 - 1, -1, 2**32),
    ("loss.beta", 1, 2, 0.999, math.nan),
    ("model.reg_max", 3, 64, 2, 65),
]


@pytest.mark.parametrize(("key", "least", "most", "below", "above"), BOUNDS)
def test_a_number_is_taken_up_to_its_limits(key: str, least: float, most: float, below: float, above: float) -> None:
    section, name = key.split(".")
    record = getattr(Recipe(), section)
    for value in (least, most):
        assert getattr(replace(record, **{name: value}), name) == value
    for value in (below, above):
        with pytest.raises(ValueError, match=f"^{key} must"):
            replace(record, **{name: value})


@pytest.mark.parametrize("key", ["scale", "stretch", "contrast", "saturation"])
def test_a_factor_lies_between_a_hundredth_and_a_hundred(key: str) -> None:
    assert getattr(replace(AugmentRecipe(), **{key: (0.01, 100)}), key) == (0.01, 100)
    for pair in ((0.0099, 1), (1, 100.1), (0.5, math.inf)):
        with pytest.raises(ValueError, match=rf"^augment\.{key} must"):
            replace(AugmentRecipe(), **{key: pair})


def test_null_gives_back_what_a_runs_recipe_has_fixed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {sides: distribution, reg_max: 7}\ntrain: {epochs: 9, warmup: 3}\n")
    written, dirac = str(tmp_path / "config.yaml"), "model.sides=dirac"
    with pytest.raises(RecipeError, match=r"set model\.quality=none and omit model\.reg_max \(null\)$"):
        load_recipe(written, [dirac])
    made = load_recipe(written, [dirac, "model.reg_max=null", "train.epochs=null"])
    assert (made.model.reg_max, made.train.epochs, made.train.warmup) == (None, None, 3)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"sides": "dirac", "quality": "none"}, None),
        ({"sides": "dirac", "quality": "top4"}, "has no distribution"),
        ({"sides": "dirac", "reg_max": 7}, "has no distribution"),
        ({"sides": "distribution", "quality": "top4", "reg_max": 7}, None),
        ({"family": "resnet", "share_levels": False, "separate_sides": False}, None),
        ({"family": "resnet", "share_levels": True}, "omit both keys"),
        ({"family": "resnet", "separate_sides": True}, "omit both keys"),
        ({"family": "first", "share_levels": True, "separate_sides": True}, None),
    ],
)
def test_what_a_network_cannot_be_together(model: dict[str, Any], said: str | None) -> None:
    with pytest.raises(ValueError, match=said) if said else nullcontext():
        ModelRecipe(**model)


@pytest.mark.parametrize(
    "key", ["model.share_levels", "model.separate_sides", "train.sync_batch_norm", "train.cuda_graphs", "train.compile"]
)
def test_yes_and_no_are_taken_where_they_are_asked_for(key: str) -> None:
    section, name = key.split(".")
    for value in (True, False):
        assert getattr(getattr(load_recipe(None, [f"{key}={str(value).lower()}"]), section), name) is value


@pytest.mark.parametrize(("given", "fp16"), [("16", True), ("'16'", True), ("32", False), ("bf16", False)])
def test_only_16_scales_gradients(given: str, fp16: bool) -> None:
    assert load_recipe(None, [f"train.precision={given}"]).train.fp16 is fp16


@pytest.mark.parametrize("half", ["\\ud800", "\\udbff", "\\udc00", "\\udfff"])
@pytest.mark.parametrize("key", ["init", "train.teacher"])
def test_half_a_character_is_refused(half: str, key: str) -> None:
    """Either half: YAML can write it, and no file name and no checkpoint can hold it."""
    assert message(f'{key}="a{half}"') == f"the recipe: {key}: 'a{half}' has an incomplete character; use valid UTF-8"


def test_yes_is_no_section_and_no_checkpoint() -> None:
    for key in ("init", "train"):
        assert message(f"{key}=true") == f"the recipe: {key}: should be a number or a string, not True"


def test_yaml_without_end_is_one_line(tmp_path: Path) -> None:
    deep = "[" * 5000
    assert message(f"init={deep}").startswith(f"--set init={deep[:100]}")
    for text in (f"init: {deep}", "init: 2024-02-31", "train: {seed: " + "1" * 5000 + "}"):
        with pytest.raises(RecipeError, match="invalid YAML: ") as error:
            load_recipe(written(tmp_path, text))
        assert "\n" not in str(error.value)


def test_an_empty_teacher_is_refused() -> None:
    assert message("train.teacher=''") == "the recipe: train.teacher must be a checkpoint, a published name, or none"


def test_a_key_of_a_value_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^--set train\.lr\.high: lr is a value, not a section$"):
        load_recipe(None, ["train.lr=1", "train.lr.high=2"])


def test_what_is_wrong_is_said_of_the_file_or_of_what_is_given_beside_it(tmp_path: Path) -> None:
    source = written(tmp_path, "train: {epochs: 0}\n")
    for assignments in ([], ["train.epochs=1"]):
        with pytest.raises(RecipeError) as error:
            load_recipe(source, assignments)
        assert str(error.value) == f"{source}: train.epochs must be at least 1, not 0", "which no option mends"
    with pytest.raises(RecipeError) as error:
        load_recipe(written(tmp_path, "train: {epochs: 1}\n"), ["train.epochs=0"])
    assert str(error.value) == f"{source} with the given options: train.epochs must be at least 1, not 0"


@pytest.mark.parametrize("text", ["train: images\nnames: [cat]\n", "nc: 1\ntrain: [images]\nval: images\n"])
def test_the_description_of_a_dataset_is_no_recipe(tmp_path: Path, text: str) -> None:
    source = written(tmp_path, text)
    with pytest.raises(RecipeError) as error:
        load_recipe(source, ["train.epochs=1"])
    assert str(error.value) == f"{source} describes a dataset, not a recipe; use: nanogfl train {source} --out FOLDER"


@pytest.mark.parametrize("value", ["many", "2.5", "[1]", "1e-3"])
def test_what_is_no_whole_number_is_no_number_of_epochs(value: str) -> None:
    text = message(f"train.epochs={value}")
    assert text.startswith("the recipe: train.epochs: should be a valid integer")
    assert value in text, "the value itself is shown"


@pytest.mark.parametrize(
    "value", ["-1", "9" * 30, "1" + "0" * 400, ".nan", ".inf", "-.inf", "''", "[]", "{}", "[0, 0]"]
)
def test_no_number_in_any_key_is_more_than_one_line(value: str) -> None:
    keys = [(s, key) for s in ("augment", "train", "loss") for key in asdict(Recipe())[s]]
    for section, key in keys:
        taken = accepted(section, key, value)
        assert taken is None or taken == float(value), "only a factor may be large"


def accepted(section: str, key: str, value: str) -> Any:
    """What a key takes of a value; None where it refuses it in one line."""
    try:
        made = load_recipe(None, [f"{section}.{key}={value}"])
    except RecipeError as error:
        assert key in str(error) and "\n" not in str(error)
        return None
    return getattr(getattr(made, section), key)


def test_broken_yaml_in_an_assignment_is_one_line() -> None:
    assert message("train.epochs=[1").startswith("--set train.epochs=[1: invalid YAML: ")


@pytest.mark.parametrize("precision", ["auto", "bf16", "16", "32"])
def test_every_precision_can_be_asked_for(precision: str) -> None:
    assert str(load_recipe(None, [f"train.precision={precision}"]).train.precision) == precision


@pytest.mark.parametrize("key", ["train.epochs", "train.lr", "train.seed", "augment.flip", "input.size"])
def test_yes_is_no_number(key: str) -> None:
    message(f"{key}=true")


@pytest.mark.parametrize(
    "assignment",
    [
        "augment.translate=-0.1", "augment.translate=.nan", "augment.brightness=-1", "augment.brightness=.inf",
        "augment.rotate=-5", "augment.shear=90", "augment.perspective=3", "augment.scale=[1, .inf]",
        "train.lr=.inf", "train.weight_decay=.nan", "train.backbone_lr=-1", "train.detach_guidance=.nan",
        "loss.qfl=-1", "loss.giou=.nan", "loss.beta=-2", "loss.topk=0",
    ],
)  # fmt: skip
def test_values_without_meaning_are_refused(assignment: str) -> None:
    message(assignment)


def test_options_come_before_assignments_and_none_is_left_out(tmp_path: Path) -> None:
    source = written(tmp_path, "train: {epochs: 1, batch: 2, lr: 0.5}\nmodel: {size: l}\n")
    options = {"train.epochs": 2, "train.batch": 4, "model.size": None, "init": "x.ckpt"}
    made = load_recipe(source, ["train.epochs=3"], options)
    assert changed(made) == {
        "train.epochs": 3, "train.batch": 4, "train.lr": 0.5, "model.size": "l", "init": "x.ckpt",
    }  # fmt: skip


def test_a_whole_section_replaces_the_files(tmp_path: Path) -> None:
    source = written(tmp_path, "train: {epochs: 1, batch: 2}\naugment: {flip: 0.1}\n")
    made = load_recipe(source, ["train={epochs: 7}", "train.lr=0.25"])
    assert changed(made) == {"train.epochs": 7, "train.lr": 0.25, "augment.flip": 0.1}


def test_an_option_of_the_wrong_type_or_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^the recipe: train\.epochs must be at least 1, not 0$"):
        load_recipe(options={"train.epochs": 0})
    with pytest.raises(RecipeError, match=r"unknown key trian \(did you mean train\?\)"):
        load_recipe(options={"trian.epochs": 1})


@pytest.mark.parametrize(
    ("text", "words", "reason"),
    [
        ("- a\n- b\n", "expected keys and values, got a list", "a list"),
        ("5\n", "expected keys and values, got a int", "a number"),
        ("a: [1\n", "invalid YAML: ", "an open bracket"),
        ("a: *x\n", "invalid YAML: found undefined alias", "an alias of nothing"),
        ("!!python/object/apply:os.getcwd []\n", "invalid YAML: could not determine a constructor", "no code is run"),
        ("\x00", "invalid YAML: ", "a control character"),
        (b"init: \xe9\n", "cannot be read ('utf-8' codec", "another encoding"),
        ("1: 2\n", "1: Keys should be strings, not 1", "a number as key"),
        ("trian: {lr: 1}\n", "unknown key trian (did you mean train?)", "a misspelt section"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str | bytes, words: str, reason: str) -> None:
    source = written(tmp_path, text)
    with pytest.raises(RecipeError) as error:
        load_recipe(source)
    assert words in str(error.value), reason
    assert source in str(error.value)
    assert "\n" not in str(error.value)


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    source = written(tmp_path, "train: {epochs: 0}\nloss: {qfl: x}\nmodel: {sise: m}\ninti: none\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(source)
    for words in ("train.epochs must be", "loss.qfl: should be", "unknown key model.sise (did you mean size?)", "inti"):
        assert words in str(error.value)


@pytest.mark.parametrize("text", ["", "# only a word\n", "---\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_recipe(written(tmp_path, text)) == Recipe()


def test_a_file_may_end_in_yml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("train: {epochs: 7}\n")
    assert load_recipe(str(path)).train.epochs == 7


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["train.epochs=2"],
    ],
)
def test_a_section_without_keys_is_its_defaults(tmp_path: Path, assignments: list[str]) -> None:
    made = load_recipe(written(tmp_path, "train:\n  # lr: 0.1\naugment: {flip: 0.25}\n"), assignments)
    assert made.augment.flip == 0.25


def test_missing_files_and_unknown_names_are_usage_errors(tmp_path: Path) -> None:
    for source, words in (
        (str(tmp_path / "no.yaml"), "cannot be read ([Errno 2] No such file"),
        (str(tmp_path), "no such recipe"),
        ("quickstrat", "--recipe quickstrat: no such recipe (did you mean quickstart?); known: "),
    ):
        with pytest.raises(UsageError) as error:
            load_recipe(source)
        assert words in str(error.value)


def test_the_recipes_lie_in_the_checkouts_config() -> None:
    assert folder() == Path(__file__).resolve().parents[1] / "config"
    assert available() == sorted(p.stem for p in folder().glob("*.yaml"))
    assert "quickstart" in available()


@pytest.mark.parametrize("name", available())
def test_every_recipe_is_found_by_name_and_holds_a_size_and_a_header(name: str) -> None:
    path = folder() / f"{name}.yaml"
    made = load_recipe(name)
    assert made == load_recipe(str(path))
    assert changed(made), "it changes something"
    parse_input(320 if made.input.size is None else made.input.size)
    assert path.read_text(encoding="utf-8").startswith("# "), "a header says what it is for"


def test_no_recipe_repeats_a_default() -> None:
    for name in available():
        said = yaml.safe_load((folder() / f"{name}.yaml").read_text(encoding="utf-8"))
        given = {f"{s}.{k}" for s, section in said.items() if isinstance(section, dict) for k in section}
        assert given <= set(changed(load_recipe(name))), name


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(augment=AugmentRecipe(scale=(0.1, 3)), train=TrainRecipe(epochs=3, average=0.0), init="a.ckpt"),
        *map(load_recipe, available()),
    ],
)
def test_a_recipe_comes_back_from_plain_values_and_from_yaml(recipe: Recipe) -> None:
    plain = to_dict(recipe)
    assert from_dict(plain, "plain") == recipe
    assert from_dict(yaml.safe_load(yaml.safe_dump(plain)), "yaml") == recipe
    assert plain["augment"]["scale"] == list(recipe.augment.scale), "lists, which a weights-only checkpoint holds"
    assert set(plain) == {f.name for f in fields(Recipe)}


def test_from_dict_names_the_place() -> None:
    with pytest.raises(RecipeError, match=r"^best\.ckpt: train\.lr: should be a valid number"):
        from_dict({"train": {"lr": "fast"}}, "best.ckpt")


def test_recipes_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Recipe().train.lr = 1  # type: ignore[misc]
