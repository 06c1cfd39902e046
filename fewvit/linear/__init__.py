"""Linear probes: a grid of heads on frozen features, from its arguments to the accuracy of the one that was chosen.

`request` says what is asked, `probing` goes through the backbones, `training` trains the heads of one, `selection`
takes one of them, `evaluation` measures and keeps it; `stored_head` evaluates a head that is there already,
`head_files` finds its file.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..evaluate.details import Details, Keep
from ..evaluate.inputs import FeatureReader, measured
from ..models.readout import number_of_layers
from ..results import Result, manifest
from ..runs.folder import RunFolder
from ..runs.request import Audience, Effort
from ..sources import Given
from .evaluation import ranks, write_predictions
from .plan import Plan
from .probing import FinishedRun, Probing
from .request import LinearProbeRequest, check_request, probe_of
from .stored_head import evaluate_head
from .training import StoppedTraining

__all__ = ["Audience", "Effort", "LinearProbeRequest", "evaluate_head", "ranks", "run_linear"]


def run_linear(
    reader: FeatureReader,
    given: Given,
    request: LinearProbeRequest,
    effort: Effort,
    out: Path | None,
    audience: Audience,
    predictions: Path | None = None,
    keep: Keep | None = None,
) -> tuple[Result, int | None]:
    """Train, or go on with, a probe on each backbone's features: the result, and the signal that ended it early.

    Without `out` nothing is kept. `predictions` gets those of the chosen heads on the test images, as `keep` does.
    Raises UsageError when the run in `out` was begun with other arguments, DataError for what is missing or too little,
    NumericalError when every head diverges, ResourceError for memory and disk.
    """
    _check(reader, given, request, out)
    from ..models.engines import resolve_device
    from ..training.distributed import rank, together

    folder = RunFolder(out) if out is not None else None
    if folder is not None and effort.overwrite:
        folder.require_owner("linear")
    wanted = predictions is not None or keep is not None
    with together(resolve_device(reader.options.device)) as device:
        probing = Probing(Plan(reader, given, request, effort, folder, audience, device, wanted))
        try:
            found = measured(reader, probing.inputs(), probing.measure, audience.skipped, request.seed)
            result = Result("linear", *found)
            if folder is not None and rank() == 0:
                result = folder.finish(result)  # which has the digest of the head
        except FinishedRun as finished:
            result = finished.result
        except StoppedTraining as stopped:
            return Result("linear", [], manifest(seed=request.seed)), stopped.signal
        if rank() == 0:
            write_predictions(predictions, probing.predicted, audience.notify)
            if keep is not None:
                keep(Details(probing.predicted))
    return result, None


def _check(reader: FeatureReader, given: Given, request: LinearProbeRequest, out: Path | None) -> None:
    """Raise UsageError for what is wrong whatever the data; before anything is read, and before torch is imported."""
    check_request(request)
    number_of_layers(reader.options.layers, "a linear probe")
    if out is not None and len(reader.backbones.names) > 1:
        raise UsageError("--out RUN holds one backbone's probe; give one backbone, or leave --out away")
    if request.augment and given.has_features:
        raise UsageError(
            "--augment needs images: features that were given cannot be augmented", fix="Leave --augment away."
        )
    if request.protocol is not None:
        probe_of(request, request.protocol, "fp32")
