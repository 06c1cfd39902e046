"""An extraction in parts: each process or machine computes a slice of the listed images, and one puts them together.

A part is a function of the listing, its number and their count alone. What it computes stands beside the file that all
of them make: `x.shard-2-of-8.npz`, a features file like any other, and, written last, `x.shard-2-of-8.json`, which says
of which listing and which features it is, and the sha256 of the features file.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..errors import DataError, IntegrityError, UsageError, counted, refuse_out_of_memory
from ..features import FeatureSet
from ..files import sha256_of, write_json
from ..runs.processes import process_count, process_number
from ..untrusted.texts import json_of
from .pipeline import Pipeline
from .work import SKIPPED, Report, Work, require_enough, whole

_SCHEMA = "fewvit.shard/1"


@dataclass(frozen=True)
class Part:
    """One of several parts of a list."""

    number: int  # from 1
    count: int

    def rows(self, total: int) -> range:
        """The places of a list of `total` that are this part's: they follow each other, and parts differ by one."""
        return range(*(total * place // self.count for place in (self.number - 1, self.number)))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def part_named(text: str, flag: str = "--shard") -> Part:
    """The part that `2/8` names. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
    if not 1 <= part.number <= part.count:
        raise UsageError(f"{flag} {text!r} is not a part such as 2/8, from 1/N to N/N")
    return part


def part_of_process() -> Part | None:
    """The part of a process that torchrun started beside others; None for one that is alone."""
    count = process_count()
    return Part(process_number() + 1, count) if count > 1 else None


def joined(pipeline: Pipeline, dataset: Dataset, parts: Sequence[FeatureSet], work: Work) -> FeatureSet:
    """What one process gives for the whole data set, from what its parts gave, each with its report.

    Raises BadImages as `extract`.
    """
    report = whole([part.report for part in parts if part.report is not None])
    require_enough(dataset, report.skipped, work)
    filled = [part for part in parts if len(part)]  # of a part without images the width is unknown
    return dataclasses.replace(
        filled[0],
        features=np.concatenate([part.features for part in filled]),
        labels=np.concatenate([part.labels for part in filled]),
        ids=[name for part in filled for name in part.ids],
        fingerprint=pipeline.fingerprint,
        name=dataset.name,
        report=report,
        digests=None,
    )


# ---- files


@dataclass(frozen=True)
class ShardFiles:
    """The files of the parts of one features file, beside it."""

    out: Path

    def place(self, part: Part) -> Path:
        """The features of a part."""
        return self.out.with_name(f"{self.out.stem}.shard-{part.number}-of-{part.count}.npz")

    def write(self, part: Part, dataset: Dataset, features: FeatureSet) -> Path:
        """Keep a part of the features of a data set, the whole of which is given: its file."""
        path, report = self.place(part), features.report or Report()
        features.save(path)
        facts = {
            "schema": _SCHEMA,
            "shard": [part.number, part.count],
            "listing": dataset.digest,
            "fingerprint": features.fingerprint,
            "report": dataclasses.asdict(report),
            "sha256": sha256_of(path),
        }
        write_json(path.with_suffix(".json"), facts)
        return path

    def read(self, pipeline: Pipeline, dataset: Dataset) -> list[FeatureSet]:
        """Every part of the features of a data set. Raises IntegrityError, which lists them, for missing and others'.

        Parts of another listing, other features, or another count are others'.
        """
        count = self._count()
        parts = [Part(number, count) for number in range(1, count + 1)]
        found: list[FeatureSet] = []
        wrong: dict[str, list[int]] = {}  # what is wrong -> numbers of parts
        for part in parts:
            one = self._read(part, pipeline, dataset)
            if isinstance(one, str):
                wrong.setdefault(one, []).append(part.number)
            else:
                found.append(one)
        if wrong:
            shown = "; ".join(f"{why}: {_numbers(numbers)}" for why, numbers in wrong.items())
            raise IntegrityError(
                f"{sum(map(len, wrong.values()))} of {counted(count, 'shard')} cannot be put together; {shown}",
                file=self.out,
                fix=f"Run the same command with --shard I/{count} for these I, then with --merge again.",
            )
        return found

    def _count(self) -> int:
        """How many parts there are to be. Raises IntegrityError for none, and for those of several counts."""
        pattern = re.compile(re.escape(self.out.stem) + r"\.shard-(\d+)-of-(\d+)\.(npz|json)")
        names = sorted(os.listdir(self.out.parent)) if self.out.parent.is_dir() else []
        parts = sorted({(int(one[2]), int(one[1])) for one in map(pattern.fullmatch, names) if one is not None})
        counts = sorted({count for count, _ in parts})
        if not counts:
            raise IntegrityError(
                "no shard of it is there", file=self.out, fix="Write them with --shard 1/N to --shard N/N."
            )
        if len(counts) > 1:
            shown = "; ".join(
                f"of {count}: {_numbers([number for of, number in parts if of == count])}" for count in counts
            )
            raise IntegrityError(
                f"its shards are of several counts; {shown}",
                file=self.out,
                fix=f"Remove those that do not belong here, such as {self.place(Part(parts[0][1], parts[0][0])).name}.",
            )
        return counts[0]

    def _read(self, part: Part, pipeline: Pipeline, dataset: Dataset) -> FeatureSet | str:
        """The features of a part with their report; or what is wrong with it."""
        path = self.place(part)
        try:
            facts: dict[str, Any] = json_of(path.with_suffix(".json").read_bytes())
            if not path.is_file():
                return "missing"
            if facts["schema"] != _SCHEMA or facts["shard"] != [part.number, part.count]:
                return "damaged"
            if facts["fingerprint"] != pipeline.fingerprint:
                return "of other features (another fingerprint)"
            if facts["listing"] != dataset.digest:
                return "of another listing of images"
            if facts["sha256"] != sha256_of(path):
                return "damaged"
            skipped = [{key: one[key] for key in SKIPPED} for one in facts["report"]["skipped"]]  # JSON sorts them
            features, report = FeatureSet.load(path, unlabelled=True), Report(**{**facts["report"], "skipped": skipped})
        except FileNotFoundError:
            return "missing"
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            refuse_out_of_memory(error, "reading a shard")
            return "damaged"
        if len(features) + len(report.skipped) != len(part.rows(len(dataset))):
            return "damaged"
        return dataclasses.replace(features, report=report)


def _numbers(numbers: Sequence[int]) -> str:
    """`1-3, 7` for 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
