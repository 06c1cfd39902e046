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
from ..errors import NumericalError, counted, in_one_line
from ..evaluate.evaluation import calibration_of
from ..files import replacing, require_file, sha256_of
from ..runs.outcome import damaged, read_outcome, write_outcome
from ..untrusted.arrays import array_of
from .baselines import logistic
from .held_out import Candidate, held_out_parts
from .trainings import Trainings

if TYPE_CHECKING:
    from .tuning import Tuning


_LOGITS = "logits.npy"
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
    shape = (len(held), len(trainings.labelled.present))
    found = _load(place, shape)
    if found is None:
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
            found = np.full(shape, np.nan, np.float32)
        else:
            if ended.signal is not None:
                return None, ended.signal
            found = trainings.logits(ended.task, held)
        wait_for_all()
        if rank() == 0:
            _save(place, found)
        wait_for_all()
        found = _load(place, shape)
    if rank() == 0:
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return found, None


def _save(place: Path, logits: np.ndarray) -> None:
    """Write the logits (m, C) of a part, and then its outcome, which says that they are there."""
    with replacing(place / _LOGITS) as handle:
        np.save(handle, logits)
    write_outcome(place, {"logits_sha256": sha256_of(place / _LOGITS)})


def _load(place: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Logits (m, C) of a part, from its folder; None where it has not ended.

    Raises IntegrityError for what is not the array that was written.
    """
    outcome = read_outcome(place)
    if outcome is None:
        return None
    file = place / _LOGITS
    require_file(file)
    try:
        if file.stat().st_size > 4 * shape[0] * shape[1] + _HEADER_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes, more than were written")
        if sha256_of(file) != outcome.get("logits_sha256"):
            raise ValueError("its sha256 is not the one that was noted")
        logits = array_of(file)
        if logits.shape != shape or logits.dtype != np.float32:
            raise ValueError(f"{logits.dtype} {logits.shape} where float32 {shape} was written")
    except (OSError, ValueError) as error:
        raise damaged(file, in_one_line(error)) from error
    return logits
