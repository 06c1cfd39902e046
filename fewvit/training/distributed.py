"""What the processes of one run exchange. In a single process every function gives back what it was given."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_distributed


@contextlib.contextmanager
def together(device: str) -> Iterator[str]:
    """Within the block the processes that torchrun started know each other; gives the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    torch_distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        torch_distributed.destroy_process_group()


_PATIENCE = datetime.timedelta(days=30)  # parts of a data set may take very different times: most of one may be cached


@contextlib.contextmanager
def meeting(device: str) -> Iterator[str]:
    """As `together`, for processes that each work by themselves and meet for `gathered` alone, however late one comes.

    They need no GPU for that.
    """
    torch_distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device
    finally:
        torch_distributed.destroy_process_group()


def gathered(value: Any) -> list[Any]:
    """In the first process the values of all, by their numbers; in the others nothing."""
    values = [None] * world_size() if rank() == 0 else None
    torch_distributed.gather_object(value, values)
    return values or []


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        torch_distributed.barrier()


def world_size() -> int:
    """How many processes train together."""
    return torch_distributed.get_world_size() if _is_one_of_several() else 1


def rank() -> int:
    """The number of this process, from 0; the first one writes files."""
    return torch_distributed.get_rank() if _is_one_of_several() else 0


def _is_one_of_several() -> bool:
    return torch_distributed.is_available() and torch_distributed.is_initialized()


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's gradient is that of the sum, as in the loss of the whole batch."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        total = value.detach().clone()
        torch_distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch_distributed.all_reduce(total)
        return total


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of every process's `value`; gradients flow back to all of them."""
    return value if world_size() == 1 else _Sum.apply(value)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of every process's `value`; gradients flow back to all of them."""
    return value if world_size() == 1 else sum_over_processes(value) / world_size()
