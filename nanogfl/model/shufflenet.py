"""ShuffleNetV2 (Ma et al., ECCV 2018) with LeakyReLU, as in NanoDet.

Module names follow torchvision's key layout, so that its published ImageNet files load without renaming.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogfl.model.dense import interleave, reshuffle
from nanogfl.model.layers import conv_block, depthwise_bn

DEPTHS = (4, 8, 4)


class ShuffleBlock(nn.Module):
    """The branches of a unit in the paper's figure 3: (c) one on half of the channels, or (d) two on all, stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        if stride == 2:
            self.branch1 = nn.Sequential(*depthwise_bn(inputs, 3, stride), *conv_block(inputs, half, 1))
        self.branch2 = nn.Sequential(
            *conv_block(inputs if stride == 2 else half, half, 1),
            *depthwise_bn(half, 3, stride),
            *conv_block(half, half, 1),
        )


class ShuffleStage(nn.Sequential):
    """A unit of stride 2, then units that transform half of the channels, with a channel shuffle after each unit."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        rest = (ShuffleBlock(outputs, outputs, 1) for _ in range(depth - 1))
        super().__init__(ShuffleBlock(inputs, outputs, 2), *rest)

    def blocks(self) -> list[ShuffleBlock]:
        """Return the units in order."""
        return list(self)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / 2, W / 2]."""
        first, *rest = self.blocks()
        kept, changed = first.branch1(x), first.branch2(x)
        for block in rest:
            kept, changed = reshuffle(kept, changed)
            changed = block.branch2(changed)
        return interleave(kept, changed)


class ShuffleNetV2(nn.Module):
    """A backbone that maps images to feature maps at strides 8, 16 and 32.

    Args:
        widths: channels of the stem and of the three stages.
    """

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = conv_block(3, widths[0], 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2, self.stage3, self.stage4 = (
            ShuffleStage(widths[i], widths[i + 1], depth) for i, depth in enumerate(DEPTHS)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised BGR images [B, 3, H, W] to three maps [B, C_i, H / s, W / s], s = 8, 16, 32."""
        convolution, norm, activation = self.conv1
        # The activation is monotonic, so applying it after pooling gives the same values on a quarter of the data.
        stem = activation(self.maxpool(norm(convolution(images))))
        x8 = self.stage2(stem)
        x16 = self.stage3(x8)
        return [x8, x16, self.stage4(x16)]
