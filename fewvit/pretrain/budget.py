"""How many epochs fit into a budget of minutes, by the pace that a few steps of the run have on this machine."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..datasets import Dataset, select
from ..errors import UsageError, counted
from ..runs.folder import RunFolder
from .request import FEW, PretrainingEffort, PretrainingRequest, recipe_of

if TYPE_CHECKING:
    from ..backbones import Architecture
    from ..training.loop import Progress

DEFAULT = 10.0  # minutes of a run that goes on from weights on fewer than FEW images, unless told otherwise
_SPARE = 2  # batches that are opened for one to be timed: some images may be undecodable
_STEPS = 3  # that are timed; the first one warms up and does not count


def require_one_length(request: PretrainingRequest) -> None:
    """Raise UsageError for minutes and epochs at once, and for minutes that are none."""
    if request.minutes is None:
        return
    if request.epochs is not None:
        raise UsageError("--minutes and --epochs both say how long to train", fix="Give one of them.")
    if not 0 < request.minutes < math.inf:
        raise UsageError(f"--minutes {request.minutes:g}: above 0")


def within_budget(
    request: PretrainingRequest,
    dataset: Dataset,
    architecture: Architecture,
    effort: PretrainingEffort,
    folder: RunFolder,
    notify: Callable[[str], None],
) -> PretrainingRequest:
    """The request with as many epochs as its budget has room for, at least 1 and at most its preset's.

    They are part of what is trained: a run that was begun keeps its own, whatever the pace is now. `effort` names the
    device. Several processes take the preset's epochs. Raises UsageError where they are given a budget.
    """
    from ..training.distributed import world_size

    few = request.init is not None and request.epochs is None and len(dataset) < FEW
    minutes = request.minutes if request.minutes is not None or not few else DEFAULT
    if request.minutes is not None and world_size() > 1:
        raise UsageError("--minutes is for one process, and here are several", fix="Give --epochs N.")
    if minutes is None or world_size() > 1:
        return request
    request = dataclasses.replace(request, minutes=minutes)
    begun = None if effort.overwrite else folder.manifest()
    if begun is not None and begun["what"].get("command") == "pretrain":
        return dataclasses.replace(request, epochs=begun["what"]["recipe"]["epochs"])
    most = recipe_of(dataclasses.replace(request, epochs=None)).epochs
    pace = _pace(request, dataset, architecture, effort)
    if pace is None:  # the run itself says what is wrong with its images
        return request
    room = 60 * minutes * pace / len(dataset)
    epochs = most if room >= most else max(1, int(room))
    taken = epochs * len(dataset) / pace / 60
    notify(
        f"{epochs} of {request.preset}'s {counted(most, 'epoch')}: about {taken:.2g} minutes at {pace:.3g} images/s, "
        f"of a budget of {minutes:g}; --minutes M or --epochs N changes it"
    )
    return dataclasses.replace(request, epochs=epochs)


def _pace(
    request: PretrainingRequest, dataset: Dataset, architecture: Architecture, effort: PretrainingEffort
) -> float | None:
    """Images per second of a few steps with fresh weights, of which nothing is kept; None for less than a batch."""
    from ..training.loop import Execution, Watch, train
    from ..training.order import Order
    from ..views.training_images import TrainingImages
    from .batches import ViewBatches

    recipe = dataclasses.replace(recipe_of(dataclasses.replace(request, epochs=_STEPS)), architecture=architecture)
    some, batch = select(dataset, range(min(len(dataset), _SPARE * recipe.batch_size))), recipe.batch_size
    images = TrainingImages(some, workers=effort.workers, max_pixels=effort.max_pixels)
    if len(images) < batch:
        return None
    ends: list[float] = []

    def ended(progress: Progress) -> None:
        ends.append(time.perf_counter())

    how = Execution(effort.device, request.accumulate, recompute=effort.checkpoint_activations)
    batches = ViewBatches(images, recipe.views, effort.device)
    order = Order(batch, batch, _STEPS, request.seed)
    trained = train(recipe.task(), batches, order, how, None, Watch(ended))
    if trained.signal is not None:
        signal.raise_signal(trained.signal)  # nothing was begun that could be saved
    return batch * (len(ends) - 1) / (ends[-1] - ends[0])
