"""N-way K-shot episodes drawn from the test side, as `fewvit episodes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ... import plugins
from ...errors import UsageError
from ...evaluate.details import Details
from ...evaluate.episodes import EpisodeOptions, check_options, run_episodes
from ...evaluate.inputs import FeatureReader
from ...options import settings_for
from ...results import Result
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig
from .collected import Collected
from .evaluation import Surroundings, set_words, settings_given

_DRAWN = ("ways", "queries")  # options that say what an episode is; the others are the classifier's


class EpisodesEvaluation:
    """A cell for each number of shots."""

    task = ""
    defaults = ("centroid",)
    beside = ""

    @staticmethod
    def methods() -> Sequence[str]:
        """Every classifier; `check` refuses those that work on more than features."""
        return plugins.names("classifiers")

    @staticmethod
    def check(method: MethodSetting) -> None:
        """`ways`, `queries`, and the classifier's own options."""
        check_options(_options(method, 1, 1, 0))

    @staticmethod
    def scopes(config: SweepConfig) -> Iterator[Scope]:
        """Shots; one of them where none is asked for, as the command does."""
        for shots in config.shots or (1,):
            yield Scope(shots=shots, episodes=config.episodes)

    @staticmethod
    def unsuited(method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """Every backbone on any data."""
        return ""

    @staticmethod
    def command(cell: Cell) -> str:
        """fewvit episodes --classifier … --shots … --episodes …, of the test side"""
        options, scope = cell.method.options, cell.scope
        given = set_words(settings_given(cell.method, _DRAWN))
        drawn = [word for name in _DRAWN if name in options for word in ("--" + name, str(options[name]))]
        own = ("--classifier", cell.method.name.replace("_", "-"), *given, *drawn)
        much = ("--shots", str(scope.shots), "--episodes", str(scope.episodes))
        return cell.spelled("episodes", *own, *much, data=("--data", cell.data.sides[1]))

    @staticmethod
    def run(cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """As `fewvit episodes` of the test side: the classes that nothing is learnt from."""
        options = _options(cell.method, cell.scope.shots or 1, cell.scope.episodes or 1, cell.seed)
        kept, source = Collected(), around.given.sides()[1]
        rows, facts = run_episodes(reader, source, around.listing, options, around.notify, kept.skipped, kept.keep)
        return Result("episodes", rows, facts), kept.details


def _options(method: MethodSetting, shots: int, episodes: int, seed: int) -> EpisodeOptions:
    for name in _DRAWN:
        value = method.options.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{name} = {value!r} is not a whole number")
    drawn: dict[str, Any] = {name: method.options[name] for name in _DRAWN if name in method.options}
    settings = settings_for("classifiers", [method.name], settings_given(method, _DRAWN))
    return EpisodeOptions(shots=(shots,), episodes=episodes, settings=settings, seed=seed, **drawn)
