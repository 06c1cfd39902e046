"""Which cells there are, in an order that needs each backbone once, and what has to be computed for them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FewvitError, counted, in_one_line, some
from ..extraction.shards import Part
from ..results import Row
from .cells import Cell
from .folder import digest_of
from .methods import evaluation_of, evaluations
from .settings import BackboneSetting, DataSetting, SweepConfig
from .workshop import SharedReader, Workshop

STATES = ("finished", "failed", "missing")
_NAMED = 8  # methods that the first line names


@dataclass(frozen=True)
class Planned:
    """A cell and the name of what it asks; or why it cannot be."""

    cell: Cell
    request: str
    error: FewvitError | None = None  # its backbone cannot be had, or its data cannot be opened

    @property
    def facts(self) -> dict[str, Any]:
        """As the plan's file has it."""
        command = evaluation_of(self.cell).command(self.cell)
        return {"request": self.request, **self.cell.facts, "command": command}


@dataclass(frozen=True)
class Group:
    """The cells of one backbone on one data set."""

    backbone: BackboneSetting | None
    data: DataSetting
    planned: Sequence[Planned]


@dataclass(frozen=True)
class Plan:
    """Everything that is to be measured, in order."""

    config: SweepConfig
    groups: Sequence[Group]
    left_out: Sequence[str]  # a line for each kind of cell that there is not
    part: Part | None = None  # of all cells; None: all of them

    @property
    def planned(self) -> list[Planned]:
        """All cells."""
        return [one for group in self.groups for one in group.planned]

    def shard(self, part: Part) -> Plan:
        """A part of it: cells that follow each other, so that few backbones are in several parts."""
        everything = self.planned
        mine = {id(one) for one in (everything[row] for row in part.rows(len(everything)))}
        groups = [
            dataclasses.replace(group, planned=[one for one in group.planned if id(one) in mine])
            for group in self.groups
        ]
        return dataclasses.replace(self, groups=[group for group in groups if group.planned], part=part)


def make_plan(config: SweepConfig, shop: Workshop) -> Plan:
    """The plan; backbones' files and lists of images are looked at, no image is.

    What cannot be had is planned too, with its error.
    """
    groups: list[Group] = []
    left_out: dict[str, None] = {}
    for backbone, data in _pairs(config):
        cells = []
        for method in config.methods:
            evaluation = evaluations()[method.evaluation]
            if why := evaluation.unsuited(method, backbone, data):
                shown = backbone.shown if backbone is not None else data.shown
                left_out[f"{method.shown} of {shown} is left out: {why}"] = None
                continue
            cells += [Cell(backbone, data, method, scope, config.seed) for scope in evaluation.scopes(config)]
        if cells:
            groups.append(Group(backbone, data, list(_planned(cells, shop))))
    for method in config.methods:
        if not any(evaluations()[method.evaluation].scopes(config)):
            left_out[f"{method.shown} is left out: it needs shots, and none are given"] = None
    return Plan(config, groups, list(left_out))


def _pairs(config: SweepConfig) -> Iterator[tuple[BackboneSetting | None, DataSetting]]:
    """Each backbone once, with all data; features need none."""
    for backbone in config.backbones:
        for data in config.data:
            if not data.has_features:
                yield backbone, data
    for data in config.data:
        if data.has_features:
            yield None, data


def _planned(cells: Sequence[Cell], shop: Workshop) -> Iterator[Planned]:
    reader = shop.reader(cells[0].backbone, cells[0].seed)
    fingerprints: dict[str, str] = {}
    try:
        listing = shop.listing(cells[0].data, reader)
        for task in {evaluation_of(cell).task for cell in cells}:
            fingerprints[task] = _fingerprint(cells[0], reader, task)
    except FewvitError as error:
        for cell in cells:
            yield Planned(cell, digest_of({"unknown": cell.facts}), error)
        return
    for cell in cells:
        yield Planned(cell, cell.request(fingerprints[evaluation_of(cell).task], listing))


def _fingerprint(cell: Cell, reader: SharedReader, task: str) -> str:
    return reader.pipeline(task).fingerprint if cell.backbone is not None else ""


def described(plan: Plan, done: int) -> Iterator[str]:
    """The plan in lines."""
    cells = plan.planned
    backbones = {group.backbone for group in plan.groups if group.backbone is not None}
    methods = list(dict.fromkeys(one.cell.method.shown for one in cells))
    part = f"part {plan.part.number} of {plan.part.count}: " if plan.part is not None else ""
    yield (
        f"{part}{counted(len(cells), 'cell')}: {counted(len(backbones), 'backbone')}, "
        f"{counted(len({group.data for group in plan.groups}), 'data set')}, {counted(len(methods), 'method')} "
        f"({some(methods, _NAMED)}); {done} finished"
    )
    yield from plan.left_out
    for error, several in Counter(str(one.error) for one in cells if one.error is not None).items():
        yield f"{counted(several, 'cell')} cannot be measured: {in_one_line(error)}"


def overview(plan: Plan, states: Callable[[Planned], str]) -> list[Row]:
    """A row for each method of each backbone and data set: how many cells, and how they stand."""
    rows: list[Row] = []
    for group in plan.groups:
        for method in dict.fromkeys(one.cell.method.shown for one in group.planned):
            cells = [one for one in group.planned if one.cell.method.shown == method]
            counts = Counter(map(states, cells))
            shots = ",".join(str(one.cell.scope.shots) for one in cells if one.cell.scope.shots is not None)
            rows.append(
                {
                    "backbone": group.backbone.shown if group.backbone is not None else None,
                    "dataset": group.data.shown,
                    "method": method,
                    "shots": shots or None,
                    "cells": len(cells),
                    **{state: counts[state] for state in STATES},
                }
            )
    return rows
