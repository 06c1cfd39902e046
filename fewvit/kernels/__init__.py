"""Kernels in C, built with the package where there is a compiler; everything also works without them, slower.

They are called through ctypes, which lets go of Python's lock meanwhile. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

OFF = "FEWVIT_KERNELS"  # set to `off`, nothing compiled is used


@lru_cache
def library(name: str) -> ctypes.CDLL | None:
    """The built library of that name in this folder; None where it was not built, does not load or is not wanted."""
    if os.environ.get(OFF, "") == "off":
        return None
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_{name}{suffix}")
        if file.is_file():
            try:
                return ctypes.CDLL(str(file))
            except OSError:
                return None
    return None
