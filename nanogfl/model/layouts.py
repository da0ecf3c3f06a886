"""Conversion of NanoDet's and torchvision's tensor names to this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from nanogfl.errors import ModelError

State = dict[str, Tensor]

# from NanoDet's key layout to ours; the backbone has torchvision's key layout in both
RENAMES = [
    (r"^aux_fpn\.", "guidance.neck."),
    (r"^aux_head\.cls_convs\.(\d)\.conv\.", lambda m: f"guidance.head.class_tower.{3 * int(m[1])}."),
    (r"^aux_head\.cls_convs\.(\d)\.gn\.", lambda m: f"guidance.head.class_tower.{3 * int(m[1]) + 1}."),
    (r"^aux_head\.reg_convs\.(\d)\.conv\.", lambda m: f"guidance.head.side_tower.{3 * int(m[1])}."),
    (r"^aux_head\.reg_convs\.(\d)\.gn\.", lambda m: f"guidance.head.side_tower.{3 * int(m[1]) + 1}."),
    (r"^aux_head\.gfl_cls\.", "guidance.head.classify."),
    (r"^aux_head\.gfl_reg\.", "guidance.head.measure."),
    (r"^fpn\.lateral_convs\.(\d)\.conv\.", r"neck.lateral.\1."),
    (r"^fpn\.", "neck."),
    (r"neck\.reduce_layers\.(\d)\.conv\.", r"neck.reduce.\1.0."),
    (r"neck\.reduce_layers\.(\d)\.bn\.", r"neck.reduce.\1.1."),
    (r"neck\.top_down_blocks\.(\d)\.blocks\.0\.", r"neck.top_down.\1."),
    (r"neck\.bottom_up_blocks\.(\d)\.blocks\.0\.", r"neck.bottom_up.\1."),
    (r"neck\.downsamples\.", "neck.downsample."),
    (r"neck\.extra_lvl_(in|out)_conv\.0\.", r"neck.extra_\1."),
    (r"\.primary_conv\.", ".primary."),
    (r"\.cheap_operation\.", ".cheap."),
    (r"^head\.cls_convs\.", "head.towers."),
    (r"^head\.reg_convs\.", "head.side_towers."),
    (r"^head\.gfl_cls\.", "head.predict."),
    (r"^head\.gfl_reg\.", "head.measure."),
    (r"\.depthwise\.", ".0."),
    (r"\.dwnorm\.", ".1."),
    (r"\.pointwise\.", ".3."),
    (r"\.pwnorm\.", ".4."),
]

# from torchvision's ResNet key layout to ours, in which each norm follows its convolution in a Sequential
RESNET_RENAMES = [
    (r"^conv1\.", "conv1.0."),
    (r"^bn1\.", "conv1.1."),
    (r"\.conv(\d)\.", lambda m: f".branch.{3 * int(m[1]) - 3}."),
    (r"\.bn(\d)\.", lambda m: f".branch.{3 * int(m[1]) - 2}."),
    (r"\.downsample\.", ".shortcut."),
]


def from_nanodet(state: State, path: Path) -> State:
    """Convert NanoDet's tensors (``avg_model.*``, else ``model.*``, else unprefixed) to our key layout.

    The result may hold ``head.bins``, the values of a side's bins: not a weight, but it gives their number.
    """
    for prefix in ("avg_model.", "model.", ""):
        chosen = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if "backbone.conv1.0.weight" in chosen:
            break
    else:
        raise ModelError(
            f"{path} is not a supported detector (no ShuffleNetV2 backbone); use a nanogfl or NanoDet checkpoint"
        )
    renamed: State = {}
    scales = sorted((k, v) for k, v in chosen.items() if re.match(r"aux_head\.scales\.\d\.scale", k))
    if scales:
        renamed["guidance.head.scales"] = torch.cat([v.flatten() for _, v in scales])
    if (project := chosen.get("head.distribution_project.project")) is not None:
        renamed["head.bins"] = project
    for key, tensor in chosen.items():
        if "distribution_project" in key or key.startswith("aux_head.scales"):
            continue
        renamed[_rename(key, RENAMES)] = tensor.float() if tensor.is_floating_point() else tensor
    return renamed


def from_shufflenet(state: State) -> State:
    """Convert torchvision's ShuffleNetV2 to backbone tensors for BGR input; the key layout is the same."""
    return flip_stem_to_bgr({f"backbone.{k}": v for k, v in state.items() if k[:3] in ("con", "sta")})


def from_resnet(state: State) -> State:
    """Convert torchvision's ResNet to backbone tensors in our key layout, for BGR input."""
    return flip_stem_to_bgr(
        {f"backbone.{_rename(k, RESNET_RENAMES)}": v for k, v in state.items() if not k.startswith("fc.")}
    )


def flip_stem_to_bgr(state: State) -> State:
    """Reverse the input channels of the first convolution: torchvision's files expect RGB, our network BGR."""
    stem = state.get("backbone.conv1.0.weight")
    return state if stem is None or stem.ndim != 4 else state | {"backbone.conv1.0.weight": stem.flip(1)}


def _rename(key: str, pairs: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    for pattern, new in pairs:
        key = re.sub(pattern, new, key)
    return key
