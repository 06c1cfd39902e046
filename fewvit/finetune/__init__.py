"""Fine-tuning on a few labels: one run, from its arguments to a backbone with a classifier beside the frozen one.

Nothing but the labelled images decides: learning rate and number of epochs are chosen on a part of them that is held
out, and the test images are looked at once, at the end.

A run in its order: `request` (what is asked, and what the mode makes of it), `plan` (all of it settled), `baselines`
(the frozen backbone), `search`, `final_network` and `confidence` (which `trainings` on `networks` there are),
`evaluation`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..datasets import Dataset, Listing, select
from ..digests import DigestMemory, contents_of
from ..evaluate.details import Details, Keep
from ..evaluate.predictions import save_predictions
from ..extraction.cache import Cache
from ..extraction.notes import oversized
from ..extraction.pipeline import FeatureOptions, settle
from ..features import FeatureSet
from ..models.resolve import resolve
from ..models.spec import Access, BackboneSpec
from ..results import Result
from ..runs.folder import RunFolder
from ..runs.request import NetworkEffort, require_precision_on
from ..sources import Given, open_pair
from ..splits import Split, n_per_class
from .baselines import frozen_rows
from .confidence import calibrated
from .evaluation import evaluate_tuned, result_of, test_predictions
from .final_network import finish
from .networks import require_plain_vit
from .plan import BUNDLE, HEAD, Plan, identity, labelled_by, outcome
from .request import Audience, BackboneRequest, FineTuningRequest, check_request, recipe_of
from .search import choose
from .trainings import Trainings

_Result = TypeVar("_Result")
Frozen = tuple[FeatureSet, list[dict[str, Any]]]  # the labelled images' features, and the rows of the baselines

__all__ = ["Audience", "BackboneRequest", "FineTuningRequest", "NetworkEffort", "check_request", "run_finetune"]


def run_finetune(
    request: FineTuningRequest,
    effort: NetworkEffort,
    out: Path,
    access: Access,
    cache: Cache | None,
    listing: Listing,
    audience: Audience,
    predictions: Path | None = None,
    keep: Keep | None = None,
) -> tuple[Result | None, int | None]:
    """Fine-tune, or go on with, the run in `out`: its result, and the signal that ended it early, if one did.

    Only the first process has a result. `predictions` and `keep` get what the fine-tuned classifier says of each test
    image.
    Raises UsageError when the run was begun with other arguments or data, DataError for what is missing or too little,
    CheckpointError where a finished run has lost a file, NumericalError when every learning rate diverges,
    ResourceError for memory and disk.
    """
    from ..models.engines import resolve_device
    from ..training.distributed import rank, together, wait_for_all

    request = check_request(request)
    memory = cache.digests() if cache is not None else DigestMemory()
    train_set, test_set = open_pair(Given(request.data, request.train, request.test, listing), audience.notify)
    split = _draw(request, train_set)
    spec = require_plain_vit(_resolved(request.backbone, access, memory))
    options = FeatureOptions(img_size=request.img_size, decode=request.decode, device=effort.device)
    pipeline = settle(spec, options, "finetune")
    if note := oversized(pipeline, options):
        audience.notify(note)
    support_set = select(train_set, split.train.tolist())
    recipe, grid = recipe_of(request, pipeline, len(split.train), split.per_class(train_set.labels)[1])
    plan = Plan(
        request, recipe, grid, effort, RunFolder(out), pipeline, support_set, test_set, access, cache, memory, audience
    )
    contents = {"labelled": contents_of(support_set, memory)}
    digests = {name: one.digest for name, one in contents.items()}
    what = identity(plan, {"train": train_set.digest, "test": test_set.digest, **digests})
    if effort.overwrite:
        plan.folder.require_owner("finetune")
    with together(resolve_device(effort.device)) as device:
        require_precision_on(recipe.precision, device)
        plan = _in_process(plan, device)
        seconds: dict[str, float] = {}
        # a run is removed when all of the new one's images could be read
        frozen = _timed(seconds, "frozen", lambda: frozen_rows(plan)) if effort.overwrite and rank() == 0 else None
        if rank() == 0:
            plan.folder.begin(what, outcome(plan), contents, anew=effort.overwrite)
        wait_for_all()
        result, signal = plan.folder.finished(plan.notify), None
        if result is None:
            with plan.folder.in_use(first=rank() == 0):
                result, signal = _carried_out(plan, frozen, seconds)
        if rank() != 0:
            return None, signal
        if result is not None and (predictions is not None or keep is not None):
            predicted = test_predictions(plan)
            if predictions is not None:
                save_predictions(predictions, [predicted])
                audience.notify(f"wrote {predictions}")
            if keep is not None:
                keep(Details([predicted]))
        return result, signal


def _draw(request: FineTuningRequest, train_set: Dataset) -> Split:
    """The labelled images: what `lowshot` draws for the same trial."""
    splits = n_per_class(
        train_set.labels,
        train_set.classes,
        [request.shots],
        request.trial + 1,
        request.seed,
        allow_fewer=request.allow_fewer,
    )
    return splits[request.trial]


def _resolved(source: BackboneRequest, access: Access, memory: DigestMemory) -> BackboneSpec:
    """The spec of the backbone as it was asked for."""
    return resolve(
        source.name,
        access,
        memory,
        weights=source.weights,
        checkpoint_key=source.checkpoint_key,
        family=source.family,
        seed=source.seed,
        told=source.told,
    )


def _in_process(plan: Plan, device: str) -> Plan:
    """The plan for one process: its device, and only the first one speaks."""
    from ..training.distributed import rank

    return dataclasses.replace(
        plan,
        effort=dataclasses.replace(plan.effort, device=device),
        pipeline=dataclasses.replace(plan.pipeline, device=device),
        audience=plan.audience if rank() == 0 else Audience(),
    )


def _timed(seconds: dict[str, float], what: str, work: Callable[[], _Result]) -> _Result:
    """What `work` returns; the seconds that it took are noted."""
    started = time.perf_counter()
    done = work()
    seconds[what] = round(time.perf_counter() - started, 3)
    return done


def _carried_out(plan: Plan, frozen: Frozen | None, seconds: dict[str, float]) -> tuple[Result | None, int | None]:
    """Baselines, unless they are there already, search, training, evaluation."""
    from ..training.distributed import rank, wait_for_all

    support: FeatureSet | None = None
    rows_of_frozen: list[dict[str, Any]] = []
    if rank() == 0:
        support, rows_of_frozen = frozen or _timed(seconds, "frozen", lambda: frozen_rows(plan))
        sides = {"labelled": plan.support_set, "test": plan.test_set}
        plan.folder.require_contents({name: contents_of(side, plan.memory) for name, side in sides.items()})
    wait_for_all()
    if support is None:
        support = plan.features(plan.pipeline, plan.support_set)  # the first process has cached them
    labelled = labelled_by(support)
    trainings = Trainings(plan, labelled)
    chosen, signal = _timed(seconds, "search", lambda: choose(trainings))
    if signal is not None:
        return None, signal
    task, signal = _timed(seconds, "train", lambda: finish(trainings, chosen))
    if task is None or signal is not None:
        return None, signal
    confidence, signal = _timed(seconds, "calibrate", lambda: calibrated(trainings, chosen, task))
    if confidence is None or signal is not None or rank() != 0:
        return None, signal
    rows, facts = _timed(seconds, "judge", lambda: evaluate_tuned(plan, labelled, task, chosen, confidence))
    result = result_of(plan, rows_of_frozen, rows, facts, seconds)
    return plan.folder.finish(result, [plan.weights, HEAD, BUNDLE]), None
