"""The devices, processes and precision of a run, and how a CPU run keeps its memory."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import platform
from typing import Any

import torch
import torch.distributed as dist

from nanogfl.errors import UsageError
from nanogfl.recipe import TrainRecipe

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # parameters of mallopt(3)
MANY_PIXELS = 8_000_000  # in a larger batch, feature maps exceed a thread's own arena of 64 MB
COMPILES = "2.6"  # torch 2.4 and 2.5 trace our autograd functions but compute different gradients
BF16 = ("avx512_bf16", "amx_bf16")  # x86 with native bf16 multiplication: AMD since Zen 4, newer Intel servers


def refuse_loader_process() -> None:
    """Refuse to train in a process that is only importing the user's script, to become a loader process."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # multiprocessing's own test for this state
        raise UsageError(
            'train: a loader process runs this script again; put the call under if __name__ == "__main__":'
        )


def devices(train: TrainRecipe) -> tuple[dict[str, Any], int]:
    """Return Lightning's options for the hardware, and the resulting number of processes."""
    cuda = torch.cuda.is_available()
    together = dist.is_available() and dist.is_nccl_available()  # not on Windows
    count = train.devices or (torch.cuda.device_count() if cuda and together else 1)
    if cuda and count > torch.cuda.device_count():
        raise UsageError(f"train.devices={count}: this machine has {torch.cuda.device_count()} GPUs; use 0 for all")
    if cuda and count * train.nodes > 1 and not together:
        raise UsageError("multi-GPU training requires NCCL, which torch lacks here; set train.devices=1, train.nodes=1")
    for option, wanted in (("sync_batch_norm", train.sync_batch_norm), ("compile", train.compile)):
        if wanted and not cuda:
            raise UsageError(f"train.{option}=true requires GPUs; omit it on a CPU")
    if train.compile and torch.__version__ < COMPILES:  # a TorchVersion, which compares numerically
        raise UsageError(f"train.compile=true requires torch {COMPILES} or newer, found {torch.__version__}; omit it")
    if train.fp16 and not cuda:
        raise UsageError("train.precision=16 requires a GPU; use bf16 or 32 on a CPU")
    options = {
        "accelerator": "gpu" if cuda else "cpu",
        "devices": count,
        "num_nodes": train.nodes,
        "strategy": "ddp" if count * train.nodes > 1 else "auto",
        "precision": "16-mixed" if train.fp16 else "bf16-mixed" if in_bf16(train, cuda) else "32-true",
        "sync_batchnorm": train.sync_batch_norm,
    }
    return options, count * train.nodes


def in_bf16(train: TrainRecipe, cuda: bool) -> bool:
    """Return whether to train in bf16: the recipe asks for it, or leaves it open and the hardware has bf16."""
    if str(train.precision) != "auto":
        return str(train.precision) == "bf16"
    if cuda:
        return torch.cuda.get_device_capability() >= (8, 0)  # older GPUs emulate it
    known = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older torch
    return any(known.get(feature) for feature in BF16)


def keep_memory(batch: int, size: tuple[int, int]) -> None:
    """Let glibc keep the memory of a step for the next, instead of releasing it and faulting it in again page by page.

    The setting lasts as long as the process. No-op with a GPU, with another libc, or if the environment configures
    malloc. Threads have malloc arenas of their own, which are faster for small batches; if a batch has many pixels, all
    threads share one arena.

    Args:
        batch: pictures per step.
        size: height and width of the network's input.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not told and not torch.cuda.is_available():
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 256 << 20)):
            mallopt(what, value)
        if batch * math.prod(size) > MANY_PIXELS:
            mallopt(ARENA_MAX, 1)
