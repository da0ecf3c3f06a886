"""Other projects' key layouts: what NanoDet-Plus' and torchvision's files call the tensors of this network."""

from __future__ import annotations

import re

import torch
from torch import Tensor

State = dict[str, Tensor]
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SEPARABLE = {"0": "depthwise", "1": "dwnorm", "3": "pointwise", "4": "pwnorm"}


def nanodet_key(key: str) -> str:
    """Our name of a detector's tensor -> NanoDet-Plus' name."""
    room, _, rest = key.partition(".")
    if room == "backbone":
        return key
    if room == "head":
        return "head." + _head(rest)
    return "fpn." + _neck(rest)


def _separable(rest: str) -> str:
    place, leaf = rest.split(".")
    return f"{SEPARABLE[place]}.{leaf}"


def _head(rest: str) -> str:
    if rest.startswith("predict."):
        return rest.replace("predict.", "gfl_cls.")
    level, block, inner = re.fullmatch(r"towers\.(\d)\.(\d)\.(.+)", rest).groups()  # type: ignore[union-attr]
    return f"cls_convs.{level}.{block}.{_separable(inner)}"


def _neck(rest: str) -> str:
    if match := re.fullmatch(r"reduce\.(\d)\.([01])\.(\w+)", rest):
        return f"reduce_layers.{match[1]}.{('conv', 'bn')[int(match[2])]}.{match[3]}"
    if match := re.fullmatch(r"(top_down|bottom_up)\.(\d)\.(.+)", rest):
        inner = match[3].replace(".primary.", ".primary_conv.").replace(".cheap.", ".cheap_operation.")
        return f"{match[1]}_blocks.{match[2]}.blocks.0.{inner}"
    if match := re.fullmatch(r"downsample\.(\d)\.(.+)", rest):
        return f"downsamples.{match[1]}.{_separable(match[2])}"
    match = re.fullmatch(r"extra_(in|out)\.(.+)", rest)
    assert match, rest
    return f"extra_lvl_{match[1]}_conv.0.{_separable(match[2])}"


def to_nanodet(state: State, prefix: str) -> State:
    """A detector's state dict in NanoDet-Plus' layout."""
    return {prefix + nanodet_key(key): tensor for key, tensor in state.items()}


def torchvision_state(widths: tuple[int, int, int, int], last: int = 1024, classes: int = 10) -> State:
    """A ShuffleNetV2 in torchvision's layout, random: the keys and shapes of torchvision.models.shufflenetv2."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, place: int, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.{place}.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update({f"{name}.{place + 1}.{leaf}": (outputs,) for leaf in NORM[:4]})
        shapes[f"{name}.{place + 1}.num_batches_tracked"] = ()

    conv("conv1", 0, widths[0], 3, 3)
    for stage, depth, inputs, outputs in zip((2, 3, 4), (4, 8, 4), widths, widths[1:], strict=False):
        half = outputs // 2
        for unit in range(depth):
            name = f"stage{stage}.{unit}"
            if unit == 0:
                conv(f"{name}.branch1", 0, inputs, 1, 3)
                conv(f"{name}.branch1", 2, half, inputs, 1)
            conv(f"{name}.branch2", 0, half, inputs if unit == 0 else half, 1)
            conv(f"{name}.branch2", 3, half, 1, 3)
            conv(f"{name}.branch2", 5, half, half, 1)
    conv("conv5", 0, last, widths[3], 1)
    shapes |= {"fc.weight": (classes, last), "fc.bias": (classes,)}
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith("tracked") else torch.rand(shape, generator=generator) + 0.5
        for key, shape in shapes.items()
    }


def torchvision_resnet(depths: tuple[int, ...], bottleneck: bool) -> State:
    """A ResNet in torchvision's layout, random: the keys and shapes of torchvision.models.resnet."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update({f"{norm}.{leaf}": (outputs,) for leaf in NORM[:4]} | {f"{norm}.num_batches_tracked": ()})

    conv("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        outputs = 4 * width if bottleneck else width
        for unit in range(depth):
            name = f"layer{stage + 1}.{unit}"
            inside = ((width, inputs, 1), (width, width, 3), (outputs, width, 1)) if bottleneck else (
                (width, inputs, 3), (width, width, 3))  # fmt: skip
            for i, (wide, narrow, kernel) in enumerate(inside, 1):
                conv(f"{name}.conv{i}", f"{name}.bn{i}", wide, narrow, kernel)
            if unit == 0 and inputs != outputs:
                conv(f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs, 1)
            inputs = outputs
    shapes |= {"fc.weight": (10, inputs), "fc.bias": (10,)}
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith("tracked") else torch.rand(shape, generator=generator) + 0.5
        for key, shape in shapes.items()
    }
