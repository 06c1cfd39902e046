"""What a person sees: notes and progress on stderr, the result alone on stdout."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewvit.errors import UsageError, counted, in_one_line, printable
from fewvit.runs.processes import process_number

from .shared import Output

if TYPE_CHECKING:
    from fewvit.extraction.work import Progress
    from fewvit.results import Result
    from fewvit.training.loop import Progress as TrainingProgress

_FORMATS = ("table", "json", "csv")
_LINE_EVERY_S = 10.0  # progress lines where stderr is no terminal
_SHOWN_SKIPS = 20


class Screen:
    """Where a command talks to. Of the processes that torchrun started the first alone speaks."""

    def __init__(self, output: Output):
        if output.format not in _FORMATS:
            raise UsageError(f"--format {output.format!r} is not one of {', '.join(_FORMATS)}")
        self.output = output = output if process_number() == 0 else replace(output, quiet=True)
        self._live = sys.stderr.isatty() and not output.quiet
        self._last = time.monotonic()
        self._open_line = False

    def notify(self, line: str) -> None:
        """A note on stderr, in one line."""
        if not self.output.quiet:
            self._tell(line)

    def _tell(self, line: str) -> None:
        if "\n  " in line:  # an error with what to do about it, which stands in a line of its own
            line = in_one_line(line)
        self._end_line()
        sys.stderr.write(printable(line) + "\n")

    def progress(self, p: Progress) -> None:
        """Images done, speed, time left, and whether decoding or the model sets the pace."""
        finished = p.done >= p.total
        if (
            self.output.quiet
            or (not self._live and not finished and time.monotonic() - self._last < _LINE_EVERY_S)
            or (not self._live and finished and p.elapsed < 1)
        ):
            return
        self._last = time.monotonic()
        if p.computed == 0:
            if finished:
                self.notify(f"{p.total}/{counted(p.total, 'image')}, none had to be computed")
            return
        speed = p.computed / p.elapsed if p.elapsed else 0.0
        left = (p.total - p.done) / speed if speed else 0.0
        pace = "decoding" if p.waiting > p.modelling else "the model"
        share = 100 * max(p.waiting, p.modelling) / max(p.waiting + p.modelling, 1e-9)
        rate = f"{speed:.1f} images/s"
        text = f"{p.done}/{p.total} images  {rate}  {_duration(left)} left  {pace} takes {share:.0f} % of the time"
        if self._live:
            sys.stderr.write("\r\x1b[K" + text)
            self._open_line = True
            if finished:
                self._end_line()
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def line(self, text: str, seconds_left: float, *, done: bool) -> None:
        """A line that replaces itself on a terminal, and comes every ten seconds elsewhere."""
        now = time.monotonic()
        if self.output.quiet or (not done and now - self._last < (0.2 if self._live else _LINE_EVERY_S)):
            return
        self._last = now
        text = f"{text}  {_duration(seconds_left)} left"
        sys.stderr.write("\r\x1b[K" + text if self._live else text + "\n")
        sys.stderr.flush()
        self._open_line = self._live
        if done:
            self._end_line()

    def download(self, done: int, total: int | None) -> None:
        """Bytes of a download."""
        if self._live:
            sys.stderr.write(f"\r\x1b[K{done / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB")
            sys.stderr.flush()
            self._open_line = True

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
        self._end_line()
        if self.output.format == "json":
            sys.stdout.write(result.to_json() + "\n")
        elif self.output.format == "csv":
            sys.stdout.write(result.to_csv())
        else:
            self._table_of(result if shown is None else replace(result, rows=shown))
        self.keep(result)  # after stdout: a place that cannot be written does not cost the result

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
        if fitted.shared:
            self.notify(", ".join(f"{name} {value}" for name, value in fitted.shared.items()))
        if fitted.dropped:
            self.notify(f"no room for {', '.join(fitted.dropped)}: --format csv has all columns")
        self.table(fitted.cells)

    def rows(self, task: str, rows: Sequence[dict[str, Any]]) -> None:
        """Rows that are no measurements (a listing), in the format asked for."""
        import csv
        import json

        self._end_line()
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
            self.table([columns, *(["" if row.get(c) is None else printable(row[c]) for c in columns] for row in rows)])
        else:
            self.notify("nothing to list")

    def facts(self, task: str, facts: dict[str, Any]) -> None:
        """Named facts: one per line, lists indented; or one row of JSON or CSV."""
        if self.output.format != "table":
            self.rows(task, [facts])
            return
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            if isinstance(value, list):
                sys.stdout.write(f"{name}\n" + "".join(f"  {printable(line)}\n" for line in value))
            else:
                sys.stdout.write(f"{name.ljust(width)}  {_text(value)}\n")

    def table(self, cells: Sequence[Sequence[object]]) -> None:
        """Columns of text on stdout, the first line being their names; numbers to the right."""
        lines = [[str(cell) for cell in line] for line in cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        numeric = [all(_is_number(line[i]) for line in lines[1:]) for i in range(len(widths))]
        for line in lines:
            sys.stdout.write(
                "  ".join(
                    c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)
                ).rstrip()
                + "\n"
            )

    def _end_line(self) -> None:
        if self._open_line:
            sys.stderr.write("\n")
            self._open_line = False


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
        loss = f"  loss {p.facts['loss']:.4f}" if "loss" in p.facts else ""
        text = f"epoch {p.epoch + 1}/{p.epochs}  step {p.step}/{p.total}{loss}  {p.images_per_second:.0f} images/s"
        self._screen.line(f"{what}  {text}".lstrip(), left, done=p.step == p.total)


def _room() -> int:
    """Characters of a table's line: the terminal's, or those that a file or a program gets."""
    from fewvit.results import WIDTH

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def _text(value: object) -> object:
    """A value as one cell: dictionaries and lists spelled out, without what is empty in them; numbers as they are."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items() if part != "")
    if isinstance(value, list | tuple):
        return "; ".join(str(_text(part)) for part in value)
    return printable(value) if isinstance(value, str) else value


def _is_number(text: str) -> bool:
    return text == "" or text.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
