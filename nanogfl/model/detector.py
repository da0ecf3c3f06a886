"""The detector: backbone, neck, head, and the few numbers that say which one it is."""

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
SMALL = 0.1  # of the usual deviation of a fresh kernel
# size: channels of the stem and the three stages (ShuffleNetV2 0.5x, 1.0x, 1.5x), channels of the neck
WIDTHS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "s": ((24, 48, 96, 192), 72),
    "m": ((24, 116, 232, 464), 96),
    "l": ((24, 176, 352, 704), 128),
}


@dataclass(frozen=True)
class Architecture:
    """Everything that decides the shape of the network.

    Attributes:
        size: s | m | l; ShuffleNetV2 0.5x, 1.0x (NanoDet-Plus-m), 1.5x (NanoDet-Plus-m-1.5x), or ResNet-18, -34, -50.
        classes: number of classes C.
        reg_max: R; each side has R + 1 bins; 0: one value a side (a Dirac delta).
        share_levels: one head branch for all levels instead of one each.
        quality: the distribution-guided quality predictor's statistics, or none.
        family: plus (NanoDet-Plus: ShuffleNetV2, GhostPAN, strides 8 to 64), first (the first NanoDet: ShuffleNetV2,
            PAN without convolutions, strides 8 to 32, priors at cells' centres), resnet (the paper's heavy detector:
            ResNet, FPN, towers of four 3x3 convolutions, strides 8 to 128).
        separate_sides: a head branch of their own for the sides; resnet always has it.
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
        """Rows of ``head.predict`` (but resnet's): classes, then four sides of R + 1 bins unless they have a branch."""
        return self.classes + (0 if self.separate_sides else 4 * (self.reg_max + 1))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in px."""
        return STRIDES[: {"first": 3, "plus": 4, "resnet": 5}[self.family]]

    @property
    def centred(self) -> bool:
        """Priors lie at their cells' centres, not at the upper left corners."""
        return self.family == "first"


class Detector(nn.Module):
    """Pictures in, logits out; decode is no part of it."""

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
        width = max(width, 96) if plain else width  # its 0.5x has the neck of its 1.0x
        self.backbone = ShuffleNetV2(stages)
        self.neck = PlainPAN(stages[1:], width) if plain else GhostPAN(stages[1:], width)
        shape = (a.classes, a.reg_max, len(a.strides), a.share_levels, quality, 3 if plain else 5, a.separate_sides)
        self.head = GFLHead(width, *shape)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised BGR -> [B, P, C + 4 * (R + 1)] logits, levels by stride, rows first."""
        return self.head(self.neck(self.backbone(images)))

    def priors(self, height: int, width: int) -> tuple[Tensor, list[int]]:
        """Priors [P, 3] (x, y, stride in px) of an input of this size, and how many each level has."""
        return make_priors(height, width, self.architecture.strides, self.architecture.centred)


def make_guidance(kind: Guidance, architecture: Architecture) -> FullGuidance | LightGuidance | None:
    """The guidance module of a detector of this architecture, or None.

    Raises:
        RecipeError: guidance is asked for where there is none.
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
    """Number of learned values."""
    return sum(p.numel() for p in module.parameters())


def exact() -> AbstractContextManager[None]:
    """float32 without TF32 on a GPU: as on a CPU, which people compare with."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def initialise(module: nn.Module) -> None:
    """Small random kernels: a tenth of He's deviation by fan-in (He et al., ICCV 2015, equation 10).

    A norm behind each of these convolutions makes the scale of its kernel irrelevant to what comes out. AdamW moves
    every weight by about the learning rate, however, so that a small kernel turns in tens of steps to what it should
    see, where one of the usual size takes hundreds (docs/log.md: 225 steps give AP .40 instead of .27). Convolutions
    with a bias, which predict, stay as their head has set them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            nn.init.normal_(layer.weight, std=SMALL * math.sqrt(2 / layer.weight[0].numel()))
