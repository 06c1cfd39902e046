"""What a person sees: notes and progress on stderr, the result alone on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewvit.errors import UsageError, counted, in_one_line, printable
from fewvit.runs.processes import process_number

from .fitting import (
    beside,
    cell_lines,
    command_line,
    fitted_widths,
    is_number,
    padded,
    terminal_width,
    with_room,
    wrapped,
)
from .live import LiveLine
from .shared import Output

if TYPE_CHECKING:
    from fewvit.extraction.work import Progress
    from fewvit.results import Result
    from fewvit.training.loop import Progress as TrainingProgress

_FORMATS = ("table", "json", "csv")
_SHOWN_SKIPS = 20


class Screen:
    """Where a command talks to. Of the processes that torchrun started the first alone speaks."""

    def __init__(self, output: Output):
        if output.format not in _FORMATS:
            raise UsageError(f"--format {output.format!r} is not one of {', '.join(_FORMATS)}")
        self.output = output = output if process_number() == 0 else replace(output, quiet=True)
        self._live = LiveLine(quiet=output.quiet)

    def notify(self, line: str) -> None:
        """A note on stderr, in one line."""
        if not self.output.quiet:
            self._tell(line)

    def to_copy(self, words: Sequence[str]) -> None:
        """A command line on stderr, its words quoted already, in lines that a shell reads as one."""
        if not self.output.quiet:
            self._live.end()
            sys.stderr.write(command_line(list(map(printable, words)), terminal_width(sys.stderr)) + "\n")

    def _tell(self, line: str) -> None:
        if "\n  " in line:  # an error with what to do about it, which stands in a line of its own
            line = in_one_line(line)
        self._live.end()
        sys.stderr.write(wrapped(printable(line), terminal_width(sys.stderr)) + "\n")

    def progress(self, p: Progress) -> None:
        """Images done, speed, time left, and whether decoding or the model sets the pace."""
        finished = p.done >= p.total
        if finished and p.elapsed < 1 and not self._live.on_terminal:
            return
        if p.computed == 0:
            if finished:
                self.notify(f"{p.total}/{counted(p.total, 'image')}, none had to be computed")
            return
        speed = p.computed / p.elapsed if p.elapsed else 0.0
        left = (p.total - p.done) / speed if speed else 0.0
        pace = "decoding" if p.waiting > p.modelling else "the model"
        share = 100 * max(p.waiting, p.modelling) / max(p.waiting + p.modelling, 1e-9)
        rate, told = f"{speed:.1f} images/s", f"{pace} takes {share:.0f} % of the time"
        if self._live.on_terminal:  # beside the bar in 80 columns
            told = f"{pace} {share:.0f} %"
        parts = (f"{p.done}/{p.total} images", rate, f"{_duration(left)} left", told)
        self._live.show(parts, p.done / p.total, spare=(told, rate), done=finished)

    def line(
        self, parts: Sequence[str], seconds_left: float, share: float, *, spare: Sequence[str] = (), done: bool
    ) -> None:
        """Progress of anything else: the parts of a line, the time left, and the share (0-1) that is done."""
        self._live.show((*parts, f"{_duration(seconds_left)} left"), share, spare=spare, done=done)

    def download(self, done: int, total: int | None) -> None:
        """Bytes of a download; without a terminal nothing is said of them."""
        if self._live.on_terminal:
            text = f"{done / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB"
            self._live.show((text,), done / total if total else None, done=done == total)

    def skipped(self, skipped: Sequence[dict[str, str]], beside: Path | None = None) -> None:
        """Each skipped image, the first twenty by name; all of them as records beside an output file."""
        for record in skipped[:_SHOWN_SKIPS]:
            side = f"{record['side']} image " if "side" in record else ""
            self.notify(f"skipped {side}{record['id']}: {record['reason']}")
        if len(skipped) > _SHOWN_SKIPS:
            self.notify(f"skipped {len(skipped) - _SHOWN_SKIPS} more")
        if beside is not None:
            import json

            from fewvit.files import replacing

            records = beside.with_suffix(".skipped.jsonl")
            if skipped or records.exists():
                with replacing(records, "w") as handle:
                    handle.writelines(json.dumps(record) + "\n" for record in skipped)

    def states(self, ids: Sequence[str], states: Sequence[str], told: Sequence[str]) -> None:
        """Images whose state is one of those to be told, the first twenty by name."""
        found = [f"{state}: {name}" for name, state in zip(ids, states, strict=True) if state in told]
        for line in found[:_SHOWN_SKIPS]:
            self.notify(line)
        if len(found) > _SHOWN_SKIPS:
            self.notify(f"and {len(found) - _SHOWN_SKIPS} more")

    def result(self, result: Result, *, shown: Sequence[Mapping[str, Any]] | None = None) -> None:
        """The result on stdout in the format asked for, and in --out if given.

        `shown`: the rows of the table, if not all.
        """
        self.show(result, shown=shown)
        self.keep(result)  # after stdout: a place that cannot be written does not cost the result

    def show(self, result: Result, *, shown: Sequence[Mapping[str, Any]] | None = None) -> None:
        """The result on stdout alone, as `result`, where --out is something else."""
        self._live.end()
        if self.output.format == "json":
            sys.stdout.write(result.to_json() + "\n")
        elif self.output.format == "csv":
            sys.stdout.write(result.to_csv())
        else:
            self._table_of(result if shown is None else replace(result, rows=shown))

    def keep(self, result: Result) -> None:
        """The result in --out, if given."""
        if self.output.out is not None:
            from fewvit.files import replacing

            with replacing(self.output.out, "w") as handle:
                handle.write(result.to_csv() if self.output.out.suffix.lower() == ".csv" else result.to_json() + "\n")
            self.notify(f"wrote {self.output.out}")

    def result_of_trials(self, result: Result) -> None:
        """As `result`; unless --verbose the table has the means alone, and no trials where there was one.

        Rows that are of no trial stay.
        """
        means = [row for row in result.rows if row.get("trial") in (None, "mean")]
        draws = [row for row in result.rows if row.get("trial") not in (None, "mean")]
        if not draws or not means or self.output.verbose or self.output.format != "table":
            self.result(result)
            return
        trials = {(row.get("shots"), row["trial"]) for row in draws}
        if len(trials) == len({shots for shots, _ in trials}):
            means = [{name: value for name, value in row.items() if name != "trial"} for row in means]
        else:
            self.notify("means over the trials; -v, --format json or csv show every trial")
        self.result(result, shown=means)

    def explanation(self, run: Mapping[str, Any]) -> None:
        """What a run's manifest says of the distance to published numbers, if it was asked for; after the result.

        It is told under --quiet too, since it was asked for.
        """
        from fewvit.evaluate.explain.text import explanations, lines

        sys.stdout.flush()  # where both streams go to one place, the result stands first
        for name, rows in explanations(run):
            for line in lines(rows, name, whole=self.output.verbose):
                self._tell(line)

    def _table_of(self, result: Result) -> None:
        """A result's table, as wide as the terminal; what has no room in it is told on stderr."""
        fitted = result.fitted(_room())
        self._no_room(fitted.shared, fitted.dropped)
        self.table(fitted.cells)

    def rows(self, task: str, rows: Sequence[dict[str, Any]], *, shown: Sequence[str] = ()) -> None:
        """Rows that are no measurements (a listing), in the format asked for; `shown`: the table's columns, if not all.

        Of a table's columns those stay away that no row has anything in.
        """
        import csv
        import json

        self._live.end()
        if self.output.format == "json":
            sys.stdout.write(
                json.dumps({"schema": "fewvit.result/1", "task": task, "rows": list(rows), "run": {}}, indent=1) + "\n"
            )
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if self.output.format == "csv":
            writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
        elif rows:
            from fewvit.results import in_table

            if shown:
                columns = [name for name in shown if any(row.get(name) not in (None, "") for row in rows)]
            cells = [["" if row.get(c) is None else printable(in_table(c, row[c])) for c in columns] for row in rows]
            self._listing([columns, *cells])
        else:
            self.notify("nothing to list")

    def _listing(self, cells: list[list[str]]) -> None:
        """A table of what is no measurement; on a terminal, what has no room in it is told on stderr."""
        width = terminal_width(sys.stdout)
        if width is None:
            self.table(cells)
            return
        fitted = with_room(cells, width)
        self._no_room(fitted.shared, fitted.dropped)
        self.table(fitted.cells)

    def _no_room(self, shared: Mapping[str, str], dropped: Sequence[str]) -> None:
        """Tell what is no column of a table: what all rows share, and what differs."""
        if shared:
            self.notify(", ".join(f"{name} {value}" for name, value in shared.items()))
        if dropped:
            self.notify(f"no room for {', '.join(dropped)}: --format csv has all columns")

    def facts(self, task: str, facts: dict[str, Any]) -> None:
        """Named facts: one per line, lists indented; or one row of JSON or CSV."""
        if self.output.format != "table":
            self.rows(task, [facts])
            return
        label, width = max(len(name) for name in facts), terminal_width(sys.stdout)
        for name, value in facts.items():
            if isinstance(value, list):
                lines = (beside("  ", printable(line), width) for line in value)
                sys.stdout.write(f"{name}\n" + "".join(f"{line}\n" for line in lines))
            else:
                sys.stdout.write(beside(f"{name.ljust(label)}  ", str(_text(value)), width) + "\n")

    def card(self, groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """Groups of labelled lines under their titles, as wide as the terminal."""
        self._live.end()
        label, width = max(len(what) for lines in groups.values() for what, _ in lines), terminal_width(sys.stdout)
        for title, lines in groups.items():
            sys.stdout.write(f"{printable(title)}\n")
            for what, text in lines:
                sys.stdout.write(beside(f"  {what.ljust(label)}  ", printable(text), width) + "\n")

    def table(self, cells: Sequence[Sequence[object]]) -> None:
        """Columns of text on stdout, the first line being their names; numbers to the right.

        On a terminal long cells wrap within their columns.
        """
        lines = [[str(cell) for cell in line] for line in cells]
        widths = fitted_widths(lines, terminal_width(sys.stdout))
        numeric = [all(is_number(line[i]) for line in lines[1:]) for i in range(len(widths))]
        for line in lines:
            parts = [cell_lines(cell, width) for cell, width in zip(line, widths, strict=True)]
            for row in zip_longest(*parts, fillvalue=""):
                shown = (padded(c, w, right=n) for c, w, n in zip(row, widths, numeric, strict=True))
                sys.stdout.write("  ".join(shown).rstrip() + "\n")


class TrainingLine:
    """The live line of a run: which of its trainings where there are several, step, speed, time left, loss."""

    def __init__(self, screen: Screen):
        self._screen, self._what, self._started, self._first = screen, "", time.monotonic(), -1

    def __call__(self, what: str, p: TrainingProgress) -> None:
        if what != self._what:
            self._what, self._started, self._first = what, time.monotonic(), -1
        if self._first < 0:
            self._first = p.step - 1
        elapsed = time.monotonic() - self._started
        left = elapsed / max(p.step - self._first, 1) * (p.total - p.step)
        loss = [f"loss {p.facts['loss']:.4f}"] if "loss" in p.facts else []
        epoch, speed = f"epoch {p.epoch + 1}/{p.epochs}", f"{p.images_per_second:.0f} images/s"
        parts = [*([what] if what else []), epoch, f"step {p.step}/{p.total}", *loss, speed]
        self._screen.line(parts, left, p.step / p.total, spare=[speed, *loss, epoch], done=p.step == p.total)


def _room() -> int:
    """Characters of a table's line: the terminal's, or those that a file or a program gets."""
    from fewvit.results import WIDTH

    return terminal_width(sys.stdout) or WIDTH


def _text(value: object) -> object:
    """A value as one cell: dictionaries and lists spelled out, without what is empty in them; numbers as they are."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items() if part != "")
    if isinstance(value, list | tuple):
        return "; ".join(str(_text(part)) for part in value)
    return printable(value) if isinstance(value, str) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
