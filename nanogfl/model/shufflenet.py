"""ShuffleNetV2 (Ma et al., ECCV 2018), with LeakyReLU as NanoDet uses it.

Module names follow torchvision's key layout, so that its published ImageNet files load without renaming.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogfl.model.dense import halves, interleave
from nanogfl.model.layers import conv_block, depthwise_bn

DEPTHS = (4, 8, 4)


class ShuffleBlock(nn.Module):
    """A unit of the paper's figure 3: (c) split, transform one half, shuffle; (d) with stride 2 both halves."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        if stride == 2:
            self.branch1 = nn.Sequential(*depthwise_bn(inputs, 3, stride), *conv_block(inputs, half, 1))
        self.branch2 = nn.Sequential(
            *conv_block(inputs if stride == 2 else half, half, 1),
            *depthwise_bn(half, 3, stride),
            *conv_block(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        if self.stride == 2:
            return interleave(self.branch1(x), self.branch2(x))
        kept, changed = halves(x)
        return interleave(kept, self.branch2(changed))


class ShuffleNetV2(nn.Module):
    """The backbone: pictures in, maps at strides 8, 16 and 32 out.

    Args:
        widths: channels of the stem and of the three stages.
    """

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = conv_block(3, widths[0], 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(ShuffleBlock(widths[i], widths[i + 1], 2), *self._rest(widths[i + 1], depth))
            for i, depth in enumerate(DEPTHS)
        )

    @staticmethod
    def _rest(width: int, depth: int) -> list[nn.Module]:
        return [ShuffleBlock(width, width, 1) for _ in range(depth - 1)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised BGR -> three maps [B, C_i, H / s, W / s], s = 8, 16, 32."""
        x8 = self.stage2(self.maxpool(self.conv1(images)))
        x16 = self.stage3(x8)
        return [x8, x16, self.stage4(x16)]
