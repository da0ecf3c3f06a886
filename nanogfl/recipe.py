"""The configuration of a run: frozen dataclasses with defaults, read from YAML and ``key=value``, validated once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanogfl.errors import RecipeError, nearest

Pair = tuple[float, float]
MAX_COUNT, PROCESSES = 1_000_000, 256  # upper limits: larger numbers are typing errors; no machine would ever finish
RATES = (1e-12, 100.0)  # limits of learning rates, outside of which nothing is learnt
YES_OR_NO = frozenset({"share_levels", "separate_sides", "sync_batch_norm", "cuda_graphs", "compile"})
FORBID_EXTRA = {"extra": "forbid"}  # pydantic: an unknown key is an error


def _refuse_outside(section: str, record: Any, limits: Mapping[str, float]) -> None:
    """Raise ValueError for a field that is not a number from 0 to its limit."""
    for name, limit in limits.items():
        value = getattr(record, name)
        if not (0 <= value <= limit and math.isfinite(value)):
            most = "of at least 0" if math.isinf(limit) else f"between 0 and {limit}"
            raise ValueError(f"{section}.{name} must be a number {most}, not {value}")


def _refuse_not_positive(name: str, value: float) -> None:
    """Raise ValueError for a value that is not a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0, not {value}")


def _refuse_rate(name: str, value: float | None) -> None:
    """Raise ValueError for an invalid learning rate; None is valid and follows from the initial weights."""
    if value is not None and not RATES[0] <= value <= RATES[1]:
        raise ValueError(f"{name} must be between {RATES[0]:g} and {RATES[1]:g}, not {value}")


def _refuse_count(name: str, value: int | None, least: int, most: int) -> None:
    """Raise ValueError for a whole number outside its limits; None is valid and follows from the data."""
    if value is not None and not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise ValueError(f"{name} must be {bound}, not {value}")


@dataclass(frozen=True)
class ModelRecipe:
    """The network. None: as in the init checkpoint, else the default.

    Attributes:
        size: s | m | l; m (the default) is NanoDet-Plus-m, l is NanoDet-Plus-m-1.5x.
        family: plus (NanoDet-Plus, the default), first (the first NanoDet), resnet (the paper's heavy detector:
            ResNet-18, -34 or -50 for s, m, l, FPN, towers).
        share_levels: all levels share one head branch; by default, each level has its own.
        separate_sides: the sides have a head branch of their own; by default, they share that of the classes.
        sides: distribution (the default), or dirac (one value per side).
        reg_max: R of the distribution, by default 7, and 16 for resnet.
        quality: distribution-guided quality predictor: none (the default), top4 (the paper's), moments (no TopK).
        guidance: module that assigns in training: full (as in NanoDet-Plus), light, none (the head itself).
    """

    __pydantic_config__ = FORBID_EXTRA
    size: Literal["s", "m", "l"] | None = None
    family: Literal["plus", "first", "resnet"] | None = None
    share_levels: bool | None = None
    separate_sides: bool | None = None
    sides: Literal["distribution", "dirac"] | None = None
    reg_max: int | None = None
    quality: Literal["none", "top4", "moments"] | None = None
    guidance: Literal["full", "light", "none"] = "none"

    def __post_init__(self) -> None:
        if self.reg_max is not None and not 3 <= self.reg_max <= 64:
            raise ValueError(f"model.reg_max must be between 3 and 64, not {self.reg_max}")
        if self.sides == "dirac" and (self.quality not in (None, "none") or self.reg_max is not None):
            raise ValueError(
                "model.sides=dirac has no distribution; set model.quality=none and omit model.reg_max (null)"
            )
        if self.family == "resnet" and (self.share_levels or self.separate_sides):
            raise ValueError("model.family=resnet always shares its towers and separates the sides; omit both keys")


@dataclass(frozen=True)
class InputRecipe:
    """The input of the network.

    Attributes:
        size: ``320`` or ``HEIGHTxWIDTH``, multiples of 32, at least 64; None: the checkpoint's, else 320.
        resize: a resize rule of nanogfl.view; None: stretch.
    """

    __pydantic_config__ = FORBID_EXTRA
    size: int | str | None = None
    resize: Literal["stretch", "stretch-antialias", "stretch-corner", "letterbox", "letterbox-antialias"] | None = None


@dataclass(frozen=True)
class AugmentRecipe:
    """Random augmentation of training pictures; all geometric changes are combined into one warp.

    Attributes:
        scale: range of the zoom.
        stretch: range of a separate factor for each axis.
        translate: maximum shift, as a fraction of the input.
        flip: probability of a horizontal flip.
        flip_vertical: probability of a vertical flip (microscopes, drones).
        rotate: maximum rotation in degrees, in both directions.
        shear: maximum shear in degrees, in both directions.
        perspective: maximum change of the homogeneous coordinate over the width, and over the height.
        brightness: maximum offset, as a fraction of the value range.
        contrast: range of the factor.
        saturation: range of the factor.
        mosaic: probability that four pictures are combined into one input.
    """

    __pydantic_config__ = FORBID_EXTRA
    scale: Pair = (0.6, 1.4)
    stretch: Pair = (0.8, 1.2)
    translate: float = 0.2
    flip: float = 0.5
    flip_vertical: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    brightness: float = 0.2
    contrast: Pair = (0.6, 1.4)
    saturation: Pair = (0.5, 1.2)
    mosaic: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "flip_vertical", "mosaic"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} must be between 0 and 1")
        for name in ("scale", "stretch", "contrast", "saturation"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"augment.{name} must be [from, to] with 0 < from <= to")
            if low < 0.01 or high > 100:
                raise ValueError(f"augment.{name} must be between 0.01 and 100, not {low:g} to {high:g}")
        limits = {"translate": 1, "brightness": 1, "rotate": 180, "shear": 60, "perspective": 0.5}
        _refuse_outside("augment", self, limits)


@dataclass(frozen=True)
class TrainRecipe:
    """Duration, optimizer and hardware. None: follows from the size of the data (nanogfl.training.schedule).

    Attributes:
        epochs: passes over the training pictures.
        batch: pictures per batch in each process.
        accumulate: batches whose gradients are averaged for one step.
        lr: highest learning rate of AdamW; None: .001 from a trained detector, .002 from other weights or none.
        lr_end: learning rate at the end of the cosine.
        backbone_lr: factor on lr for the backbone.
        weight_decay: weight decay of AdamW; not for norms and biases.
        warmup: steps until lr is reached.
        clip: maximum gradient norm.
        average: decay of the averaged weights (EMA) that are evaluated and exported; 0 switches averaging off.
        plain_epochs: number of last epochs without mosaic and with half the zoom, stretch and shift.
        detach_guidance: fraction of the run after which guidance no longer trains the detector.
        freeze: ``backbone`` keeps the backbone as it was loaded.
        teacher: a checkpoint or published name of a detector whose predictions are learnt as well; none.
        precision: auto (bf16 if a GPU or an x86 CPU multiplies it natively, else 32) | 32 | bf16 | 16.
        patience: validations without a better AP after which to stop; 0: never.
        validate_every: epochs between validations; the last epoch is always validated.
        save_every: steps between saves of the state within an epoch.
        seed: seed of everything random.
        workers: loader processes; none if pictures are cached in RAM and the system (not Linux) cannot share them.
        cache: where decoded pictures are kept: auto (GPU memory or RAM, if they fit), device, ram, none.
        devices: GPUs or processes on this machine; 0: all GPUs, or one CPU process.
        nodes: number of machines.
        sync_batch_norm: compute batch statistics over all processes.
        cuda_graphs: record the steps of a GPU once and replay them.
        compile: first compile the network and the losses on a GPU with torch.compile, a minute for each batch size.
    """

    __pydantic_config__ = FORBID_EXTRA
    epochs: int | None = None
    batch: int = 16
    accumulate: int = 1
    lr: float | None = None
    lr_end: float = 5e-5
    backbone_lr: float = 1.0
    weight_decay: float = 0.05
    warmup: int | None = None
    clip: float = 35.0
    average: float | None = None
    plain_epochs: int | None = None
    detach_guidance: float = 1.0
    freeze: Literal["none", "backbone"] = "none"
    teacher: str = "none"
    precision: Literal["auto", "32", "bf16", "16", 32, 16] = "auto"
    patience: int = 0
    validate_every: int | None = None
    save_every: int = 1000
    seed: int = 0
    workers: int | None = None
    cache: Literal["auto", "device", "ram", "none"] = "auto"
    devices: int = 0
    nodes: int = 1
    sync_batch_norm: bool = False
    cuda_graphs: bool = True
    compile: bool = False

    @property
    def fp16(self) -> bool:
        """Whether to train in fp16 with scaled gradients; YAML gives 16 as a number."""
        return str(self.precision) == "16"

    def __post_init__(self) -> None:
        if not self.teacher:
            raise ValueError("train.teacher must be a checkpoint, a published name, or none")
        for name in ("epochs", "batch", "accumulate", "nodes", "validate_every", "save_every"):
            _refuse_count(f"train.{name}", getattr(self, name), 1, MAX_COUNT)
        for name in ("warmup", "patience", "plain_epochs"):
            _refuse_count(f"train.{name}", getattr(self, name), 0, MAX_COUNT)
        for name in ("workers", "devices"):
            _refuse_count(f"train.{name}", getattr(self, name), 0, PROCESSES)
        _refuse_not_positive("train.clip", self.clip)
        _refuse_rate("train.lr", self.lr)
        _refuse_rate("train.lr_end", self.lr_end)
        _refuse_outside("train", self, dict.fromkeys(("weight_decay", "backbone_lr", "detach_guidance"), math.inf))
        _refuse_outside("train", self, {"seed": 2**32 - 1})
        if self.average is not None and not 0 <= self.average < 1:
            raise ValueError(f"train.average must be at least 0 and below 1, not {self.average}")


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the loss parts, exponent of QFL, assignment, and weights of distillation.

    Attributes:
        qfl, giou, dfl: weights; qfl is that of the class loss, also for focal.
        beta: exponent of the modulating factor of the class loss: 0, or at least 1 (else its slope at 0 is infinite);
            the cost of dynamic soft labels keeps 2.
        classes: qfl, or focal (all priors of a box learn a score of 1 instead of the IoU).
        assign: dsl (dynamic soft labels) or atss.
        topk: candidates per box (dsl, 13), or per level (atss, 9).
        anchor: side of the ATSS anchors in strides; 8 in the paper's heavy detectors.
        teach_classes: weight of the teacher's scores as soft labels.
        teach_sides: weight of the divergence from the teacher's side distributions.
        temperature: temperature of both distributions in that divergence.
    """

    __pydantic_config__ = FORBID_EXTRA
    qfl: float = 1.0
    giou: float = 2.0
    dfl: float = 0.25
    beta: float = 2.0
    classes: Literal["qfl", "focal"] = "qfl"
    assign: Literal["dsl", "atss"] = "dsl"
    topk: int | None = None
    anchor: float = 5.0
    teach_classes: float = 1.0
    teach_sides: float = 0.25
    temperature: float = 10.0

    def __post_init__(self) -> None:
        numbers = ("qfl", "giou", "dfl", "beta", "teach_classes", "teach_sides")
        _refuse_outside("loss", self, dict.fromkeys(numbers, math.inf))
        if 0 < self.beta < 1:
            raise ValueError(f"loss.beta must be 0 or at least 1, not {self.beta}")
        _refuse_not_positive("loss.anchor", self.anchor)
        _refuse_not_positive("loss.temperature", self.temperature)
        _refuse_count("loss.topk", self.topk, 1, MAX_COUNT)


@dataclass(frozen=True)
class Recipe:
    """The configuration of a whole run; ``init`` is a published name, a checkpoint, or none."""

    __pydantic_config__ = FORBID_EXTRA
    model: ModelRecipe = field(default_factory=ModelRecipe)
    input: InputRecipe = field(default_factory=InputRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    init: str = "none"


def folder() -> Path:
    """Return the folder of the recipes that come with nanogfl: in the wheel, or ``config`` in the checkout."""
    packed = Path(__file__).parent / "config"
    return packed if packed.is_dir() else Path(__file__).parents[1] / "config"


def available() -> list[str]:
    """Return the names of the recipes that come with nanogfl."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load_recipe(
    source: str | None = None, assignments: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> Recipe:
    """Return the defaults, changed by a recipe (name or file), then by options, then by ``key.path=value`` assignments.

    Args:
        source: a name of :func:`available`, or a YAML file; None: the defaults.
        assignments: such as ``train.lr=0.002``; values are YAML.
        options: values by dotted key, such as ``{"train.epochs": 3}``; None values are skipped.

    Raises:
        RecipeError: unknown name or key (the nearest known one is suggested), or a value of the wrong type.
    """
    content, where = _read(source) if source else {}, source or "the recipe"
    if source:
        from_dict(content, source)  # check the file alone, so that later errors are not attributed to it
        where = f"{source} with the given options"
    for key, value in (options or {}).items():
        if value is not None:
            _assign(content, key, value)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise RecipeError(f"--set {assignment}: expected key.path=value, such as train.lr=0.002")
        _assign(content, key.strip(), _yaml(text, f"--set {assignment}"))
    return from_dict(content, where)


def from_dict(content: Mapping[str, Any], where: str) -> Recipe:
    """Convert plain values to a Recipe; raise one RecipeError for all errors, each with its dotted path."""
    from pydantic import TypeAdapter, ValidationError

    _refuse_other_files(content, where)
    filled = {key: value for key, value in content.items() if value is not None}  # an empty section means its defaults
    _check_scalars(filled, where)
    try:
        return TypeAdapter(Recipe).validate_python(filled)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(_explain(dict(e)) for e in error.errors())) from None


def _refuse_other_files(content: Mapping[str, Any], where: str) -> None:
    """Refuse the YAML files that are easily mistaken for a recipe: NanoDet's configuration, and a data.yaml."""
    model = content.get("model")
    if isinstance(model, dict) and "arch" in model:
        raise RecipeError(f"{where} is a NanoDet configuration; use a recipe, such as nanodet-plus-m_416")
    if content.keys() & {"names", "nc"} and isinstance(content.get("train"), str | list):
        raise RecipeError(f"{where} describes a dataset, not a recipe; use: nanogfl train {where} --out FOLDER")


def _check_scalars(content: Mapping[str, Any], where: str) -> None:
    """Refuse YAML's true, which would pass for the number 1, and lone surrogates, which no file can store."""
    for section, value in content.items():
        keys = [(f"{section}.{key}", v, key) for key, v in value.items()] if isinstance(value, dict) else []
        for path, given, key in [*keys, (section, value, section)]:
            if isinstance(given, bool) and key not in YES_OR_NO:
                raise RecipeError(f"{where}: {path}: should be a number or a string, not {given}")
            if isinstance(given, str) and any("\ud800" <= letter <= "\udfff" for letter in given):
                raise RecipeError(f"{where}: {path}: {ascii(given)[:80]} has an incomplete character; use valid UTF-8")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return plain values that YAML and a weights-only checkpoint can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(asdict(recipe))


def _read(source: str) -> dict[str, Any]:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = folder() / f"{source}.yaml"
        if not path.is_file():
            raise RecipeError(
                f"--recipe {source}: no such recipe{nearest(source, available())}; known: {', '.join(available())}"
            )
    try:
        content = _yaml(path.read_text(encoding="utf-8"), f"--recipe {source}")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--recipe {source}: cannot be read ({error}); check the path") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(
            f"--recipe {source}: expected keys and values, got a {type(content).__name__}; see {folder() / 'bccd.yaml'}"
        )
    return content


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # numbers with thousands of digits, invalid dates
        raise RecipeError(f"{where}: invalid YAML: {error}") from error


def _assign(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if content.get(parent) is None:
            content[parent] = {}
        content = content[parent]
        if not isinstance(content, dict):
            raise RecipeError(f"--set {key}: {parent} is a value, not a section")
    content[last] = value


def _explain(error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        record: Any = Recipe()
        for part in path[:-1]:
            record = getattr(record, part, record)
        return f"unknown key {key}{nearest(path[-1], vars(record)) or _elsewhere(path[-1])}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if error["type"] == "dataclass_type":  # pydantic's own message names our class
        message = "should be a section of keys"
    return message if message.startswith(f"{key}.") else f"{key}: {message}, not {error['input']!r}"


def _elsewhere(name: str) -> str:
    """Return ``" (did you mean X?)"`` for the keys of this name in all sections, or an empty string."""
    keys = [
        f"{section}.{name}" for section, record in vars(Recipe()).items() if name in getattr(record, "__dict__", {})
    ]
    return f" (did you mean {' or '.join(keys)}?)" if keys else ""
