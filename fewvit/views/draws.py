"""Uniform random numbers as a pure function of (seed, epoch, row, stream, column), for a whole batch at once.

The generator is counter-based (Philox 4x64-10, Salmon et al. 2011): a row's numbers depend on no other row, on no
earlier draw and on no other process. They are NumPy's own, written for many rows: `Generator(Philox(key=[seed_of(seed,
epoch, stream), row])).random(n)` takes 35 us per row, this 3 to 15.
"""

from __future__ import annotations

import numpy as np

from ..seeds import seed_of

_ROUNDS = 10
_FACTORS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
# of the two key words, from round to round: golden ratio and sqrt(3) - 1
_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_CHUNK = 4096  # counters at a time: what is computed on stays in the cache


def uniforms(seed: int, epoch: int, rows: np.ndarray, stream: str, n: int) -> np.ndarray:
    """(len(rows), n) float64 in [0, 1); a row depends on (seed, epoch, its number, stream) alone.

    It begins with what a smaller n gives.
    """
    key = seed_of(seed, epoch, stream)
    rows = np.asarray(rows).astype(np.uint64)
    blocks = -(-n // 4)  # a counter gives four numbers
    numbers = np.empty((len(rows), blocks, 4))
    step = max(1, _CHUNK // max(1, blocks))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        for word, bits in enumerate(_philox(key, rows[part, None], np.arange(1, blocks + 1, dtype=np.uint64))):
            numbers[part, :, word] = (bits >> np.uint64(11)) * 2.0**-53
    return numbers.reshape(len(rows), 4 * blocks)[:, :n]


def _philox(key: int, rows: np.ndarray, counters: np.ndarray) -> tuple[np.ndarray, ...]:
    """Four uint64 words (R, K) for the key words `key` and `rows` (R, 1).

    `counters` (K,) are the counter's lowest word, the rest is zero.
    """
    word0, word1, word2, word3 = (np.zeros((len(rows), len(counters)), np.uint64) for _ in range(4))
    word0 += counters
    for round_ in range(_ROUNDS):
        key0 = np.uint64((key + round_ * _STEPS[0]) % 2**64)
        key1 = rows + np.uint64(round_ * _STEPS[1] % 2**64)  # wraps, as it should
        high0, low0 = _high_word(word0, _FACTORS[0]), word0 * _FACTORS[0]
        high1, low1 = _high_word(word2, _FACTORS[1]), word2 * _FACTORS[1]
        word0, word1, word2, word3 = high1 ^ word1 ^ key0, low1, high0 ^ word3 ^ key1, low0
    return word0, word1, word2, word3


def _high_word(values: np.ndarray, factor: np.uint64) -> np.ndarray:
    """The upper 64 of the 128 bits of values x factor, from products of 32-bit halves."""
    low, high = values & _LOW, values >> _HALF
    factor_low, factor_high = factor & _LOW, factor >> _HALF
    middle = high * factor_low + (low * factor_low >> _HALF)
    other = low * factor_high + (middle & _LOW)
    return high * factor_high + (middle >> _HALF) + (other >> _HALF)
