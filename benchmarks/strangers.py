"""How well the strangeness of a bundle tells known pictures from strange ones, beside its confidence and each score.

Features are those of `fewvit_tiny`; a bundle has 50 labelled images a class (of ImageNet-18, which has no more, 10).
Known pictures are others of the same classes. No network is timed. Images come from $FEWVIT_SHARED/data.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fewvit.bundles.bundle import Bundle
from fewvit.bundles.fit import FittingRequest, fit_bundle
from fewvit.features import FeatureSet
from fewvit.metrics import auroc, passing_at
from fewvit.seeds import generator
from fewvit.strangeness import fitted, scaled, score_names

from .learned import command
from .measure import Claim, Outcome, main

WHAT = "AUROC of known against strange pictures, bundles of 50 images a class, features of fewvit_tiny"
BACKBONE, EACH, DRAWN = "fewvit_tiny", 50, 20  # labelled images a class, and classes of Tiny-ImageNet in a bundle


@dataclass(frozen=True)
class Pairing:
    """Labelled images, known images of the same classes, and strange ones."""

    known: str
    strangers: str
    labelled: FeatureSet
    known_images: FeatureSet
    strange_images: FeatureSet


def data() -> Path:
    return Path(os.environ.get("FEWVIT_SHARED", "../shared")) / "data"


def extracted(source: Path | str, file: Path) -> FeatureSet:
    command("extract", "--data", source, "--out", file, "--backbone", BACKBONE)
    return FeatureSet.load(file)


def tiny_imagenet(folder: Path, part: str) -> dict[str, FeatureSet]:
    """Features of two draws of 20 classes each, 50 images a class: draw -> features."""
    with zipfile.ZipFile(data() / f"tinyimagenet-{part}.zip") as archive:
        by_class: dict[str, list[str]] = {}
        for name in sorted(name for name in archive.namelist() if name.endswith(".JPEG")):
            by_class.setdefault(PurePosixPath(name).parts[-2], []).append(name)
        classes, order = sorted(by_class), generator("strangers", 0).permutation(len(by_class))
        for draw, numbers in (("first", order[:DRAWN]), ("second", order[DRAWN : 2 * DRAWN])):
            for name in (name for c in numbers for name in by_class[classes[c]][:EACH]):
                file = folder / f"{part}-{draw}" / PurePosixPath(name).parts[-2] / PurePosixPath(name).name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(name))
    return {draw: extracted(folder / f"{part}-{draw}", folder / f"{part}-{draw}.npz") for draw in ("first", "second")}


def of_classes(features: FeatureSet, names: Sequence[str], *, others: bool = False) -> FeatureSet:
    """The rows of these classes, or all others."""
    own = np.isin(np.array(features.classes)[features.labels], names)
    return features.select(np.flatnonzero(own != others))


def parted(features: FeatureSet, classes: int) -> tuple[FeatureSet, FeatureSet, FeatureSet]:
    """Of the first classes 50 drawn images each, and the rest; and the images of the other classes."""
    fold = np.zeros(len(features), int)
    for c in range(classes):
        rows = np.flatnonzero(features.labels == c)
        fold[generator("strangers", c).permutation(rows)[:EACH]] = 1
    known = features.labels < classes
    parts = (known & (fold == 1), known & (fold == 0), ~known)
    labelled, rest, others = (features.select(np.flatnonzero(part)) for part in parts)
    return labelled, rest, others


def pairings(folder: Path) -> list[Pairing]:
    with zipfile.ZipFile(data() / "imagenet18.zip") as archive:
        archive.extractall(folder)
    eighteen = {part: extracted(folder / "imagenet18" / part, folder / f"18-{part}.npz") for part in ("train", "val")}
    digits = extracted("digits", folder / "digits.npz")
    omniglot = extracted(data() / "omniglot-small1.zip", folder / "omniglot.npz")
    train, val = tiny_imagenet(folder, "train"), tiny_imagenet(folder, "val")
    found = []
    for draw, other in (("first", "second"), ("second", "first")):
        strange = {
            "left out": val[other],
            "ImageNet-18": of_classes(eighteen["train"], train[draw].classes, others=True),
            "Omniglot": omniglot,
            "digits": digits,
        }
        name = f"Tiny-ImageNet, {draw} 20 classes"
        found += [Pairing(name, what, train[draw], val[draw], images) for what, images in strange.items()]
    labelled, rest, others = parted(digits, 5)
    found += [Pairing("digits 0 to 4", "digits 5 to 9", labelled, rest, others)]
    found += [Pairing("digits 0 to 4", "Omniglot", labelled, rest, omniglot)]
    labelled, rest, others = parted(omniglot, 3)
    found += [Pairing("Omniglot, 3 alphabets", "its other alphabets", labelled, rest, others)]
    nine = eighteen["train"].classes[:9]
    known, own = of_classes(eighteen["train"], nine), of_classes(eighteen["val"], nine)
    found += [
        Pairing(
            "ImageNet-18, 9 classes of 10",
            "its other classes",
            known,
            own,
            of_classes(eighteen["val"], nine, others=True),
        )
    ]
    return [*found, Pairing("ImageNet-18, 9 classes of 10", "digits", known, own, digits)]


def measured(pair: Pairing, bundle: Bundle) -> dict[str, str | float]:
    """AUROC by confidence, by the largest cosine, by each score and by the chosen one, and what its threshold does."""
    stored = bundle.strangeness
    if stored is None or stored.threshold is None:
        raise SystemExit("this bundle has no strangeness")
    sides = [pair.known_images.features, pair.strange_images.features]
    rows, numbers = pair.labelled.features, np.unique(pair.labelled.labels, return_inverse=True)[1]
    confidence = [-bundle.confidences(bundle.probabilities(side)).max(axis=1) for side in sides]
    cosine = [1 - (scaled(side) @ scaled(rows).T).max(axis=1) for side in sides]
    scores = {name: fitted(name, rows, numbers, len(bundle.classes)) for name in score_names()}
    by = {name: [score.of(scaled(side)) for side in sides] for name, score in scores.items()}
    own = [stored.of(side) for side in sides]
    found = {
        name: auroc(*two) for name, two in {"confidence": confidence, "cosine": cosine, **by, "auroc": own}.items()
    }
    flagged = [100 * float((side > stored.threshold).mean()) for side in own]
    told = {"fpr95": passing_at(*own), "known_unknown": flagged[0], "strangers_unknown": flagged[1]}
    return {"known": pair.known, "strangers": pair.strangers, "chosen": stored.name} | {
        name: round(value, 4) for name, value in {**found, **told}.items()
    }


def claims(rows: Sequence[Mapping[str, object]], what: str) -> list[Claim]:
    """The worst of these pairings, beside what was wanted of every one."""
    listed = [name for name in score_names() if name != "blend"]

    def worst(over: Sequence[str]) -> float:
        return min(float(str(row["auroc"])) - max(float(str(row[name])) for name in over) for row in rows)

    lowest = min(float(str(row["auroc"])) for row in rows)
    return [
        Claim(f"Strangeness, AUROC beyond, the worst of {what}", "largest cosine", worst(["cosine"]), "", ">= 0"),
        Claim(f"Strangeness, AUROC beyond, the worst of {what}", "best single score", worst(listed), "", ">= -0.02"),
        Claim(f"Strangeness, AUROC, the lowest of {what}", "chance", lowest, "", ">= 0.5"),
    ]


def measure(quick: bool) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        pairs = pairings(Path(place))
    if quick:
        pairs = [
            dataclasses.replace(one, strange_images=one.strange_images.select(np.arange(40))) for one in pairs[:5:4]
        ]
    own = {id(pair.labelled): pair.labelled for pair in pairs}
    bundles = {key: fit_bundle(labelled, FittingRequest())[0] for key, labelled in own.items()}
    rows = [measured(pair, bundles[id(pair.labelled)]) for pair in pairs]
    many = [row for row in rows if not str(row["known"]).startswith("ImageNet-18")]
    five = [*many[:4], *(row for row in many if row["strangers"] == "digits 5 to 9")]
    found = [*claims(five, "five pairings"), *claims(many, f"{len(many)} pairings")]
    return Outcome(found, rows, {"backbone": BACKBONE, "images_per_class": EACH})


if __name__ == "__main__":
    main("strangers", WHAT, measure)
