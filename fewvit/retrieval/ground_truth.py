"""The ground truth of revisited Oxford and Paris as JSON: which images are easy, hard and junk for each query.

The published files are pickles, which may run code; `fewvit data convert` turns one into this JSON, and nothing else in
fewvit reads it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, counted, from_os_error, printable
from ..files import replacing
from ..untrusted.texts import json_of

SCHEMA = "fewvit.revisited/1"
KINDS = ("easy", "hard", "junk")  # of images for a query; all others are negatives
_MOST_BYTES = 256 << 20  # of a file; the published ones have one MiB
_MOST_JUDGED = 2_000_000  # images of all queries together: a pickle may name one array again and again


@dataclass(frozen=True)
class QueryTruth:
    """What one query is judged by; images are places in `RevisitedTruth.images`."""

    box: tuple[float, float, float, float] | None  # left, top, right, bottom in pixels; what the query shows
    easy: tuple[int, ...]
    hard: tuple[int, ...]
    junk: tuple[int, ...]


@dataclass(frozen=True)
class RevisitedTruth:
    """A revisited benchmark: names of its images and queries without ending, and the truth of each query."""

    name: str  # roxford5k, rparis6k
    images: Sequence[str]
    queries: Sequence[str]
    truth: Sequence[QueryTruth]  # of each query

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, with the keys of the published files."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "imlist": list(self.images),
            "qimlist": list(self.queries),
            "gnd": [
                {
                    "bbx": None if one.box is None else list(one.box),
                    **{kind: list(getattr(one, kind)) for kind in KINDS},
                }
                for one in self.truth
            ],
        }


def save_revisited(path: str | os.PathLike[str], truth: RevisitedTruth) -> None:
    """Replace `path` by the JSON of `read_revisited`."""
    text = json.dumps(truth.to_dict(), allow_nan=False)  # not sorted: the schema comes first
    with replacing(path, "w") as handle:
        handle.write(text + "\n")


def read_revisited(path: str | os.PathLike[str]) -> RevisitedTruth:
    """The ground truth in a JSON file. Raises DataError for what is none, saying where in it."""
    file = Path(path)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"has more than {_MOST_BYTES >> 20} MiB: no ground truth", file=file)
        tree = json_of(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise from_os_error(error, "reading the ground truth") from error
    except ValueError as error:  # not UTF-8, not JSON
        fix = "A published .pkl becomes JSON by `fewvit data convert FILE.pkl --out FILE.json`."
        raise DataError("not JSON", file=file, fix=fix) from error
    if not isinstance(tree, Mapping) or tree.get("schema") != SCHEMA:
        raise DataError(
            f"no ground truth of a revisited benchmark: its schema is not {SCHEMA}",
            file=file,
            fix="Make it with `fewvit data convert FILE.pkl --out FILE.json`.",
        )
    return revisited_from(tree, file, str(tree.get("name") or ""))


def name_of_file(path: str | os.PathLike[str]) -> str:
    """`roxford5k` of gnd_roxford5k.pkl: how the published files are called after their benchmark."""
    return Path(path).stem.removeprefix("gnd_")


def revisited_from(tree: object, file: str | os.PathLike[str], name: str) -> RevisitedTruth:
    """The truth in `tree`, the content of `file`: the keys imlist, qimlist and gnd, with bbx, easy, hard, junk in each
    entry of the last. Raises DataError naming the entry and what is wrong with it.
    """
    if not isinstance(tree, Mapping):
        raise DataError(f"a {type(tree).__name__} where a dict with imlist, qimlist, gnd was expected", file=file)
    missing = [key for key in ("imlist", "qimlist", "gnd") if key not in tree]
    if missing:
        known = ", ".join(printable(key)[:40] for key in list(tree)[:12])
        raise DataError(f"no {', '.join(missing)}; its keys are {known or 'none'}", file=file)
    images, queries = (_names(tree[key], key, file) for key in ("imlist", "qimlist"))
    entries = _listed(tree["gnd"], "gnd", file)
    if len(entries) != len(queries):
        raise DataError(
            f"gnd has {counted(len(entries), 'entry', 'entries')} for {counted(len(queries), 'query', 'queries')}",
            file=file,
        )
    both = sorted(set(images) & set(queries))
    if both:
        raise DataError(f"{printable(both[0])} stands in imlist and in qimlist", file=file)
    truth, judged = [], 0
    for i, entry in enumerate(entries):
        truth.append(_query(entry, f"gnd[{i}]", len(images), file))
        judged += len(truth[-1].easy) + len(truth[-1].hard) + len(truth[-1].junk)
        if judged > _MOST_JUDGED:
            raise DataError(f"gnd names more than {_MOST_JUDGED:,} images", file=file)
    return RevisitedTruth(name, images, queries, truth)


def _query(entry: object, at: str, n_images: int, file: str | os.PathLike[str]) -> QueryTruth:
    if not isinstance(entry, Mapping):
        raise DataError(f"{at} is a {type(entry).__name__}, not a dict with bbx, easy, hard, junk", file=file)
    missing = [kind for kind in KINDS if kind not in entry]
    if missing:
        old = " It is the ground truth before the revision." if "ok" in entry else ""
        raise DataError(f"{at} has no {', '.join(missing)}.{old}", file=file)
    kinds = {kind: _rows(entry[kind], f"{at}.{kind}", n_images, file) for kind in KINDS}
    taken: dict[int, str] = {}
    for kind, rows in kinds.items():
        for row in rows:
            if taken.setdefault(row, kind) != kind:
                raise DataError(f"{at}: image {row} is both {taken[row]} and {kind}", file=file)
    return QueryTruth(_box(entry.get("bbx"), f"{at}.bbx", file), **kinds)


def _listed(value: object, at: str, file: str | os.PathLike[str]) -> Sequence[object]:
    """A list; also an array or a tuple."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(f"{at} is a {type(value).__name__}, not a list", file=file)
    return value


def _names(value: object, at: str, file: str | os.PathLike[str]) -> list[str]:
    names = []
    for i, name in enumerate(_listed(value, at, file)):
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]+", name):
            raise DataError(f"{at}[{i}] is {_shown(name)}, not a file's name", file=file)
        names.append(str(name))
    repeated = len(names) - len(set(names))
    if repeated:
        raise DataError(f"{at} has {counted(repeated, 'name')} more than once", file=file)
    if not names:
        raise DataError(f"{at} is empty", file=file)
    return names


def _rows(value: object, at: str, n_images: int, file: str | os.PathLike[str]) -> tuple[int, ...]:
    rows = []
    for number in _listed(value, at, file):
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
            raise DataError(f"{at} has {_shown(number)}, not a whole number", file=file)
        if not 0 <= number < n_images:
            raise DataError(
                f"{at} has {_shown(number)}, but imlist has {counted(n_images, 'image')}, counted from 0", file=file
            )
        rows.append(int(number))
    if len(set(rows)) < len(rows):
        raise DataError(f"{at} names an image twice", file=file)
    return tuple(rows)


def _box(value: object, at: str, file: str | os.PathLike[str]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom; None for no box."""
    if value is None:
        return None
    numbers = _listed(value, at, file)
    if len(numbers) != 4 or not all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers
    ):
        raise DataError(f"{at} is not four numbers: left, top, right, bottom", file=file)
    left, top, right, bottom = (float(n) for n in numbers)  # type: ignore[arg-type]
    if left >= right or top >= bottom:
        raise DataError(f"{at} is empty: from {left:g}, {top:g} to {right:g}, {bottom:g}", file=file)
    return left, top, right, bottom


def _shown(value: object) -> str:
    """A number or text as it may stand in an error; of anything else the type: a list can be too deep to be shown."""
    return printable(repr(value)[:80]) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
