"""ResNet-18, -34 and -50 (He et al., CVPR 2016; stride in the 3x3, as in torchvision), and the FPN that follows it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanogfl.model.layers import conv_bn, upsample2

# size -> (blocks of the four stages; ratio of a block's output channels to its inner channels)
RESNETS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "s": ((2, 2, 2, 2), 1),  # ResNet-18
    "m": ((3, 4, 6, 3), 1),  # ResNet-34
    "l": ((3, 4, 6, 3), 4),  # ResNet-50
}
NAMES = {"s": "resnet18", "m": "resnet34", "l": "resnet50"}
STAGES = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 if ``expansion`` is 4, in parallel with a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        outputs = width * expansion
        if expansion == 1:
            layers = [*conv_bn(inputs, width, 3, stride), nn.ReLU(inplace=True), *conv_bn(width, width, 3)]
        else:
            first, second = conv_bn(inputs, width, 1), conv_bn(width, width, 3, stride)
            layers = [*first, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True), *conv_bn(width, outputs, 1)]
        self.branch = nn.Sequential(*layers)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if same else conv_bn(inputs, outputs, 1, stride)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, width * expansion, H / stride, W / stride]."""
        return F.relu(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A backbone that maps images to feature maps at strides 8, 16 and 32.

    Args:
        size: s, m or l, a key of :data:`RESNETS`.
    """

    def __init__(self, size: str) -> None:
        super().__init__()
        depths, expansion = RESNETS[size]
        self.conv1 = nn.Sequential(*conv_bn(3, 64, 7, stride=2), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            self._stage(STAGES[max(i - 1, 0)] * (expansion if i else 1), STAGES[i], depth, 2 if i else 1, expansion)
            for i, depth in enumerate(depths)
        )
        self.widths = (128 * expansion, 256 * expansion, 512 * expansion)

    @staticmethod
    def _stage(inputs: int, width: int, depth: int, stride: int, expansion: int) -> nn.Sequential:
        rest = (ResidualBlock(width * expansion, width, 1, expansion) for _ in range(depth - 1))
        return nn.Sequential(ResidualBlock(inputs, width, stride, expansion), *rest)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised BGR images [B, 3, H, W] to three maps [B, C_i, H / s, W / s], s = 8, 16, 32."""
        x8 = self.layer2(self.layer1(self.maxpool(self.conv1(images))))
        x16 = self.layer3(x8)
        return [x8, x16, self.layer4(x16)]


class FloatConv2d(nn.Conv2d):
    """A strided convolution that is computed in float32 on a CPU, even under autocast.

    Its map may be a single pixel, for which oneDNN computes the bf16 gradient from uninitialised memory.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, h, w], returned in the data type of autocast."""
        if images.is_cuda or not torch.is_autocast_enabled("cpu"):
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            made = super().forward(images.float())
        return made.to(torch.get_autocast_dtype("cpu"))


class FPN(nn.Module):
    """A feature pyramid network (Lin et al., CVPR 2017) with two more levels, as in the paper: P3 to P7.

    Args:
        inputs: channels of the three maps.
        width: channels of all five outputs.
    """

    def __init__(self, inputs: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in inputs)
        self.extra = nn.ModuleList(FloatConv2d(width, width, 3, stride=2, padding=1) for _ in range(2))
        for conv in (*self.lateral, *self.smooth, *self.extra):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Convert three maps [B, C_i, H / s, W / s] to five, [B, width, H / s, W / s], s = 8 to 128 (rounded up)."""
        x8, x16, x32 = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        x16 = x16 + upsample2(x32, "nearest")
        x8 = x8 + upsample2(x16, "nearest")
        p8, p16, p32 = (smooth(x) for smooth, x in zip(self.smooth, (x8, x16, x32), strict=True))
        p64 = self.extra[0](p32)
        return [p8, p16, p32, p64, self.extra[1](p64)]
