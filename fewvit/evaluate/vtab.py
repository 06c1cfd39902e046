"""VTAB-1k: on each set a classifier's penalty is chosen on 800 and 200 images, fitted on all 1000, and tested once.

Source: Zhai et al. 2019, section 4: hyper-parameters by the 800/200 split, then all 1000 images, mean top-1 over the
nineteen sets. Papers after it report the mean over the means of its three groups, which is another number: both are
given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..classifiers.logistic import GRID
from ..datasets import Dataset, Listing, open_dataset
from ..errors import DataError, UnknownName, UsageError, counted, some
from ..features import FeatureSet
from ..labels import require_classes
from ..plugins import find
from ..public_sets.vtab import GROUPS
from ..results import Facts, Row, manifest
from ..sources import Given, Notify, without_repeats
from .evaluation import evaluate_estimator
from .inputs import FeatureReader, Found, Inputs, measured, unfit

# classifier -> its penalty, and the values that are tried, in order
PENALTIES: Mapping[str, tuple[str, Sequence[float]]] = {
    "logistic": ("lambd", tuple(sorted(GRID, reverse=True))),
    "ridge": ("alpha", tuple(10.0 ** (half / 2) for half in range(6, -9, -1))),
}
_GROUP_OF = {name: group for group, sets in GROUPS.items() for name in sets}
SETS = tuple(_GROUP_OF)
_WHOSE = ("backbone", "weights", "weights_sha256", "method")  # columns that say what a mean is of


@dataclass(frozen=True)
class Chosen:
    """One classifier on one set."""

    top1: float  # percent, of the test images
    held_out: float  # percent, of the 200 images that the penalty was chosen by
    penalty: float


def run_vtab(
    reader: FeatureReader,
    folder: str,
    sets: Sequence[str],
    classifiers: Sequence[str],
    listing: Listing,
    notify: Notify,
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Found:
    """Rows of every set, backbone and classifier, then their means; and the run's manifest.

    `sets`: those asked for; empty: all that are there. Raises UnknownName for a set or classifier that is none,
    DataError where none is there or one that was asked for is not, and for lists that do not belong together.
    """
    check_classifiers(classifiers)
    classifiers = without_repeats(classifiers, "--classifier", notify)
    names = _there(folder, sets, notify)
    places = {name: f"vtab:{os.path.join(folder, name)}" for name in names}
    held = {name: _held_out(place, listing) for name, place in places.items()}  # all lists are read before any image
    rows: list[Row] = []
    runs: Facts = {}
    for name, place in places.items():
        sources = reader.pair(Given(train=f"{place}@train800val200", test=f"{place}@test", listing=listing))

        def measure(inputs: Inputs, backbone: str, ids: frozenset[str] = held[name]) -> Found:
            return _measured(inputs, ids, classifiers), {}

        found, facts = measured(reader, sources, measure, report_skipped, reader.backbones.seed)
        rows += [{"dataset": row["dataset"], "group": _GROUP_OF[name], **row} for row in found]
        runs[name] = {key: value for key, value in facts.items() if key not in manifest()}
    return [*rows, *means(rows)], manifest(evaluation="vtab/1", sets=runs, seed=reader.backbones.seed)


def check_classifiers(classifiers: Sequence[str]) -> None:
    """Raise UsageError for none, UnknownName for one whose penalty is not among those that can be chosen."""
    if not classifiers:
        raise UsageError("no classifier", fix=f"Give --classifier {','.join(PENALTIES)}, or one of them.")
    for name in classifiers:
        if name not in PENALTIES:
            raise UnknownName("classifier of VTAB", name, PENALTIES)


def _there(folder: str, asked: Sequence[str], notify: Notify) -> list[str]:
    """The sets to evaluate, in their order. Says which of the nineteen are missing."""
    for name in asked:
        if name not in SETS:
            raise UnknownName("set of VTAB", name, SETS)
    there = [name for name in SETS if os.path.isfile(os.path.join(folder, name, "test.txt"))]
    missing = [name for name in asked if name not in there]
    if missing or not there:
        raise DataError(
            f"{some(missing)} not there" if missing else "none of VTAB's nineteen sets is there",
            file=folder,
            fix="`fewvit data fetch vtab` tells what goes where.",
        )
    asked = without_repeats(asked, "--sets", notify)
    left = [name for name in SETS if name not in there]
    if left and not asked:
        notify(f"{len(left)} of {len(SETS)} sets are not there, and in no mean: {some(left, len(SETS))}")
    return [name for name in there if not asked or name in asked]


def _held_out(place: str, listing: Listing) -> frozenset[str]:
    """The ids of the images that the penalty is chosen by. Raises DataError where the lists do not add up."""
    first, second, both = (
        open_dataset(f"{place}@{part}", listing) for part in ("train800", "val200", "train800val200")
    )
    if shared := set(first.ids) & set(second.ids):
        raise DataError(
            f"train800 and val200 share {counted(len(shared), 'image')}: {some(sorted(shared))}", file=place
        )
    labelled = [_labelled(one) for one in (first, second, both)]
    if {**labelled[0], **labelled[1]} != labelled[2]:
        raise DataError(
            "train800val200 is not train800 and val200 together, with the same labels",
            file=place,
            fix="Take the three lists of one source.",
        )
    return frozenset(second.ids)


def _labelled(dataset: Dataset) -> dict[str, str]:
    return {name: dataset.classes[label] for name, label in zip(dataset.ids, dataset.labels.tolist(), strict=True)}


def _measured(inputs: Inputs, held: frozenset[str], classifiers: Sequence[str]) -> list[Row]:
    """A row for each classifier on one set."""
    train, test = inputs.train, inputs.test
    if test is None:
        raise UsageError("VTAB needs test images")
    require_classes(train)
    train.require_finite()
    test.require_finite()
    rows = []
    for name in classifiers:
        chosen = choose_and_test(name, train, test, held)
        rows.append(
            {
                "method": name,
                "metric": "top1",
                "value": chosen.top1,
                "penalty": chosen.penalty,
                "held_out_top1": chosen.held_out,
                "n_train": len(train),
                "n_test": len(test),
            }
        )
    return rows


def choose_and_test(classifier: str, train: FeatureSet, test: FeatureSet, held: frozenset[str]) -> Chosen:
    """Top-1 of a classifier whose penalty was chosen on the rows of `train` whose ids are `held`, fitted on the others.

    Of penalties that do equally well it is the middle one: the strongest of them leaves no room for a class that has
    few images. Test labels are read once, when all is chosen. Raises UsageError for rows that it cannot be fitted on.
    """
    mask = np.array([name in held for name in train.ids])
    others, by = train.select(np.flatnonzero(~mask)), train.select(np.flatnonzero(mask))
    option, values = PENALTIES[classifier]
    found = [_top1(_fitted(classifier, {option: value}, others), by) for value in values]
    alike = np.flatnonzero(np.array(found) == max(found))
    best = int(alike[len(alike) // 2])
    final = _fitted(classifier, {option: values[best]}, train)
    return Chosen(_top1(final, test), found[best], float(values[best]))


def _fitted(classifier: str, options: Mapping[str, Any], rows: FeatureSet) -> Any:
    try:
        return find("classifiers", classifier)(**options).fit(rows.features, rows.labels)
    except ValueError as error:
        raise unfit(classifier, error) from error


def _top1(estimator: Any, rows: FeatureSet) -> float:
    return evaluate_estimator(estimator, rows, 1.0).metrics(rows)["top1"]


def means(rows: Sequence[Row]) -> list[Row]:
    """For each backbone and classifier: the mean of each group, over the sets, and over the groups' means.

    A backbone is its name and its weights: files in two folders may bear one name. A mean of fewer sets than there are
    says so in its `group`; a set counts once. Where a group has no set there is no mean of groups.
    """
    found: list[Row] = []
    of_each: dict[tuple[object, ...], dict[object, Row]] = {}  # a backbone and a classifier -> set -> its row
    for row in rows:
        of_each.setdefault(tuple(row.get(key) for key in _WHOSE), {}).setdefault(row["dataset"], row)
    for mine in map(list, map(dict.values, of_each.values())):
        whose: Row = {key: mine[0][key] for key in _WHOSE if key in mine[0]}
        columns: Row = {"dataset": "vtab", "group": "", **whose, "metric": "top1"}
        of_groups = []
        for group, sets in GROUPS.items():
            values = [row["value"] for row in mine if row["group"] == group]
            if values:
                of_groups.append(float(np.mean(values)))
                told = f"mean of {group}{_fewer(len(values), len(sets))}"
                found.append({**columns, "group": told, "value": of_groups[-1], "sets": len(values)})
        fewer = _fewer(len(mine), len(SETS))
        mean = float(np.mean([row["value"] for row in mine]))
        found.append({**columns, "group": f"mean of sets{fewer}", "value": mean, "sets": len(mine)})
        if len(of_groups) == len(GROUPS):
            mean = float(np.mean(of_groups))
            found.append({**columns, "group": f"mean of groups{fewer}", "value": mean, "sets": len(mine)})
    return found


def _fewer(there: int, of: int) -> str:
    return "" if there == of else f", {there} of {of}"
