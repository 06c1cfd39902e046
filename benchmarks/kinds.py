"""Kinds of machines, by what their speed hangs on, and the results that were measured on each: results/KIND/NAME.json.

A ratio belongs to the kind that it was measured on. What is said without naming one is the least over kinds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_TITLES = {"amd": "AMD", "intel": "Intel", "avx512": "AVX-512", "bf16": "bf16", "avx2": "AVX2", "amx": "AMX"}


def kind_of(cpu: str) -> str:
    """The kind of a CPU by its record, as `measure.machine` writes it: maker and widest vector units."""
    maker = next((one for one in ("amd", "intel") if one in cpu.lower()), "other")
    units = re.findall(r", (AVX-512|bf16|AMX)", cpu)
    if "AMX" in units:
        return f"{maker}-amx"
    if "AVX-512" not in units:
        return f"{maker}-avx2"
    return f"{maker}-avx512" + ("-bf16" if "bf16" in units else "")


def title_of(kind: str) -> str:
    """A kind as tables call it."""
    if kind == "gpu":
        return "GPU"
    maker, *units = kind.split("-")
    return f"{_TITLES.get(maker, 'Other')}, {' '.join(_TITLES[unit] for unit in units)}"


def measured(folder: Path = RESULTS) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind -> name -> result, of full runs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*.json")):
        result = json.loads(path.read_text())
        if not result["quick"]:
            found.setdefault(path.parent.name, {})[path.stem] = result
    return found


def newest(folder: Path, name: str) -> dict[str, Any] | None:
    """The last result of that name, on whichever kind: for what does not hang on speed. None: there is none."""
    found = [results[name] for results in measured(folder).values() if name in results]
    return max(found, key=lambda result: result["date"], default=None)


def claims(folder: Path = RESULTS) -> dict[tuple[str, str, str, int], dict[str, dict[str, Any]]]:
    """(result's name, what, against, how many of the same stand before it) -> kind -> claim, in the files' order."""
    results = measured(folder)
    found: dict[tuple[str, str, str, int], dict[str, dict[str, Any]]] = {}
    for name in sorted({name for by_name in results.values() for name in by_name}):
        for kind, by_name in results.items():
            seen: Counter[tuple[str, str]] = Counter()
            for claim in by_name[name]["claims"] if name in by_name else ():
                told = claim["what"], claim["against"]
                found.setdefault((name, *told, seen[told]), {})[kind] = claim
                seen[told] += 1
    return found


def least(by_kind: dict[str, dict[str, Any]]) -> float:
    """What may be claimed on every kind that was measured: the lowest ratio, or the highest of what should be low."""
    values = [float(claim["value"]) for claim in by_kind.values()]
    one = next(iter(by_kind.values()))
    upward = one["goal"].startswith(">=") or (not one["goal"] and one["unit"] == "x")
    return min(values) if upward else max(values)
