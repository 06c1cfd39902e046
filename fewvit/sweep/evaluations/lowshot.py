"""Classifiers on a few labelled images per class, as `fewvit lowshot`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from ... import plugins
from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader
from ...evaluate.lowshot import run_lowshot
from ...evaluate.lowshot_options import CLASSIFIERS, LowShotOptions
from ...options import settings_for
from ...results import Result
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig
from .collected import Collected
from .evaluation import Surroundings, set_words, settings_given

_LAST_BLOCK = "last_block"


class LowShotEvaluation:
    """A cell for each number of shots and each percentage; its trials are drawn together."""

    task = "lowshot"
    defaults = CLASSIFIERS
    beside = ""

    @staticmethod
    def methods() -> Sequence[str]:
        """Every classifier, and the last block."""
        return (*plugins.names("classifiers"), _LAST_BLOCK)

    @staticmethod
    def check(method: MethodSetting) -> None:
        """The classifier's own options."""
        if method.name != _LAST_BLOCK:
            settings_for("classifiers", [method.name], settings_given(method))

    @staticmethod
    def scopes(config: SweepConfig) -> Iterator[Scope]:
        """Shots, then percentages, then lists."""
        for shots in config.shots:
            yield Scope(shots=shots, trials=config.trials)
        for percent in config.percent:
            yield Scope(percent=percent, trials=config.trials)
        if config.subsets:  # together: lists of as many images are trials of one another
            yield Scope(subsets=tuple(config.subsets))

    @staticmethod
    def unsuited(method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """The last block is trained on images."""
        is_last_block = method.name == _LAST_BLOCK
        return (
            "the last block is trained on images, and features were given" if is_last_block and backbone is None else ""
        )

    @staticmethod
    def command(cell: Cell) -> str:
        """fewvit lowshot --classifier … --shots … --trials …"""
        given = set_words(settings_given(cell.method))
        classifier = ("--classifier", cell.method.name.replace("_", "-"))
        return cell.spelled("lowshot", *classifier, *given, *_amount(cell.scope))

    @staticmethod
    def run(cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """As `fewvit lowshot` with one classifier."""
        method, scope = cell.method, cell.scope
        is_last_block = method.name == _LAST_BLOCK
        options = LowShotOptions(
            shots=(scope.shots,) if scope.shots is not None else (),
            percents=(scope.percent,) if scope.percent is not None else (),
            trials=scope.trials or 1,
            subsets=[one.path for one in scope.subsets],
            settings={} if is_last_block else settings_for("classifiers", [method.name], settings_given(method)),
            protocol=reader.options.protocol or "",
            device=reader.options.device,
            seed=cell.seed,
        )
        tuner_of: Any = None
        if is_last_block:
            from ...finetune.last_block import last_blocks

            tuner_of = functools.partial(last_blocks, settings=settings_given(method), reader=reader, seed=cell.seed)
        kept = Collected()
        rows, facts = run_lowshot(reader, around.given, options, around.notify, kept.skipped, tuner_of, kept.keep)
        return Result("lowshot", rows, facts), kept.details


def _amount(scope: Scope) -> list[str]:
    """How many images are labelled, as options of the command."""
    if scope.subsets:
        return [word for one in scope.subsets for word in ("--subset", one.path)]
    much = ["--shots", str(scope.shots)] if scope.shots is not None else ["--percent", str(scope.percent)]
    return [*much, "--trials", str(scope.trials)]
