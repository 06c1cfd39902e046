"""The README's tables, of measurements and of what pretraining has learnt, made from results/*.json: `python -m benchmarks.table [--write | --check]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .measure import RESULTS

README = RESULTS.parents[1] / "README.md"
_LEARNED = {  # row of results/learned.json -> what the README calls it
    "tiny-imagenet k-NN": "Tiny-ImageNet, 200 classes, k-NN",
    "tiny-imagenet linear probe": "Tiny-ImageNet, linear probe",
    "tiny-imagenet logistic 1-shot": "Tiny-ImageNet, logistic, 1 image per class",
    "tiny-imagenet logistic 2-shot": "Tiny-ImageNet, logistic, 2 images per class",
    "tiny-imagenet logistic 5-shot": "Tiny-ImageNet, logistic, 5 images per class",
    "omniglot 20-way 1-shot": "Omniglot, 20-way 1-shot",
    "digits k-NN": "digits, k-NN",
}
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


def learned(folder: Path = RESULTS) -> str:
    """Markdown: accuracies by kind of feature, then how each run went."""
    file = folder / "learned.json"
    if not file.exists():
        return "Nothing has been measured yet: run `python -m benchmarks.learned RUN --name learned`."
    result = json.loads(file.read_text())
    kinds = [row["features"] for row in result["rows"]]
    lines = [f"| | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    lines += [f"| {title} | {' | '.join(f'{row[name]:.2f}' for row in result['rows'])} |" for name, title in _LEARNED.items()]
    lines += [""]
    for name, run in result["training"].items():
        begun = f" from {run['init']}" if run["init"] else ""
        curve = ", ".join(f"{value:.2f}" for value in run["knn_by_epoch"])
        lines.append(
            f"* `{name}`: {run['method'].upper()}{begun}, {run['epochs']} epochs of {run['images']} images, {run['hours']:.2f} hours; "
            f"k-NN among held-out images after each epoch: {curve}"
        )
    return "\n".join(lines)


def tuned(folder: Path = RESULTS) -> str:
    """Markdown: top-1 of the frozen baselines and of each mode over the draws, and what each draw gained over logistic regression."""
    file = folder / "tuned.json"
    if not file.exists():
        return "Nothing has been measured yet: run `python -m benchmarks.tuned RUNS`."
    lines = ["| | top-1 in percent | more than frozen logistic, draw by draw |", "|---|---:|---|"]
    for row in json.loads(file.read_text())["rows"]:
        gains = ", ".join(f"{gain:+.2f}" for gain in row.get("gains", []))
        lines.append(f"| {row['method']} | {row['mean']:.2f} ± {row['std']:.2f} | {gains} |")
    return "\n".join(lines)


SECTIONS = {"benchmarks": table, "learned": learned, "tuned": tuned}  # between `<!-- NAME:begin -->` and `<!-- NAME:end -->`


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


def replaced(text: str, name: str, new: str) -> str:
    """`text` with what stands between the two marks of a section replaced. Raises SystemExit if there are no marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"README.md has no place for the table: put the lines {begin} and {end} there, once each.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put them into README.md")
    action.add_argument("--check", action="store_true", help="exit with 1 if README.md shows others")
    options = parser.parse_args()
    made = {name: make() for name, make in SECTIONS.items()}
    if not (options.write or options.check):
        print("\n\n".join(made.values()))
        return 0
    text = README.read_text(encoding="utf-8")
    wanted = text
    for name, new in made.items():
        wanted = replaced(wanted, name, new)
    if options.write:
        from fewvit.files import replacing

        with replacing(README, "w") as handle:
            handle.write(wanted)
    elif text != wanted:
        print("README.md shows other tables than results/*.json give; run `python -m benchmarks.table --write`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
