"""What pretraining has learnt: a run's encoder beside random weights of the same architecture and raw pixels.

    python -m benchmarks.learned RUN [RUN ...]

k-NN, a linear probe (DINOv2's grid on cached features) and 1/2/5 labels per class on Tiny-ImageNet's validation images
(200 classes) and on the digits that scikit-learn carries, and 20-way 1-shot episodes on Omniglot. Images come from
$FEWVIT_SHARED/data. A run is a folder of `fewvit pretrain`, or a backbone's name.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import itertools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.datasets import open_dataset
from fewvit.features import FeatureSet
from fewvit.files import write_json
from fewvit.images import decode
from fewvit.preprocess import Preprocess
from fewvit.runs.folder import RunFolder
from fewvit.training.log import read_log

from .measure import here, machine, versions

_RANDOM = "random: "  # before a run's name: its architecture untrained
_PIXELS = 32  # side of the images that count as raw pixels; smaller ones are better neighbours than 64


def sources() -> dict[str, tuple[str, str]]:
    """Name -> training and test source."""
    data = Path(os.environ.get("FEWVIT_SHARED", "../shared")) / "data"
    return {
        "tiny-imagenet": (str(data / "tinyimagenet-train.zip"), str(data / "tinyimagenet-val.zip")),
        "digits": ("digits/train", "digits/test"),
    }


def omniglot() -> str:
    return str(Path(os.environ.get("FEWVIT_SHARED", "../shared")) / "data" / "omniglot-small1.zip")


def command(*words: Any) -> dict[str, Any]:
    """The JSON that a command prints."""
    from fewvit_cli.main import run as fewvit  # where nothing is installed it is made importable first

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = fewvit([*map(str, words), "--format", "json", "--quiet"])
    if code:
        raise SystemExit(code)
    return json.loads(out.getvalue() or "{}")


def raw_pixels(source: str, file: Path) -> None:
    """A features file of the images themselves, shrunk."""
    dataset, shown = open_dataset(source), Preprocess(cover=(_PIXELS, _PIXELS), crop=(_PIXELS, _PIXELS))
    pixels = np.stack([decode(dataset.read(i), shown)[0].reshape(-1) for i in range(len(dataset))]).astype(np.float32)
    FeatureSet(
        pixels - pixels.mean(axis=1, keepdims=True),
        dataset.labels,
        dataset.ids,
        dataset.classes,
        "",
        dataset.name,
        "",
        "",
    ).save(file)


def features(kind: str, source: str, file: Path) -> None:
    """The features file of a source under a kind of features."""
    if kind == "raw pixels":
        raw_pixels(source, file)
        return
    untrained = kind.startswith(_RANDOM)
    name, _, pool = kind.removeprefix(_RANDOM).partition(" ")
    options = [*(("--pool", pool) if pool else ()), *(("--weights", "random") if untrained else ())]
    command("extract", "--data", source, "--out", file, "--backbone", name, *options)


def by_character(file: Path) -> None:
    """Make each character a class of its own: folders are alphabets, and characters folders in them."""
    found = FeatureSet.load(file)
    classes, labels = np.unique([name.rpartition("/")[0] for name in found.ids], return_inverse=True)
    dataclasses.replace(found, labels=labels.astype(np.int64), classes=classes.tolist()).save(file)


def judged(kind: str, folder: Path, sets: Mapping[str, tuple[str, str]] | None = None) -> dict[str, float]:
    """Accuracies in percent by name; `sets` in place of `sources()`."""
    found = {}
    for name, (train, test) in (sources() if sets is None else sets).items():
        files = [folder / f"{name}-{part}.npz" for part in ("train", "test")]
        for source, file in zip((train, test), files, strict=True):
            features(kind, source, file)
        [row] = [
            r
            for r in command("knn", "--train", files[0], "--test", files[1], "--k", 20)["rows"]
            if r["metric"] == "top1"
        ]
        found[f"{name} k-NN"] = row["value"]
        probe = command("linear", "--train", files[0], "--test", files[1], "--protocol", "dinov2/1")
        [row] = [r for r in probe["rows"] if r["metric"] == "top1"]
        found[f"{name} linear probe"] = row["value"]
        shots = command(
            "lowshot",
            "--train",
            files[0],
            "--test",
            files[1],
            "--shots",
            "1,2,5",
            "--trials",
            3,
            "--classifier",
            "centroid,logistic",
        )
        for row in shots["rows"]:
            if row["metric"] == "top1" and row["trial"] == "mean":
                found[f"{name} {row['method']} {row['shots']}-shot"] = row["value"]
    file = folder / "omniglot.npz"
    features(kind, omniglot(), file)
    by_character(file)
    rows = command(
        "episodes",
        "--data",
        file,
        "--ways",
        20,
        "--shots",
        1,
        "--queries",
        5,
        "--episodes",
        300,
        "--classifier",
        "centroid",
    )["rows"]
    found["omniglot 20-way 1-shot"] = rows[0]["value"]
    return found


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    """Print accuracies, a column for each kind of features."""
    width = max(map(len, next(iter(found.values()))))
    print(" " * width, *(f"{_title(kind):>24}" for kind in found))
    for name in next(iter(found.values())):
        print(f"{name:<{width}}", *(f"{values[name]:24.2f}" for values in found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learned", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN[ POOL]", help="run folders or backbones; `RUN mean` takes mean patch tokens"
    )
    parser.add_argument("--name", help="also write benchmarks/results/KIND/NAME.json")
    parser.add_argument(
        "--add",
        action="store_true",
        help="to what NAME.json holds, rather than anew with random weights and raw pixels",
    )
    options = parser.parse_args()
    file = here() / f"{options.name}.json"
    before = json.loads(file.read_text()) if options.add else {"rows": [], "training": {}}
    found = {}
    for kind in (
        *(() if options.add else ("raw pixels", *(f"{_RANDOM}{run}" for run in options.runs[:1]))),
        *options.runs,
    ):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = judged(kind, Path(folder))
    show(found)
    if options.name:
        rows = [*before["rows"], *({"features": _title(kind), **values} for kind, values in found.items())]
        about = {
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
            "versions": versions(),
            "training": {**before["training"], **_trainings(options.runs)},
        }
        write_json(
            file,
            {
                "name": options.name,
                "what": __doc__.splitlines()[0],
                "claims": [],
                "rows": rows,
                "quick": False,
                **about,
            },
        )


def _title(kind: str) -> str:
    if kind == "raw pixels":
        return kind
    name, *pool = kind.removeprefix(_RANDOM).split()
    return " ".join(["random" if kind.startswith(_RANDOM) else Path(name).name, *pool])


def _trainings(runs: list[str]) -> dict[str, Any]:
    """How each run came about: from its manifest, its result and its log. A backbone's name has none of them."""
    found = {}
    for run in runs:
        folder = RunFolder(Path(run.split()[0]))
        manifest, result = (folder.manifest(), folder.result()) if folder.path.is_dir() else (None, None)
        if manifest is None or result is None:
            continue
        what, speed = manifest["what"], result.run["images_per_second"]
        epochs, images = what["recipe"]["epochs"], result.rows[0]["n_train"]
        found[_title(run)] = {
            **{k: what[k] for k in ("method", "preset", "seed")},
            "init": next((then for word, then in itertools.pairwise(result.run["argv"]) if word == "--init"), None),
            "epochs": epochs,
            "images": images,
            "images_per_second": speed,
            "hours": round(epochs * images / speed / 3600, 2),
            "knn_by_epoch": [line["knn_top1"] for line in read_log(folder.log) if "knn_top1" in line and line["step"]],
        }
    return found


if __name__ == "__main__":
    main()
