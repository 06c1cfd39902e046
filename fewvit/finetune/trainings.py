"""The trainings of a run: one for each learning rate that is tried, and the last one on all labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import select_ids
from ..errors import DataError
from ..files import replacing
from ..runs.folder import RunFolder
from .held_out import Curve, evaluate_logits
from .networks import Networks
from .plan import Labelled, Plan

if TYPE_CHECKING:
    from .batches import LabelledImages
    from .tuning import Tuning

BEST = "best.safetensors"  # of a search whose best weights are kept


@dataclass(frozen=True)
class Ended:
    """How a training ended."""

    task: Tuning
    curve: Curve  # of the held-out images
    steps: int
    signal: int | None  # that ended it early


class Trainings:
    """Each begins with the same network and has a folder of its own; they take their images from one place."""

    def __init__(self, plan: Plan, labelled: Labelled):
        self.plan, self.labelled = plan, labelled
        self._images = _labelled_images(plan, labelled)
        self.networks = Networks(plan, labelled)

    def batch(self, fit: np.ndarray) -> int:
        """Images per step where so many are trained on."""
        return min(self.plan.recipe.batch_size, len(fit))

    def logits(self, task: Tuning, rows: np.ndarray) -> np.ndarray:
        """Logits (B, C) float32 of the images with numbers `rows` (B,), as the evaluation sees them."""
        return self._images.logits(task, rows)

    def train(
        self,
        place: Path,
        lr: float,
        fit: np.ndarray,
        held: np.ndarray,
        stop_after: int | None = None,
        *,
        batch: int | None = None,
        what: str = "final",
    ) -> Ended:
        """One training on the images `fit` (n,), in the folder `place`; `held` (m,) are classified after every epoch.

        It ends after `stop_after` epochs, or when the held-out images are classified no better. `batch`: images per
        step, if not as many as the recipe says. Raises NumericalError if it diverges.
        """
        from ..training.batches import Subset
        from ..training.loop import Execution, Watch, train
        from ..training.order import Order

        plan, recipe, effort = self.plan, self.plan.recipe, self.plan.effort
        task = self.networks.new(lr, fit)
        note = self._images.keep_tokens(task)
        if note:
            plan.notify(note)
        folder, batches = RunFolder(place), Subset(self._images, fit)
        curve = Curve(folder.log)
        order = Order(len(batches), batch or self.batch(fit), recipe.epochs, plan.request.seed)
        log_every = min(effort.log_every, order.steps_per_epoch)

        def each_epoch(done: int) -> dict[str, float] | None:
            if not len(held):
                return None
            curve.by_epoch[done] = evaluate_logits(self.logits(task, held), self.labelled.labels[held])
            if not recipe.refit and curve.best(done) == done:
                _keep(task, place / BEST)
            return curve.by_epoch[done]

        def enough(done: int) -> bool:
            return curve.stalled(done, recipe.patience) if stop_after is None else done >= stop_after

        what = f"learning rate {lr:g}" if len(held) else what
        watch = Watch(lambda p: plan.audience.progress(what, p), each_epoch, enough=enough, notify=plan.notify)
        parts, recompute = plan.request.accumulate, effort.checkpoint_activations
        how = Execution(effort.device, parts, effort.save_every, log_every, recompute=recompute)
        trained = train(task, batches, order, how, folder, watch)
        return Ended(task, curve, trained.steps, trained.signal)


def _labelled_images(plan: Plan, labelled: Labelled) -> LabelledImages:
    """Where trainings take their images from. Raises DataError for one that cannot be decoded."""
    from ..views.evaluation_images import EvaluationImages
    from ..views.training_images import TrainingImages
    from .batches import LabelledImages

    dataset = select_ids(plan.support_set, labelled.support.ids)
    effort, recipe = plan.effort, plan.recipe
    workers, most = effort.workers, effort.max_pixels
    evaluation = EvaluationImages(
        dataset, plan.pipeline.preprocess, plan.request.decode, workers=workers, max_pixels=most
    )
    whole = None
    if recipe.crop < 1:
        whole = TrainingImages(dataset, workers=workers, max_pixels=most, folder=plan.folder.path)
        if whole.skipped:
            raise DataError(f"cannot be decoded: {whole.skipped[0]['reason']}", file=whole.skipped[0]["id"])
    return LabelledImages(evaluation, whole, labelled.labels, len(labelled.present), recipe, effort.device)


def _keep(task: Tuning, file: Path) -> None:
    """Replace `file` by what training changes of the task."""
    from safetensors.torch import save

    from ..training.distributed import rank

    if rank() == 0:
        frozen = task.unchanging
        changed = {name: t.detach().cpu().contiguous() for name, t in task.state_dict().items() if name not in frozen}
        with replacing(file) as handle:
            handle.write(save(changed))
