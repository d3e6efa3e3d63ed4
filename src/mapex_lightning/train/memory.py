"""Where memory runs out: what was asked for, what there is, and what to change."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch

from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.text import amount
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.pretrain import Pretrain

SIGNS = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Unable to allocate|ALLOC_FAILED|Cannot allocate memory"
)
"""What allocators say: those of CUDA and its libraries, of MPS, of the CPU, of NumPy and of the system."""

ON_GPU = re.compile(r"CUDA|CUBLAS|CUDNN|HIP|MPS")
"""What they say of a GPU's. That of the machine can run out beside one: processes that read tiles take it."""

WANTED = re.compile(r"(?:[Tt]ried to allocate|[Uu]nable to allocate) ([\d.]+ ?\w+)")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and SIGNS.search(str(error)) is not None


@contextmanager
def enough_memory(trainer: pl.Trainer, model: MapexModule, data: TileData) -> Iterator[None]:
    """Makes a sentence of the error where memory runs out inside.

    Raises:
        MapexError: it has run out.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not ran_out(error):
            raise
        # Without the error as its cause, whose traceback holds what takes the memory.
        raise MapexError(sentence(str(error), trainer, model, data)) from None


def sentence(found: str, trainer: pl.Trainer, model: MapexModule, data: TileData) -> str:
    """What was asked for, what there is, with what settings, and what to change, in the order of what it costs.

    Args:
        found: the message of the error.
        trainer: how it trains.
        model: what it trains.
        data: on what.
    """
    device = trainer.strategy.root_device if ON_GPU.search(found) else torch.device("cpu")
    where = {"cuda": f"the GPU {device}", "mps": "the GPU"}.get(device.type, "the machine")
    wanted = WANTED.search(found)
    asked = f" when {_said(wanted[1])} more were asked for" if wanted else ""
    gsd = min(modality.gsd for modality in data.modalities)
    sensors = len(data.modalities)
    settings = (
        f"batches of {data.batch_size} tiles of {round(data.extent / gsd)} pixels from {sensors} "
        f"{'sensor' if sensors == 1 else 'sensors'}, precision {trainer.precision}"
    )
    return (
        f"The memory of {where} ran out{asked}: {used(device)}. It was used for {settings}. What was written before is "
        f"whole. To need less, from what costs least: {'; '.join(remedies(device, trainer, model, data))}."
    )


def remedies(device: torch.device, trainer: pl.Trainer, model: MapexModule, data: TileData) -> list[str]:
    """What to change, from what costs least; only what can be changed.

    Args:
        device: whose memory ran out.
        trainer: how it trains.
        model: what it trains.
        data: on what.
    """
    fits, size = trainer.state.fn == "fit", data.batch_size
    half = f"data.batch_size {size // 2}"
    if fits:
        half += f" with trainer.accumulate_grad_batches {2 * trainer.accumulate_grad_batches}, which learns the same"
    found = [half] if size > 1 else []
    if trainer.precision == "32-true" and device.type != "cpu":
        found.append("trainer.precision bf16-mixed")
    if data.workers and device.type == "cpu":
        found.append(f"data.workers fewer than {data.workers}")
    if fits:
        found.append("a smaller data.size")
        smaller = "a smaller model.encoder (nano, tiny, small, base, large)"
        found.append(smaller if isinstance(model, Pretrain) else "an encoder pruned to fewer sensors (mapex prune)")
        found.append("mapex doctor says what a batch takes")
    return found or ["another machine"]


def used(device: torch.device) -> str:
    """What is taken and what there is on a device, in words."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return (
            f"of {amount(total)}, {amount(free)} were free, this process had reserved {amount(_reserved(device))} and "
            f"used {amount(torch.cuda.max_memory_allocated(device))} at its worst moment"
        )
    if device.type == "mps":
        return (
            f"of {amount(torch.mps.recommended_max_memory())}, this process had reserved "
            f"{amount(torch.mps.driver_allocated_memory())}"
        )
    return _of_this_process()


def _reserved(device: torch.device) -> int:
    return int(torch.cuda.max_memory_reserved(device))


def _of_this_process() -> str:
    """Where the operating system tells: the largest size of this process, and what it may have."""
    try:
        import resource
    except ImportError:  # Windows
        return "the system does not say of how much"
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = f", which lets a process have {amount(limit)}" if limit != resource.RLIM_INFINITY else ""
    return f"this process had {amount(size)} at its worst moment, of {amount(total)} in this machine{allowed}"


def _said(found: str) -> str:
    """An amount as an allocator gives it, plain bytes as larger units."""
    return amount(int(found.split()[0])) if re.fullmatch(r"\d+ ?bytes", found) else found
