"""The detector: backbone, neck, head, and the few numbers that say which one it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from nanogfl.model.distribution import REG_MAX, make_priors
from nanogfl.model.ghost_pan import GhostPAN
from nanogfl.model.guidance import FullGuidance, Guidance, LightGuidance
from nanogfl.model.head import GFLHead
from nanogfl.model.quality import QualityPredictor
from nanogfl.model.shufflenet import ShuffleNetV2

Size = Literal["s", "m", "l"]
Quality = Literal["none", "top4", "moments"]
STRIDES = (8, 16, 32, 64)
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
        size: s | m | l; m is NanoDet-Plus-m, l is NanoDet-Plus-m-1.5x.
        classes: number of classes C.
        reg_max: R; each side has R + 1 bins.
        share_levels: one head branch for all levels instead of one each.
        quality: the distribution-guided quality predictor's statistics, or none.
    """

    size: Size
    classes: int
    reg_max: int = REG_MAX
    share_levels: bool = False
    quality: Quality = "none"

    @property
    def outputs(self) -> int:
        """Logits a prior: classes, then four sides of R + 1 bins."""
        return self.classes + 4 * (self.reg_max + 1)


class Detector(nn.Module):
    """Pictures in, logits out; decode is no part of it."""

    strides = STRIDES

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        stages, width = WIDTHS[a.size]
        quality = None if a.quality == "none" else QualityPredictor(a.reg_max, a.quality)
        self.backbone = ShuffleNetV2(stages)
        self.neck = GhostPAN(stages[1:], width)
        self.head = GFLHead(width, a.classes, a.reg_max, len(STRIDES), a.share_levels, quality)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised BGR -> [B, P, C + 4 * (R + 1)] logits, levels 8 16 32 64, rows first."""
        return self.head(self.neck(self.backbone(images)))

    def priors(self, height: int, width: int) -> tuple[Tensor, list[int]]:
        """Priors [P, 3] (x, y, stride in px) of an input of this size, and how many each level has."""
        return make_priors(height, width, self.strides)


def make_guidance(kind: Guidance, architecture: Architecture) -> FullGuidance | LightGuidance | None:
    """The guidance module of a detector of this architecture, or None."""
    stages, width = WIDTHS[architecture.size]
    if kind == "full":
        return FullGuidance(stages[1:], width, architecture.classes, architecture.reg_max)
    if kind == "light":
        return LightGuidance(width, architecture.classes, architecture.reg_max)
    return None


def count_parameters(module: nn.Module) -> int:
    """Number of learned values."""
    return sum(p.numel() for p in module.parameters())


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
