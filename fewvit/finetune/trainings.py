"""The trainings of a run: one for each learning rate that is tried, and the last one on all labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import select_ids
from ..errors import DataError
from ..files import replacing
from .held_out import Curve, evaluate_logits
from .networks import Networks
from .plan import Labelled, Plan

BEST = "best.safetensors"  # of a search whose best weights are kept


@dataclass(frozen=True)
class Ended:
    """How a training ended."""

    task: Any  # the network
    curve: Curve  # of the held-out images
    steps: int
    signal: int | None  # that ended it early


class Trainings:
    """Each begins with the same network and has a folder of its own; their pictures come from one supply."""

    def __init__(self, plan: Plan, labelled: Labelled):
        self.plan, self.labelled = plan, labelled
        self._supply = _supply(plan, labelled)
        self.networks = Networks(plan, labelled)

    def batch(self, fit: np.ndarray) -> int:
        """Images per step where so many are trained on."""
        return min(self.plan.recipe.batch_size, len(fit))

    def train(self, place: Path, lr: float, fit: np.ndarray, held: np.ndarray, stop_after: int | None = None) -> Ended:
        """One training on the images `fit`, in the folder `place`; the images `held` are judged after every epoch.

        It ends after `stop_after` epochs, or when the held-out images are classified no better. Raises NumericalError if it diverges.
        """
        from ..training.log import Log
        from ..training.loop import Execution, Watch, train
        from ..training.order import Order
        from ..training.state import Checkpoints

        plan, recipe, effort = self.plan, self.plan.recipe, self.plan.effort
        task = self.networks.new(lr, fit)
        note = self._supply.keep_tokens(task)
        if note:
            plan.say(note)
        curve = Curve(place / "log.jsonl")
        order = Order(len(fit), self.batch(fit), recipe.epochs, plan.request.seed)
        log_every = min(effort.log_every, order.steps_per_epoch)

        def each_epoch(done: int) -> dict[str, float] | None:
            if not len(held):
                return None
            curve.by_epoch[done] = evaluate_logits(self._supply.logits(task, held), self.labelled.labels[held])
            if not recipe.refit and curve.best(done) == done:
                _keep(task, place / BEST)
            return curve.by_epoch[done]

        def enough(done: int) -> bool:
            return curve.stalled(done, recipe.patience) if stop_after is None else done >= stop_after

        what = f"learning rate {lr:g}" if len(held) else "final"
        watch = Watch(progress=lambda p: plan.audience.progress(what, p), each_epoch=each_epoch, enough=enough, say=plan.say)
        trained = train(
            task,
            order,
            lambda step: self._supply.read(fit[step.rows]),
            lambda found, step: self._supply.prepare(found, fit[step.rows], step),
            Execution(effort.device, plan.request.accumulate, effort.save_every, log_every, recompute=effort.checkpoint_activations),
            Checkpoints(place / "checkpoints"),
            lambda step: Log(place / "log.jsonl", step),
            watch,
        )
        return Ended(task, curve, trained.steps, trained.signal)


def _supply(plan: Plan, labelled: Labelled) -> Any:
    """Where trainings get their pictures from. Raises DataError for one that cannot be decoded."""
    from ..views.training_images import TrainingImages
    from .batches import LabelledImages
    from .evaluation_images import EvaluationImages

    dataset = select_ids(plan.chosen, labelled.support.ids)
    effort, recipe = plan.effort, plan.recipe
    seen = EvaluationImages(dataset, plan.pipeline.preprocess, plan.request.decode, workers=effort.workers, max_pixels=effort.max_pixels)
    pictures = None
    if recipe.crop < 1:
        pictures = TrainingImages(dataset, workers=effort.workers, max_pixels=effort.max_pixels, folder=plan.folder.path)
        if pictures.skipped:
            raise DataError(f"cannot be decoded: {pictures.skipped[0]['reason']}", file=pictures.skipped[0]["id"])
    return LabelledImages(seen, pictures, labelled.labels, len(labelled.present), recipe, effort.device)


def _keep(task: Any, file: Path) -> None:
    """Replace `file` by what training changes of the task."""
    from safetensors.torch import save

    from ..training.distributed import rank

    if rank() == 0:
        frozen = task.unchanging
        changed = {name: t.detach().cpu().contiguous() for name, t in task.state_dict().items() if name not in frozen}
        with replacing(file) as handle:
            handle.write(save(changed))
