"""Adapter for eager torch, as ``nanogfl eval`` runs a checkpoint: the baseline for the other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_network(path: Path, threads: int, _names: list[str]) -> Any:
    """Open a checkpoint's network, with its batch norms not fused."""
    import torch

    network = ready(path, fused=False)
    torch.set_num_threads(threads)

    def run(image: Any) -> dict[str, Any]:
        with torch.inference_mode():
            return {"raw": network(torch.from_numpy(image))[0].numpy()}

    return run


def ready(checkpoint: Path, fused: bool = True) -> Any:
    """Return a checkpoint's network preceded by normalisation: [1, 3, H, W] 0 to 255 -> [1, P, C + 4 * (R + 1)]."""
    import torch
    from torch import nn

    from nanogfl.deploy.fuse import fuse
    from nanogfl.predictor import TorchDetector, load
    from nanogfl.view import MEAN, STD

    detector = load(checkpoint)
    assert isinstance(detector, TorchDetector)

    class Normalised(nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = fuse(detector.network) if fused else detector.network
            for name, values in (("mean", MEAN), ("std", STD)):
                self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.network((image - self.mean) / self.std)

    return Normalised().eval()


def example(checkpoint: Path) -> Any:
    """Return an example input of the checkpoint's size, for converters that trace."""
    import torch

    from nanogfl.predictor import load

    return (torch.zeros(1, 3, *load(checkpoint).input_size),)
