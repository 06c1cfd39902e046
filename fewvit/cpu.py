"""What the CPU can do, and kernels to match. Standard library only."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of settings in glibc's malloc.h
# freed memory that stays; blocks of more than the second, glibc's most, always go back
_KEPT_BYTES, _HEAP_BYTES = (1 << 30, 32 << 20)
_SKYLAKEX = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}  # what OpenBLAS's kernels of that name use


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterable[_Result]:
    """`function` of each item, in order, on as many threads as there are cores: for NumPy work that releases the
    interpreter's lock.
    """
    if len(items) < 2 or cores() == 1:
        return map(function, items)
    with ThreadPoolExecutor(min(len(items), cores())) as pool:
        return list(pool.map(function, items))


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The vendor and the feature flags, as Linux reports them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    words = {
        word
        for line in text.splitlines()
        if line.startswith(("flags", "Features", "vendor_id"))
        for word in line.split(":", 1)[1].split()
    }
    return frozenset(words)


def is_amd_avx512() -> bool:
    """Whether this is an AMD CPU with AVX-512, which libraries built before it often treat as one with AVX2."""
    return {"AuthenticAMD", *_SKYLAKEX} <= cpu_flags()


def computes_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16 products."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let glibc's malloc keep up to 1 GiB of what this process frees, for what it asks for next; whether it does.

    As it comes it gives blocks of some MiB back at once, and the next step gets them page by page, each zeroed by the
    system: up to half of a training step (benchmarks/freed_memory.py). What the user has set is left alone, as are
    other C libraries.
    """
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if sys.platform != "linux" or any(name in os.environ for name in names):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _HEAP_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))


@contextmanager
def wide_openblas() -> Iterator[None]:
    """While a library is imported here, an OpenBLAS inside it takes its AVX-512 kernels on AMD CPUs too.

    OpenBLAS reads OPENBLAS_CORETYPE once, when it is loaded; a build older than the CPU falls back to AVX2 kernels. A
    build without AVX-512 takes its AVX2 kernels under this name. What the user has set is left alone.
    """
    name = "OPENBLAS_CORETYPE"
    if name in os.environ or not is_amd_avx512():
        yield
        return
    os.environ[name] = "SkylakeX"
    try:
        yield
    finally:
        del os.environ[name]
