"""One backbone after another: its features as the protocol's heads want them, then its probe."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..digests import contents_of
from ..errors import UsageError
from ..evaluate.inputs import Found, Inputs
from ..evaluate.predictions import Predicted
from ..evaluate.sharing import fill
from ..extraction.pipeline import Pipeline
from ..extraction.protocols import has_class_token
from ..extraction.shards import part_of_process
from ..features import FeatureSet, warn_of_shared_rows
from ..labels import labelled, refuse_marking, require_classes
from ..models.readout import number_of_layers
from ..results import Result
from ..sources import Sources
from .evaluation import predictions_of, train_and_evaluate
from .head_files import load_head, require_head
from .plan import HEAD, Plan, Settled
from .protocols import PROBES, Probe, given_reading, settle_reading
from .request import probe_of
from .training import Training

_FOR_GIVEN = "dinov2/1"  # of features whose protocol is not known: its grid fits those of any origin


class FinishedRun(Exception):
    """The run in `out` has its result already."""

    def __init__(self, result: Result):
        self.result = result


class Probing:
    """The probes of a command: `inputs` brings each backbone's features, `measure` trains on them."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._settled: Settled  # of the backbone under way
        self._begin: Callable[[], None] = lambda: None  # what is left to be done before training
        # head and result of a run that has ended, where predictions are asked for
        self._finished: tuple[Path, Result] | None = None
        self.predicted: list[Predicted] = []  # the chosen heads' predictions for the test images, backbone by backbone

    def inputs(self) -> Iterator[Inputs]:
        """The features of every backbone. Raises FinishedRun.

        A run's folder is begun before any is computed, unless another run is to be removed.
        """
        reader = self._plan.reader
        sources = reader.pair(self._plan.given)
        if sources.datasets is None:
            for inputs in reader.each(sources):
                reading = given_reading(inputs.train.features.shape[1])
                self._settled = Settled(*self._probe(self._protocol_of(inputs), None), reading, None)
                self._settle_run(
                    inputs.train.fingerprint,
                    {"train": _content(inputs.train), "test": _content(_required(inputs.test))},
                )
                yield inputs
            return
        train, test = sources.datasets
        for pipeline in list(reader.pipelines("linear")):
            self._settled = self._settle(pipeline, train)
            reading = self._settled.reading
            pipeline = dataclasses.replace(pipeline, pool=reading.pool, layers=reading.layers, norm=reading.norm)
            self._settle_run(pipeline.fingerprint, {"train": _listing(train), "test": _listing(test)})
            yield self._features(sources, pipeline)

    def measure(self, inputs: Inputs, name: str) -> Found:
        """Rows of one backbone's probe, and facts for the manifest."""
        notify, settled = self._plan.notify, self._settled
        if inputs.pipeline is not None and (advice := inputs.pipeline.spec.advice("linear", protocol=settled.protocol)):
            notify(advice)
        train, test = labelled(inputs.train, "train", notify), labelled(_required(inputs.test), "test", notify)
        if self._plan.request.select_on == "test":
            refuse_marking(test, "--select-on test")
        require_classes(train)
        train.require_finite()
        test.require_finite()
        warn_of_shared_rows(train, test, notify)
        train, test = (
            dataclasses.replace(side, features=settled.reading.arranged(side.features)) for side in (train, test)
        )
        self._begin()
        self._require_contents(inputs)
        if self._finished is not None:
            file, result = self._finished
            self.predicted.append(predictions_of(self._scores_of(file, test), test, name))
            raise FinishedRun(result)
        from ..training.distributed import rank

        folder = self._plan.folder
        with folder.in_use(first=rank() == 0) if folder is not None else contextlib.nullcontext():
            found, scores = train_and_evaluate(Training(self._plan, settled, inputs, train, test))
        if self._plan.predicts:
            self.predicted.append(predictions_of(scores, test, name))
        return found

    def _scores_of(self, file: Path, test: FeatureSet) -> np.ndarray:
        """Class scores (n, C) that the head of a finished run gives the test images."""
        head, about = load_head(file)
        read = (about.get("layers"), about.get("pool"))
        one = next(one for one in self._settled.reading.inputs if (one.layers, one.pool) == read)
        return np.asarray(head.chunked_scores(test.features[:, one.start : one.stop]))

    def _protocol_of(self, inputs: Inputs) -> str:
        """The preset that made the features: of a file, what it says or its backbone's own.

        Where no --protocol is given, a note says what is taken.
        """
        if inputs.pipeline is not None or self._plan.request.protocol is not None:
            return inputs.protocol or _FOR_GIVEN
        known = inputs.known_protocol
        taken = known if known in PROBES else _FOR_GIVEN
        of_file = f"the features are of {known}" if known else "the features name no protocol"
        none = ", which has no linear probe" if known and known != taken else ""
        self._plan.notify(f"{of_file}{none}: the linear probe of {taken} is taken; --protocol NAME takes another")
        return taken

    def _probe(self, protocol: str, width: int | None) -> tuple[str, Probe]:
        """The protocol that was asked for, or this one, and its probe."""
        from ..models.engines import resolve_precision

        asked = self._plan.request.protocol or protocol
        if asked not in PROBES:
            raise UsageError(f"{asked} has no linear probe", fix=f"Choose one with --protocol: {', '.join(PROBES)}.")
        precision = resolve_precision(self._plan.reader.options.precision, self._plan.device)
        return asked, probe_of(self._plan.request, asked, precision, width)

    def _settle(self, pipeline: Pipeline, train: Dataset) -> Settled:
        """The heads of a backbone and the readout that they want."""
        options, architecture = self._plan.reader.options, pipeline.spec.architecture
        protocol, probe = self._probe(pipeline.protocol.name, architecture.width)
        layers = number_of_layers(options.layers)
        mean_only = options.pool is None and (pipeline.pool == "mean" or not has_class_token(architecture))
        reading = settle_reading(
            probe, architecture, pipeline.norm, pool=options.pool, layers=layers, mean_only=mean_only
        )
        return Settled(protocol, probe, reading, train)

    def _features(self, sources: Sources, pipeline: Pipeline) -> Inputs:
        """A backbone's features; of several processes each puts its part into the cache, then all read it.

        The first one reads it before the others, and computes what may lack.
        """
        from ..training.distributed import rank, wait_for_all

        process, extractor, done = part_of_process(), self._plan.reader.extractor, None
        if process is not None and extractor.cache is not None:
            own = dataclasses.replace(pipeline, device=self._plan.device)
            done = fill(sources, own, process)
        if rank() > 0:
            wait_for_all()
        if process is not None:
            extractor.memory.refresh()
        inputs = self._plan.reader.inputs(sources, pipeline)
        if rank() == 0:
            wait_for_all()
            return inputs if done is None else inputs.done_before(done.over, done.seconds)
        return inputs

    def _settle_run(self, fingerprint: str, data: Mapping[str, Any]) -> None:
        """Begin the run now; where it replaces another, once all of its images could be read."""
        if self._plan.effort.overwrite:
            self._begin = lambda: self._make_folder(fingerprint, data)
        else:
            self._make_folder(fingerprint, data)

    def _require_contents(self, inputs: Inputs) -> None:
        """Raise UsageError where the run's images are others by now under the same names."""
        from ..training.distributed import rank

        folder, memory = self._plan.folder, self._plan.reader.extractor.memory
        datasets = inputs.sources.datasets
        if folder is not None and datasets is not None and rank() == 0:
            sides = zip(("train", "test"), datasets, strict=True)
            folder.require_contents({name: contents_of(side, memory) for name, side in sides})

    def _make_folder(self, fingerprint: str, data: Mapping[str, Any]) -> None:
        """Make the run's folder or find it again.

        Raises FinishedRun for one with a result, unless predictions are asked for too.
        """
        from ..training.distributed import rank, wait_for_all

        folder, request = self._plan.folder, self._plan.request
        if folder is None:
            return
        what = {
            "command": "linear",
            "protocol": self._settled.protocol,
            "probe": dataclasses.asdict(self._settled.probe),
            **{name: getattr(request, name) for name in ("epochs", "batch_size", "augment", "select_on", "seed")},
            "max_bad": self._plan.reader.extractor.work.max_bad,
            "features": fingerprint,
            "inputs": [dataclasses.asdict(one) for one in self._settled.reading.inputs],
            "data": dict(data),
        }
        if rank() == 0:
            folder.begin(what, {}, anew=self._plan.effort.overwrite)
        wait_for_all()
        stored = folder.result(self._plan.notify)
        if stored is not None:
            require_head(folder, stored)
            if not self._plan.predicts:
                raise FinishedRun(stored)
            self._finished = folder.path / HEAD, stored


def _required(test: FeatureSet | None) -> FeatureSet:
    if test is None:
        raise UsageError(
            "a linear probe needs test images", fix="Give --train and --test, or --data with train/ and val/."
        )
    return test


def _listing(dataset: Dataset) -> dict[str, Any]:
    return {"name": dataset.name, "images": len(dataset), "listing": dataset.digest}


def _content(features: FeatureSet) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(features.features).tobytes() + features.labels.tobytes()).hexdigest()
    return {"name": features.name, "images": len(features), "content": digest}
