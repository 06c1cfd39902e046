"""What a sweep can measure: one file for each evaluation, which says what its cells are and runs one.

The numbers of a cell are those of the command that its words spell: each evaluation calls what its command calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...datasets import Listing
from ...errors import UnknownName, UsageError
from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader
from ...results import Result
from ...sources import Given
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig


@dataclass(frozen=True)
class Surroundings:
    """What a cell is run with besides its reader; nothing here changes its numbers."""

    given: Given
    runs: Path  # a folder for what trains; its content may go when the cell is kept
    notify: Callable[[str], None]
    workers: int | None = None

    @property
    def listing(self) -> Listing:
        """How folders are listed."""
        return self.given.listing


class Stopped(BaseException):
    """A signal ended a training; what it had done is kept."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Evaluation(Protocol):
    """What a file here offers."""

    @property
    def task(self) -> str:
        """Whose transform a protocol takes, as in `pipeline.settle`."""

    @property
    def defaults(self) -> Sequence[str]:
        """The methods that its name alone stands for."""

    def methods(self) -> Sequence[str]:
        """The methods that it can be asked for."""

    def check(self, method: MethodSetting) -> None:
        """Raise UsageError, UnknownName for options that the method does not have."""

    def scopes(self, config: SweepConfig) -> Iterator[Scope]:
        """How much is measured of each method: a cell for each."""

    def unsuited(self, method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """Why there is no such cell; empty where there is one. `backbone` is None where features are given."""

    def command(self, cell: Cell) -> str:
        """What gives the same result on the command line."""

    def run(self, cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """What the command gives, and what was found image by image."""


@functools.cache
def evaluations() -> dict[str, Evaluation]:
    """Every evaluation by its name."""
    from .episodes import EpisodesEvaluation
    from .finetune import FinetuneEvaluation
    from .knn import KNNEvaluation
    from .linear import LinearEvaluation
    from .lowshot import LowShotEvaluation
    from .retrieval import RetrievalEvaluation

    return {
        "knn": KNNEvaluation(),
        "lowshot": LowShotEvaluation(),
        "linear": LinearEvaluation(),
        "episodes": EpisodesEvaluation(),
        "finetune": FinetuneEvaluation(),
        "retrieval": RetrievalEvaluation(),
    }


def evaluation_of(cell: Cell) -> Evaluation:
    """The evaluation that a cell is one of."""
    return evaluations()[cell.method.evaluation]


def methods_named(text: str, options: Mapping[str, Any], label: str) -> list[MethodSetting]:
    """What a name of `methods` means: an evaluation's defaults, `EVALUATION.NAME`, or a name that one of them has.

    Raises UnknownName, and UsageError for a name that several have, or options of several methods.
    """
    known = evaluations()
    name = text.strip().replace("-", "_")
    first, _, second = name.partition(".")
    if second:
        if first not in known:
            raise UnknownName("evaluation", first, known)
        if second not in known[first].methods():
            raise UnknownName(f"method of {first}", second, known[first].methods())
        found = [MethodSetting(first, second, options, label, _is_plain(first, second))]
    elif first in known:
        found = [MethodSetting(first, one, options, label, _is_plain(first, one)) for one in known[first].defaults]
    else:
        having = [one for one, evaluation in known.items() if first in evaluation.methods()]
        if not having:
            names = {one for evaluation in known.values() for one in evaluation.methods()}
            raise UnknownName("method", text, sorted({*known, *names}))
        # classifiers are low-shot's first of all, episodes take them too
        if (len(having) > 1 and having[0] != "lowshot") or {"lowshot", "finetune"} <= set(having):
            shown = " and ".join(f"{one}.{first}" for one in having)
            raise UsageError(f"{text} is a method of several evaluations: {shown}", fix="Say which is meant.")
        found = [MethodSetting(having[0], first, options, label)]
    if len(found) > 1 and (options or label):
        raise UsageError(f"{text} stands for {len(found)} methods, so it has no options or label of its own")
    for method in found:
        known[method.evaluation].check(method)
    return found


def _is_plain(evaluation: str, name: str) -> bool:
    """Whether a method's name alone says which evaluation is meant: its own, or for classifiers low-shot."""
    return evaluation == name or (evaluation == "lowshot" and name not in evaluations())


def chosen(method: MethodSetting, known: Sequence[str], taken: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The options of a method, each through `taken`. Raises UnknownName for one that is not `known`."""
    for name in method.options:
        if name not in known:
            raise UnknownName(f"option of {method.shown}", name, known)
    return {name: taken(name, value) for name, value in method.options.items()}


def numbers_of(name: str, value: Any) -> list[float]:
    """A number, or several. Raises UsageError."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in found):
        raise UsageError(f"{name} = {value!r} is not a number or a list of numbers")
    return found


def listed(values: Sequence[float]) -> str:
    """Numbers as a command takes them."""
    return ",".join(f"{value:g}" for value in values)
