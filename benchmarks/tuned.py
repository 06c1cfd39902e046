"""What fine-tuning on five labels a class gives, beside the frozen baselines on the same images.

Tiny-ImageNet, three draws of each.

    python -m benchmarks.tuned RUNS

RUNS is the folder in which the runs are kept, so that it can go on. Images come from $FEWVIT_SHARED/data. `full` has 30
epochs instead of 100, for the sake of the hours that it takes on CPUs; all train in bf16.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from pathlib import Path
from typing import Any

from fewvit.files import write_json

from .learned import command, sources
from .measure import here, machine, versions

MODES: dict[str, tuple[str, ...]] = {"last-block": (), "lora": (), "full": ("--epochs", "30")}
SEEDS = range(3)
SHOTS = 5


def tuned(runs: Path, backbone: str, train: str, test: str, mode: str, seed: int) -> dict[str, float]:
    """Top-1 by method of one run, the frozen baselines first."""
    out = runs / f"ft_{mode}_{seed}"
    result = command(
        *("finetune", "--backbone", backbone, "--train", train, "--test", test, "--shots", SHOTS, "--seed", seed),
        *("--mode", mode, "--precision", "bf16", "--out", out, *MODES[mode]),
    )
    return {row["method"]: row["value"] for row in result["rows"] if row["metric"] == "top1"}


def summary(values: list[float]) -> dict[str, float]:
    """Mean and sample deviation."""
    return {"mean": round(statistics.mean(values), 3), "std": round(statistics.stdev(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuned", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--backbone", default="fewvit_tiny")
    parser.add_argument("--train", default=sources()["tiny-imagenet"][0])
    parser.add_argument("--test", default=sources()["tiny-imagenet"][1])
    options = parser.parse_args()
    found = {
        m: [tuned(options.runs, options.backbone, options.train, options.test, m, seed) for seed in SEEDS]
        for m in MODES
    }
    frozen = next(iter(found.values()))  # the same draws for every mode
    rows: list[dict[str, Any]] = [
        {"method": f"frozen {name}", **summary([draw[name] for draw in frozen])}
        for name in frozen[0]
        if name not in MODES
    ]
    for mode, draws in found.items():
        gains = [draw[mode] - draw["logistic"] for draw in draws]
        rows.append(
            {"method": mode, **summary([draw[mode] for draw in draws]), "gains": [round(gain, 2) for gain in gains]}
        )
    for row in rows:
        print(f"{row['method']:<20} {row['mean']:6.2f} +- {row['std']:.2f}  {row.get('gains', '')}")
    about = {"machine": machine(), "date": datetime.date.today().isoformat(), "versions": versions()}
    facts = {"backbone": options.backbone, "shots": SHOTS, "draws": len(SEEDS), "precision": "bf16", "full_epochs": 30}
    what = __doc__.splitlines()[0]
    write_json(
        here() / "tuned.json",
        {"name": "tuned", "what": what, "claims": [], "rows": rows, "facts": facts, "quick": False, **about},
    )


if __name__ == "__main__":
    main()
