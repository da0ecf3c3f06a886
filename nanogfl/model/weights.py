"""Loading of our own, NanoDet's and torchvision's weights; files are loaded as data only and never run code."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanogfl.errors import ModelError
from nanogfl.model import lightning_names
from nanogfl.model.detector import WIDTHS, Architecture, Family
from nanogfl.model.distribution import REG_MAX
from nanogfl.model.layouts import State, from_nanodet, from_resnet, from_shufflenet
from nanogfl.model.resnet import RESNETS

log = logging.getLogger(__name__)
MAX_VALUES = 10**8  # limit for one tensor; a file can declare a shape larger than the data it holds


@dataclass(frozen=True)
class Weights:
    """The contents of a weights file, in our key layout.

    Attributes:
        source: path of the file.
        kind: nanogfl | nanodet | imagenet.
        state: tensors of the detector (and of the guidance, under ``guidance.``).
        card: metadata of our own checkpoints (empty for others).
    """

    source: Path
    kind: str
    state: State
    card: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """Read a checkpoint of any known layout.

    Raises:
        ModelError: the file is missing, damaged, of another kind, or holds more than tensors and plain values.
    """
    return weights_of(read_tensors_only(path), path)


def weights_of(content: dict[str, Any], path: Path) -> Weights:
    """Return the weights in the loaded content of a checkpoint; raises the same errors as ``read_weights``."""
    if isinstance(content.get("nanogfl"), dict):
        return Weights(path, "nanogfl", _ours(content, path), content["nanogfl"])
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, dict):
        raise ModelError(f"{path} contains no weights under state_dict; use a detector checkpoint")
    state = _plain(tensors, path)
    if any(k.startswith("conv5.") for k in state) and "stage2.0.branch1.0.weight" in state:
        return Weights(path, "imagenet", from_shufflenet(state))
    if state.keys() >= {"bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"}:
        return Weights(path, "imagenet", from_resnet(state))
    return Weights(path, "nanodet", from_nanodet(state, path))


def read_tensors_only(path: Path) -> dict[str, Any]:
    """Load a file with ``torch.load(..., weights_only=True)``; raise ModelError with one clear line on any failure."""
    if not path.is_file():
        raise ModelError(f"checkpoint {path} does not exist; check the path")
    lightning_names.register_placeholders()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or path.read_bytes()[:1] == b"\x80":
            raise ModelError(
                f"{path} contains Python objects besides tensors, which could run code; it was not loaded: "
                "save only its state_dict (torch.save(model.state_dict(), ...)) and use that"
            ) from error
        give = "the best.ckpt of its run" if path.suffix == ".onnx" else "a file written by nanogfl or NanoDet"
        raise ModelError(f"{path} is not a checkpoint; use {give}") from error
    except Exception as error:  # torch raises many error types for a damaged archive
        raise ModelError(
            f"{path} is damaged or not a checkpoint; download it again, or use a file written by nanogfl or NanoDet"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} is not a checkpoint (it contains a {type(content).__name__}); "
            "use a file written by nanogfl or NanoDet"
        )
    return content


def _ours(content: dict[str, Any], path: Path) -> State:
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise ModelError(f"{path} contains no state_dict; it is incomplete: train again or use last.ckpt")
    prefix, plain = "detector.", _plain(state, path)
    kept = {k[len(prefix) :]: v for k, v in plain.items() if k.startswith(prefix)}
    return kept | {k: v for k, v in plain.items() if k.startswith("guidance.")}


def _plain(tensors: Mapping[Any, Any], path: Path) -> State:
    """Return the values that are tensors; raise ModelError if one is sparse, complex or too large for a detector."""
    state = {k: v for k, v in tensors.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for key, value in state.items():
        odd = value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta
        if odd or value.numel() > MAX_VALUES:
            raise ModelError(
                f"{path} contains {key}, not a plain tensor (sparse, quantized, huge, ...); use dense float weights"
            )
    return state


def recognise(state: State, path: Path) -> Architecture:
    """Infer the architecture from the tensors of a NanoDet detector in our key layout."""
    predict = sorted(k for k in state if re.fullmatch(r"head\.predict\.\d\.weight", k))
    widths = backbone_widths(state)
    size = size_of(widths)
    family: Family = "first" if "neck.lateral.0.weight" in state else "plus"
    if size is None or not predict or (family == "plus" and "neck.extra_in.0.weight" not in state):
        raise ModelError(
            f"{path} is not NanoDet-Plus or the first NanoDet (widths {list(widths)}, {len(predict)} head levels); "
            "only ShuffleNetV2 with these necks and heads is supported"
        )
    separate = "head.side_towers.0.0.0.weight" in state
    outputs, reg_max = _rows(state[predict[0]]), _reg_max(state)
    classes = outputs if separate else outputs - 4 * (reg_max + 1)
    if classes < 1 or reg_max < 1:
        raise ModelError(
            f"{path} has {outputs} outputs per prior, too few for a class and {4 * (reg_max + 1)} side bins"
        )
    return Architecture(size, classes, reg_max, len(predict) == 1, family=family, separate_sides=separate)  # type: ignore[arg-type]


def _reg_max(state: State) -> int:
    """Infer R from a NanoDet detector's tensors; the first NanoDet has a layer for the sides, used or not."""
    for key, sides in (("head.measure.0.weight", 4), ("head.bins", 1), ("guidance.head.measure.weight", 4)):
        if key in state:
            return _rows(state[key]) // sides - 1
    return REG_MAX


def backbone_widths(state: State) -> tuple[int, ...]:
    """Return the output channels of the ShuffleNetV2 stages that are present in the tensors."""
    keys = [f"backbone.stage{i}.0.branch2.5.weight" for i in (2, 3, 4)]
    return tuple(2 * _rows(state[key]) for key in keys if key in state)


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def size_of(widths: tuple[int, ...]) -> str | None:
    """Return the size whose stages have these channels, or None."""
    return next((size for size, (stages, _) in WIDTHS.items() if stages[1:] == widths), None)


def backbone_size(state: State) -> tuple[bool, str | None]:
    """Return whether a backbone is a ResNet, and its size (None if it is not a known size)."""
    blocks = [len({k.split(".")[2] for k in state if k.startswith(f"backbone.layer{i}.")}) for i in (1, 2, 3, 4)]
    if not any(blocks):
        return False, size_of(backbone_widths(state))
    shape = (tuple(blocks), 4 if "backbone.layer1.0.branch.6.weight" in state else 1)
    return True, next((size for size, known in RESNETS.items() if known == shape), None)


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load every tensor of the module; raise ModelError if a name is missing or a shape differs."""
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    if missing or wrong:
        first = (missing or wrong)[0]
        what = "lacks" if missing else "has the wrong shape for"
        raise ModelError(f"{source} {what} {first} (and {len(missing) + len(wrong) - 1} more); check its size")
    loaded = {k: state[k] for k in own if k in state}
    _check_finite(loaded, source)
    module.load_state_dict(loaded, strict=False)


def _check_finite(state: Mapping[str, Tensor], source: Path) -> None:
    spoilt = next((key for key, value in state.items() if not torch.isfinite(value).all()), None)
    if spoilt is not None:
        raise ModelError(f"{source} contains NaN or infinite values in {spoilt}; use an earlier checkpoint")


def transplant(
    module: nn.Module, weights: Weights, old_names: Sequence[str] | None, new_names: Sequence[str]
) -> list[str]:
    """Load the tensors that fit into a detector (and guidance) with other classes; match class rows by name.

    Returns:
        The names of the classes whose rows were kept.
    """
    own = module.state_dict()
    rows = [(i, list(old_names).index(n)) for i, n in enumerate(new_names) if n in old_names] if old_names else []
    loaded: State = {}
    state = _for_levels(weights, own)
    for key, target in own.items():
        source = state.get(key)
        if source is None or source.ndim != target.ndim:
            continue
        if source.shape == target.shape and not is_class_layer(key):
            loaded[key] = source
        elif is_class_layer(key) and source.shape[1:] == target.shape[1:]:
            if old_names and (source.shape[0] < len(old_names) or (source.shape[0] - len(old_names)) % 4):
                raise ModelError(f"{weights.source}: {key} has {source.shape[0]} rows for {len(old_names)} classes")
            loaded[key] = _by_class(target, source, rows, len(new_names), len(old_names or ()))
    _check_finite(loaded, weights.source)
    module.load_state_dict(loaded, strict=False)
    fresh = [k for k in own if k not in loaded and not k.endswith("num_batches_tracked")]
    made = f", {len(fresh)} re-initialised ({fresh[0]} ...)" if fresh else ""
    log.info("%s: %d tensors loaded%s", weights.source.name, len(loaded), made)
    return [new_names[i] for i, _ in rows] if any(is_class_layer(k) for k in loaded) else []


def _for_levels(weights: Weights, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Adapt tensors to the number of head branches: copy a single branch to every level, or use the first of several.

    The branches of several levels were trained separately, so averaging them would not give a useful branch.
    """
    branches = [sum(bool(re.fullmatch(r"head\.predict\.\d\.weight", k)) for k in s) for s in (weights.state, own)]
    if branches[0] == branches[1] or not all(branches):
        return weights.state
    if branches[0] > 1:
        log.info("%s: only the first of %d head branches is used", weights.source.name, branches[0])
        return weights.state
    log.info("%s: its only head branch is used for each of %d levels", weights.source.name, branches[1])
    first = {key: re.sub(r"^(head\.(?:side_)?(?:towers|predict|measure))\.\d\.", r"\1.0.", key) for key in own}
    return {key: weights.state[source] for key, source in first.items() if source in weights.state}


def is_class_layer(key: str) -> bool:
    """Return whether a tensor's rows are classes (in the head, side rows follow them)."""
    return bool(re.match(r"(head\.predict\.\d|(guidance\.)?head\.classify)\.(weight|bias)$", key))


def _by_class(target: Tensor, source: Tensor, rows: list[tuple[int, int]], classes: int, old: int) -> Tensor:
    """Return ``target`` with ``source``'s rows of common classes, and its side rows if their number is the same."""
    result, sides = target.clone(), target.shape[0] - classes
    for new, former in rows:
        result[new] = source[former]
    if source.shape[0] - old == sides:
        result[classes:] = source[old:]
    return result
