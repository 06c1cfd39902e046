"""Whether a row's data set was among what its backbone was pretrained on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import families, variants
from ..backbones._pretraining import seen
from ..untrusted.texts import json_of
from .read import Record

YES, NO, UNKNOWN = "yes", "no", "unknown"


def seen_in_pretraining(record: Record, row: Mapping[str, Any], dataset: str) -> str:
    """`yes`, `no` or `unknown` for a row of a record; `dataset` is the name of its data.

    Random weights have seen nothing. A named variant is judged by its family's table, unless its weights are known to
    be others; a run of one's own has seen the images of which its folder holds the same digest.
    """
    asked = record.asked.get("backbone") or {}  # None: features were given
    name = str(asked.get("name") or row.get("backbone") or "")
    facts = record.facts_of(row)
    weights = row.get("weights_sha256") or facts.get("weights_sha256")
    if "random" in (asked.get("weights"), row.get("weights"), weights):
        return NO
    if (known := _variant(name)) is not None:
        is_other = bool(known.sha256 and weights and weights != known.sha256) or bool(asked.get("weights"))
        return UNKNOWN if is_other else seen(known.corpus, dataset)
    return YES if record.contents and record.contents in _digests_of_run(name) else UNKNOWN


@dataclass(frozen=True)
class _Variant:
    sha256: str  # of its weights; empty: unknown
    corpus: str  # what it was pretrained on; empty: unknown


@functools.lru_cache(maxsize=256)  # asked for every row
def _variant(name: str) -> _Variant | None:
    """What is known of a named variant; None for a name that is none."""
    if (family := variants().get(name)) is None:
        return None
    row = families()[family].variants[name]
    return _Variant(row.sha256, row.pretrained_on or families()[family].pretrained_on)


@functools.lru_cache(maxsize=256)
def _digests_of_run(folder: str) -> frozenset[str]:
    """The digests of images that a run's folder holds; empty where it is none."""
    found: set[str] = set()
    for name in ("contents.json", "manifest.json"):
        try:
            value = json_of((Path(folder) / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(value, dict):
            found |= _contents(value, is_file=name == "contents.json")
    return frozenset(found)


def _contents(value: Mapping[str, Any], *, is_file: bool) -> set[str]:
    """The digests under `contents`, at any depth; of contents.json all that it holds."""
    found: set[str] = set()
    for key, one in value.items():
        if isinstance(one, dict):
            found |= _contents(one, is_file=is_file)
        elif isinstance(one, str) and (is_file or key == "contents"):
            found.add(one)
    return found
