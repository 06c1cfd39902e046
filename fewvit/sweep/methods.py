"""From the names of a configuration to methods of evaluations."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..errors import UnknownName, UsageError
from .cells import Cell
from .evaluations.episodes import EpisodesEvaluation
from .evaluations.evaluation import Evaluation
from .evaluations.finetune import FinetuneEvaluation
from .evaluations.knn import KNNEvaluation
from .evaluations.linear import LinearEvaluation
from .evaluations.lowshot import LowShotEvaluation
from .evaluations.retrieval import RetrievalEvaluation
from .settings import MethodSetting


@functools.cache
def evaluations() -> dict[str, Evaluation]:
    """Every evaluation by its name."""

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


def methods_named(text: str, options: Mapping[str, Any], label: str, *, few: bool = False) -> list[MethodSetting]:
    """What a name of `methods` means: an evaluation's defaults, `EVALUATION.NAME`, or a name that one of them has.

    `few`: a few labels are asked for. Raises UnknownName, and UsageError for a name that several have, or options of
    several methods.
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
        if few and known[first].beside and not (options or label):
            found += methods_named(known[first].beside, options, label)
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
