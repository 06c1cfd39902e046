"""`fewvit lowshot --classifier last-block`: the last block and a classifier, trained on each split's labelled images.

Source: Assran et al. 2022, section 4.1, who evaluate MAE so where linear classifiers do poorly; their optimizer's
settings are not published, so the recipe is that of `fewvit finetune --mode last-block`. What lies below the last block
runs once for each labelled image; test images go through it once for all trials together.
"""

from __future__ import annotations

import dataclasses
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from ..datasets import Dataset, select_ids
from ..digests import DigestMemory, content_digest
from ..errors import UsageError, counted
from ..evaluate.inputs import FeatureReader, Inputs
from ..evaluate.lowshot_cells import Tuned
from ..extraction.cache import Cache
from ..extraction.pipeline import Pipeline
from ..extraction.work import Work
from ..features import FeatureSet
from ..files import locked, require_writable
from ..models.spec import Access
from ..options import Setting
from ..runs.folder import RunFolder, run_digest
from ..runs.request import NetworkEffort
from ..splits import Split
from .confidence import Confidence, calibrated
from .evaluation import classifier_of
from .final_network import finish
from .held_out import Candidate
from .networks import require_plain_vit
from .plan import Labelled, Plan, identity, labelled_by
from .request import Audience, BackboneRequest, FineTuningRequest, recipe_of
from .search import choose
from .trainings import Trainings

if TYPE_CHECKING:
    from .tuning import Tuning

_AT_ONCE = 32  # test images


@dataclass(frozen=True)
class LastBlocks:
    """Trains on splits of one backbone's images.

    Trainings are kept in the cache: a killed command goes on, a repeated one trains nothing.
    """

    name: ClassVar[str] = "last-block"  # among the classifiers
    pipeline: Pipeline
    train_set: Dataset
    test_set: Dataset
    settings: Sequence[Setting]  # of --set
    cache: Cache | None
    memory: DigestMemory
    access: Access
    work: Work
    seed: int
    notify: Callable[[str], None]

    def fit(self, splits: Sequence[Split], train: FeatureSet, test: FeatureSet) -> Iterator[Tuned]:
        """One network per split, whose rows are those of `train`; `test` says which test images count."""
        with tempfile.TemporaryDirectory(prefix="fewvit-") as scratch:
            ended = [self._trained(split, train, Path(scratch)) for split in splits]
            features = self._test_features([task for _, _, task, _, _ in ended], test)
            for split, (plan, labelled, task, chosen, confidence), rows in zip(splits, ended, features, strict=True):
                estimator, why = classifier_of(plan, labelled, task.head, labelled.present), _described(chosen)
                self.notify(f"last block, {split.name}, trial {split.trial}: {why}")
                calibrated = confidence.told(labelled.labels)
                test_features = dataclasses.replace(test, features=rows)
                yield Tuned(estimator, test_features, confidence.temperature, why, calibrated)

    def _trained(
        self, split: Split, train: FeatureSet, scratch: Path
    ) -> tuple[Plan, Labelled, Tuning, Candidate, Confidence]:
        """The network of one split, from the cache where it was trained before."""
        support = train.select(split.train)
        support_set = select_ids(self.train_set, support.ids)
        request = FineTuningRequest(
            "last-block",
            BackboneRequest(self.pipeline.spec.name),
            settings=self.settings,
            seed=self.seed,
            decode=self.pipeline.decode,
        )
        recipe, grid = recipe_of(request, self.pipeline, len(support), split.per_class(train.labels)[1])
        effort = NetworkEffort(device=self.pipeline.device, workers=self.work.workers, max_pixels=self.work.max_pixels)
        plan = Plan(
            request,
            recipe,
            grid,
            effort,
            RunFolder(scratch),  # until it is known which run it is
            self.pipeline,
            support_set,
            self.test_set,
            self.access,
            self.cache,
            self.memory,
            Audience(),
        )
        labelled_digest = content_digest(support_set, self.memory)
        what = {**identity(plan, {"labelled": labelled_digest}), "support": support.fingerprint}
        root = self.cache.tuned if self.cache is not None else scratch
        plan = dataclasses.replace(plan, folder=RunFolder(root / run_digest(what)))
        require_writable(root)
        with locked(plan.folder.path):  # another command may be at the same split
            plan.folder.begin(what, {})
            labelled = labelled_by(support)
            trainings = Trainings(plan, labelled)
            chosen, number = choose(trainings)
            task, number = (None, number) if number is not None else finish(trainings, chosen)
            confidence = None
            if task is not None:
                confidence, number = calibrated(trainings, chosen, task)
        if number is not None:
            # what was trained is kept; the command ends as it does for a signal at any other time
            signal.raise_signal(number)
        return plan, labelled, cast("Tuning", task), chosen, cast("Confidence", confidence)

    def _test_features(self, tasks: Sequence[Tuning], test: FeatureSet) -> list[np.ndarray]:
        """The test images' features (Q, D) under each network; what they share, all but the last block, runs once."""
        from ..views.evaluation_images import EvaluationImages, normalised

        dataset = select_ids(self.test_set, test.ids)
        images = EvaluationImages(
            dataset,
            self.pipeline.preprocess,
            self.pipeline.decode,
            workers=self.work.workers,
            max_pixels=self.work.max_pixels,
            memory_bytes=0,
        )
        found: list[list[np.ndarray]] = [[] for _ in tasks]
        for task in tasks:
            task.eval()
        device = str(next(tasks[0].parameters()).device)
        for start in range(0, len(dataset), _AT_ONCE):
            pixels = images.pixels(np.arange(start, min(start + _AT_ONCE, len(dataset))))
            tokens = tasks[0].evaluated(tasks[0].enter, normalised(pixels, device))
            for rows, task in zip(found, tasks, strict=True):
                rows.append(task.evaluated(task.features, tokens).float().cpu().numpy())
        return [np.concatenate(rows) for rows in found]


def last_blocks(inputs: Inputs, settings: Sequence[Setting], reader: FeatureReader, seed: int) -> LastBlocks:
    """What trains on these inputs.

    Raises UsageError for features from a file, and for readouts and networks that training does not know.
    """
    pipeline = inputs.pipeline
    datasets = inputs.sources.datasets
    if pipeline is None or datasets is None:
        what = "last-block trains on images, and features were given"
        raise UsageError(what, fix="Give folders of images, or another --classifier.")
    if pipeline.layers != 1 or pipeline.blocks or pipeline.pool not in ("cls", "mean"):
        raise UsageError(
            "last-block reads the last block's class token or mean patch token",
            fix="Leave --layers away, and --pool, or give --pool mean.",
        )
    require_plain_vit(pipeline.spec)
    from ..models.engines import resolve_device

    pipeline = dataclasses.replace(pipeline, device=resolve_device(pipeline.device))
    train_set, test_set = datasets
    access, how = reader.backbones.access, reader.extractor
    return LastBlocks(
        pipeline, train_set, test_set, settings, how.cache, how.memory, access, how.work, seed, reader.notify
    )


def _described(chosen: Candidate) -> str:
    """A candidate in words."""
    how = f"learning rate {chosen.lr:g}, {counted(chosen.epochs, 'epoch')}"
    if chosen.top1 is None:
        return f"{how}: the recipe's, since nothing was held out"
    return f"{how}: best on held-out images, {chosen.top1:.1f} % of them right"
