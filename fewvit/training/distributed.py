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

from ..errors import FewvitError
from ..runs.processes import LostProcess, process_count

# one may wait for the others' features for days, and torchrun ends all when one fails: a limit would only end good work
_PATIENCE = datetime.timedelta(days=30)
_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # gloo's words, and NCCL's


@contextlib.contextmanager
def together(device: str) -> Iterator[str]:
    """Within the block the processes that torchrun started know each other; gives the device of this one."""
    if process_count() == 1:
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    with _group("nccl" if device.startswith("cuda") else "gloo"):
        yield device


@contextlib.contextmanager
def meeting(device: str) -> Iterator[str]:
    """As `together`, for processes that each work by themselves and meet for `gathered` alone, however late one comes.

    They need no GPU for that.
    """
    with _group("gloo"):
        yield f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device


@contextlib.contextmanager
def _group(backend: str) -> Iterator[None]:
    """The processes as one group. Raises LostProcess where another one ends before this one."""
    torch_distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    except FewvitError as error:
        error.among_processes = True
        raise
    except RuntimeError as error:
        if not any(words in str(error) for words in _LOST):
            raise
        raise LostProcess(
            "another of the processes that work together has ended", fix="What it said on stderr tells why."
        ) from error
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
