"""Detection heads: they compute class logits and side logits of every prior from maps of one width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nanogfl.model.layers import activation, separable_block
from nanogfl.model.quality import QualityPredictor, product_logits

BACKGROUND_BIAS = -math.log(99)  # an initial score of .01 for every class (RetinaNet, section 4.1)
DIRAC_BIAS = math.log(math.expm1(3.5))  # softplus of it is 3.5 strides, the mean of eight equal bins


class GFLHead(nn.Module):
    """NanoDet's head: per level, one branch of separable convolutions for classes and sides, or one branch for each.

    Args:
        width: channels of the maps.
        classes: number of classes C.
        reg_max: R; each side has R + 1 bins.
        levels: number of maps.
        share_levels: whether all levels share one branch instead of having one each.
        quality: the distribution-guided quality predictor, or None.
        kernel: side of the depthwise kernels.
        separate_sides: whether the sides have a branch of their own.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        reg_max: int,
        levels: int,
        share_levels: bool = False,
        quality: QualityPredictor | None = None,
        kernel: int = 5,
        separate_sides: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.quality = classes, quality
        branches, sides = 1 if share_levels else levels, 4 * (reg_max + 1)

        def towers(count: int) -> nn.ModuleList:
            pairs = ([separable_block(width, width, kernel) for _ in range(2)] for _ in range(count))
            return nn.ModuleList(nn.Sequential(*pair) for pair in pairs)

        self.towers, self.side_towers = towers(branches), towers(branches if separate_sides else 0)
        outputs = classes if separate_sides else classes + sides
        self.predict = nn.ModuleList(nn.Conv2d(width, outputs, 1) for _ in range(branches))
        self.measure = nn.ModuleList(nn.Conv2d(width, sides, 1) for _ in self.side_towers)
        for conv in self.predict:
            init_predictor(conv, classes, reg_max)
        for conv in self.measure:
            init_predictor(conv, 0, reg_max)

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        """Map each level's [B, width, h, w] to logits [B, C + 4 * (R + 1), h, w], without the quality predictor."""
        last = len(self.towers) - 1
        return [self._map(f, min(i, last)) for i, f in enumerate(features)]

    def _map(self, feature: Tensor, branch: int) -> Tensor:
        made = self.predict[branch](self.towers[branch](feature))
        if not self.side_towers:
            return made
        return torch.cat([made, self.measure[branch](self.side_towers[branch](feature))], dim=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map the levels' [B, width, h, w] to logits [B, P, C + 4 * (R + 1)]; class columns give the final score."""
        return with_quality(rows(self.maps(features)), self.classes, self.quality)


class TowerHead(nn.Module):
    """The paper's head: a class tower and a side tower shared by all levels, and a learned side scale per level.

    Args:
        towers: the class tower and the side tower, modules that keep the shape [B, width, h, w].
        width: output channels of the towers.
        classes, reg_max, levels, quality: as in :class:`GFLHead`.
    """

    def __init__(
        self,
        towers: tuple[nn.Module, nn.Module],
        width: int,
        classes: int,
        reg_max: int,
        levels: int,
        quality: QualityPredictor | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.quality = classes, quality
        self.class_tower, self.side_tower = towers
        self.classify = nn.Conv2d(width, classes, 3, padding=1)
        self.measure = nn.Conv2d(width, 4 * (reg_max + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        init_predictor(self.classify, classes, reg_max)
        init_predictor(self.measure, 0, reg_max)

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        """Map each level's [B, width, h, w] to logits [B, C + 4 * (R + 1), h, w], without the quality predictor."""
        return [
            torch.cat([self.classify(self.class_tower(f)), self.measure(self.side_tower(f)) * scale], dim=1)
            for f, scale in zip(features, self.scales, strict=True)
        ]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map the levels' [B, width, h, w] to logits [B, P, C + 4 * (R + 1)]; class columns give the final score."""
        return with_quality(rows(self.maps(features)), self.classes, self.quality)


def conv_tower(width: int) -> nn.Sequential:
    """Return four 3x3 convolutions, each with GroupNorm and activation, that keep the shape [B, width, h, w]."""
    layers: list[nn.Module] = []
    for _ in range(4):
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        layers += [conv, nn.GroupNorm(math.gcd(32, width), width), activation()]
    return nn.Sequential(*layers)


def rows(maps: list[Tensor]) -> Tensor:
    """Flatten the levels' maps [B, K, h, w] to one vector per prior [B, P, K], level by level and row by row."""
    if maps[0].stride(1) == 1:  # channels last: each prior's values are contiguous already
        return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)
    return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)


def with_quality(raw: Tensor, classes: int, quality: QualityPredictor | None) -> Tensor:
    """Return ``raw`` [B, P, C + 4 * (R + 1)] with class logits of score x quality; unchanged without a predictor."""
    if quality is None:
        return raw
    scores, sides = raw.split([classes, raw.shape[-1] - classes], dim=-1)
    return torch.cat([product_logits(scores, quality.logits(sides)), sides], dim=-1)


def init_predictor(conv: nn.Module, classes: int, reg_max: int) -> None:
    """Initialise a predictor whose first ``classes`` output channels are classes and whose others are sides."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias[:classes], BACKGROUND_BIAS)
    nn.init.constant_(conv.bias[classes:], 0.0 if reg_max else DIRAC_BIAS)
