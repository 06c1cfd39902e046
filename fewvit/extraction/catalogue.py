"""The table of backbones: its rows, picked and sorted, all facts of one, and several beside each other.

No torch, timm or NumPy, so that the table is there at once: what timm knows of the rows stands in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backbones import Family, Protocol, Variant, families, find_variant
from ..backbones._licences import known_licences, licence_of
from ..backbones._third_party import sixteen_shot
from ..errors import UnknownName, UsageError
from ..models.pools import pool_of
from ..preprocess import Preprocess
from ..results import Facts, Row

if TYPE_CHECKING:
    from ..digests import DigestMemory
    from ..models.spec import Access

_SHOTS = ("1-shot", "2-shot", "5-shot", "16-shot")
SORTS = ("knn", "linear", *_SHOTS, "params", "name")
# of a row, those that a table shows; all others are for programs
SHOWN = (
    "backbone",
    "Mparams",
    "license",
    "commercial",
    "gated",
    "knn",
    "linear",
    "1-shot",
    "2-shot",
    "5-shot",
    "16-shot",
    "note",
)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


@dataclass(frozen=True)
class Choice:
    """Which rows of the table, in which order; empty and 0: all, as the families list them."""

    name: str = ""  # only names that contain it
    family: str = ""
    license: str = ""
    commercial: bool = False  # only what its licence allows commercial use of
    parameters: int = 0  # at most so many; rows whose size is not known are left out
    sort: str = ""  # one of SORTS

    @staticmethod
    def of(
        name: str = "", family: str = "", license: str = "", commercial: bool = False, most: str = "", sort: str = ""
    ) -> Choice:
        """From the flags' texts. Raises UsageError and UnknownName, naming the flag or the nearest names."""
        if family and (family := family.replace("-", "_")) not in families():
            raise UnknownName("family", family, families())
        if license and licence_of(license).key not in {one.lower() for one in known_licences()}:
            raise UnknownName("licence", license, known_licences())
        if sort and sort not in SORTS:
            raise UsageError(f"--sort {sort!r} is not one of {', '.join(SORTS)}")
        return Choice(name, family, licence_of(license).key if license else "", commercial, number_of(most), sort)

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is among them."""
        return (
            self.name in row["backbone"]
            and self.family in ("", row["family"])
            and self.license in ("", licence_of(row["license"]).key)
            and (not self.commercial or row["commercial"] == "yes")
            and (not self.parameters or 0 < (row["parameters"] or 0) <= self.parameters)
        )


def number_of(text: str) -> int:
    """The number behind `100M`, `1.1B` or plain digits; 0 for nothing. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBG]?)", text.strip().upper())
    if not text:
        return 0
    if match is None or not float(match[1]):
        raise UsageError(f"--max-params {text!r} is no number of parameters", fix="Give one such as 100M or 1.1B.")
    return round(float(match[1]) * _UNITS[match[2]])


def variant_rows(choice: Choice = Choice()) -> list[Row]:
    """One row per named backbone of the choice; in its order, rows without the number that is sorted by last."""
    protocols = _protocols()
    rows = [
        _row(name, family, kind, variant, protocols)
        for family, kind in families().items()
        for name, variant in kind.variants.items()
    ]
    return sorted_rows([row for row in rows if choice.takes(row)], choice.sort)


def _falling(column: str, row: Row) -> float | None:
    """A number, perhaps with its deviation as `38.9 ± 0.4`, so that the largest comes first."""
    value = row[column]
    return None if value is None else -float(str(value).partition(" ")[0])


def sorted_rows(rows: Sequence[Row], by: str) -> list[Row]:
    """The best number first, the smallest model, or names as the alphabet has them; ties stay as they were."""
    keys: dict[str, Callable[[Row], Any]] = {
        "knn": lambda row: None if row["knn"] is None else -row["knn"],
        "linear": lambda row: None if row["linear"] is None else -row["linear"],
        **{shots: partial(_falling, shots) for shots in _SHOTS},
        "params": lambda row: row["parameters"],
        "name": lambda row: row["backbone"],
    }
    if not by:
        return list(rows)
    known: list[Row] = []
    unknown: list[Row] = []
    for row in rows:
        (unknown if keys[by](row) is None else known).append(row)
    return [*sorted(known, key=keys[by]), *unknown]


def _row(name: str, family: str, kind: type[Family], variant: Variant, protocols: Mapping[str, Protocol]) -> Facts:
    a, published = variant.architecture, dict(variant.published)
    shots, others = published.get("lowshot", {}), sixteen_shot(name)
    licence = licence_of(variant.license or kind.license)
    numbers = {
        "knn": published.get("knn"),
        "linear": published.get("linear"),
        **{f"{n}-shot": shots.get(n) for n in (1, 2, 5)},
    }
    return {
        "backbone": name,
        "width": a.width,
        "depth": a.depth,
        "patch": a.patch,
        "license": variant.license or kind.license,
        **numbers,
        "16-shot": others.numbers.get("imagenet"),
        "note": variant.note,
        "family": family,
        "parameters": variant.learnt,
        "Mparams": round(variant.learnt / 1e6, 1) if variant.learnt else None,
        "commercial": licence.commercial,
        "gated": "yes" if variant.gated else "no",
        "class_tokens": kind.class_tokens_of(variant),
        "registers": kind.registers_of(variant),
        **_read_as(name, variant, kind, protocols)[0],
        "numbers_of": (variant.source or kind.source) if published else "",
        "16-shot_of": others.source,
    }


def _read_as(
    name: str, variant: Variant, kind: type[Family], protocols: Mapping[str, Protocol]
) -> tuple[Facts, Preprocess]:
    """How images become features: the protocol, its pool and what it makes of pixels; and the transform."""
    protocol = protocols[variant.protocol or kind.protocol_of(variant.architecture)]
    preprocess = replace(protocol.transform(), **{**kind.statistics, **variant.preprocess})
    shown = {
        "protocol": protocol.name,
        "pool": pool_of(None, protocol, variant.architecture, variant.tokens, name, kind.class_tokens),
        "resize": "x".join(map(str, preprocess.cover)),
        "crop": "x".join(map(str, preprocess.crop)),
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
    return shown, preprocess


def _protocols() -> dict[str, Protocol]:
    return {protocol.name: protocol for kind in families().values() for protocol in kind.protocols}


def variant_facts(name: str) -> Facts:
    """Everything the table holds about one variant. Raises UnknownName with the nearest names."""
    family, variant = find_variant(name)
    return facts_of(name, family, variant)


def facts_of(name: str, family: str, variant: Variant) -> Facts:
    """Everything that a row says, and what follows from it: how it is read, what its licence allows."""
    kind, others = families()[family], sixteen_shot(name)
    reading, preprocess = _read_as(name, variant, kind, _protocols())
    licence = licence_of(variant.license or kind.license)
    note = kind.license_note if not variant.license else ""
    return {
        "backbone": name,
        "family": family,
        "architecture": variant.architecture.to_dict(),
        "parameters": variant.learnt,
        "class_tokens": kind.class_tokens_of(variant),
        "registers": kind.registers_of(variant),
        **reading,
        "head": variant.tokens.head if variant.tokens is not None else "",
        "official_pool": variant.tokens.official if variant.tokens is not None else "",
        "preprocess": preprocess.to_dict(),
        "file": variant.file_name,
        "url": variant.url or ("none: the file comes with fewvit" if variant.bundled else "no published weights"),
        "sha256": variant.sha256 or "unknown: the first download's digest is kept and compared from then on",
        "gated": "yes" if variant.gated else "no",
        "gated_page": variant.gated,
        "license": f"{variant.license or kind.license} {note}".strip() or "unknown",
        "commercial": licence.commercial,
        "license_text": licence.text,
        "source": "fewvit: recipes/fewvit_tiny.toml" if variant.bundled else kind.source,
        "published": dict(variant.published),
        "published_source": (variant.source or kind.source) if variant.published else "",
        "third_party": {"16-shot": dict(others.numbers)} if others.numbers else {},
        "third_party_source": others.source,
        "note": variant.note,
    }


def any_facts(name: str, access: Access, memory: DigestMemory) -> Facts:
    """`variant_facts` of `timm:NAME` or `hf:ORG/NAME`, whose weights are not fetched. Raises as `resolve`."""
    from ..models.hub import described

    return facts_of(name, *described(name, access))


def file_spec_facts(file: str, access: Access, memory: DigestMemory) -> Facts:
    """How a weights file is taken and read. Raises as `resolve`."""
    from ..models.resolve import resolve

    spec = resolve(file, access, memory)
    variant = Variant(
        spec.architecture,
        preprocess=spec.preprocess,
        license=spec.license,
        protocol=spec.protocol,
        tokens=spec.tokens,
    )
    facts = facts_of(spec.name, spec.family, variant)
    return {**facts, "file": file, "url": "", "sha256": spec.weights_sha256, "source": ""}


def compared(facts: Sequence[Facts]) -> list[Row]:
    """One row per fact that several backbones have: a mark where they differ, and the value of each."""
    flat = [dict(_flat(one)) for one in facts]
    names = [str(one["backbone"]) for one in facts]
    rows: list[Row] = []
    for field in dict.fromkeys(key for one in flat for key in one if key != "backbone"):
        values = [one.get(field) for one in flat]
        if any(value not in (None, "", [], {}) for value in values):
            differs = any(value != values[0] for value in values)
            rows.append({"differs": differs, "fact": field, **dict(zip(names, values, strict=True))})
    return rows


LONG = ("url", "sha256", "license_text")  # facts that have no room beside each other; `info` tells them
_INSIDE = ("architecture", "published", "third_party", "lowshot", "16-shot")  # whose parts are compared one by one
_TWICE = ("preprocess", "third_party_source", "published_source")  # said by other facts, or no fact of a backbone


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        if name in _TWICE:
            continue
        if name in _INSIDE and isinstance(value, Mapping):
            yield from _flat(value, before if name == "architecture" else f"{before}{name} ")
        else:
            yield f"{before}{name}", value
