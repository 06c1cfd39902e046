"""k-NN with all of the training images, as `fewvit knn`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ...backbones import TEMPERATURE
from ...errors import UsageError
from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader
from ...evaluate.knn import KNNOptions, run_knn
from ...results import Result
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig
from .collected import Collected
from .evaluation import Surroundings, chosen, listed, numbers_of, require_whole

_OPTIONS = ("k", "temperature")


class KNNEvaluation:
    """One cell for each backbone and data set: several k are one search."""

    task = ""
    defaults = ("knn",)
    beside = "lowshot.knn"

    @staticmethod
    def methods() -> Sequence[str]:
        """One."""
        return ("knn",)

    @staticmethod
    def check(method: MethodSetting) -> None:
        """`k` and `temperature`, each a number or several."""
        require_whole(method.options, ("k",))
        for value in _options(method).get("temperature", ()):
            if not 0 < value < math.inf:  # nor NaN
                raise UsageError(f"temperature = {value!r} is not a number above 0")

    @staticmethod
    def scopes(config: SweepConfig) -> Iterator[Scope]:
        """Shots are lowshot.knn's."""
        yield Scope()

    @staticmethod
    def unsuited(method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """Every backbone on any data."""
        return ""

    @staticmethod
    def command(cell: Cell) -> str:
        """fewvit knn --k … --temperature …"""
        given = _options(cell.method).items()
        return cell.spelled("knn", *(word for name, value in given for word in ("--" + name, listed(value))))

    @staticmethod
    def run(cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """As `fewvit knn`."""
        found = _options(cell.method)
        options = KNNOptions(
            [int(k) for k in found.get("k", [])] or None,
            found.get("temperature", (TEMPERATURE,)),
            device=reader.options.device,
        )
        kept = Collected()
        rows, facts = run_knn(reader, around.given, options, around.notify, kept.skipped, kept.keep)
        return Result("knn", rows, facts), kept.details


def _options(method: MethodSetting) -> dict[str, Any]:
    return chosen(method, _OPTIONS, numbers_of)
