"""Linear probes: a grid of heads on frozen features, from its arguments to the accuracy of the one that was chosen."""

from __future__ import annotations

import dataclasses
import hashlib
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .datasets import Dataset, open_dataset, open_pair, select
from .errors import (
    CheckpointError,
    DataError,
    FewvitError,
    FingerprintMismatch,
    ResourceError,
    UnknownName,
    UsageError,
    counted,
    printable,
)
from .evaluate.inputs import FeatureReader, Found, Inputs, Sources, is_features, labelled, measured, require_classes
from .features import FeatureSet, shared_rows
from .files import sha256_of
from .metrics import rank_of_target, top_k_accuracy
from .options import typed
from .pipeline import Pipeline
from .results import Result, manifest
from .runs import RunFolder
from .seeds import seed_of
from .training.probes import PROBES, Probe, Reading, find_probe, fitted, given_reading, head_reading, held_out, settle_reading
from .training.request import Audience, Changes, Effort

HEAD = "head.safetensors"
_FOR_GIVEN = "dinov2/1"  # whose grid fits features of any origin
_IMAGENET_TEST = 50_000


@dataclass(frozen=True)
class Choice(Changes):
    """What is to be trained. With the data, the backbone and the options of its features, every field can change the outcome."""

    protocol: str | None = None  # None: the backbone's own
    lrs: Sequence[float] = ()  # empty: the protocol's
    augment: bool = False  # views through the frozen backbone in every epoch; otherwise features are made once, without augmentation
    select_on: str = "train"  # or test: what the papers did


def probe_of(choice: Choice, protocol: str, precision: str, width: int | None = None) -> Probe:
    """The protocol's probe under the choices made, before it is fitted to the data. Raises UnknownName, UsageError."""
    probe = find_probe(protocol, width)
    hints = typing.get_type_hints(Probe)
    options = sorted(name for name, kind in hints.items() if kind in (int, float, bool, int | None) and name not in _WITH_FLAGS)
    changes: dict[str, Any] = {"precision": precision}
    for setting in choice.settings:
        if setting.plugin or setting.name not in options:
            raise UnknownName("option", f"{setting.plugin}.{setting.name}".lstrip("."), options)
        changes[setting.name] = typed(setting, hints[setting.name])
    if choice.lrs:
        changes |= {"lrs": tuple(sorted(set(choice.lrs))), "default_lr": sorted(choice.lrs)[len(choice.lrs) // 2], "small_lrs": ()}
    if any(lr <= 0 for lr in choice.lrs):
        raise UsageError(f"--lr {min(choice.lrs):g}: a learning rate is above 0")
    if choice.select_on not in ("train", "test"):
        raise UsageError(f"--select-on {choice.select_on!r} is neither train nor test")
    return dataclasses.replace(probe, **changes)


_WITH_FLAGS = ("epochs", "batch_size", "precision", "lrs", "default_lr", "interleaved", "truncated", "clipped_boxes")


def run_linear(
    reader: FeatureReader, sources: Sources, choice: Choice, effort: Effort, out: Path | None, audience: Audience
) -> tuple[Result, int | None]:
    """Train, or go on with, a probe on each backbone's features; the result, and the signal that ended it early, if one did.

    Without `out` nothing is kept. Raises UsageError when the run in `out` was begun with other arguments, DataError for what is missing
    or too little, NumericalError when every head diverges, ResourceError for memory and disk.
    """
    _check(reader, sources, choice, out)
    from .engines import resolve_device
    from .training.distributed import rank, together

    with together(resolve_device(reader.options.device)) as device:
        story = _Probing(reader, sources, choice, effort, RunFolder(out) if out is not None else None, audience, device)
        try:
            rows, facts = measured(reader, story.inputs(), story.measure, audience.skipped, choice.seed)
        except _Finished as finished:
            return finished.result, None
        except _Stopped as stopped:
            return Result("linear", [], manifest(seed=choice.seed)), stopped.signal
        result = Result("linear", rows, facts)
        if out is not None and rank() == 0:
            RunFolder(out).finish(result)
    return result, None


def _check(reader: FeatureReader, sources: Sources, choice: Choice, out: Path | None) -> None:
    """What can be told before anything is read."""
    if reader.options.layers == "each":
        raise UsageError("--layers each goes with knn and lowshot; a linear probe takes a number of blocks")
    if out is not None and len(reader.backbones.names) > 1:
        raise UsageError("--out RUN holds one backbone's probe; give one backbone, or leave --out away")
    if choice.augment and any(map(is_features, (sources.data, sources.train, sources.test))):
        raise UsageError("--augment needs images: features that were given cannot be augmented", fix="Leave --augment away.")
    if choice.protocol is not None:
        probe_of(choice, choice.protocol, "fp32")


class _Finished(Exception):
    """The run in `out` has its result already."""

    def __init__(self, result: Result):
        self.result = result


class _Stopped(Exception):
    """A signal ended the training early."""

    def __init__(self, signal: int):
        self.signal = signal


class _Probing:
    """One probe after another: `inputs` brings each backbone's features, `measure` trains on them."""

    def __init__(
        self,
        reader: FeatureReader,
        sources: Sources,
        choice: Choice,
        effort: Effort,
        folder: RunFolder | None,
        audience: Audience,
        device: str,
    ):
        self.reader, self.sources, self.choice, self.effort = reader, sources, choice, effort
        self.folder, self.audience, self.device = folder, audience, device
        self.images: Dataset | None = None  # to train on with --augment
        self.protocol = ""
        self.probe: Probe = next(iter(PROBES.values()))  # of the backbone under way, as all three
        self.reading = given_reading(0)

    def inputs(self) -> Iterator[Inputs]:
        """The features of every backbone, read as its protocol's heads want them; a run's folder is begun before any is computed."""
        if any(map(is_features, (self.sources.train, self.sources.test, self.sources.data))):
            for inputs in self.reader.pair(self.sources):
                self._settle(inputs.protocol or _FOR_GIVEN, None)
                self.reading = given_reading(inputs.train.features.shape[1])
                self._begin(inputs.train.fingerprint, {"train": _content(inputs.train), "test": _content(_required(inputs.test))})
                yield inputs
            return
        sets = open_pair(self.sources.data, self.sources.train, self.sources.test, self.sources.listing)
        train, test = map(self.reader.told, sets)
        self.images = train
        for pipeline in list(self.reader.pipelines("linear")):
            pipeline = self._read_by(pipeline)
            self._begin(pipeline.fingerprint, {"train": _listing(train), "test": _listing(test)})
            yield self._extracted(pipeline, train, test)

    def _extracted(self, pipeline: Pipeline, train: Dataset, test: Dataset) -> Inputs:
        """Of several processes the first fills the cache, the others read it."""
        from .training.distributed import rank, wait_for_all

        if rank() > 0:
            wait_for_all()
        inputs = self.reader.extracted(pipeline, train, test)
        if rank() == 0:
            wait_for_all()
        return inputs

    def _settle(self, protocol: str, width: int | None) -> None:
        from .engines import resolve_precision

        asked = self.choice.protocol or protocol
        if asked not in PROBES:
            raise UsageError(f"{asked} has no linear probe", fix=f"Choose one with --protocol: {', '.join(PROBES)}.")
        self.protocol = asked
        self.probe = probe_of(self.choice, asked, resolve_precision(self.reader.options.precision, self.device), width)

    def _read_by(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with the readout that the protocol's heads want."""
        options, architecture = self.reader.options, pipeline.spec.architecture
        self._settle(pipeline.protocol.name, architecture.width)
        layers = int(options.layers) if options.layers else None
        mean_only = options.pool is None and pipeline.pool == "mean"
        self.reading = settle_reading(self.probe, architecture, pipeline.norm, pool=options.pool, layers=layers, mean_only=mean_only)
        return dataclasses.replace(pipeline, pool=self.reading.pool, layers=self.reading.layers, norm=self.reading.norm)

    def _begin(self, fingerprint: str, data: Mapping[str, Any]) -> None:
        """Make the run's folder or find it again. Raises _Finished for one with a result."""
        from .training.distributed import rank, wait_for_all

        if self.folder is None:
            return
        what = {
            "command": "linear",
            "protocol": self.protocol,
            "probe": dataclasses.asdict(self.probe),
            **{name: getattr(self.choice, name) for name in ("epochs", "batch_size", "augment", "select_on", "seed")},
            "max_bad": self.reader.work.max_bad,
            "features": fingerprint,
            "inputs": [dataclasses.asdict(one) for one in self.reading.inputs],
            "data": dict(data),
        }
        if rank() == 0:
            self.folder.begin(what, {})
        wait_for_all()
        stored = self.folder.result()
        if stored is not None:
            raise _Finished(stored)

    def measure(self, inputs: Inputs, name: str) -> Found:
        """Rows of one backbone's probe, and what the manifest should tell."""
        say = self.audience.say
        if inputs.pipeline is not None and inputs.pipeline.spec.family == "mae" and self.protocol != "mae/1":
            say("MAE's linear probe is --protocol mae/1: its features need the BatchNorm that comes with it")
        train, test = labelled(inputs.train, "train", say), labelled(_required(inputs.test), "test", say)
        require_classes(train)
        train.require_finite()
        test.require_finite()
        if shared := shared_rows(train, test):
            say(f"{shared} of the {len(test)} test images have exactly the features of a train image: are they the same pictures?")
        train, test = (dataclasses.replace(side, features=self.reading.arranged(side.features)) for side in (train, test))
        return _Training(self, inputs, train, test).run()


def _required(test: FeatureSet | None) -> FeatureSet:
    if test is None:
        raise UsageError("a linear probe needs test images", fix="Give --train and --test, or --data with train/ and val/.")
    return test


def _listing(dataset: Dataset) -> dict[str, Any]:
    return {"name": dataset.name, "images": len(dataset), "listing": dataset.digest}


def _content(features: FeatureSet) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(features.features).tobytes() + features.labels.tobytes()).hexdigest()
    return {"name": features.name, "images": len(features), "content": digest}


class _Training:
    """The heads of one backbone: how they are trained, judged and chosen."""

    def __init__(self, probing: _Probing, inputs: Inputs, train: FeatureSet, test: FeatureSet):
        from .training.heads import Heads

        self.probing, self.inputs, self.train, self.test = probing, inputs, train, test
        self.choice, self.say, self.device = probing.choice, probing.audience.say, probing.device
        held = held_out(train.labels, self.choice.seed, train.classes) if self.choice.select_on == "train" else np.empty(0, np.int64)
        self.rows = np.setdiff1d(np.arange(len(train)), held)
        self.judges = test if self.choice.select_on == "test" else train.select(held)
        self.feed = self._augmented() if self.choice.augment else self._cached()
        self.probe = self._fitted()
        self.heads = Heads(self.probe, probing.reading.inputs, len(train.classes), seed_of(self.choice.seed, "heads"))
        self.judged: tuple[np.ndarray, np.ndarray] | None = None  # top-1 and loss of every head, after the last epoch that was judged

    def _cached(self) -> Any:
        from .training.feeds import Cached

        return Cached(self.train.features, self.train.labels, self.rows, self.device)

    def _augmented(self) -> Any:
        """Views of the training images through the frozen backbone; rows as they stand in the features."""
        from .specs import build
        from .training.feeds import Augmented
        from .vit import Readout

        pipeline, images, reading = self.inputs.pipeline, self.probing.images, self.probing.reading
        if pipeline is None or images is None:
            raise UsageError("--augment needs images on both sides")
        crop = pipeline.preprocess.crop
        if crop[0] != crop[1]:
            raise UsageError(f"--augment crops squares, and the backbone is shown {crop[0]}x{crop[1]} pixels", fix="Leave --augment away.")
        place = {id_: row for row, id_ in enumerate(images.ids)}
        chosen = select(images, [place[self.train.ids[row]] for row in self.rows.tolist()])
        readout = Readout(reading.pool, reading.layers, reading.norm)
        backbone = build(pipeline.spec, readout, crop, device=self.device, precision=pipeline.precision)
        work = self.probing.reader.work
        return Augmented(
            dataclasses.replace(chosen, labels=self.train.labels[self.rows]),
            self.probing.probe.view(crop[0]),
            backbone,
            pipeline.preprocess,
            reading.arranged,
            device=self.device,
            workers=self.probing.effort.workers,
            max_pixels=work.max_pixels,
            folder=self.probing.folder.path if self.probing.folder is not None else None,
        )

    def _fitted(self) -> Probe:
        choice, images = self.choice, len(self.feed)
        probe = fitted(self.probing.probe, images, epochs=choice.epochs, batch_size=choice.batch_size)
        if choice.batch_size is None and probe.batch_size < self.probing.probe.batch_size:
            self.say(
                f"{self.probing.protocol} trains on batches of {self.probing.probe.batch_size}; "
                f"for {counted(images, 'image')} batches of {probe.batch_size} are taken"
                + (f", with learning rates up to {max(probe.lrs):g} beside its own" if probe.lrs != self.probing.probe.lrs else "")
            )
        return probe

    def run(self) -> Found:
        """Train to the end or to a signal, choose a head, judge it by the test images."""
        from .training.distributed import rank

        started = time.perf_counter()
        trained = self._train()
        if trained.signal is not None:
            raise _Stopped(trained.signal)
        self._tell_diverged()
        selected_on = self._choose()
        number, epochs, head = self.heads.kept()
        self._tell_choice(number, epochs, selected_on)
        scores = head.chunked_scores(self._read(self.test.features, number))
        rank_ = ranks(scores, self.test.labels)
        columns = {
            "method": "linear",
            "protocol": self.probing.protocol,
            "views": "augmented" if self.choice.augment else "cached",
            **self.heads.describe(number),
            "epochs": epochs,
            "selected_on": selected_on,
            **({"precision": self.probe.precision} if self.probe.precision != "fp32" else {}),
            "n_train": len(self.feed),
            "n_test": len(self.test),
        }
        values = {"top1": top_k_accuracy(rank_, 1), "top5": top_k_accuracy(rank_, 5)}
        rows = [{**columns, "metric": metric, "value": value} for metric, value in values.items()]
        if self.probing.folder is not None and rank() == 0:
            head.save(self.probing.folder.path / HEAD, self._about(number))
        facts = {
            "linear": self._facts(number, selected_on),
            "images_per_second_training": round(trained.images_per_second, 1),
            "seconds": {"train": round(time.perf_counter() - started, 3)},
        }
        return self._with_published(rows), facts

    def _train(self) -> Any:
        from .training.journal import Journal
        from .training.loop import How, Watch, train
        from .training.order import Order
        from .training.state import Checkpoints

        effort, folder = self.probing.effort, self.probing.folder
        order = Order(len(self.feed), self.probe.batch_size, self.probe.epochs, self.choice.seed)
        try:
            return train(
                self.heads,
                order,
                self.feed.read,
                self.feed.prepare,
                How(self.device, save_every=effort.save_every, log_every=effort.log_every),
                Checkpoints(folder.checkpoints) if folder is not None else None,
                (lambda step: Journal(folder.log, step)) if folder is not None else None,
                Watch(lambda p: self.probing.audience.progress("", p), self._judge, say=self.say),
            )
        except ResourceError as error:
            if not error.what.startswith("out of memory with"):
                raise
            smaller = max(1, self.probe.batch_size // 2)
            raise ResourceError(f"out of memory with batches of {self.probe.batch_size}", fix=f"Try --batch-size {smaller}.") from error

    def _read(self, features: np.ndarray, number: int) -> np.ndarray:
        """The columns that a head reads."""
        one = self.heads.inputs[number // len(self.probe.lrs)]
        return features[:, one.start : one.stop]

    def _judge(self, epochs: int) -> dict[str, float] | None:
        """Judge all heads after so many epochs, and keep the best one so far."""
        if len(self.judges) == 0:
            return None
        self.judged = self.heads.judge(self.judges.features, self.judges.labels)
        self.heads.keep_best(*self.judged, epochs)
        return {"selection_top1": float(self.judged[0].max()), "best_top1": float(self.heads.best[2])}

    def _tell_diverged(self) -> None:
        gone = [self.heads.describe(i) for i in np.flatnonzero(self.heads.diverged.cpu().numpy() >= 0).tolist()]
        if gone:
            shown = "; ".join(", ".join(f"{key} {value}" for key, value in one.items()) for one in gone[:5])
            self.say(
                f"{counted(len(gone), 'head')} of {len(self.heads)} diverged and took no further part: {shown}{' …' if len(gone) > 5 else ''}"
            )

    def _choose(self) -> str:
        """What the kept head was chosen on; where nothing could be held out, the protocol's default is kept as it is now."""
        if self.heads.best[0] >= 0:
            return self.choice.select_on
        live = np.flatnonzero(self.heads.diverged.cpu().numpy() < 0)
        rates = np.array([self.heads.describe(int(i))["lr"] for i in live])
        number = int(live[np.abs(np.log(rates / self.probe.default_lr)).argmin()])
        self.heads.keep(number, self.probe.epochs)
        if len(self.heads) > 1 or self.probe.epochs > 1:
            self.say(
                "no class has two labelled images, so nothing could be held out to choose by: "
                f"the head of learning rate {self.heads.describe(number)['lr']:g} is taken after the last epoch"
            )
        return "default"

    def _tell_choice(self, number: int, epochs: int, selected_on: str) -> None:
        """Which head it is; the table leaves out what is the same in every row."""
        one = self.heads.describe(number)
        read = f", {counted(one['layers'], 'block')}, {one['pool']}" if "pool" in one else ""
        images = "views made in every epoch" if self.choice.augment else "cached features, no augmentation"
        by = {
            "train": f"chosen by {counted(len(self.judges), 'held-out training image')}",
            "test": "chosen by the test images, as the papers did",
            "default": "the protocol's default",
        }[selected_on]
        if selected_on != "default" and len(self.probe.lrs) > 1 and one["lr"] == max(self.probe.lrs):
            self.say("the largest learning rate of the grid won: larger ones, with --lr, may do better")
        self.say(
            f"{self.probing.protocol}, {images}: learning rate {one['lr']:g}{read}, after {counted(epochs, 'epoch')} of {self.probe.epochs}; {by}"
        )

    def _facts(self, number: int, selected_on: str) -> dict[str, Any]:
        """For the manifest: how it was trained, and every head's standing where the choice was made."""
        diverged = self.heads.diverged.tolist()
        if self.judged is None and len(self.judges):  # of a run that was found finished but for its result
            self.judged = self.heads.judge(self.judges.features, self.judges.labels)
        heads = []
        for i in range(len(self.heads)):
            standing = {"selection_top1": round(float(self.judged[0][i]), 3)} if self.judged is not None and diverged[i] < 0 else {}
            heads.append({**self.heads.describe(i), **standing, **({"diverged_in_step": diverged[i]} if diverged[i] >= 0 else {})})
        return {
            "protocol": self.probing.protocol,
            "batch_size": self.probe.batch_size,
            "epochs": self.probe.epochs,
            "selected": self.heads.describe(number),
            "selected_on": selected_on,
            "judged_by": len(self.judges),
            "heads": heads,
        }

    def _about(self, number: int) -> dict[str, Any]:
        """What a stored head tells of itself."""
        train = self.train
        origin = {"backbone": self.inputs.backbone, "weights": train.weights}
        return {"classes": list(map(str, train.classes)), "protocol": self.probing.protocol, **self.heads.describe(number), **origin}

    def _with_published(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Beside the papers' own procedure on ImageNet-1k, with augmentation and choice on the test images: the published number."""
        pipeline = self.inputs.pipeline
        official = (
            self.choice.augment and self.choice.select_on == "test" and len(self.test) == _IMAGENET_TEST and len(self.train.classes) == 1000
        )
        if not official or pipeline is None or pipeline.spec.is_random or "linear" not in pipeline.spec.published:
            return rows
        return [{**row, "published": pipeline.spec.published["linear"]} if row["metric"] == "top1" else row for row in rows]


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place (n,) of each row's label among class scores (n, C), 0 = best; ties go to the lower class."""
    above_nothing = scores.astype(np.float64)
    above_nothing -= above_nothing.min() - 1.0  # no class is without a vote here
    return rank_of_target(above_nothing, labels)


# ---- a head that is there already


def run_head(
    reader: FeatureReader, sources: Sources, head: Path, names: Path | None, audience: Audience
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of a stored linear head on the test images, and the run's manifest.

    The official heads know no class names: as many classes as the head has are taken in their order, others need `names`, a file of
    them. Raises CheckpointError for a head that is not as wide as the features, FingerprintMismatch for one of our own that was trained
    on another backbone, DataError for classes that it does not know.
    """
    from .training.heads import load_head

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
