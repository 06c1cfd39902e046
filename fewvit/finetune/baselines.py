"""What the frozen backbone gives on the same labelled images: the classifiers that fine-tuning has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..evaluate.lowshot import evaluate_lowshot
from ..evaluate.lowshot_cells import factory
from ..evaluate.lowshot_options import LowShotOptions
from ..features import FeatureSet, warn_of_shared_rows
from ..labels import require_classes
from ..splits import Split
from .plan import Plan

if TYPE_CHECKING:
    from ..classifiers.logistic import LogisticRegression

FROZEN = ("knn", "centroid", "logistic")


def frozen_rows(plan: Plan) -> tuple[FeatureSet, list[dict[str, Any]]]:
    """The labelled images' features, and the rows of every baseline. Raises DataError where there is one class only."""
    support = plan.features(plan.pipeline, plan.support_set)
    require_classes(support)
    test = plan.features(plan.pipeline, plan.test_set)
    options = LowShotOptions(
        shots=(plan.request.shots,),
        trials=1,
        settings={name: {} for name in FROZEN},
        allow_fewer=True,  # it was settled when they were drawn
        device=plan.effort.device,
        seed=plan.request.seed,
    )
    warn_of_shared_rows(support, test, plan.notify, "labelled image")
    rows, _ = evaluate_lowshot(support, test, options, plan.pipeline.protocol.name)
    rows = [{**row, "trial": plan.request.trial} for row in rows if row["trial"] != "mean"]
    shown = ", ".join(f"{row['method']} {row['value']:.2f}" for row in rows if row["metric"] == "top1")
    plan.notify(f"frozen, top-1 in percent: {shown}")
    return support, rows


def logistic(plan: Plan, rows: int) -> LogisticRegression:
    """The protocol's logistic regression for so many labelled images, not fitted yet."""
    options = LowShotOptions(device=plan.effort.device, seed=plan.request.seed)
    split = Split(np.zeros(0, np.int64), plan.request.shots)
    make = factory("logistic", {}, rows, split, options, plan.pipeline.protocol.name)
    return cast("LogisticRegression", make())
