"""Classifiers on frozen features: one file each, in scikit-learn's style.

`fit(X, y)`, `predict`, `predict_proba`, `classes_`.

What else an evaluation wants to know of one it declares, as attributes of its class: `Traits`. What a protocol gives it
stands with the protocol, in `backbones/NAME.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import plugins

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def _one_by_one(estimators: Sequence[Any], sets: Sequence[tuple[ArrayLike, ArrayLike]]) -> None:
    for estimator, (X, y) in zip(estimators, sets, strict=True):
        estimator.fit(X, y)


def _as_they_are(rows: int) -> Mapping[str, Any]:
    return {}


def _nothing_chosen(estimators: Sequence[object], shots: str) -> str:
    return ""


def _always(options: Mapping[str, Any]) -> None:
    return


@dataclass(frozen=True)
class Traits:
    """What a classifier declares of itself by class attributes of these names.

    One that says nothing, as scikit-learn's do, has these.
    """

    needs: str = "features"  # (N, D), one row per image; or tokens (N, T, D)
    extra: str = ""  # of `pip install 'fewvit[extra]'`, whose package it needs
    # raises MissingExtra, Unobtainable where it cannot work here with these options: asked before features are made
    ready: Callable[[Mapping[str, Any]], None] = _always
    transductive: bool = False  # whether the rows of one `predict_proba` inform each other
    keeps: str = "state"  # what a bundle stores: what it learnt, or `support`: the rows themselves, to fit it on again
    grows: bool = False  # whether `add(X, y)` takes more rows and classes
    batched: bool = (
        False  # whether `probabilities(support, labels, queries, n_classes)` classifies many episodes at once
    )
    # its option that --lambd means; once fitted, its value is in NAME_ and where it came from in `why_`
    penalty: str = ""
    default_penalty_of: str = ""  # whose the penalty is where a protocol has none
    facts: Mapping[str, str] = field(default_factory=dict)  # name in a run's manifest -> the fitted attribute
    # options for so many rows, where they were not given
    suited: Callable[[int], Mapping[str, Any]] = _as_they_are
    # each estimator on its own (X, y)
    fit_together: Callable[[Sequence[Any], Sequence[tuple[ArrayLike, ArrayLike]]], None] = _one_by_one
    # a line on what fits of as many images, called so, came to
    summary: Callable[[Sequence[Any], str], str] = _nothing_chosen


def classifiers() -> dict[str, type]:
    """Every classifier's class by name, in the order of names."""
    return {name: plugins.find("classifiers", name) for name in plugins.names("classifiers")}


def traits_of(classifier: object) -> Traits:
    """What a classifier, its class or an estimator, declares of itself."""
    names = [one.name for one in dataclasses.fields(Traits)]
    return Traits(**{name: getattr(classifier, name) for name in names if hasattr(classifier, name)})
