"""The network that a run ends with, and its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import NumericalError
from ..files import replacing
from .held_out import Candidate, held_out_rows
from .plan import FILES, HEAD, Plan
from .search import place_of
from .trainings import BEST, Trainings

if TYPE_CHECKING:
    from .tuning import Tuning


def finish(trainings: Trainings, chosen: Candidate) -> tuple[Tuning | None, int | None]:
    """The network, trained on all labelled images as long as was chosen, or taken from the search.

    Last, the signal that ended it early; there is no network then. The first process writes it. Raises NumericalError
    for weights that are not finite.
    """
    from ..training.distributed import rank

    plan = trainings.plan
    if plan.recipe.refit or chosen.top1 is None:
        everything = np.arange(len(trainings.labelled.labels))
        ended = trainings.train(plan.folder.path, chosen.lr, everything, np.zeros(0, np.int64), chosen.epochs)
        if ended.signal is not None:
            return None, int(ended.signal)
        task = ended.task
    else:
        task = _best(trainings, chosen)
    if rank() == 0:
        _write(plan, task)
    return task, None


def _best(trainings: Trainings, chosen: Candidate) -> Tuning:
    """The network as it was after the search's best epoch; that training's log becomes the run's."""
    from safetensors.torch import load_file

    from ..training.distributed import rank

    plan, labels = trainings.plan, trainings.labelled.labels
    place = place_of(plan, list(plan.grid).index(chosen.lr))
    fit = np.setdiff1d(np.arange(len(labels)), held_out_rows(labels, plan.request.seed))
    task = trainings.networks.new(chosen.lr, fit)
    own = {name: t for name, t in task.state_dict().items() if name in task.unchanging}
    task.load_state_dict({**own, **load_file(place / BEST)})
    if rank() == 0:
        with replacing(plan.folder.log) as handle:
            handle.write((place / "log.jsonl").read_bytes())
    return task


def _write(plan: Plan, task: Tuning) -> None:
    """The adapter or the whole trunk, and the classifier."""
    from safetensors.torch import save

    from .adapters import changed_tensors

    if not all(bool(parameter.isfinite().all()) for parameter in task.parameters()):
        what = "the last step of training left weights that are NaN or Inf"
        raise NumericalError(what, fix="Try a smaller learning rate with --set lr=.")
    tensors = task.trunk.state_dict() if plan.request.mode in FILES else changed_tensors(task.trunk)
    for name, content in {plan.weights: tensors, HEAD: dict(task.head.state_dict())}.items():
        with replacing(plan.folder.path / name) as handle:
            handle.write(save({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}))
