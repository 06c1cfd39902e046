"""The README's table of measurements, made from results/*.json: `python -m benchmarks.table [--write | --check]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .measure import RESULTS

README = RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_VERDICT = {True: "met", False: "**missed**", None: ""}


def table(folder: Path = RESULTS) -> str:
    """Markdown: one line per claim of every result file, goals and misses included, then when and on what it was measured."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    results = [result for result in results if not result["quick"]]
    if not results:
        return "Nothing has been measured yet: run `make bench`."
    lines = ["| what | against | measured | goal | |", "|---|---|---|---|---|"]
    lines += [_line(claim) for result in results for claim in result["claims"]]
    return "\n".join([*lines, "", *_origins(results)])


def _line(claim: Mapping[str, Any]) -> str:
    goal = claim["goal"].replace(">=", "≥").replace("<=", "≤")
    return f"| {claim['what']} | {claim['against']} | {_number(claim['value'], claim['unit'])} | {goal} | {_VERDICT[claim['met']]} |"


def _number(value: float, unit: str) -> str:
    """At most three digits, but enough to see on which side of a goal such as 0.9999 it lies."""
    close_to_one = 0.99 < value < 1
    shown = f"{value:.6g}" if close_to_one else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{shown}{'' if unit == 'x' else ' '}{unit}".strip()


def _origins(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each machine and set of versions: which scripts ran on it, and when."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(json.dumps([result["machine"], result["versions"]], sort_keys=True), []).append(result)
    lines = []
    for group in groups.values():
        machine, versions = group[0]["machine"], group[0]["versions"]
        hardware = [
            f"{machine['cores']} cores {machine['cpu']}",
            f"{machine['memory_gib']} GiB",
            *([machine["gpu"]] if "gpu" in machine else []),
            machine["os"],
        ]
        dates = sorted({result["date"] for result in group})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(
            f"{', '.join(result['name'] for result in group)}: {when}, {', '.join(hardware)}; {', '.join(f'{k} {v}' for k, v in versions.items())}."
        )
    return lines


def replaced(text: str, new: str) -> str:
    """`text` with what stands between the two marks replaced. Raises SystemExit if there are no marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"README.md has no place for the table: put the lines {BEGIN} and {END} there, once each.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put it into README.md")
    action.add_argument("--check", action="store_true", help="exit with 1 if README.md shows another one")
    options = parser.parse_args()
    if not (options.write or options.check):
        print(table())
        return 0
    text = README.read_text(encoding="utf-8")
    wanted = replaced(text, table())
    if options.write:
        from fewvit.files import replacing

        with replacing(README, "w") as handle:
            handle.write(wanted)
    elif text != wanted:
        print("README.md shows another table than results/*.json give; run `python -m benchmarks.table --write`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
