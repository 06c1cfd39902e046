"""Close pairs among a million features: pairs that were planted, time, and memory, beside comparing every pair.

The features lie around 1000 centres. Copies of one in a hundred are planted, each turned away from its original by a
cosine between just below the threshold and 1. The peers compare a sample of the rows with all of them: FAISS's range
search, and torch's product block by block, as one would write it. Their times are the sample's, times all rows by
sampled ones; a search that compares each pair once could take half of that. Memory is what a search takes beyond the
features, at its highest, in a process of its own.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from fewvit.neighbors import normalise
from fewvit.neighbors.pairs import EXACT_ROWS, Missed, PairSearch, UnitRows, score_places

from .measure import Claim, Outcome, Timing, cores, in_fresh_process, main, peak_growth, round_robin, rounded

WHAT = "Close pairs among 1,000,000 x 384 features with planted copies, threshold 0.9, all cores"
CLASSES, WIDTH, THRESHOLD = 1000, 384, 0.9
BELOW = 0.05  # planted cosines begin so much below the threshold
FAISS, TORCH, OURS = "FAISS range search", "torch, product of blocks", "fewvit: join by cells"
_BLOCK = 50_000  # rows that are made at once
_MIB = 2**20


def planted(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit features (N, D) float32, and the rows (M,) of originals and of their copies."""
    random = np.random.default_rng(1)
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), dtype=np.float32)
    features = np.empty((rows, WIDTH), np.float32)
    for start in range(0, rows, _BLOCK):
        part = features[start : start + _BLOCK]
        part[:] = random.standard_normal(part.shape, dtype=np.float32)
        part += 0.7 * centres[random.integers(0, CLASSES, len(part))]
        part[:] = normalise(part)
    originals, copies = random.permutation(rows)[: 2 * (rows // 100)].reshape(2, -1)
    for start in range(0, len(copies), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines = random.uniform(THRESHOLD - BELOW, 1, (len(copies[part]), 1))
        own = features[originals[part]].astype(np.float64)
        side = random.standard_normal(own.shape)
        side -= (own * side).sum(axis=1, keepdims=True) * own
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        features[copies[part]] = normalise(cosines * own + np.sqrt(1 - cosines**2) * side)
    return features, originals, copies


def search(rows: int) -> tuple[dict[str, Any], Missed]:
    """Seconds, memory and what was found, and how much the search says it overlooks."""
    torch.set_num_threads(cores())
    features, originals, copies = planted(rows)
    list(PairSearch(UnitRows.of(features[:20_000]), THRESHOLD, exact=False))  # loads FAISS, fills its thread pools
    found: set[tuple[int, int]] = set()
    searches = [PairSearch(UnitRows.of(features), THRESHOLD, exact=False)]

    def work() -> None:
        for pairs in searches[0]:
            found.update(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))

    started = time.perf_counter()
    memory = peak_growth(work)
    seconds = time.perf_counter() - started
    scores = score_places(features, features, originals, copies)
    near = scores >= np.float32(THRESHOLD)
    wanted = set(
        zip(np.minimum(originals, copies)[near].tolist(), np.maximum(originals, copies)[near].tolist(), strict=True)
    )
    facts = {
        "seconds": rounded(seconds),
        "memory_mib": round(memory / _MIB, 1),
        "planted": len(copies),
        "planted_at_or_above": len(wanted),
        "planted_found": len(wanted & found),
        "others_found": len(found - wanted),
        "below_found": len(found & _pairs(originals[~near], copies[~near])),
    }
    return facts, searches[0].missed


def _pairs(one: np.ndarray, other: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(np.minimum(one, other).tolist(), np.maximum(one, other).tolist(), strict=True))


def peers(rows: int, sample: int, rounds: int) -> Timing:
    """Seconds in which each peer compares a sample of the rows with all."""
    import faiss

    torch.set_num_threads(cores())
    features, _, _ = planted(rows)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(features)
    bank, queries = torch.from_numpy(features), np.ascontiguousarray(features[:: rows // sample][:sample])

    def blocks(_: Any) -> list[torch.Tensor]:
        wanted = torch.from_numpy(queries)
        return [(wanted @ bank[start : start + 4096].T >= THRESHOLD).nonzero() for start in range(0, rows, 4096)]

    return round_robin({FAISS: lambda _: index.range_search(queries, THRESHOLD), TORCH: blocks}, [None], rounds)


def measure(quick: bool) -> Outcome:
    rows, sample, rounds = (60_000, 500, 2) if quick else (1_000_000, 1_000, 3)
    found, missed = in_fresh_process(search, rows)
    timing = in_fresh_process(peers, rows, sample, rounds)
    scaled = {name: rows / sample * timing.median(name) for name in (FAISS, TORCH)}
    what = f"Close pairs, {rows} x {WIDTH}"
    claims = [
        Claim(
            f"{what}, planted pairs found of those at or above the threshold",
            "all",
            100 * found["planted_found"] / found["planted_at_or_above"],
            "%",
            ">= 100",
        ),
        Claim(f"{what}, memory beyond the features", "nothing", found["memory_mib"], "MiB", "<= 2048"),
        Claim(
            f"{what}, speed",
            f"FAISS range search, extrapolated from {sample} rows",
            scaled[FAISS] / found["seconds"],
            "x",
        ),
        Claim(f"{what}, speed", f"torch, extrapolated from {sample} rows", scaled[TORCH] / found["seconds"], "x"),
    ]
    table = [
        {"variant": OURS, "seconds": found["seconds"], "extrapolated": ""},
        *({"variant": name, "seconds": rounded(scaled[name]), "extrapolated": "yes"} for name in (FAISS, TORCH)),
    ]
    facts = {
        **found,
        "rows": rows,
        "threshold": THRESHOLD,
        "threads": cores(),
        "exact_up_to": EXACT_ROWS,
        "missed": {
            "probes": missed.probes,
            "missed": missed.missed,
            "at_most": round(missed.at_most, 6),
            "cells_of_each": missed.visited,
        },
        "sample": sample,
    }
    return Outcome(claims, table, facts)


if __name__ == "__main__":
    main("duplicates", WHAT, measure)
