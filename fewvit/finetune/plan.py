"""One fine-tuning, settled: all that its steps share, and what its folder says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..digests import DigestMemory
from ..extraction.cache import Cache
from ..extraction.extract import extract
from ..extraction.pipeline import Pipeline
from ..extraction.work import Work
from ..features import FeatureSet
from ..models.resolve import origin_of, run_backbone
from ..models.spec import Access
from ..runs.folder import CLASSIFIER, RunFolder
from ..runs.request import NetworkEffort
from .modes import TuningRecipe
from .request import Audience, FineTuningRequest

FILES = {"full": "model.safetensors"}  # what a mode writes; the others an adapter
ADAPTER, HEAD, BUNDLE = "adapter.safetensors", "head.safetensors", CLASSIFIER


@dataclass(frozen=True)
class Plan:
    """What is trained, on what, where, and where its notes go."""

    request: FineTuningRequest
    recipe: TuningRecipe
    grid: Sequence[float]  # learning rates to choose from
    effort: NetworkEffort
    folder: RunFolder
    pipeline: Pipeline  # of the frozen backbone
    support_set: Dataset  # the labelled images
    test_set: Dataset
    access: Access
    cache: Cache | None
    memory: DigestMemory
    audience: Audience
    # images that could not be decoded: whether of the test set, and the id
    skipped: set[tuple[bool, str]] = dataclasses.field(default_factory=set)

    @property
    def notify(self) -> Callable[[str], None]:
        """Takes a note for the user, one line."""
        return self.audience.notify

    @property
    def weights(self) -> str:
        """The name of the file that the run makes."""
        return FILES.get(self.request.mode, ADAPTER)

    def features(self, pipeline: Pipeline, dataset: Dataset) -> FeatureSet:
        """The features of a set's images, from the cache where they are there."""
        work = Work(
            workers=self.effort.workers,
            max_bad=self.request.max_bad,
            max_pixels=self.effort.max_pixels,
            progress=self.audience.extraction,
        )
        features = extract(pipeline, dataset, self.cache, work, memory=self.memory)
        skipped = features.report.skipped if features.report is not None else []
        of_test = dataset is self.test_set
        # each is named once, however often it is read
        self.audience.skipped([image for image in skipped if (of_test, image["id"]) not in self.skipped])
        self.skipped.update((of_test, image["id"]) for image in skipped)
        return features


@dataclass(frozen=True)
class Labelled:
    """The labelled images that can be decoded."""

    support: FeatureSet  # of the frozen backbone
    present: np.ndarray  # (C,) classes that have images, as the data set counts them
    labels: np.ndarray  # (N,) of the images, as places in `present`


def labelled_by(support: FeatureSet) -> Labelled:
    """The labelled images with these features."""
    present, labels = np.unique(support.labels, return_inverse=True)
    return Labelled(support, present, labels)


# ---- what the folder says


def identity(plan: Plan, data: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides the outcome, as JSON; what the manifest of a run is compared with.

    `data`: digests of the images.
    """
    request = plan.request
    return {
        "command": "finetune",
        "mode": request.mode,
        "recipe": dataclasses.asdict(plan.recipe),
        "learning_rates": list(plan.grid),
        "accumulate": request.accumulate,
        "shots": request.shots,
        "trial": request.trial,
        "seed": request.seed,
        "init": plan.pipeline.spec.fingerprint,
        "preprocess": plan.pipeline.preprocess.to_dict(),
        "decode": request.decode,
        "max_bad": request.max_bad,
        "data": dict(data),
    }


def outcome(plan: Plan) -> dict[str, Any]:
    """What the run's folder will be: a backbone, and a classifier on it."""
    spec, mode = plan.pipeline.spec, plan.request.mode
    made: dict[str, Any] = {
        **run_backbone(spec.family, spec.protocol, plan.recipe.architecture, plan.pipeline.preprocess),
        "file": plan.weights,
        "license": spec.license,
    }
    if mode not in FILES:
        asked = {name: value for name, value in vars(plan.request.backbone).items() if name != "told"}
        made["base"] = origin_of(spec, **asked)
    classes = [plan.support_set.classes[c] for c in np.unique(plan.support_set.labels)]
    return {"backbone": made, "head": {"file": HEAD, "classes": classes}}
