"""What images held out of the labelled ones say about a training: after each epoch, and in the end. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibration import softmax, stratified_folds
from ..errors import IntegrityError, NumericalError
from ..training.log import read_log

_FOLDS = 5  # of the labelled images; one is held out
_NAMES = ("held_top1", "held_loss")


def held_out_parts(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Numbers of the images with labels (N,) that are held out in turn: fifths, or as many parts as a class has images.

    The first part chooses learning rate and number of epochs, the others calibrate. None where every class has a single
    image.
    """
    most = int(np.bincount(labels).max())
    if most < 2:
        return []
    parts = min(_FOLDS, most)
    part = stratified_folds(labels, parts, seed)
    return [np.flatnonzero(part == p) for p in range(parts)]


def held_out_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """The first of `held_out_parts`, which chooses; empty where nothing can be held out."""
    return next(iter(held_out_parts(labels, seed)), np.zeros(0, np.int64))


def evaluate_logits(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What logits (B, C) are worth on labels (B,): top-1 in percent, loss in nats.

    Raises NumericalError for NaN and Inf.
    """
    if not np.isfinite(logits).all():
        raise NumericalError("the network gives NaN or Inf for held-out images")
    shares = softmax(logits)
    own = shares[np.arange(len(labels)), labels]
    top1 = 100.0 * float((shares.argmax(axis=1) == labels).mean())
    loss = float(-np.log(np.maximum(own, 1e-30)).mean())
    return dict(zip(_NAMES, (top1, loss), strict=True))


@dataclass(frozen=True)
class Candidate:
    """A learning rate, how long it trains, and what the held-out images say of it."""

    lr: float
    epochs: int  # after which they were classified best
    top1: float | None = None  # of them, in percent; None: nothing was held out
    loss: float = 0.0

    @property
    def merit(self) -> tuple[float, float, float]:
        """The more the better; among equals the smaller learning rate."""
        return self.top1 or 0.0, -self.loss, -self.lr


class Curve:
    """What `evaluate_logits` found after each epoch of a training; `by_epoch` has it by the number of epochs done.

    It begins with the training's log: what a killed run had logged beyond its checkpoint will be found again, the same.
    """

    def __init__(self, log: Path):
        self._log = log
        self.by_epoch: dict[int, dict[str, float]] = {}
        for record in read_log(log) if log.exists() else ():
            if _NAMES[0] not in record:
                continue
            if lacking := [name for name in ("epoch", *_NAMES) if name not in record]:
                raise IntegrityError(
                    f"a record of what held-out images showed lacks its {lacking[0]}",
                    file=log,
                    fix="Start anew with --overwrite.",
                )
            self.by_epoch[record["epoch"] + 1] = {name: record[name] for name in _NAMES}

    def best(self, done: int) -> int:
        """The epoch, counted from 1, of the first `done` that classified best: most accurate, least loss, first.

        Raises IntegrityError where nothing is known of them.
        """
        known = {epoch: facts for epoch, facts in self.by_epoch.items() if epoch <= done}
        if not known:
            raise IntegrityError(
                "what this search had found is gone", file=self._log, fix="Start anew with --overwrite."
            )
        return max(known, key=lambda epoch: (known[epoch]["held_top1"], -known[epoch]["held_loss"], -epoch))

    def stalled(self, done: int, patience: int) -> bool:
        """Whether the last `patience` of `done` epochs were no better than those before."""
        return done - self.best(done) >= patience

    def outcome(self, lr: float, done: int) -> dict[str, object]:
        """The best epoch and the whole curve, as JSON."""
        best = self.best(done)
        curve = [{"epoch": epoch, **facts} for epoch, facts in sorted(self.by_epoch.items()) if epoch <= done]
        return {"lr": lr, "epochs": best, **self.by_epoch[best], "curve": curve}
