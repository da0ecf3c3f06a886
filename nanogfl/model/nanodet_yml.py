"""NanoDet's ``.yml`` configuration: it adds what tensors do not show and reveals networks that are not supported."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanogfl.errors import ModelError, RecipeError
from nanogfl.model.coco_names import COCO_NAMES
from nanogfl.model.detector import Architecture
from nanogfl.view import MEAN, STD


@dataclass(frozen=True)
class NanoDetConfig:
    """The settings read from a ``.yml``; without a file, all are None and ``others`` is empty.

    Attributes:
        path: path of the file.
        input_size: height and width in px.
        names: class names.
        keep_ratio: whether pictures keep their aspect ratio.
        others: settings of the network and the preprocessing for which nanogfl supports only one value.
    """

    path: Path | None = None
    input_size: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None
    keep_ratio: bool | None = None
    others: dict[str, Any] = field(default_factory=dict)


def read_config(checkpoint: Path, config: Path | None) -> NanoDetConfig:
    """Read ``config`` if given, else a file next to the checkpoint with its name, else return an empty configuration.

    Raises:
        RecipeError: the file cannot be read or is not a NanoDet configuration.
    """
    stem = re.sub(r"_checkpoint$", "", checkpoint.stem)
    beside = [checkpoint.with_name(f"{s}{e}") for s in (checkpoint.stem, stem) for e in (".yml", ".yaml")]
    path = config or next((p for p in beside if p.is_file()), None)
    if path is None:
        return NanoDetConfig()
    import yaml

    try:
        return _config(path, yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"--config {path}: {error.strerror}; check the path") from error
    except KeyError as error:
        raise RecipeError(f"{path} is not a NanoDet configuration: it has no {error}; see --config") from error
    except (
        yaml.YAMLError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise RecipeError(
            f"{path} is not a NanoDet configuration ({type(error).__name__}: {error}); see --config"
        ) from error


def _config(path: Path, content: Any) -> NanoDetConfig:
    val = content["data"]["val"]
    width, height = (int(v) for v in val["input_size"])  # NanoDet stores [w, h]
    names, keep = content.get("class_names"), val.get("keep_ratio")
    if keep is not None and not isinstance(keep, bool):
        raise TypeError(f"keep_ratio must be true or false, not {keep!r}")
    own = listed(names) if names else None
    if own and tuple(name.replace("_", " ") for name in own) == COCO_NAMES:
        own = COCO_NAMES  # NanoDet spells some with underscores, as in traffic_light
    arch = (content.get("model") or {}).get("arch") or {}
    parts = {name: arch.get(name) or {} for name in ("backbone", "fpn", "head")}
    others = {f"{name} activation": part.get("activation") for name, part in parts.items()}
    others |= {key: parts["head"].get(key) for key in ("strides", "reg_max")}
    normalize = (val.get("pipeline") or {}).get("normalize")
    others["normalize"] = None if normalize is None else np.asarray(normalize, np.float64).tolist()
    return NanoDetConfig(path, (height, width), own, keep, {k: v for k, v in others.items() if v is not None})


def check_supported(said: NanoDetConfig, architecture: Architecture) -> None:
    """Refuse a file whose settings differ from ours: tensors of equal shape may belong to a different network.

    Raises:
        ModelError: a setting differs, or a class is named twice.
    """
    built: dict[str, Any] = {f"{part} activation": "LeakyReLU" for part in ("backbone", "fpn", "head")}
    built |= {"strides": list(architecture.strides), "reg_max": architecture.reg_max}
    built |= {"normalize": [list(MEAN), list(STD)]}
    for name, value in said.others.items():
        here = built[name]
        numbers = name == "normalize" and np.shape(value) == np.shape(here)
        if not (np.allclose(value, here) if numbers else value == here):
            raise ModelError(f"{said.path} has {name} {value}, which is unsupported; expected {here}")
    for name, times in Counter(said.names).items():
        if times > 1:
            raise ModelError(f"{said.path} lists class {name!r} twice, but boxes refer to names; rename one of them")


def listed(names: Any) -> tuple[str, ...]:
    """Return class names as a tuple of strings; raise ValueError if ``names`` is not a list (a string is not)."""
    if not isinstance(names, list | tuple) or not all(isinstance(n, str | int | float) for n in names):
        raise ValueError(f"class names must be a list, not {type(names).__name__}")
    return tuple(map(str, names))
