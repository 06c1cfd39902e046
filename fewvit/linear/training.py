"""The training of one backbone's heads, all of them in one pass."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ..datasets import select
from ..errors import ResourceError, UsageError, counted
from ..evaluate.inputs import Inputs
from ..features import FeatureSet
from ..seeds import seed_of
from ..training.batches import Batches, Subset
from .plan import Plan, Settled
from .protocols import Probe, fitted, held_out

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.loop import Trained


class StoppedTraining(Exception):
    """A signal ended the training early."""

    def __init__(self, signal: int):
        self.signal = signal


class Training:
    """The heads, the images that they learn from, and those that one of them is selected by."""

    def __init__(self, plan: Plan, settled: Settled, inputs: Inputs, train: FeatureSet, test: FeatureSet):
        from .head_grid import HeadGrid

        self.plan, self.settled, self.inputs, self.train, self.test = plan, settled, inputs, train, test
        request = plan.request
        held = np.empty(0, np.int64)
        if request.select_on == "train":
            held = held_out(train.labels, request.seed, train.classes)
        rows = np.setdiff1d(np.arange(len(train)), held)
        self.selection_set = test if request.select_on == "test" else train.select(held)
        self.batches = _augmented(plan, settled, inputs, train, rows) if request.augment else _cached(plan, train, rows)
        self.probe = _fitted(plan, settled, len(self.batches))
        self.heads = HeadGrid(self.probe, settled.reading.inputs, len(train.classes), seed_of(request.seed, "heads"))
        # top-1 in percent and loss (H,) of every head, after the last epoch that was evaluated
        self.standings: tuple[np.ndarray, np.ndarray] | None = None

    def run(self) -> Trained:
        """Train to the end; how it went. Raises StoppedTraining, ResourceError for memory and disk."""
        from ..training.loop import Execution, Watch, train
        from ..training.memory import BatchTooLarge
        from ..training.order import Order

        plan = self.plan
        order = Order(len(self.batches), self.probe.batch_size, self.probe.epochs, plan.request.seed)
        how = Execution(plan.device, save_every=plan.effort.save_every, log_every=plan.effort.log_every)
        watch = Watch(lambda p: plan.audience.progress("", p), self._after_epoch, notify=plan.notify)
        try:
            trained = train(self.heads, self.batches, order, how, plan.folder, watch)
        except BatchTooLarge as error:
            size = self.probe.batch_size
            what, fix = f"out of memory with batches of {size}", f"Try --batch-size {max(1, size // 2)}."
            raise ResourceError(what, fix=fix) from error
        if trained.signal is not None:
            raise StoppedTraining(trained.signal)
        return trained

    def evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 in percent and loss (H,) of every head as it is now, on the images that one is selected by."""
        self.standings = self.heads.evaluate(self.selection_set.features, self.selection_set.labels)
        return self.standings

    def _after_epoch(self, epochs: int) -> dict[str, float] | None:
        """Evaluate all heads after so many epochs, and keep the best one so far; for the log, its top-1."""
        if len(self.selection_set) == 0:
            return None
        top1, loss = self.evaluate()
        self.heads.keep_best(top1, loss, epochs)
        return {"selection_top1": float(top1.max()), "best_top1": float(self.heads.best[2])}


def _cached(plan: Plan, train: FeatureSet, rows: np.ndarray) -> Batches[tuple[Tensor, Tensor]]:
    """The features of some rows, as they are."""
    from .batches import FeatureBatches

    return Subset(FeatureBatches(train.features, train.labels, plan.device), rows)


def _augmented(plan: Plan, settled: Settled, inputs: Inputs, train: FeatureSet, rows: np.ndarray) -> Batches[Any]:
    """Views of the images of some rows through the frozen backbone."""
    from ..models.build import build
    from ..models.readout import Readout
    from .batches import ViewFeatureBatches

    pipeline, images, reading = inputs.pipeline, settled.images, settled.reading
    if pipeline is None or images is None:
        raise UsageError("--augment needs images on both sides")
    crop = pipeline.preprocess.crop
    if crop[0] != crop[1]:
        what = f"--augment crops squares, and the backbone is shown {crop[0]}x{crop[1]} pixels"
        raise UsageError(what, fix="Leave --augment away.")
    place = {id_: row for row, id_ in enumerate(images.ids)}
    chosen = select(images, [place[train.ids[row]] for row in rows.tolist()])
    readout = Readout(reading.pool, reading.layers, reading.norm)
    backbone = build(pipeline.spec, readout, crop, device=plan.device, precision=pipeline.precision)
    return ViewFeatureBatches(
        dataclasses.replace(chosen, labels=train.labels[rows]),
        settled.probe.view(crop[0]),
        backbone,
        pipeline.preprocess,
        reading.arranged,
        device=plan.device,
        workers=plan.effort.workers,
        max_pixels=plan.reader.extractor.work.max_pixels,
        folder=plan.folder.path if plan.folder is not None else None,
    )


def _fitted(plan: Plan, settled: Settled, images: int) -> Probe:
    """The probe for so many images; where its batch had to shrink, that is reported."""
    request, usual = plan.request, settled.probe
    probe = fitted(usual, images, epochs=request.epochs, batch_size=request.batch_size)
    if request.batch_size is None and probe.batch_size < usual.batch_size:
        plan.notify(
            f"{settled.protocol} trains on batches of {usual.batch_size}; "
            f"for {counted(images, 'image')} batches of {probe.batch_size} are taken"
            + (
                f", and learning rates up to {max(probe.lrs):g} are tried too, since few images make few steps"
                if probe.lrs != usual.lrs
                else ""
            )
        )
    return probe
