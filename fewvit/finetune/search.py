"""Choosing the learning rate and the number of epochs by labelled images that are held out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NumericalError, counted
from ..runs.outcome import read_outcome, write_outcome
from .held_out import Candidate, held_out_rows
from .plan import Plan
from .trainings import Trainings


def place_of(plan: Plan, number: int) -> Path:
    """The folder of the learning rate with this number in the grid."""
    return plan.folder.path / "search" / str(number)


def choose(trainings: Trainings) -> tuple[Candidate, int | None]:
    """What classifies held-out images best, and the signal that ended the search early.

    Where none can be held out it is the recipe's own learning rate and number of epochs. Raises NumericalError where
    every learning rate diverges.
    """
    plan, labels = trainings.plan, trainings.labelled.labels
    held = held_out_rows(labels, plan.request.seed)
    default = Candidate(plan.recipe.lr, plan.recipe.epochs)
    if not plan.recipe.select or not len(held):
        if plan.recipe.select:
            plan.notify(
                "one labelled image per class: nothing can be held out to choose by, so the mode's own learning rate "
                f"{default.lr:g} is taken for {counted(default.epochs, 'epoch')}, and confidences are those of a "
                "classifier that is as sure of these images as the frozen one, at most"
            )
        return default, None
    fit = np.setdiff1d(np.arange(len(labels)), held)
    candidates = []
    for number, lr in enumerate(plan.grid):
        one, signal = _candidate(trainings, number, lr, fit, held)
        if signal is not None:
            return default, signal
        candidates += [one] if one is not None else []
    if not candidates:
        raise NumericalError(
            f"training diverges at every learning rate of {', '.join(f'{lr:g}' for lr in plan.grid)}",
            fix="Try a smaller one with --set lr=.",
        )
    best = max(candidates, key=lambda one: one.merit)
    plan.notify(
        f"chosen on {counted(len(held), 'held-out image')}: learning rate {best.lr:g}, {counted(best.epochs, 'epoch')} "
        f"({best.top1:.2f} % of them right)"
    )
    if not best.top1:
        plan.notify("none of them is right, so the choice says little; more labelled images would decide it")
    return best, None


def _candidate(
    trainings: Trainings, number: int, lr: float, fit: np.ndarray, held: np.ndarray
) -> tuple[Candidate | None, int | None]:
    """What one learning rate came to, from its file if it was tried before; None where it diverges.

    Last, the signal that ended it early.
    """
    from ..training.distributed import rank, wait_for_all

    place = place_of(trainings.plan, number)
    facts = read_outcome(place)
    if facts is None:
        facts, signal = _tried(trainings, place, lr, fit, held)
        if signal is not None:
            return None, signal
        wait_for_all()
        if rank() == 0:
            write_outcome(place, facts)
        wait_for_all()
        facts = read_outcome(place) or {}
    if rank() == 0:  # what has an outcome never goes on; a kill may have come between
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    if facts.get("diverged"):
        return None, None
    names = ("lr", "epochs", "held_top1", "held_loss")
    return Candidate(*(facts[name] for name in names)), None


def _tried(
    trainings: Trainings, place: Path, lr: float, fit: np.ndarray, held: np.ndarray
) -> tuple[dict[str, Any], int | None]:
    """What a training with one learning rate shows, as JSON, and the signal that ended it early."""
    notify = trainings.plan.notify
    notify(f"learning rate {lr:g}: {counted(len(fit), 'image')} to learn from, {counted(len(held), 'image')} held out")
    try:
        ended = trainings.train(place, lr, fit, held)
    except NumericalError as error:
        notify(f"learning rate {lr:g} diverges: {error.what}")
        return {"lr": lr, "diverged": True}, None
    if ended.signal is not None:
        return {}, ended.signal
    return ended.curve.outcome(lr, ended.steps // (len(fit) // trainings.batch(fit))), None
