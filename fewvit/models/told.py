"""What a bare weights file does not say and a user, or a file beside it, can: heads, grid, statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import Architecture
from ..errors import UsageError

RGB = tuple[float, float, float]
_FLAGS = ("heads", "grid", "mean", "std")


@dataclass(frozen=True)
class Told:
    """Corrections of what a bare file is taken for; None: nothing was said."""

    heads: int | None = None
    grid: tuple[int, int] | None = None  # rows and columns of the position table
    mean: RGB | None = None  # of pixels / 255, per channel
    std: RGB | None = None
    family: str | None = None  # as a file beside it said
    recorded: bool = False  # settled when features were first made of it: nothing is announced or asked again
    protocol: str | None = None  # what is asked of its features: for the announcement alone
    pool: str | None = None

    @staticmethod
    def of(heads: Any = None, grid: Any = None, mean: Any = None, std: Any = None) -> Told:
        """From the flags' texts, TOML's values or Python's tuples. Raises UsageError, naming the flag."""
        return Told(_heads(heads), _grid(grid), _channels("--mean", mean), _channels("--std", std))

    @staticmethod
    def of_record(record: Mapping[str, Any] | None) -> Told:
        """From what `facts` gave, when features were made. Raises UsageError for other things."""
        values = dict(record or {})
        family = values.pop("family", None)
        if not set(values) <= set(_FLAGS) or not isinstance(family, str | None):
            raise UsageError(f"{dict(record or {})!r} does not say how a weights file is read")
        return dataclasses.replace(Told.of(**values), family=family, recorded=True)

    @property
    def facts(self) -> dict[str, Any]:
        """What was said, as JSON."""
        values = {name: getattr(self, name) for name in (*_FLAGS, "family")}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None}

    @property
    def statistics(self) -> dict[str, RGB]:
        """Fields of `Preprocess` that were said."""
        return {name: value for name, value in (("mean", self.mean), ("std", self.std)) if value is not None}

    def over(self, other: Told) -> Told:
        """This, and what `other` says where this says nothing."""
        said = {name: getattr(self, name) for name in (*_FLAGS, "family")}
        return Told(**{name: getattr(other, name) if value is None else value for name, value in said.items()})

    def refuse_for(self, name: str) -> None:
        """Raise UsageError where something was said of a backbone that needs no telling."""
        flags = [f"--{one}" for one in _FLAGS if getattr(self, one) is not None]
        if flags:
            raise UsageError(
                f"{' and '.join(flags)}: nothing of {name} is open, its heads, positions and statistics are known",
                fix="--heads, --grid, --mean and --std say what a bare weights file does not.",
            )

    def applied(self, architecture: Architecture, file: Path, *, source: str = "") -> Architecture:
        """The architecture with heads and grid as told.

        Raises UsageError where the file's shapes contradict; `source` is who said it, if no flag did.
        """
        heads, grid = self.heads or architecture.heads, self.grid or architecture.table
        for flag, why in architecture.settled.items():
            said = getattr(self, flag)
            if said is not None and (flag != "heads" or said != architecture.heads):
                raise UsageError(f"{source or f'--{flag}'} {_shown(said, 'x')}: {why}", file=file)
        if self.heads and architecture.width % self.heads:
            raise UsageError(
                f"{source or '--heads'} {self.heads} does not divide the width {architecture.width} of its tensors",
                file=file,
            )
        if self.heads and architecture.is_rotary and architecture.width // self.heads % 4:
            raise UsageError(
                f"{source or '--heads'} {self.heads}: heads of rotary positions have a multiple of four channels, and "
                f"these would have {architecture.width // self.heads}",
                file=file,
            )
        if self.grid and grid[0] * grid[1] != architecture.cells:
            raise UsageError(
                f"{source or '--grid'} {grid[0]}x{grid[1]} is {grid[0] * grid[1]} positions, and the file's table "
                f"has {architecture.cells}",
                file=file,
            )
        return dataclasses.replace(architecture, heads=heads, grid=grid)


NOTHING = Told()


def shown(value: Any) -> str:
    """A value of `Told.facts` as its flag spells it."""
    pair = isinstance(value, list) and len(value) == 2
    return _shown(value, "x" if pair else ",") if isinstance(value, list) else str(value)


def _heads(value: Any) -> int | None:
    text = str(value)
    if value is None:
        return None
    if isinstance(value, bool) or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--heads {text!r} is no number of heads", fix="Give a whole number, such as --heads 12.")
    return int(text)


def _grid(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    parts = _parts(value, "x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"--grid {_shown(value, 'x')!r} is not HxW", fix="Give rows and columns of patches, as --grid 7x28."
        )
    return int(parts[0]), int(parts[1])


def _channels(flag: str, value: Any) -> RGB | None:
    if value is None:
        return None
    parts = _parts(value, ",")
    example = "0.485,0.456,0.406" if flag == "--mean" else "0.229,0.224,0.225"
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    low = 0.0 if flag == "--mean" else 1e-6
    if len(numbers) != 3 or not all(low <= number <= 1 for number in numbers):
        raise UsageError(
            f"{flag} {_shown(value, ',')!r} is not three numbers R,G,B of pixels between 0 and 1",
            fix=f"Such as {flag} {example}, which are ImageNet's; those of pixels up to 255 are divided by 255.",
        )
    return numbers[0], numbers[1], numbers[2]


def _parts(value: Any, between: str) -> list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(part) for part in value]
    return [part.strip() for part in str(value).lower().split(between)]


def _shown(value: Any, between: str) -> str:
    return between.join(_parts(value, between))
