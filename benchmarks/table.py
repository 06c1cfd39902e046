"""What the documentation shows of results/*/*.json: `python -m benchmarks.table [--write | --check]`.

A place is two lines, `<!-- NAME:begin -->` and `<!-- NAME:end -->`; SECTIONS tells which page each stands in.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .kinds import RESULTS, claims, least, measured, newest, title_of

ROOT = RESULTS.parents[1]
_LEARNED = {  # row of results/learned.json -> what the page calls it
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
    """Markdown: one line per claim, a column for each kind of machine, goals and misses; then when and where."""
    results = measured(folder)
    if not results:
        return "Nothing has been measured yet: run `make bench`."
    heads = ["what", "against", "goal", *map(title_of, results)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [_line(what, against, by_kind, list(results)) for (_, what, against, _), by_kind in claims(folder).items()]
    return "\n".join([*lines, "", *_origins([one for by_name in results.values() for one in by_name.values()])])


def missed_here(kind: str, folder: Path = RESULTS) -> list[str]:
    """The goals that fail on a kind of machine, each in a line."""
    return [
        f"{name}: {what}, against {against}: {_number(own['value'], own['unit'])}, goal {_goal(own)}"
        for (name, what, against, _), by_kind in claims(folder).items()
        if (own := by_kind.get(kind)) is not None and own["met"] is False
    ]


def learned(folder: Path = RESULTS) -> str:
    """Markdown: accuracies by kind of feature, then how each run went."""
    if (result := newest(folder, "learned")) is None:
        return _nothing("learned RUN --name learned")
    kinds = [row["features"] for row in result["rows"]]
    lines = [f"| | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    lines += [
        f"| {title} | {' | '.join(f'{row[name]:.2f}' for row in result['rows'])} |" for name, title in _LEARNED.items()
    ]
    lines += [""]
    for name, run in result["training"].items():
        begun = f" from {run['init']}" if run["init"] else ""
        curve = ", ".join(f"{value:.2f}" for value in run["knn_by_epoch"])
        lines.append(
            f"* `{name}`: {run['method'].upper()}{begun}, {run['epochs']} epochs of {run['images']} images, "
            f"{run['hours']:.2f} hours; "
            f"k-NN among held-out images after each epoch: {curve}"
        )
    return "\n".join(lines)


def _rows_of(folder: Path, name: str) -> list[dict[str, Any]] | None:
    """The rows of a result; None where nothing was measured."""
    result = newest(folder, name)
    return None if result is None else result["rows"]


def _nothing(command: str) -> str:
    return f"Nothing has been measured yet: run `python -m benchmarks.{command}`."


def tuned(folder: Path = RESULTS) -> str:
    """Markdown: top-1 of the frozen baselines and of each mode over the draws.

    And what each draw gained over logistic regression.
    """
    if (rows := _rows_of(folder, "tuned")) is None:
        return _nothing("tuned RUNS")
    lines = ["| | top-1 in percent | more than frozen logistic, draw by draw |", "|---|---:|---|"]
    for row in rows:
        gains = ", ".join(f"{gain:+.2f}" for gain in row.get("gains", []))
        lines.append(f"| {row['method']} | {row['mean']:.2f} ± {row['std']:.2f} | {gains} |")
    return "\n".join(lines)


def calibration(folder: Path = RESULTS) -> str:
    """Markdown: calibration errors of the frozen logistic regression and of each mode, draw by draw."""
    if (rows := _rows_of(folder, "calibration")) is None:
        return _nothing("calibration RUNS")
    lines = [
        "| images | labels a class | | top-1 | calibration error, mean | draw by draw | most above frozen | held out |",
        "|---|---:|---|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        draws = ", ".join(f"{error:.1f}" for error in row["draws"])
        beyond = f"{row['beyond']:+.1f}" if "beyond" in row else ""
        lines.append(
            f"| {row['images']} | {row['shots']} | {row['method']} | {row['top1']:.1f} | {row['ece']:.1f} | {draws} | "
            f"{beyond} | {row.get('on', '')} |"
        )
    return "\n".join(lines)


def index_kinds(folder: Path = RESULTS) -> str:
    """Markdown: each kind of index over the same images."""
    if (result := newest(folder, "index_kinds")) is None:
        return _nothing("index_kinds")
    lines = [
        "| kind | recall@10 | promised | memory | disk | build | queries in a batch | one query |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        value, low, high = row["promised"]
        promised = "all" if row["kind"] == "flat" else f"{value:.4f} ({low:.4f} to {high:.4f})"
        lines.append(
            f"| `{row['kind']}` | {row['recall']:.4f} | {promised} | {row['memory_bytes']:.0f} B | "
            f"{row['disk_bytes']:.0f} B | {row['build_s']:.1f} s | {row['batch_per_second']}/s | "
            f"{row['single_ms']:.2f} ms |"
        )
    facts, machine = result["facts"], result["machine"]
    origin = (
        f"{facts['images']} Tiny-ImageNet images by `{facts['backbone']}`, features from the cache; {facts['queries']} "
        f"queries; memory and disk for each image; {machine['cores']} cores of {machine['cpu']}."
    )
    return "\n".join([*lines, "", origin])


def strangers(folder: Path = RESULTS) -> str:
    """Markdown: AUROC by confidence and by each score, pairing by pairing, and what the stored threshold does."""
    if (rows := _rows_of(folder, "strangers")) is None:
        return _nothing("strangers")
    by = ("confidence", "cosine", "energy", "mahalanobis", "relative_mahalanobis", "nearest", "blend")
    heads = [*by, "stored", "FPR at 95 %", "known called unknown", "strangers called unknown"]
    lines = [f"| known | strangers | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for row in rows:
        cells = [*(f"{row[name]:.3f}" for name in by), f"**{row['auroc']:.3f}** `{row['chosen']}`"]
        cells += [f"{row[name]:.1f} %" for name in ("fpr95", "known_unknown", "strangers_unknown")]
        lines.append(f"| {row['known']} | {row['strangers']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def strangers_short(folder: Path = RESULTS) -> str:
    """Markdown: the same, by confidence and by what is stored alone."""
    if (rows := _rows_of(folder, "strangers")) is None:
        return _nothing("strangers")
    heads = ["AUROC of confidence", "of strangeness", "strangers called unknown", "known called unknown"]
    lines = [f"| known | strangers | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for row in rows:
        cells = [f"{row['confidence']:.2f}", f"{row['auroc']:.2f}"]
        cells += [f"{row[name]:.0f} %" for name in ("strangers_unknown", "known_unknown")]
        lines.append(f"| {row['known']} | {row['strangers']} | {' | '.join(cells)} |")
    return "\n".join(lines)


_PIPELINE = ("pipeline", "Images to features, CPU, speed", "DINO's way: DataLoader, PIL, plain forward")
_WARM = ("startup", "`fewvit knn`, warm cache, 10000 x 10000 x 384", "the clock")
_KNN = ("knn", "k-NN, 50000 x 5000 x 384, four k", "DINO's classifier, four passes")
_SAME = [("knn", f"The same, largest difference of top-{k}", "DINO's classifier") for k in (1, 5)]
_LOGISTIC = ("logistic", "Logistic regression, 1000 classes, 1 shot, width 384", "scikit-learn, the same gap")
_CYANURE = ("logistic", "The same", "cyanure at MSN's settings")
_STEPS = [("pretrain", f"{method} step, fp32", "official step fp32") for method in ("DINO", "MAE", "MSN")]
_GRID = ("linear_grid", "Linear grid, 26 heads, 100 classes, batch 256, fp32", "DINOv2's loop over heads, fp32")


def headlines(folder: Path = RESULTS) -> str:
    """Markdown: the README's five lines, their figures claims of result files. Raises SystemExit if one is missing."""
    found = claims(folder)
    if not found:
        return "Nothing has been measured yet: run `make bench`."

    def value(key: tuple[str, str, str]) -> float:
        if (*key, 0) not in found:
            raise SystemExit(
                f"results/*/{key[0]}.json have no claim {key[1]!r} against {key[2]!r}: measure it, or change "
                "benchmarks/table.py."
            )
        return least(found[*key, 0])

    def times(*keys: tuple[str, str, str]) -> str:
        ends = sorted(map(value, keys))
        return "**" + " to ".join(f"{_number(one, '')}×" for one in dict.fromkeys((ends[0], ends[-1]))) + "**"

    goals = [(kind, claim) for by_kind in found.values() for kind, claim in by_kind.items() if claim["met"] is not None]
    missed = [
        f"{claim['what']} ({_number(claim['value'], claim['unit'])}, goal {_goal(claim)}; {title_of(kind)})"
        for kind, claim in goals
        if not claim["met"]
    ]
    lines = [
        f"Images to features on a CPU: {times(_PIPELINE)} as fast as DINO's way (DataLoader, PIL, plain forward). "
        "With all features in the cache, `fewvit knn` on 10,000 + 10,000 images takes "
        f"{_number(value(_WARM), 's')}, start-up included.",
        f"k-NN with four values of k on 50,000 × 5,000 features: {times(_KNN)} as fast as DINO's classifier; "
        f"top-1 and top-5 differ by at most {_number(max(map(value, _SAME)), 'points')}.",
        f"MSN's logistic regression, 1000 classes, one image each: {times(_LOGISTIC)} as fast as scikit-learn "
        f"to the same duality gap, {times(_CYANURE)} as fast as cyanure at MSN's settings.",
        f"Pretraining steps of DINO, MAE and MSN in fp32: {times(*_STEPS)} as fast as the official steps. "
        f"A linear probe with 26 heads: {times(_GRID)} as fast as DINOv2's loop over heads.",
        f"{len(goals) - len(missed)} of {len(goals)} goals, each set before it was measured, are met. "
        f"Missed: {'; '.join(missed) or 'none'}.",
    ]
    kinds = ", ".join(f"{title_of(kind)}: {len(by_name)}" for kind, by_name in measured(folder).items())
    origin = (
        "Measured side by side with the peer, in one process and in turn, on two cores. Each figure is the least over "
        f"the kinds of machines that it was measured on (scripts by kind: {kinds}); [the table](benchmarks/README.md#"
        "measured) has each of them."
    )
    return "\n".join([*(f"* {line}" for line in lines), "", origin])


Section = Callable[[], str]
SECTIONS: dict[str, tuple[str, Section]] = {  # name of the marks -> page, and what stands between them
    "headlines": ("README.md", headlines),
    "benchmarks": ("benchmarks/README.md", table),
    "index": ("README.md", index_kinds),
    "learned": ("docs/pretraining.md", learned),
    "tuned": ("docs/finetuning.md", tuned),
    "strangers": ("docs/bundles.md", strangers),
    "strangers-short": ("README.md", strangers_short),
    "calibration": ("docs/finetuning.md", calibration),
}


def _line(what: str, against: str, by_kind: Mapping[str, Mapping[str, Any]], kinds: Sequence[str]) -> str:
    cells = []
    for kind in kinds:
        own = by_kind.get(kind)
        cells.append("" if own is None else f"{_number(own['value'], own['unit'])} {_VERDICT[own['met']]}".strip())
    goals = dict.fromkeys(_goal(own) for own in by_kind.values())  # some hang on what the CPU has
    return f"| {what} | {against} | {'; '.join(goals)} | {' | '.join(cells)} |"


def _goal(claim: Mapping[str, Any]) -> str:
    return str(claim["goal"]).replace(">=", "≥").replace("<=", "≤")


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
            f"{', '.join(result['name'] for result in group)}: {when}, {', '.join(hardware)}; "
            f"{', '.join(f'{k} {v}' for k, v in versions.items())}."
        )
    return lines


def replaced(text: str, name: str, new: str, page: str = "the page") -> str:
    """`text` with what stands between the two marks of a section replaced. Raises SystemExit if there are no marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"{page} has no place for the section: put the lines {begin} and {end} there, once each.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"


def pages(root: Path = ROOT) -> dict[Path, tuple[str, str]]:
    """Each page that shows measurements: its text as it is, and as results/*/*.json have it."""
    found: dict[Path, tuple[str, str]] = {}
    for name, (page, section) in SECTIONS.items():
        text, wanted = found.get(root / page) or ((root / page).read_text(encoding="utf-8"),) * 2
        found[root / page] = text, replaced(wanted, name, section(), page)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put them into the pages")
    action.add_argument("--check", action="store_true", help="exit with 1 if a page shows something else")
    options = parser.parse_args()
    if not (options.write or options.check):
        print("\n\n".join(section() for _, section in SECTIONS.values()))
        return 0
    stale = {path: wanted for path, (text, wanted) in pages().items() if text != wanted}
    if options.check:
        for path in stale:
            print(
                f"{path.relative_to(ROOT)} shows other numbers than results/*/*.json; run `python -m "
                "benchmarks.table --write`.",
                file=sys.stderr,
            )
        return 1 if stale else 0
    from fewvit.files import replacing

    for path, wanted in stale.items():
        with replacing(path, "w") as handle:
            handle.write(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
