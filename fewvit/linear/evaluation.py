"""What a probe is worth: the chosen head's rows on the test images, its file, and the facts of the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import IMAGENET
from ..evaluate.evaluation import accepted_classes, answers_among, of_answers
from ..evaluate.inputs import Found
from ..evaluate.predictions import Predicted, save_predictions
from ..features import FeatureSet
from ..files import sha256_of
from ..metrics import rank_of_accepted, top_k_accuracy
from .plan import HEAD
from .selection import Selected, select_head
from .training import Training


def train_and_evaluate(training: Training) -> tuple[Found, np.ndarray]:
    """Rows and facts of a probe that is trained to the end: a head is chosen, measured on the test images and stored.

    Last, its class scores (Q, C) of them. Raises StoppedTraining.
    """
    from ..training.distributed import rank

    started = time.perf_counter()
    trained = training.run()
    selected = select_head(training)
    one = training.heads.inputs[selected.number // len(training.probe.lrs)]  # the columns that the head reads
    scores = selected.head.chunked_scores(training.test.features[:, one.start : one.stop])  # (Q, C)
    rows = _rows(training, selected, ranks(scores, training.test))
    stored = {}
    if training.plan.folder is not None and rank() == 0:
        file = training.plan.folder.path / HEAD
        selected.head.save(file, _about(training, selected))
        stored = {"head_sha256": sha256_of(file)}  # what `head_files.require_head` compares
    facts = {
        "linear": _facts(training, selected),
        **stored,
        "images_per_second_training": trained.images_per_second,
        "seconds": {"train": round(time.perf_counter() - started, 3)},
    }
    return (_with_published(training, rows), facts), scores


def write_predictions(path: Path | None, predictions: Sequence[Predicted], notify: Callable[[str], None]) -> None:
    """Write the predictions where they are asked for, and name the file."""
    if path is not None and predictions:
        save_predictions(path, predictions)
        notify(f"wrote {path}")


def predictions_of(scores: np.ndarray, test: FeatureSet, backbone: str) -> Predicted:
    """What class scores (n, C) say of the test images, with their softmax for probabilities.

    `backbone` is empty where there is only one.
    """
    scores = _of_answers(scores, test)
    below = scores - scores.max(axis=1, keepdims=True)
    odds = np.exp(below).sum(axis=1, dtype=np.float64)  # (n,) of all classes to the predicted one
    which = {**({"backbone": backbone} if backbone else {}), "method": "linear"}
    return Predicted.of(which, test, scores.argmax(axis=1), 1 / odds)


def ranks(scores: np.ndarray, test: FeatureSet) -> np.ndarray:
    """Place (n,) of the right class of each test image among class scores (n, C), 0 = best; ties go to the lower class.

    Of several right ones the best place.
    """
    above_nothing = scores.astype(np.float64)
    above_nothing -= above_nothing.min() - 1.0  # no class is without a vote here
    return rank_of_accepted(_of_answers(above_nothing, test), accepted_classes(test))


def _of_answers(scores: np.ndarray, test: FeatureSet) -> np.ndarray:
    """Class scores (n, C) with -inf for classes that a prediction may not be."""
    return of_answers(scores, answers_among(np.arange(scores.shape[1]), test), -np.inf)


def _rows(training: Training, selected: Selected, rank: np.ndarray) -> list[dict[str, Any]]:
    probe, test, request = training.probe, training.test, training.plan.request
    columns = {
        "method": "linear",
        "protocol": training.settled.protocol,
        "views": "augmented" if request.augment else "cached",
        **training.heads.describe(selected.number),
        "epochs": selected.epochs,
        "selected_on": selected.on,
        **({"precision": probe.precision} if probe.precision != "fp32" else {}),
        "n_train": len(training.batches),
        "n_test": len(test),
    }
    return [{**columns, "metric": metric, "value": top_k_accuracy(rank, k)} for metric, k in (("top1", 1), ("top5", 5))]


def _facts(training: Training, selected: Selected) -> dict[str, Any]:
    """For the manifest: how it was trained, and every head's standing where the choice was made."""
    all_heads, probe = training.heads, training.probe
    diverged = all_heads.diverged.tolist()
    if training.standings is None and len(training.selection_set):  # a run that was finished but for its result
        training.evaluate()
    standings = training.standings
    heads = []
    for i in range(len(all_heads)):
        top1 = {} if standings is None or diverged[i] >= 0 else {"selection_top1": round(float(standings[0][i]), 3)}
        heads.append(
            {**all_heads.describe(i), **top1, **({"diverged_in_step": diverged[i]} if diverged[i] >= 0 else {})}
        )
    return {
        "protocol": training.settled.protocol,
        "batch_size": probe.batch_size,
        "epochs": probe.epochs,
        "selected": all_heads.describe(selected.number),
        "selected_on": selected.on,
        **({"default_lr": probe.default_lr} if selected.on == "default" else {}),
        "judged_by": len(training.selection_set),
        "heads": heads,
    }


def _about(training: Training, selected: Selected) -> dict[str, Any]:
    """What a head's file says of it."""
    train = training.train
    origin = {"backbone": training.inputs.backbone, "weights": train.weights}
    described = training.heads.describe(selected.number)
    return {"classes": list(map(str, train.classes)), "protocol": training.settled.protocol, **described, **origin}


def _with_published(training: Training, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the published number beside the papers' own procedure.

    That is ImageNet-1k with augmentation, and the head chosen on the test images.
    """
    pipeline, request = training.inputs.pipeline, training.plan.request
    on_imagenet = IMAGENET.is_tested_on(len(training.test), len(training.train.classes))
    official = request.augment and request.select_on == "test" and on_imagenet
    if not official or pipeline is None or pipeline.spec.is_random or "linear" not in pipeline.spec.published:
        return rows
    return [{**row, "published": pipeline.spec.published["linear"]} if row["metric"] == "top1" else row for row in rows]
