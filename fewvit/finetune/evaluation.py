"""What the fine-tuned network is worth, beside the frozen one; and the bundle that `fewvit predict` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundles.bundle import Bundle
from ..bundles.file import load_bundle, save_bundle
from ..digests import contents_of
from ..errors import counted
from ..evaluate.evaluation import evaluate_estimator
from ..evaluate.inputs import Backbones
from ..evaluate.predictions import Predicted
from ..extraction.notes import TOKENS
from ..extraction.pipeline import FeatureOptions, Pipeline, settle
from ..features import FeatureSet
from ..labels import labelled
from ..models.resolve import resolve
from ..results import Result, manifest
from .baselines import logistic
from .confidence import Confidence
from .held_out import Candidate
from .plan import BUNDLE, Labelled, Plan

if TYPE_CHECKING:
    from ..classifiers.logistic import LogisticRegression
    from .tuning import ClassificationHead, Tuning


def evaluate_tuned(
    plan: Plan, labelled: Labelled, task: Tuning, chosen: Candidate, confidence: Confidence
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the fine-tuned model, read back from its folder as every command does, and facts for the manifest."""
    request = plan.request
    pipeline, test = _test_features(plan)
    evaluation = evaluate_estimator(
        classifier_of(plan, labelled, task.head, labelled.present), test, confidence.temperature
    )
    _save_bundle(plan, labelled, task.head, pipeline, confidence)
    columns = {"method": request.mode, "shots": request.shots, "n_train": len(labelled.labels), "n_test": len(test)}
    rows = [{**columns, "trial": request.trial, "metric": m, "value": v} for m, v in evaluation.metrics(test).items()]
    told = {"calibrated": confidence.told(labelled.labels)}
    rows = [{**row, **told} if row["metric"] == "ece" else row for row in rows]
    return rows, {
        "chosen": {
            "lr": chosen.lr,
            "epochs": chosen.epochs,
            "held_out_top1": chosen.top1,
            "temperature": round(confidence.temperature, 4),
            "calibrated_on": confidence.calibrated_on,
        },
        "trained_parameters": sum(p.numel() for p in task.parameters() if p.requires_grad),
        "tuned_pool": pipeline.pool,
        "fingerprint": pipeline.fingerprint,
        "weights_sha256": pipeline.spec.weights_sha256,
    }


def test_predictions(plan: Plan) -> Predicted:
    """What the classifier of a finished run says of the labelled test images, one by one."""
    # of other images they would contradict the result
    plan.folder.require_contents({"test": contents_of(plan.test_set, plan.memory)})
    bundle, request = load_bundle(plan.folder.path / BUNDLE, device="cpu"), plan.request
    numbers = {name: number for number, name in enumerate(plan.support_set.classes)}
    bundle.estimator.classes_ = np.array([numbers[name] for name in bundle.classes])  # as the data set counts them
    _, test = _test_features(plan)
    evaluation = evaluate_estimator(bundle.estimator, test, bundle.temperature)
    which = {"method": request.mode, "shots": request.shots, "trial": request.trial}
    return Predicted.of(which, test, evaluation.predictions, evaluation.confidence)


def _test_features(plan: Plan) -> tuple[Pipeline, FeatureSet]:
    """How the backbone in the run's folder makes features, and those of the labelled test images."""
    spec = resolve(str(plan.folder.path), plan.access, plan.memory)
    pipeline = settle(spec, FeatureOptions(decode=plan.request.decode, device=plan.effort.device))
    test = labelled(plan.features(pipeline, plan.test_set), "test", lambda line: None)
    test.require_finite()
    return pipeline, test


def _save_bundle(
    plan: Plan, labelled: Labelled, head: ClassificationHead, pipeline: Pipeline, confidence: Confidence
) -> None:
    """The classifier with all that `fewvit predict` needs, in a file of its own."""
    bundle = Bundle(
        "logistic",
        classifier_of(plan, labelled, head, np.arange(len(labelled.present))),
        [plan.support_set.classes[c] for c in labelled.present],
        np.bincount(labelled.labels).tolist(),
        head.weight.shape[1],
        pipeline.fingerprint,
        Backbones([str(plan.folder.path.resolve())], plan.access).recipe(pipeline),
        confidence.temperature,
        calibrated_on=confidence.calibrated_on,
    )
    save_bundle(plan.folder.path / BUNDLE, bundle)


def classifier_of(plan: Plan, labelled: Labelled, head: ClassificationHead, classes: np.ndarray) -> LogisticRegression:
    """The head as the estimator of the same formula, with these numbers (C,) for its classes."""
    estimator = logistic(plan, len(labelled.labels))
    estimator.set_params(rows=head.rows, intercept=bool(head.bias.requires_grad), dtype="float32")
    estimator.coef_, estimator.intercept_ = (t.detach().cpu().numpy() for t in (head.weight, head.bias))
    estimator.classes_, estimator.n_features_in_ = classes, head.weight.shape[1]
    return estimator


def result_of(
    plan: Plan,
    frozen: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    facts: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Result:
    """The run's result: frozen and fine-tuned rows, and the comparison, which is reported too."""
    spec = plan.pipeline.spec
    columns: dict[str, Any] = {
        "dataset": plan.test_set.name,
        "backbone": spec.name,
        **({"weights": "random"} if spec.is_random else {}),
        **({"skipped": len(plan.skipped)} if plan.skipped else {}),
    }
    verdict = _verdict(frozen, rows)
    own, tuned = plan.pipeline.pool, facts["tuned_pool"]
    if tuned != own:
        verdict["verdict"] += f"; {plan.request.mode} reads the {TOKENS[tuned]}, the frozen ones the {TOKENS[own]}"
        frozen, rows = ([{**row, "pool": pool} for row in side] for side, pool in ((frozen, own), (rows, tuned)))
    plan.notify(verdict["verdict"])
    run = manifest(
        **{**plan.pipeline.facts, **facts},
        base_weights_sha256=spec.weights_sha256,
        mode=plan.request.mode,
        seed=plan.request.seed,
        **verdict,
        seconds=dict(seconds),
    )
    return Result("finetune", [{**columns, **row} for row in [*frozen, *rows]], run)


def _by_chance(one: float, other: float, images: int) -> float:
    """Percentage points that accuracies on so many images differ by in one of twenty cases, were they equally good.

    As if they had been measured on different images; on the same ones it is less, so what is not called chance is all
    the less likely to be it.
    """
    return 1.96 * float(np.sqrt((one * (100 - one) + other * (100 - other)) / images))


def _verdict(frozen: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether fine-tuning was worth it, in a sentence and as facts."""
    top1 = {row["method"]: float(row["value"]) for row in [*frozen, *rows] if row["metric"] == "top1"}
    mode = rows[0]["method"]
    best = max((name for name in top1 if name != mode), key=lambda name: top1[name])
    gain = top1[mode] - top1[best]
    how = "won" if gain > 0 else "lost" if gain < 0 else "made no difference"
    text = f"fine-tuning {how}: {mode} {top1[mode]:.2f} %, frozen {best} {top1[best]:.2f} % top-1"
    images = int(rows[0]["n_test"])
    if 0 < abs(gain) < _by_chance(top1[mode], top1[best], images):
        text += f"; on {counted(images, 'test image')} so much may be chance"
    return {"verdict": text, "best_frozen": best, "gain": round(gain, 4)}
