"""How far confidence and accuracy lie apart after fine-tuning on 1, 2 and 5 labels a class, three draws of each.

    python -m benchmarks.calibration RUNS

RUNS is the folder in which images and runs are kept, so that it can go on. The images are five classes of Tiny-ImageNet
as they are, and five others scaled down to 32 px, as CIFAR's come, and up again by the evaluation; of each, 50 test
images a class. The backbone is fewvit_tiny. So that it ends within the hour, each mode tries the highest learning rate
of its grid alone, the one that makes a network surest, for up to ten epochs (`full`: 20).
"""

from __future__ import annotations

import argparse
import datetime
import io
import itertools
import os
import statistics
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image

from fewvit.files import write_json

from .learned import command
from .measure import here, machine, versions

SEEDS, SHOTS = range(3), (1, 2, 5)
LR = {"lora": 1e-3, "last-block": 3e-4, "full": 1e-3, "bias": 3e-3, "norm": 3e-3}
EPOCHS = {"full": 20}  # of the others 10
EVERY, TRAIN, TEST = 40, 25, 50  # each 40th class, and images of it
SOURCES = {"Tiny-ImageNet": (0, None), "32 px": (7, 32)}  # name -> the first class, and the side to scale down to


def images(root: Path, source: str) -> Path:
    """The folder of a source's images, written unless it is there."""
    folder, (first, side) = root / source.replace(" ", ""), SOURCES[source]
    data = Path(os.environ.get("FEWVIT_SHARED", "../shared")) / "data"
    for part, many in {"train": TRAIN, "val": TEST}.items():
        if (folder / part).exists():
            continue
        with zipfile.ZipFile(data / f"tinyimagenet-{part}.zip") as archive:
            by_class = defaultdict(list)
            for name in sorted(archive.namelist()):
                if not name.endswith("/"):
                    by_class[Path(name).parent.name].append(name)
            for c in sorted(by_class)[first::EVERY]:
                (folder / part / c).mkdir(parents=True)
                for name in by_class[c][:many]:
                    image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                    if side is not None:
                        image = image.resize((side, side), Image.Resampling.BICUBIC)
                    image.save((folder / part / c / Path(name).name).with_suffix(".png"))
    return folder


def run_folder(root: Path, source: str, mode: str, shots: int, seed: int) -> Path:
    return root / "runs" / f"{source.replace(' ', '')}_{mode}_{shots}_{seed}"


def errors(root: Path, source: str, mode: str, shots: int, seed: int) -> dict[str, Any]:
    """Top-1 and calibration error by method of one run, and what calibrated it."""
    out = run_folder(root, source, mode, shots, seed)
    result = command(
        *("finetune", "--backbone", "fewvit_tiny", "--data", images(root, source), "--shots", shots, "--seed", seed),
        *("--mode", mode, "--set", f"lr={LR[mode]}", "--epochs", EPOCHS.get(mode, 10), "--device", "cpu"),
        *("--cache-dir", root / "cache", "--out", out),
    )
    values = {(row["method"], row["metric"]): row["value"] for row in result["rows"]}
    found = {name: [values[name, "top1"], values[name, "ece"]] for name in ("logistic", mode)}
    return {**found, "chosen": result["run"]["chosen"]}


def summary(pairs: list[list[float]]) -> dict[str, Any]:
    """Mean top-1, mean and single calibration errors."""
    top1, ece = zip(*pairs, strict=True)
    return {
        "top1": round(statistics.mean(top1), 2),
        "ece": round(statistics.mean(ece), 2),
        "draws": [round(e, 2) for e in ece],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, help="folder of the images and runs")
    parser.add_argument("--modes", default="last-block,lora,bias,norm,full")
    parser.add_argument("--finished", action="store_true", help="of the runs that are finished: nothing is trained")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shots, source in itertools.product(SHOTS, SOURCES):
        frozen: list[list[float]] = []
        for mode in options.modes.split(","):
            folders = [run_folder(options.runs, source, mode, shots, seed) for seed in SEEDS]
            if options.finished and not all((folder / "result.json").exists() for folder in folders):
                continue
            draws = [errors(options.runs, source, mode, shots, seed) for seed in SEEDS]
            where = {"images": source, "shots": shots}
            if not frozen:
                frozen = [draw["logistic"] for draw in draws]
                rows.append({**where, "method": "frozen logistic", **summary(frozen)})
            beyond = round(max(draw[mode][1] - draw["logistic"][1] for draw in draws), 2)
            on = draws[0]["chosen"]["calibrated_on"]
            rows.append(
                {**where, "method": mode, **summary([draw[mode] for draw in draws]), "beyond": beyond, "on": on}
            )
            print(rows[-1], flush=True)
            write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """Replace the result file by these rows."""
    about = {"machine": machine(), "date": datetime.date.today().isoformat(), "versions": versions()}
    classes = 200 // EVERY
    facts = {
        "backbone": "fewvit_tiny",
        "classes": classes,
        "test_images": classes * TEST,
        "lr": LR,
        "draws": len(SEEDS),
    }
    what = __doc__.splitlines()[0]
    write_json(
        here() / "calibration.json",
        {"name": "calibration", "what": what, "claims": [], "rows": rows, "facts": facts, "quick": False, **about},
    )


if __name__ == "__main__":
    main()
