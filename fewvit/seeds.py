"""Random numbers as functions of a key such as (seed, epoch, index), never of what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*key: object) -> int:
    """A 63-bit seed that depends on the key's text alone: the same on every machine and in every process.

    NumPy's numbers give the seed of Python's.
    """
    plain = [part.item() if isinstance(part, np.generic) else part for part in key]
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in plain)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "little") >> 1


def generator(*key: object) -> np.random.Generator:
    """A NumPy generator that depends on the key alone."""
    return np.random.Generator(np.random.PCG64(seed_of(*key)))
