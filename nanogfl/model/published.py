"""Published weights: addresses, digests, and the size of our network that each file fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "nanodet-plus-"


@dataclass(frozen=True)
class PublishedFile:
    """A file of weights published by its authors.

    Attributes:
        url: address of the file; the part after the last slash is the file name in the cache and on a mirror.
        sha256: the hex digest or its first digits, in lower case; None if none was published.
        size: size of our network that the file fits.
    """

    url: str
    sha256: str | None
    size: Literal["s", "m", "l"]

    @property
    def file_name(self) -> str:
        """File name in the cache and on a mirror."""
        return self.url.rpartition("/")[2]


def _nanodet(name: str, size: Literal["m", "l"]) -> PublishedFile:
    """Return a file of RangiLyu/nanodet, release v1.0.0-alpha-1 (Apache-2.0; trained on COCO; no digests published)."""
    folder = "https://github.com/RangiLyu/nanodet/releases/download/v1.0.0-alpha-1"
    return PublishedFile(f"{folder}/{PREFIX}{name}_checkpoint.ckpt", None, size)


def _torchvision(stem: str, digits: str, size: Literal["s", "m", "l"]) -> PublishedFile:
    """Return an ImageNet backbone of torchvision (BSD-3-Clause), whose file name ends with the start of its sha256."""
    return PublishedFile(f"https://download.pytorch.org/models/{stem}-{digits}.pth", digits, size)


PUBLISHED: dict[str, PublishedFile] = {
    "nanodet-plus-m_320": _nanodet("m_320", "m"),  # AP on val2017: 27.0
    "nanodet-plus-m_416": _nanodet("m_416", "m"),  # 30.4
    "nanodet-plus-m-1.5x_320": _nanodet("m-1.5x_320", "l"),  # 29.9
    "nanodet-plus-m-1.5x_416": _nanodet("m-1.5x_416", "l"),  # 34.1
    "imagenet-s": _torchvision("shufflenetv2_x0.5", "f707e7126e", "s"),
    "imagenet-m": _torchvision("shufflenetv2_x1", "5666bf0f80", "m"),
    "imagenet-l": _torchvision("shufflenetv2_x1_5", "3c479a10", "l"),
    "imagenet-resnet18": _torchvision("resnet18", "f37072fd", "s"),
    "imagenet-resnet34": _torchvision("resnet34", "b627a593", "m"),
    "imagenet-resnet50": _torchvision("resnet50", "0676ba61", "l"),
}
