"""How sure a fine-tuned network may be: the temperature of its probabilities, from the labelled images alone.

Networks are trained as the final one is, each without a part of the labelled images, and say what they make of that
part. The part that chose learning rate and number of epochs has no say: it was classified best because it chose.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..calibration import ENOUGH, best_temperature, cautious, softmax, temperature_as_sure
from ..errors import IntegrityError, NumericalError, counted, in_one_line
from ..evaluate.evaluation import calibration_of
from ..files import replacing, require_file
from ..untrusted.arrays import array_of
from .baselines import logistic
from .held_out import Candidate, held_out_parts
from .trainings import Trainings

if TYPE_CHECKING:
    from .tuning import Tuning


_HEADER_BYTES = 4096  # of an array's file, at most


@dataclass(frozen=True)
class Confidence:
    """A temperature of `calibration.scale`, and where it comes from."""

    temperature: float = 1.0
    calibrated_on: int = 0  # images that were held out in turn; 0: it is from the frozen classifier's confidence

    def told(self, labels: np.ndarray) -> str:
        """Whether the temperature was fitted, of a training on images with labels (n,); as `calibration_of`."""
        return calibration_of(labels, tried=self.calibrated_on > 0 or len(np.unique(labels)) == len(labels))


def calibrated(trainings: Trainings, chosen: Candidate, task: Tuning) -> tuple[Confidence | None, int | None]:
    """The temperature of the final network `task`, and the signal that ended its search early; it is unknown then.

    Where nothing can be held out that had no say yet, the network may be as sure of the labelled images as the frozen
    classifier is, no surer.
    """
    parts = _parts(trainings, chosen)
    rows, logits = np.zeros(0, np.int64), list[np.ndarray]()
    for number, held in parts if trainings.plan.recipe.calibrate else []:
        if len(rows) >= ENOUGH:
            break
        found, signal = _of_part(trainings, chosen, number, held)
        if found is None:
            return None, signal
        if np.isfinite(found).all():
            rows, logits = np.concatenate([rows, held]), [*logits, found]
    if not len(rows):
        return Confidence(_as_sure_as_frozen(trainings, task)), None
    labels = trainings.labelled.labels[rows]
    temperature = cautious(best_temperature(softmax(np.concatenate(logits)), labels), len(rows))
    trainings.plan.notify(f"confidences calibrated on {counted(len(rows), 'image')}, each held out: {temperature:.3g}")
    return Confidence(temperature, len(rows)), None


def _parts(trainings: Trainings, chosen: Candidate) -> list[tuple[int, np.ndarray]]:
    """Number and rows of each part that may be held out to calibrate by."""
    parts = held_out_parts(trainings.labelled.labels, trainings.plan.request.seed)
    return [(n, rows) for n, rows in enumerate(parts) if len(rows) and (n > 0 or chosen.top1 is None)]


def _as_sure_as_frozen(trainings: Trainings, task: Tuning) -> float:
    labelled, everything = trainings.labelled, np.arange(len(trainings.labelled.labels))
    frozen = logistic(trainings.plan, len(everything)).fit(labelled.support.features, labelled.labels)
    target = float(frozen.predict_proba(labelled.support.features).max(axis=1).mean())
    return temperature_as_sure(softmax(trainings.logits(task, everything)), target)


def _of_part(
    trainings: Trainings, chosen: Candidate, number: int, held: np.ndarray
) -> tuple[np.ndarray | None, int | None]:
    """Logits (m, C) of a part from a network that was trained without it, from its file if it was trained before.

    Last, the signal that ended it early.
    """
    from ..training.distributed import rank, wait_for_all

    place = trainings.plan.folder.path / "calibration" / str(number)
    file = place / "logits.npy"
    if not file.exists():
        labels = trainings.labelled.labels
        fit = np.setdiff1d(np.arange(len(labels)), held)
        # no fewer steps an epoch than the final training has, or confidence would be that of a shorter one
        batch = max(1, len(fit) // (len(labels) // trainings.batch(labels)))
        try:
            ended = trainings.train(
                place, chosen.lr, fit, np.zeros(0, np.int64), chosen.epochs, batch=batch, what=f"calibration {number}"
            )
        except NumericalError as error:
            trainings.plan.notify(f"{counted(len(held), 'image')} calibrate nothing: {error.what}")
            logits = np.full((len(held), len(trainings.labelled.present)), np.nan, np.float32)
        else:
            if ended.signal is not None:
                return None, ended.signal
            logits = trainings.logits(ended.task, held)
        wait_for_all()
        if rank() == 0:
            _save(file, logits)
        wait_for_all()
    if rank() == 0:
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return _load(file, (len(held), len(trainings.labelled.present))), None


def _save(file: Path, logits: np.ndarray) -> None:
    with replacing(file) as handle:
        np.save(handle, logits)


def _load(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Logits (m, C) of a part, from its file. Raises IntegrityError for what is no such array."""
    require_file(file)
    try:
        if file.stat().st_size > 4 * shape[0] * shape[1] + _HEADER_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes, more than were written")
        logits = array_of(file)
        if logits.shape != shape or logits.dtype != np.float32:
            raise ValueError(f"{logits.dtype} {logits.shape} where float32 {shape} was written")
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"what this calibration found is damaged ({in_one_line(error)})",
            file=file,
            fix="Remove the file: it is computed again.",
        ) from error
    return logits
