"""The detector (backbone, neck and head) and the settings that define its architecture."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nanogfl.errors import RecipeError
from nanogfl.model.distribution import REG_MAX, make_priors
from nanogfl.model.ghost_pan import GhostPAN
from nanogfl.model.guidance import FullGuidance, Guidance, LightGuidance
from nanogfl.model.head import GFLHead, TowerHead, conv_tower
from nanogfl.model.pan import PlainPAN
from nanogfl.model.quality import QualityPredictor
from nanogfl.model.resnet import FPN, ResNet
from nanogfl.model.shufflenet import ShuffleNetV2

Family = Literal["plus", "first", "resnet"]
Size = Literal["s", "m", "l"]
Quality = Literal["none", "top4", "moments"]
STRIDES = (8, 16, 32, 64, 128)
FPN_WIDTH = 256
INIT_SCALE = 0.1  # factor on the usual standard deviation of an initial kernel
# size -> (channels of the stem and the three stages of ShuffleNetV2 0.5x, 1.0x, 1.5x; channels of the neck)
WIDTHS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "s": ((24, 48, 96, 192), 72),
    "m": ((24, 116, 232, 464), 96),
    "l": ((24, 176, 352, 704), 128),
}


@dataclass(frozen=True)
class Architecture:
    """The settings that determine the structure of the network.

    Attributes:
        size: s | m | l; ShuffleNetV2 0.5x, 1.0x (NanoDet-Plus-m), 1.5x (NanoDet-Plus-m-1.5x), or ResNet-18, -34, -50.
        classes: number of classes C.
        reg_max: R; each side has R + 1 bins; with R = 0, one value per side (a Dirac delta).
        share_levels: whether all levels share one head branch instead of having one each.
        quality: the statistics that the distribution-guided quality predictor uses, or none.
        family: plus (NanoDet-Plus: ShuffleNetV2, GhostPAN, strides 8 to 64), first (the first NanoDet: ShuffleNetV2,
            PAN without convolutions, strides 8 to 32, priors at cell centres), resnet (the paper's heavy detector:
            ResNet, FPN, towers of four 3x3 convolutions, strides 8 to 128).
        separate_sides: whether the sides have a head branch of their own; always so in family resnet.
    """

    size: Size
    classes: int
    reg_max: int = REG_MAX
    share_levels: bool = False
    quality: Quality = "none"
    family: Family = "plus"
    separate_sides: bool = False

    @property
    def outputs(self) -> int:
        """Output channels of ``head.predict`` (not in resnet): C, plus 4 * (R + 1) unless the sides are separate."""
        return self.classes + (0 if self.separate_sides else 4 * (self.reg_max + 1))

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels, in px."""
        return STRIDES[: {"first": 3, "plus": 4, "resnet": 5}[self.family]]

    @property
    def centred(self) -> bool:
        """Whether priors are at the centres of their cells instead of the upper left corners."""
        return self.family == "first"


class Detector(nn.Module):
    """A network that maps images to logits; decoding them to boxes is done elsewhere."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        quality = None if a.quality == "none" else QualityPredictor(a.reg_max, a.quality)
        if a.family == "resnet":
            self.backbone = ResNet(a.size)
            self.neck = FPN(self.backbone.widths, FPN_WIDTH)
            towers = (conv_tower(FPN_WIDTH), conv_tower(FPN_WIDTH))
            self.head = TowerHead(towers, FPN_WIDTH, a.classes, a.reg_max, len(a.strides), quality)
            return
        stages, width = WIDTHS[a.size]
        plain = a.family == "first"
        width = max(width, 96) if plain else width  # the first NanoDet uses the neck of its 1.0x for 0.5x too
        self.backbone = ShuffleNetV2(stages)
        self.neck = PlainPAN(stages[1:], width) if plain else GhostPAN(stages[1:], width)
        shape = (a.classes, a.reg_max, len(a.strides), a.share_levels, quality, 3 if plain else 5, a.separate_sides)
        self.head = GFLHead(width, *shape)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised BGR images [B, 3, H, W] to logits [B, P, C + 4 * (R + 1)], finest level first, row by row."""
        return self.head(self.neck(self.backbone(images)))

    def priors(self, height: int, width: int) -> tuple[Tensor, list[int]]:
        """Return the priors [P, 3] (x, y, stride in px) of an input of this size, and the number on each level."""
        return make_priors(height, width, self.architecture.strides, self.architecture.centred)


def make_guidance(kind: Guidance, architecture: Architecture) -> FullGuidance | LightGuidance | None:
    """Return the guidance module for a detector of this architecture, or None if ``kind`` is none.

    Raises:
        RecipeError: guidance is requested for a family other than plus.
    """
    if kind == "none":
        return None
    if architecture.family != "plus":
        raise RecipeError(f"model.guidance={kind} requires family plus, not {architecture.family}; set it to none")
    stages, width = WIDTHS[architecture.size]
    if kind == "full":
        return FullGuidance(stages[1:], width, architecture.classes, architecture.reg_max)
    return LightGuidance(width, architecture.classes, architecture.reg_max)


def count_parameters(module: nn.Module) -> int:
    """Return the number of learned values."""
    return sum(p.numel() for p in module.parameters())


def exact() -> AbstractContextManager[None]:
    """Return a context manager that disables TF32 on GPUs, so that float32 results are comparable with a CPU's."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def initialise(module: nn.Module) -> None:
    """Initialise kernels with a tenth of He's standard deviation by fan-in (He et al., ICCV 2015, equation 10).

    Each of these convolutions is followed by a norm, so the scale of its kernel does not affect the output. AdamW,
    however, changes every weight by about the learning rate per step, so a small kernel can change its direction within
    tens of steps, one of the usual size only within hundreds (docs/log.md: 225 steps give AP .40 instead of .27).
    Convolutions with a bias (the predictors) keep the initial values that their head has set.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            nn.init.normal_(layer.weight, std=INIT_SCALE * math.sqrt(2 / layer.weight[0].numel()))
