"""A bare weights file as a backbone: what it is taken for, which of that is assumed, in one line for the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..backbones import COMPUTED, ROTARY, Architecture, Family, Protocol, families
from ..errors import CheckpointError, UsageError
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD
from .beside import CONFIG, Beside, beside
from .files import Inspected, inspect_file
from .spec import Access, BackboneSpec
from .told import NOTHING, RGB, Told

if TYPE_CHECKING:
    from ..digests import DigestMemory

UNKNOWN = "unknown"
_BY_NAME, _BY_LAYOUT = "by the file's name", "by its layout"


def resolve_bare(
    file: Path,
    access: Access,
    memory: DigestMemory,
    *,
    checkpoint_key: str | None = None,
    family: str | None = None,
    told: Told = NOTHING,
    name: str | None = None,
) -> BackboneSpec:
    """The spec of a bare file, announced once, called `name` or as the file.

    Raises UsageError where something told contradicts its shapes, or where its statistics are open.
    """
    taken = taken_for(file, access, memory, checkpoint_key=checkpoint_key, family=family, told=told, name=name)
    if not told.recorded:
        access.announce(taken.line)
        taken.require_settled()
    return taken.spec


@dataclass(frozen=True)
class Taken:
    """What a bare file is taken for, and by whose word."""

    spec: BackboneSpec
    inspected: Inspected
    family_by: str  # how the family is known: a flag, a file, its layout; empty: it is assumed
    asked: Told  # by flags
    beside: Told  # by files beside it
    statistics_file: str  # which of these says mean and std
    license_by: str  # whose word the licence is; empty: it is not known
    is_open: bool  # several origins with different statistics, and nothing says which
    note: str = ""

    @property
    def kind(self) -> type[Family]:
        """The family's class."""
        return families()[self.spec.family]

    @property
    def _heads(self) -> str:
        by = "--heads" if self.asked.heads else CONFIG if self.beside.heads else "assumed; --heads"
        if self.spec.architecture.positions == ROTARY:
            by = "by its periods"
        return f"heads {self.spec.architecture.heads} ({by})"

    @property
    def _positions(self) -> str:
        own = self.spec.architecture
        if own.positions == COMPUTED:
            return (
                "positions rotary (the file has no periods, so they are computed in float32 as in transformers; those "
                "of official files are rounded, and move features by up to 0.02)"
            )
        if own.is_rotary:
            return "positions rotary"
        assumed = f"assumed from {own.cells}; --grid"
        by = "--grid" if self.asked.grid else CONFIG if self.beside.grid else assumed
        return f"positions {_by(own.table)} ({by})"

    @property
    def _statistics(self) -> str:
        mean, std = self.spec.preprocess.get("mean", IMAGENET_MEAN), self.spec.preprocess.get("std", IMAGENET_STD)
        imagenet = (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
        shown = "mean/std ImageNet" if imagenet else f"mean {_rgb(mean)} std {_rgb(std)}"
        if self.is_open:
            return "mean/std open (--mean --std, or --family)"
        told = [
            f"--{one}"
            if one in self.asked.statistics
            else self.statistics_file
            if one in self.beside.statistics
            else ""
            for one in ("mean", "std")
        ]
        by = " ".join(dict.fromkeys(one for one in told if one)) if all(told) else "assumed; --mean --std"
        return f"{shown} ({by})"

    @property
    def _readout(self) -> str:
        asked, protocol = self.asked, self._protocol
        if asked.protocol is not None and protocol.name != asked.protocol:  # of a pretraining method, or unknown
            return f"readout {asked.pool or 'its own'} (--protocol {asked.protocol})"
        mean_only = self.spec.architecture.final_norm == "fc_norm"
        pool = asked.pool or ("mean" if mean_only else protocol.pool)
        before = " before the final norm" if not mean_only and protocol.norm in ("none", "raw") else ""
        by = "--pool" if asked.pool else "" if asked.protocol else "--pool, --protocol"
        by_protocol = f"--protocol {protocol.name}" if asked.protocol else protocol.name
        return f"readout {pool}{before} ({'; '.join(one for one in (by_protocol, by) if one)})"

    @property
    def _protocol(self) -> Protocol:
        known = [one for family in families().values() for one in family.protocols]
        names = {one.name: one for one in known}
        return names.get(self.asked.protocol or "", names[self.spec.protocol])

    @property
    def facts(self) -> dict[str, str]:
        """What is assumed of it, and how each is said otherwise."""
        known = self.family_by in ("--family", CONFIG, _BY_LAYOUT)
        family = f"{self.spec.family} ({self.family_by or 'assumed'}{'' if known else '; --family'})"
        of_vit = {} if self.spec.architecture.stages else {"heads": self._heads, "positions": self._positions}
        return {
            "family": family,
            **of_vit,
            "statistics": self._statistics,
            "readout": self._readout,
            "licence": f"licence {self.spec.license}{self.license_by and f' ({self.license_by})'}",
        }

    @property
    def line(self) -> str:
        """All of it in one line."""
        place, own = self.inspected.place, self.spec.architecture
        facts = self.facts
        kind = "ConvNeXt" if own.stages else "ViT"
        where = f"the {kind} under {place} is " if place else ""
        what = f"{facts.pop('family')}, {kind} of width {own.width}, {own.depth} blocks, patch {own.patch}"
        return f"{self.spec.name}: {where}taken for {what}: {', '.join(facts.values())}{self.note}"

    def require_settled(self) -> None:
        """Raise UsageError where images would be normalised by a guess."""
        if self.is_open:
            only = [f"--{one}" for one in ("mean", "std") if one not in self.asked.statistics]
            if len(only) == 1:
                raise UsageError(
                    f"{only[0]} is missing: without it its images' mean and std are open", file=self.spec.file
                )
            raise UsageError(
                f"its images' mean and std are open: its layout is {self.spec.family}'s, and {self.kind.shared_with}",
                file=self.spec.file,
                fix=f"Say what it is: --family {self.spec.family}, or --mean R,G,B --std R,G,B (0.5,0.5,0.5 each for "
                "most of timm's).",
            )


def taken_for(
    file: Path,
    access: Access,
    memory: DigestMemory,
    *,
    checkpoint_key: str | None = None,
    family: str | None = None,
    told: Told = NOTHING,
    name: str | None = None,
    configured: Beside | None = None,
) -> Taken:
    """What a bare file is taken for, by what is `configured`, or stands beside it.

    Raises UsageError where something told contradicts its shapes.
    """
    found, note = configured, ""
    if told.recorded:
        found = None
    elif configured is None:
        found, note = beside(file)
    inspected, found, contradiction = _inspected(file, access, memory, checkpoint_key, family or told.family, found)
    said = _said(found, inspected.architecture, file) if found is not None else Told()
    note = note or (f"{CONFIG} beside it {contradiction}: not used" if contradiction else "")
    effective = told.over(said)
    architecture = _settled(effective.applied(inspected.architecture, file), effective, inspected, file)
    kind = families()[inspected.family]
    shown = inspected.shown or kind.shows_origin(file.name)
    named_family = family or effective.family
    is_open = not shown and not named_family and len(effective.statistics) < 2
    by_name = _BY_NAME if shown and not inspected.shown else ""
    is_called = bool(kind.called) and inspected.layout in kind.layouts
    by_name = _BY_NAME if is_called else by_name if kind.shared_with else _by_layout(kind)
    by = "--family" if family else CONFIG if effective.family else by_name
    if family and inspected.layout not in ("", inspected.family, *kind.layouts):
        note = f"{note}; " * bool(note) + f"its layout is {inspected.layout}'s"
    license_, license_by = found.license if found is not None else "", CONFIG
    if not license_:
        known = named_family or (shown and not inspected.place)
        license_, license_by = (kind.license, "assumed") if known else (UNKNOWN, "")
    spec = BackboneSpec(
        name=name or file.name,
        family=inspected.family,
        architecture=architecture,
        protocol=kind.protocol_of(architecture),
        weights_sha256=inspected.sha256,
        file=file,
        checkpoint_key=checkpoint_key,
        license=license_,
        preprocess={**kind.statistics, **effective.statistics},
        told=effective,
    )
    statistics_file = found.statistics_file if found is not None else ""
    return Taken(spec, inspected, by, told, said, statistics_file, license_by, is_open, f"; {note}" if note else "")


def _said(found: Beside, architecture: Architecture, file: Path) -> Told:
    """What stands beside a file says of it. Raises CheckpointError, naming what stands there, for impossible values."""
    try:
        return found.told(architecture)
    except UsageError as error:
        raise CheckpointError(
            f"what it says of heads or statistics is impossible ({error.what.replace('--', '')})",
            file=file.parent / found.statistics_file,
            fix="Correct it, or move it away and say what is right with --heads, --mean and --std.",
        ) from error


def _inspected(
    file: Path,
    access: Access,
    memory: DigestMemory,
    checkpoint_key: str | None,
    family: str | None,
    found: Beside | None,
) -> tuple[Inspected, Beside | None, str]:
    """The file, what beside it is of the same model, and how it is of another one if it is."""
    own = family or (found.family if found is not None else None)
    inspected = inspect_file(file, access, memory, checkpoint_key=checkpoint_key, family=own)
    if own is None and (called := _called(file, inspected.family)):
        inspected = inspect_file(file, access, memory, checkpoint_key=checkpoint_key, family=called)
    contradiction = found.contradiction(inspected.architecture) if found is not None else ""
    if not contradiction:
        return inspected, found, ""
    if own != family:
        inspected = inspect_file(file, access, memory, checkpoint_key=checkpoint_key, family=family)
    return inspected, None, contradiction


def _called(file: Path, layout: str) -> str | None:
    """The family that a file's name tells, where it has another one's layout."""
    name = file.name.lower()
    return next(
        (own for own, kind in families().items() if kind.called and kind.called in name and layout in kind.layouts),
        None,
    )


def _settled(architecture: Architecture, told: Told, inspected: Inspected, file: Path) -> Architecture:
    """The architecture, if heads and grid are known. Raises CheckpointError where they are not."""
    if architecture.stages:
        return architecture
    if not architecture.heads:
        raise CheckpointError(
            f"no {inspected.family} trunk: width {architecture.width} is not a multiple of the head size 64",
            file=file,
            fix="If it is a ViT with other heads, say how many: --heads N.",
        )
    if told.grid is None and architecture.table != (1, 1) and architecture.table[0] == 1:
        raise CheckpointError(
            f"no {inspected.family} trunk: a position table of {architecture.cells} patches is not square",
            file=file,
            fix="If it is of images that are no squares, say of how many rows and columns: --grid HxW.",
        )
    return architecture


def _by_layout(kind: type[Family]) -> str:
    return f"{_BY_LAYOUT}, which {kind.alike} share" if kind.alike else _BY_LAYOUT


def _by(table: tuple[int, int]) -> str:
    return f"{table[0]}x{table[1]}"


def _rgb(values: RGB) -> str:
    return ",".join(f"{value:g}" for value in values)
