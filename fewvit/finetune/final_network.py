"""The network that a run ends with, and its files."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import NumericalError
from ..files import replacing
from .held_out import Candidate, held_out_rows
from .plan import FILES, HEAD, Plan
from .search import place_of
from .trainings import BEST, Trainings


def finish(trainings: Trainings, found: Candidate) -> tuple[Any, int | None]:
    """The network, trained on all labelled images as long as was chosen or taken from the search; and the signal that ended it early.

    The first process writes it. Raises NumericalError for weights that are not finite.
    """
    from ..training.distributed import rank

    plan = trainings.plan
    if plan.recipe.refit or found.top1 is None:
        everything = np.arange(len(trainings.labelled.labels))
        ended = trainings.train(plan.folder.path, found.lr, everything, np.zeros(0, np.int64), found.epochs)
        if ended.signal is not None:
            return None, int(ended.signal)
        task = ended.task
    else:
        task = _best(trainings, found)
    if rank() == 0:
        _write(plan, task)
    return task, None


def _best(trainings: Trainings, found: Candidate) -> Any:
    """The network as it was after the search's best epoch; that training's log becomes the run's."""
    from safetensors.torch import load_file

    from ..training.distributed import rank

    plan, labels = trainings.plan, trainings.labelled.labels
    place = place_of(plan, list(plan.grid).index(found.lr))
    task = trainings.networks.new(found.lr, np.setdiff1d(np.arange(len(labels)), held_out_rows(labels, plan.request.seed)))
    own = {name: t for name, t in task.state_dict().items() if name in task.unchanging}
    task.load_state_dict({**own, **load_file(place / BEST)})
    if rank() == 0:
        with replacing(plan.folder.log) as handle:
            handle.write((place / "log.jsonl").read_bytes())
    return task


def _write(plan: Plan, task: Any) -> None:
    """The adapter or the whole trunk, and the classifier."""
    from safetensors.torch import save

    from .adapters import changed_tensors

    if not all(bool(parameter.isfinite().all()) for parameter in task.parameters()):
        raise NumericalError("the last step of training left weights that are NaN or Inf", fix="Try a smaller one with --set lr=.")
    tensors = task.trunk.state_dict() if plan.request.mode in FILES else changed_tensors(task.trunk)
    for name, content in {plan.weights: tensors, HEAD: dict(task.head.state_dict())}.items():
        with replacing(plan.folder.path / name) as handle:
            handle.write(save({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}))
