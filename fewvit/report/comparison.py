"""Which of some systems can be told apart: pair by pair on each data set, and by their ranks over data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ..errors import DataError, counted, printable
from ..paired import ALPHA, RESAMPLES, holm
from ..results import Row
from .entries import Entry, Setting, System, axis_of, gather, scores_of
from .looking import DetailsOf
from .pairs import compare_pair
from .rows import Line
from .statistics import (
    FEWEST_FOR_WILCOXON,
    Pair,
    Ranking,
    groups,
    rank_over_data_sets,
    require_data_sets,
    signed_rank,
)

NOT_APART = "cannot be told apart"


@dataclass(frozen=True)
class Ranked:
    """Three systems or more, ranked over data sets in one setting."""

    setting: Setting
    names: Sequence[str]
    data_sets: Sequence[str]
    ranking: Ranking

    @property
    def title(self) -> str:
        """The setting, and over how many data sets."""
        return f"{self.setting}, {counted(len(self.data_sets), 'data set')}"


@dataclass
class Comparison:
    """What `compare` found: tables whose rows have the same columns, and all there is to say beside them."""

    pairs: list[Row] = field(default_factory=list)  # a row per pair of systems on one data set
    groups: list[Row] = field(default_factory=list)  # systems that cannot be told apart, where there are three or more
    over_data_sets: list[Row] = field(default_factory=list)  # a row per pair of systems over data sets
    ranked: list[Ranked] = field(default_factory=list)  # what critical-difference diagrams show
    notes: list[str] = field(default_factory=list)  # what is missing, refused or to be read with care

    def tables(self) -> Iterator[tuple[str, list[Row]]]:
        """The tables that have rows, with their titles."""
        titles = ("pairs", NOT_APART, "over data sets")
        for title, rows in zip(titles, (self.pairs, self.groups, self.over_data_sets), strict=True):
            if rows:
                yield title, rows

    def rows(self) -> list[Row]:
        """All rows, under the same columns; `table` says which one a row is of."""
        rows = [{"table": title, **row} for title, table in self.tables() for row in table]
        columns = dict.fromkeys(name for row in rows for name in row if name != "ci95")
        return [
            {**{name: row.get(name) for name in columns}, **({"ci95": row["ci95"]} if "ci95" in row else {})}
            for row in rows
        ]


def compare(
    lines: Sequence[Line], names: Sequence[str], details: DetailsOf, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Every pair of the backbones or methods `names`, in each setting and on each data set that both have results of.

    Differences are the first named less the second, in percent points; damaged `details` are done without. Raises
    UsageError for fewer than two names or one twice, UnknownName for one that no line has, DataError where no two share
    a setting and a data set.
    """
    entries, notes = gather(lines, names, axis_of(lines, names))
    found, missing = Comparison(notes=notes), _Missing()
    for setting, by_data in entries.items():
        order = _systems(by_data, names)
        for data, systems in by_data.items():
            _compare_on(found, setting, data, systems, order, details, resamples, seed)
            for one in order:
                if one not in systems:
                    missing.add(f"{_name(one, order)} on {printable(data)} (", ")", setting)
        _compare_over(found, setting, by_data, order)
        for name in names:
            if all(one.name != name for one in order):
                missing.add(f"{printable(name)} has no result of ", "", setting)
    found.notes = list(dict.fromkeys([*missing.lines(), *found.notes]))
    if not found.pairs:
        raise DataError(
            f"no two of {', '.join(map(printable, names))} have results of one setting on one data set",
            fix=found.notes[0] if found.notes else None,
        )
    return found


class _Missing:
    """What is missing, a line for each kind: what, and in which settings."""

    def __init__(self) -> None:
        self._settings: dict[tuple[str, str], list[Setting]] = {}

    def add(self, before: str, after: str, setting: Setting) -> None:
        """One more setting in which it is missing, with the words before and after it."""
        self._settings.setdefault((before, after), []).append(setting)

    def lines(self) -> list[str]:
        """`missing: mae on pets (…)`, or how many settings it is missing in, and the first of them."""
        return [f"missing: {before}{_told(settings)}{after}" for (before, after), settings in self._settings.items()]


def _told(settings: Sequence[Setting]) -> str:
    if len(settings) == 1:
        return str(settings[0])
    tasks = ", ".join(dict.fromkeys(str(one.row().get("task")) for one in settings))
    return f"{counted(len(settings), 'setting')} of {tasks}, such as {settings[0]}"


def _systems(by_data: Mapping[str, Mapping[System, Entry]], names: Sequence[str]) -> list[System]:
    """The systems of a setting in the order of the names, and the protocols of one name in theirs."""
    present = {system for systems in by_data.values() for system in systems}
    return sorted(present, key=lambda one: (names.index(one.name), one.protocol))


def _name(system: System, order: Sequence[System]) -> str:
    """A system's name, with its protocol where that alone tells it from another one."""
    several = sum(one.name == system.name for one in order) > 1
    return printable(f"{system.name} ({system.protocol or 'no protocol'})" if several else system.name)


# ---- on one data set


def _compare_on(
    found: Comparison,
    setting: Setting,
    data: str,
    systems: Mapping[System, Entry],
    order: Sequence[System],
    details: DetailsOf,
    resamples: int,
    seed: int,
) -> None:
    """Add a row per pair of the systems that a data set has, and the groups where all of three or more were tested."""
    where = {"dataset": printable(data), **setting.row()}
    present = [one for one in order if one in systems]
    names, entries = [_name(one, order) for one in present], [systems[one] for one in present]
    scores = [scores_of(entry, details(entry.record)) for entry in entries] if len(entries) > 1 else []
    rows: dict[Pair, Row] = {}
    for a, b in combinations(range(len(names)), 2):
        try:
            both = compare_pair(entries[a], entries[b], scores[a], scores[b], resamples=resamples, seed=seed)
        except DataError as error:
            found.notes.append(
                f"not compared: {names[a]} and {names[b]} on {printable(data)} ({setting}): {error.what}"
            )
            continue
        found.notes += both.notes
        protocols = {"protocol_a": present[a].protocol or None, "protocol_b": present[b].protocol or None}
        rows[a, b] = {**where, "a": names[a], "b": names[b], **protocols, **both.columns}
    tested = {pair: row["p"] for pair, row in rows.items() if row["p"] is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    for pair, row in rows.items():
        row["p_holm"] = adjusted.get(pair)
        row["verdict"] = _verdict(row, adjusted[pair] < ALPHA) if pair in adjusted else "not tested"
    found.pairs += rows.values()
    if len(names) > 2 and len(adjusted) == len(names) * (len(names) - 1) // 2:
        apart = [pair for pair, p in adjusted.items() if p < ALPHA]
        found.groups += _group_rows(where, names, groups(len(names), apart))


def _verdict(row: Row, is_apart: bool) -> str:
    return f"{row['a'] if row['difference'] > 0 else row['b']} is better" if is_apart else NOT_APART


def _group_rows(where: Row, names: Sequence[str], found: Sequence[tuple[int, ...]]) -> list[Row]:
    return [{**where, "systems": ", ".join(names[one] for one in group)} for group in found]


# ---- over data sets


def _compare_over(
    found: Comparison, setting: Setting, by_data: Mapping[str, Mapping[System, Entry]], order: Sequence[System]
) -> None:
    """Add what the data sets that have all systems say together, or why they say nothing."""
    if len(order) < 2:
        return
    means = {data: _means(systems, order) for data, systems in by_data.items() if len(systems) == len(order)}
    whole = {data: row for data, row in means.items() if row}
    try:
        require_data_sets(len(whole), len(order))
    except DataError as error:
        found.notes.append(error.what)
        return
    scores = np.array(list(whole.values()))  # (N, S)
    names, ranking = [_name(one, order) for one in order], None
    where = {"dataset": counted(len(whole), "data set"), **setting.row()}
    if len(order) > 2:
        ranking = rank_over_data_sets(scores)
        found.ranked.append(Ranked(setting, names, list(whole), ranking))
        found.groups += _group_rows(where, names, ranking.groups)
    for pair in combinations(range(len(order)), 2):
        found.over_data_sets.append(_over_row(where, names, scores, pair, ranking))


def _means(systems: Mapping[System, Entry], order: Sequence[System]) -> list[float]:
    """Each system's mean over the draws that all of them have; empty where there are none."""
    draws = sorted(set.intersection(*(set(entry.values) for entry in systems.values())))
    return [float(np.mean([systems[one].values[draw] for draw in draws])) for one in order] if draws else []


def _over_row(where: Row, names: Sequence[str], scores: np.ndarray, pair: Pair, ranking: Ranking | None) -> Row:
    """A pair over data sets: by Wilcoxon's test where there are two systems, else by Friedman's and Holm's steps."""
    a, b = scores[:, pair[0]], scores[:, pair[1]]  # (N,)
    alone = signed_rank(a, b) if len(a) >= FEWEST_FOR_WILCOXON else None
    row = {
        **where,
        "a": names[pair[0]],
        "b": names[pair[1]],
        "value_a": float(a.mean()),
        "value_b": float(b.mean()),
        "difference": float((a - b).mean()),
        "mean_rank_a": ranking.mean_ranks[pair[0]] if ranking is not None else None,
        "mean_rank_b": ranking.mean_ranks[pair[1]] if ranking is not None else None,
        "critical_difference": ranking.critical_difference if ranking is not None else None,
        "p_friedman": ranking.p if ranking is not None else None,
        "p_wilcoxon": alone,
        "p_holm": ranking.pairs[pair] if ranking is not None else alone,
    }
    is_apart = ranking.apart(pair) if ranking is not None else alone is not None and alone < ALPHA
    by_rank = {"difference": ranking.mean_ranks[pair[1]] - ranking.mean_ranks[pair[0]]} if ranking is not None else {}
    return {**row, "verdict": _verdict({**row, **by_rank}, is_apart)}
