"""Whether a public data set lies as it is published: how many images and classes, which lists, what is missing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .. import plugins
from ..datasets import Listing, open_dataset
from ..errors import DataError, FewvitError, counted
from ..results import Row
from ._about import About, Part
from ._files import NotThereError, bytes_of

_MOST_BYTES = 256 << 20  # of a list file
MISSING, REFUSED, OTHER, AS_PUBLISHED, UNKNOWN = "missing", "refused", "other than published", "as published", "unknown"


@dataclass(frozen=True)
class CheckedSet:
    """What was found, a row for each part and list, and a line for each problem."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_public(name: str, folder: str, listing: Listing | None = None) -> CheckedSet:
    """What `folder` holds of a public data set. No image is opened.

    Rows have `what`, `state` and, of a part, `images` and `classes` with the published numbers; of a list its digests.
    Raises UnknownName for a set that is none, DataError for a folder that is not there.
    """
    about: About = plugins.find("public_sets", name).about
    if not os.path.exists(folder):
        raise DataError("no such folder", file=folder)
    found = CheckedSet()
    for below, parts in (about.below or {"": about.parts}).items():
        place = os.path.join(folder, below) if below else folder
        if not os.path.exists(place):
            found.rows.append({"what": below, "state": MISSING})
            found.problems.append(f"{below}: no such folder")
            continue
        for part, size in parts.items():
            _check_part(found, f"{below}@{part}".lstrip("@"), f"{name}:{place}@{part}", size, listing)
    for row, problem in _lists(folder, about.lists):
        found.rows.append(row)
        found.problems.extend(problem)
    return found


def _check_part(found: CheckedSet, what: str, source: str, size: Part, listing: Listing | None) -> None:
    """Add what is there of a part."""
    try:
        dataset = open_dataset(source, listing)
    except FewvitError as error:
        there = not isinstance(error, NotThereError)
        found.rows.append({"what": what, "state": REFUSED if there else MISSING})
        found.problems.append(f"{what}: {'refused: ' if there else ''}{' '.join(str(error).split())}")
        return
    classes = len(np.unique(dataset.labels[dataset.labels >= 0]))
    counts = [("image", "images", len(dataset), size.images), ("class", "classes", classes, size.classes)]
    odd = [
        f"{what}: {counted(have, one, many)}, published are {wanted}"
        for one, many, have, wanted in counts
        if wanted is not None and have != wanted
    ]
    row: Row = {"what": what, "state": OTHER if odd else UNKNOWN if size.images is None else AS_PUBLISHED}
    for _, many, have, wanted in counts:
        row |= {many: have, f"published_{many}": wanted}
    found.rows.append(row)
    found.problems.extend(odd)


def _lists(folder: str, known: Mapping[str, str]) -> Iterator[tuple[Row, list[str]]]:
    """A row for each list file that is there, with what its digest says, and a problem where that is another."""
    for name, published in known.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue  # in an archive, or a part that is missing has said so
        data = bytes_of(path, "the list", _MOST_BYTES)
        md5, sha256 = hashlib.md5(data, usedforsecurity=False).hexdigest(), hashlib.sha256(data).hexdigest()
        state = UNKNOWN if not published else AS_PUBLISHED if md5 == published else OTHER
        problem = [f"{name}: its MD5 is {md5}, that of the published file {published}"] if state == OTHER else []
        yield {"what": name, "state": state, "md5": md5, "sha256": sha256}, problem
