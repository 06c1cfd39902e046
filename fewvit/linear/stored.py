"""A linear head that is there already: ours, or one of the official files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset, open_dataset, open_pair
from ..errors import CheckpointError, DataError, FewvitError, FingerprintMismatch, UsageError, counted, printable
from ..evaluate.inputs import FeatureReader, Found, Inputs, Sources, is_features, labelled, measured
from ..features import FeatureSet
from ..files import sha256_of
from ..metrics import top_k_accuracy
from ..pipeline import Pipeline
from ..training.probes import PROBES, Reading, find_probe, given_reading, head_reading, settle_reading
from ..training.request import Audience
from .outcome import ranks
from .plan import HEAD


def run_head(
    reader: FeatureReader, sources: Sources, head: Path, names: Path | None, audience: Audience
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of a stored linear head on the test images, and the run's manifest.

    The official heads know no class names: as many classes as the head has are taken in their order, others need `names`, a file of
    them. Raises CheckpointError for a head that is not as wide as the features, FingerprintMismatch for one of our own that was trained
    on another backbone, DataError for classes that it does not know.
    """
    from ..training.heads import load_head

    file = head / HEAD if head.is_dir() else head
    loaded, about = load_head(file)
    listed = names.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if names is not None else about.get("classes")
    if listed is not None and len(listed) != len(loaded.bias):
        raise DataError(f"{len(listed)} names for the {len(loaded.bias)} classes of the head", file=names)
    if "protocol" in about and reader.options.protocol is None:  # its transform goes with it
        reader.options = dataclasses.replace(reader.options, protocol=about["protocol"])
    width, readings = loaded.weight.shape[1], {}

    def inputs() -> Iterator[Inputs]:
        source, dataset = _test_of(sources, reader)
        if dataset is None:
            yield from reader.one(source, sources.listing)
            return
        for pipeline in list(reader.pipelines("linear")):
            reading = readings[pipeline.spec.name] = _reading_of(pipeline, reader, file, width, about)
            pipeline = dataclasses.replace(pipeline, pool=reading.pool, layers=reading.layers, norm=reading.norm)
            _require_same_weights(about, pipeline.spec.weights_sha256, file)
            yield reader.extracted(pipeline, dataset, None)

    def measure(found: Inputs, name: str) -> Found:
        test = labelled(found.train, "test", audience.say)
        test.require_finite()
        reading = readings.get(found.backbone, given_reading(test.features.shape[1]))
        one = reading.inputs[0]
        x = reading.arranged(test.features)[:, one.start : one.stop]
        if x.shape[1] != width:
            raise _wrong_width(file, width, found.backbone, str(x.shape[1]))
        _require_same_weights(about, test.weights, file)
        columns = _as_outputs(test, len(loaded.bias), listed, file, audience.say)
        rank = ranks(loaded.chunked_scores(x), columns)
        facts = {
            "method": "linear",
            "head": file.name,
            **({"layers": one.layers, "pool": one.pool} if one.pool else {}),
            "n_test": len(test),
        }
        return [{**facts, "metric": metric, "value": top_k_accuracy(rank, k)} for metric, k in (("top1", 1), ("top5", 5))], {
            "head_sha256": sha256_of(file)
        }

    return measured(reader, inputs(), measure, audience.skipped, reader.backbones.seed)


def _test_of(sources: Sources, reader: FeatureReader) -> tuple[str, Dataset | None]:
    """The test images; None where their features are given."""
    if is_features(sources.test):
        return str(sources.test), None
    if sources.test is not None and sources.train is None and sources.data is None:
        return sources.test, reader.told(open_dataset(sources.test, sources.listing))
    return "", reader.told(open_pair(sources.data, sources.train, sources.test, sources.listing)[1])


def _require_same_weights(about: Mapping[str, Any], weights: str, file: Path) -> None:
    trained = about.get("weights", "")
    if trained and weights and trained != weights:
        raise FingerprintMismatch(
            f"this head was trained on the features of other weights ({trained[:12]}…, not {weights[:12]}…)",
            file=file,
            fix=f"It belongs to {about.get('backbone') or 'another backbone'}.",
        )


def _reading_of(pipeline: Pipeline, reader: FeatureReader, file: Path, width: int, about: Mapping[str, Any]) -> Reading:
    """What the head reads: as it says itself, as the user says, or what is as wide as it."""
    protocol, architecture = pipeline.protocol.name, pipeline.spec.architecture
    if protocol not in PROBES:
        raise UsageError(f"{protocol} has no linear probe", fix=f"Choose one with --protocol: {', '.join(PROBES)}.")
    layers = int(reader.options.layers) if reader.options.layers else about.get("layers")
    reading = head_reading(protocol, architecture, pipeline.norm, width, pool=reader.options.pool or about.get("pool"), layers=layers)
    if reading is None:
        usual = settle_reading(find_probe(protocol, architecture.width), architecture, pipeline.norm, mean_only=pipeline.pool == "mean")
        raise _wrong_width(file, width, f"{pipeline.spec.name} under {protocol}", " or ".join(str(one.width) for one in usual.inputs))
    return reading


def _wrong_width(file: Path, width: int, whose: str, have: str) -> FewvitError:
    return CheckpointError(
        f"the head takes features of {counted(width, 'number')}, those of {whose} have {have}",
        file=file,
        fix="Give the backbone that it was trained on with --backbone, or its readout with --pool and --layers.",
    )


def _as_outputs(test: FeatureSet, outputs: int, names: Sequence[str] | None, file: Path, say: Callable[[str], None]) -> np.ndarray:
    """The head's output (n,) for each test label."""
    if names is None and len(test.classes) == outputs:
        say(f"the head names no classes: its {outputs} outputs are taken for the {outputs} classes in their order")
        return test.labels
    if names is None:
        raise DataError(
            f"the head has {outputs} outputs and names none of them, the test images have {counted(len(test.classes), 'class', 'classes')}",
            file=file,
            fix="Name them with --head-classes FILE, one class in each line.",
        )
    number = {name: i for i, name in enumerate(names)}
    unknown = [test.classes[c] for c in np.unique(test.labels) if test.classes[c] not in number]
    if unknown:
        shown = ", ".join(map(printable, unknown[:5]))
        raise DataError(
            f"{counted(len(unknown), 'test class is', 'test classes are')} none of the head's: {shown}{' …' if len(unknown) > 5 else ''}",
            file=file,
        )
    return np.array([number.get(name, -1) for name in test.classes], np.int64)[test.labels]
