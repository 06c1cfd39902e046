"""Which of the trained heads is taken, and the notes on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import counted
from .training import Training

if TYPE_CHECKING:
    from .linear_head import LinearHead


@dataclass(frozen=True)
class Selected:
    """The head that was taken."""

    number: int
    epochs: int  # after which it was taken
    head: LinearHead
    on: str  # what it was chosen on: train, test, or default where nothing could choose


def select_head(training: Training) -> Selected:
    """The best head so far by the images that were held out; where there are none, the one nearest to the default.

    It is described in a note, and those that diverged in another.
    """
    _note_diverged(training)
    on = _chosen_on(training)
    selected = Selected(*training.heads.kept_head(), on)
    _note_selected(training, selected)
    return selected


def _note_diverged(training: Training) -> None:
    """Say how many heads diverged, and which."""
    heads = training.heads
    gone = [heads.describe(i) for i in np.flatnonzero(heads.diverged.cpu().numpy() >= 0).tolist()]
    if gone:
        shown = "; ".join(", ".join(f"{key} {value}" for key, value in one.items()) for one in gone[:5])
        what = f"{counted(len(gone), 'head')} of {len(heads)} diverged and took no further part"
        training.plan.notify(f"{what}: {shown}{' …' if len(gone) > 5 else ''}")


def _chosen_on(training: Training) -> str:
    """What the kept head was chosen on: train, test, or default.

    Where nothing could be held out, the head nearest to the protocol's default is kept as it is now.
    """
    heads, probe = training.heads, training.probe
    if heads.best[0] >= 0:
        return training.plan.request.select_on
    live = np.flatnonzero(heads.diverged.cpu().numpy() < 0)
    rates = np.array([heads.describe(int(i))["lr"] for i in live])
    number = int(live[np.abs(np.log(rates / probe.default_lr)).argmin()])
    heads.keep(number, probe.epochs)
    if len(heads) > 1 or probe.epochs > 1:
        training.plan.notify(
            "no class has two labelled images, so nothing could be held out to choose by: "
            f"the head of learning rate {heads.describe(number)['lr']:g} is taken after the last epoch, "
            f"nearest to {_default(training)}"
        )
    return "default"


def _default(training: Training) -> str:
    """The learning rate that counts where nothing can choose, and where it comes from."""
    probe, usual = training.probe, training.settled.probe
    if training.plan.request.lrs:
        return f"{probe.default_lr:g}, the middle one of --lr"
    if probe.default_lr == usual.default_lr:
        return f"the protocol's {usual.default_lr:g}"
    return (
        f"{probe.default_lr:g}, which is for batches of {probe.batch_size} "
        f"what the protocol's {usual.default_lr:g} is for batches of {usual.batch_size}"
    )


def _note_selected(training: Training, selected: Selected) -> None:
    """Which head it is; the table leaves out what is the same in every row."""
    one, probe, notify = training.heads.describe(selected.number), training.probe, training.plan.notify
    read = f", {counted(one['layers'], 'block')}, {one['pool']}" if "pool" in one else ""
    images = "views made in every epoch" if training.plan.request.augment else "cached features, no augmentation"
    by = {
        "train": f"chosen by {counted(len(training.selection_set), 'held-out training image')}",
        "test": "chosen by the test images, as the papers did",
        "default": "no image was there to choose by",
    }[selected.on]
    if selected.on != "default" and len(probe.lrs) > 1 and one["lr"] == max(probe.lrs):
        notify("the largest learning rate of the grid won: larger ones, with --lr, may do better")
    after = f"after {counted(selected.epochs, 'epoch')} of {probe.epochs}"
    notify(f"{training.settled.protocol}, {images}: learning rate {one['lr']:g}{read}, {after}; {by}")
