"""What a run computes on: when bf16 is taken, and what it leaves in float32."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from models import random_detector
from torch import Tensor, nn

from nanogfl.errors import UsageError
from nanogfl.model.detector import Architecture
from nanogfl.model.resnet import FPN, FloatConv2d
from nanogfl.recipe import TrainRecipe
from nanogfl.training import hardware
from nanogfl.training.hardware import devices, in_bf16, keep_memory


@pytest.mark.parametrize(
    ("precision", "features", "expected"),
    [
        ("auto", {"avx512_bf16": True}, True),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, True),
        ("auto", {"avx2": True, "avx512_f": True}, False),
        ("auto", {}, False),
        ("bf16", {}, True),
        ("32", {"avx512_bf16": True}, False),
        (32, {"avx512_bf16": True}, False),
    ],
)
def test_a_cpu_takes_bf16_where_it_multiplies_it_itself(
    precision: Any, features: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert in_bf16(TrainRecipe(precision=precision), cuda=False) is expected
    if not torch.cuda.is_available():
        wanted = "bf16-mixed" if expected else "32-true"
        assert devices(TrainRecipe(precision=precision))[0]["precision"] == wanted


def test_a_torch_that_does_not_tell_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hardware.torch.cpu, "get_capabilities", raising=False)
    assert not in_bf16(TrainRecipe(), cuda=False)


def test_gpus_that_cannot_train_together_leave_it_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, whose torch has no NCCL."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    options, processes = devices(TrainRecipe(precision="32"))
    assert (options["devices"], options["strategy"], processes) == (1, "auto", 1)
    with pytest.raises(UsageError, match="NCCL, which torch lacks here"):
        devices(TrainRecipe(precision="32", devices=2))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert devices(TrainRecipe(precision="32"))[0]["devices"] == 2


def test_a_macs_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    trainer = pl.Trainer(**devices(TrainRecipe(precision="32"))[0], logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device == torch.device("cpu")


def test_some_convolutions_stay_float32_under_autocast() -> None:
    """Only what goes in and comes out is rounded; weights and gradients are those of float32."""
    torch.manual_seed(0)
    conv = FloatConv2d(6, 6, 3, 2, 1)
    plain = nn.Conv2d(6, 6, 3, 2, 1)
    plain.load_state_dict(conv.state_dict())
    images = torch.randn(2, 6, 17, 12).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        made = conv(images)
    expected = plain(images.float())
    assert made.dtype == torch.bfloat16 and torch.equal(made, expected.bfloat16())
    slope = torch.randn_like(expected).bfloat16()
    made.backward(slope)
    expected.backward(slope.float())
    assert conv.weight.grad is not None and plain.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32 and torch.equal(conv.weight.grad, plain.weight.grad)
    assert torch.equal(conv(images.float()), plain(images.float())), "without autocast nothing is special"


@pytest.mark.parametrize("side", [32, 64])
def test_gradients_of_maps_of_one_pixel_are_numbers(side: int) -> None:
    """The heavy network's last levels; what memory held before must not matter."""
    gradients = []
    for _ in range(4):
        torch.manual_seed(0)
        neck = FPN((8, 8, 8), 64).train()
        maps = [torch.randn(8, 8, side // s, side // s) for s in (8, 16, 32)]
        left = [torch.full((1 << n,), float("nan")) for n in range(10, 22)]
        del left
        with torch.autocast("cpu", torch.bfloat16):
            made = neck(maps)
        torch.stack([level.float().square().mean() for level in made]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in neck.parameters() if p.grad is not None]))
    assert all(torch.isfinite(g).all() and torch.equal(g, gradients[0]) for g in gradients)


def test_a_network_in_bf16_is_near_float32() -> None:
    detector = random_detector(Architecture("s", 3)).eval()
    images: Tensor = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = detector(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = detector(images)
    assert found.dtype == torch.bfloat16
    spread = expected.std(dim=1).mean()  # of one output over the priors: the image's part
    assert (found.float() - expected).abs().mean() < 0.1 * spread
    assert (expected[1] - expected[0]).abs().mean() > 0.3 * spread, "another picture is further away"


GIVES = """
import os, sys, torch
from concurrent.futures import ThreadPoolExecutor
from nanogfl.training.hardware import keep_memory
if sys.argv[1:]: keep_memory(int(sys.argv[1]), (1, 1))
def used(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
before = used()
def step(): torch.ones(1 << 24).add(1)
for _ in range(3):
    if len(sys.argv) > 2: ThreadPoolExecutor(1).submit(step).result()
    else: step()
print(used() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_of_a_step_is_kept_for_the_next() -> None:
    """Tensors of 64 MB are gone, and their memory is still there."""

    def held(*arguments: str, **told: str) -> int:
        command = [sys.executable, "-c", GIVES, *arguments]
        untold = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        return int(
            subprocess.run(
                command, env=untold | told | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=True
            ).stdout
        )

    assert held("1") >= 64
    assert held("10000000", "in a thread") >= 64
    assert held() < 32
    assert held("1", MALLOC_TRIM_THRESHOLD_="131072") < 32, "who has told glibc something is not contradicted"


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(hardware.ctypes, "CDLL", None)
    keep_memory(1, (1, 1))
