"""A linear head that is there already: ours, or one of the official files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError, FewvitError, FingerprintMismatch, UsageError, counted, some
from ..evaluate.details import Details, Keep
from ..evaluate.inputs import FeatureReader, Found, Inputs, measured
from ..extraction.pipeline import Pipeline
from ..extraction.protocols import has_class_token
from ..features import FeatureSet
from ..files import sha256_of
from ..labels import labelled, used_classes
from ..metrics import top_k_accuracy
from ..models.readout import number_of_layers
from ..runs.request import Audience
from ..sources import Given, Sources, is_features
from .evaluation import predictions_of, ranks, write_predictions
from .head_files import head_file, load_head
from .protocols import PROBES, Input, Reading, find_probe, given_reading, head_readings, settle_reading


def evaluate_head(
    reader: FeatureReader,
    given: Given,
    head: Path,
    names: Path | None,
    audience: Audience,
    predictions: Path | None = None,
    keep: Keep | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of a stored linear head on the test images, and the run's manifest.

    `predictions` and `keep` get what it says of each of them. The official heads know no class names: as many
    classes as the head has are taken in their order, others need `names`, a file of them. Raises UsageError for a
    run of another command and for `names` of a head that has its own, CheckpointError for a head that is not as
    wide as the features, FingerprintMismatch for one of our own that was trained on another backbone, DataError for
    classes that it does not know.
    """
    _check(given, reader)
    file = head_file(head)
    loaded, about = load_head(file)
    listed = _names_of(file, len(loaded.bias), about, names)
    if "protocol" in about and reader.options.protocol is None:  # its transform goes with it
        reader.options = dataclasses.replace(reader.options, protocol=about["protocol"])
    width, readings, predicted = loaded.weight.shape[1], {}, []

    def inputs() -> Iterator[Inputs]:
        sources = _test_of(given, reader)
        if not sources.have_images:
            yield from reader.each(sources)
            return
        for pipeline in list(reader.pipelines("linear")):
            reading = readings[pipeline.spec.name] = _reading_of(pipeline, reader, file, width, about, audience.notify)
            pipeline = dataclasses.replace(pipeline, pool=reading.pool, layers=reading.layers, norm=reading.norm)
            _require_same_weights(about, pipeline.spec.weights_sha256, file)
            yield reader.inputs(sources, pipeline)

    def measure(found: Inputs, name: str) -> Found:
        test = labelled(found.train, "test", audience.notify)
        test.require_finite()
        reading = readings.get(found.backbone, given_reading(test.features.shape[1]))
        one = reading.inputs[0]
        x = reading.arranged(test.features)[:, one.start : one.stop]
        if x.shape[1] != width:
            raise _wrong_width(file, width, found.backbone, str(x.shape[1]))
        _require_same_weights(about, test.weights, file)
        of_outputs = _as_outputs(test, len(loaded.bias), listed, names or file, audience.notify)
        scores = loaded.chunked_scores(x)
        rank = ranks(scores, of_outputs)
        if predictions is not None or keep is not None:
            predicted.append(predictions_of(scores, of_outputs, name))
        facts = {
            "method": "linear",
            "head": file.name,
            **({"layers": one.layers, "pool": one.pool} if one.pool else {}),
            "n_test": len(test),
        }
        values = {"top1": top_k_accuracy(rank, 1), "top5": top_k_accuracy(rank, 5)}
        rows = [{**facts, "metric": metric, "value": value} for metric, value in values.items()]
        return rows, {"head_sha256": sha256_of(file)}

    found = measured(reader, inputs(), measure, audience.skipped, reader.backbones.seed)
    write_predictions(predictions, predicted, audience.notify)
    if keep is not None:
        keep(Details(predicted))
    return found


def _check(given: Given, reader: FeatureReader) -> None:
    """Raise UsageError for what is wrong whatever the data."""
    if given.data is None and given.test is None:
        raise UsageError(
            "no images to judge the head by",
            fix="Give --test SRC, or --data DIR with train/ and val/ or test/ in it.",
        )
    number_of_layers(reader.options.layers)


def _names_of(file: Path, outputs: int, about: Mapping[str, Any], listed: Path | None) -> Sequence[str] | None:
    """The names of a head's outputs: those in its own file, or those of a list; None where there are neither."""
    own = about.get("classes")
    if listed is None:
        if own is not None and len(own) != outputs:
            raise CheckpointError(f"{len(own)} names for the {outputs} classes of the head", file=file)
        return own
    if own is not None:
        what = f"--head-classes is for heads that name no classes, and this one names its {outputs} itself"
        raise UsageError(what, file=file, fix="Leave --head-classes away.")
    try:
        names = listed.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError as error:
        raise DataError("no such file", file=listed, fix="Check the spelling of --head-classes.") from error
    if len(names) != outputs:
        fix = "Name each of them in a line of its own, in the head's order."
        raise DataError(f"{len(names)} names for the {outputs} classes of the head", file=listed, fix=fix)
    if twice := [name for name, lines in Counter(names).items() if lines > 1]:
        what = f"{counted(len(twice), 'name stands', 'names stand')} in more than one line: {some(twice)}"
        raise DataError(what, file=listed, fix="Give each of the head's classes a name of its own.")
    return names


def _test_of(given: Given, reader: FeatureReader) -> Sources:
    """The test images, or their features, by themselves."""
    if given.test is not None and (is_features(given.test) or len(given.names) == 1):
        return reader.one(given.test, given.listing)
    return Sources(reader.pair(given).sides[1])


def _require_same_weights(about: Mapping[str, Any], weights: str, file: Path) -> None:
    trained = about.get("weights", "")
    if trained and weights and trained != weights:
        raise FingerprintMismatch(
            f"this head was trained on the features of other weights ({trained[:12]}…, not {weights[:12]}…)",
            file=file,
            fix=f"It belongs to {about.get('backbone') or 'another backbone'}.",
        )


def _reading_of(
    pipeline: Pipeline,
    reader: FeatureReader,
    file: Path,
    width: int,
    about: Mapping[str, Any],
    notify: Callable[[str], None],
) -> Reading:
    """What the head reads: as its file says, as the user says, or what is as wide as it.

    Where several are, a note says which is taken.
    """
    protocol, architecture = pipeline.protocol.name, pipeline.spec.architecture
    if protocol not in PROBES:
        raise UsageError(f"{protocol} has no linear probe", fix=f"Choose one with --protocol: {', '.join(PROBES)}.")
    layers = number_of_layers(reader.options.layers) or about.get("layers")
    pool = reader.options.pool or about.get("pool")
    readings = head_readings(protocol, architecture, pipeline.norm, width, pool=pool, layers=layers)
    if not readings:
        usual = settle_reading(
            find_probe(protocol, architecture.width),
            architecture,
            pipeline.norm,
            mean_only=pipeline.pool == "mean" or not has_class_token(architecture),
        )
        raise _wrong_width(
            file, width, f"{pipeline.spec.name} under {protocol}", " or ".join(str(one.width) for one in usual.inputs)
        )
    taken, *others = (reading.inputs[0] for reading in readings)
    if others:
        also = ", ".join(f"{_shown(one)} (--pool {one.pool} --layers {one.layers})" for one in others)
        notify(
            f"the head takes {counted(width, 'number')}: it is taken to read {_shown(taken)}; as wide would be {also}"
        )
    return readings[0]


def _shown(one: Input) -> str:
    return f"{one.pool} of {counted(one.layers or 0, 'block')}"


def _wrong_width(file: Path, width: int, whose: str, have: str) -> FewvitError:
    return CheckpointError(
        f"the head takes features of {counted(width, 'number')}, those of {whose} have {have}",
        file=file,
        fix="Give the backbone that it was trained on with --backbone, or its readout with --pool and --layers.",
    )


def _as_outputs(
    test: FeatureSet, outputs: int, names: Sequence[str] | None, named_in: Path, notify: Callable[[str], None]
) -> FeatureSet:
    """The test images with the head's outputs for classes. `named_in`: the file with the `names`, or the head's own.

    Raises DataError for a class that is none of them.
    """
    if names is None and len(test.classes) == outputs:
        notify(f"the head names no classes: its {outputs} outputs are taken for the {outputs} classes in their order")
        return test
    if names is None:
        classes = counted(len(test.classes), "class", "classes")
        raise DataError(
            f"the head has {outputs} outputs and names none of them, the test images have {classes}",
            file=named_in,
            fix="Name them with --head-classes FILE, one class in each line.",
        )
    number = {name: i for i, name in enumerate(names)}
    unknown = [test.classes[c] for c in used_classes(test) if test.classes[c] not in number]
    if unknown:
        what = f"{counted(len(unknown), 'test class is', 'test classes are')} none of the head's: {some(unknown)}"
        raise DataError(what, file=named_in, fix="Names must agree letter by letter.")
    table = np.array([*(number.get(name, -1) for name in test.classes), -1], np.int64)  # the last serves label -1
    marking = None if test.marking is None else test.marking.renumbered(table)
    return dataclasses.replace(test, labels=table[test.labels], classes=names, marking=marking)
