"""What every evaluation offers, and what a cell of it is run with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...datasets import Listing
from ...errors import UnknownName, UsageError
from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader
from ...options import Setting
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

    @property
    def beside(self) -> str:
        """Another method that its name alone also stands for where a few labels are asked for; empty: none."""

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


def chosen(method: MethodSetting, known: Sequence[str], taken: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The options of a method, each through `taken`. Raises UnknownName for one that is not `known`."""
    for name in method.options:
        if name not in known:
            raise UnknownName(f"option of {method.shown}", name, known)
    return {name: taken(name, value) for name, value in method.options.items()}


def settings_given(method: MethodSetting, but: Collection[str] = ()) -> list[Setting]:
    """The options of a method as --set has them, without those that are flags of their own."""
    words = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in method.options.items()
    }
    return [Setting("", name, word) for name, word in words.items() if name not in but]


def set_words(settings: Iterable[Setting]) -> list[str]:
    """What a command line says of them."""
    return [word for one in settings for word in ("--set", f"{one.name}={one.value}")]


def numbers_of(name: str, value: Any) -> list[float]:
    """A number, or several. Raises UsageError."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in found):
        raise UsageError(f"{name} = {value!r} is not a number or a list of numbers")
    return found


def require_whole(options: Mapping[str, Any], names: Sequence[str], least: int = 1) -> None:
    """Raise UsageError where one of these options is no whole number from `least` on, or has one in its list."""
    for name in names:
        values = options.get(name, least)
        for value in values if isinstance(values, list | tuple) else [values]:
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name} = {value!r} is not a whole number from {least} on")


def listed(values: Sequence[float]) -> str:
    """Numbers as a command takes them, with all of their digits."""
    return ",".join(map(str, values))
