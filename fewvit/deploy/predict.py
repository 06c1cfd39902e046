"""Labels by an exported bundle: fewvit decodes and resizes, onnxruntime computes, the bundle's own rules decide.

No module of torch is built; torch itself is imported only where the kernel that resizes was not compiled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundles.predict import Predictions, Said, decided, limits_of, predictions
from ..calibration import scale
from ..datasets import Dataset, Listing, open_dataset
from ..errors import IntegrityError, NumericalError, UsageError, printable, refuse_out_of_memory
from ..extraction.extract import single_threaded
from ..extraction.work import Progress, Report, Work, describe, require_enough, skipped_images
from ..features import FeatureSet
from ..images import POLICIES_DIFFER, BadImage, decode, decoder_version
from ..results import Facts
from ..sources import announce, is_features
from .contract import FEATURES, PROBABILITIES, STRANGENESS, Contract, Decision
from .onnx_file import OnnxGraph, onnxruntime_of, read_onnx

_BATCH = 8  # images per pass: as many as stay in a CPU's caches


@dataclass(frozen=True)
class Judging:
    """What the bundle said of its score of strangeness."""

    threshold: float | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class OnnxBundle:
    """An exported bundle that was loaded: pixels to calibrated probabilities, and what decides about them."""

    graph: OnnxGraph
    contract: Contract
    decision: Decision

    @property
    def classifier(self) -> str:
        """The plug-in's name."""
        return self.decision.classifier

    @property
    def classes(self) -> Sequence[str]:
        """C names, columns of the probabilities."""
        return self.decision.classes

    @property
    def threshold(self) -> float:
        """Of the largest probability, below which the label is `unknown`."""
        return self.decision.threshold

    @property
    def temperature(self) -> float:
        """That the probabilities were calibrated with."""
        return self.decision.temperature

    @property
    def strangeness(self) -> Judging | None:
        """None: there is no score in the file."""
        own = self.decision
        return None if own.strangeness is None else Judging(own.max_strangeness, own.strangeness)

    def confidences(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities (Q, C), which are calibrated in the graph; of some of the classes they sum to one again."""
        return scale(probabilities, 1.0)

    def predict(self, images: Sequence[bytes], max_pixels: int = 64_000_000) -> list[dict[str, Any]]:
        """The rows of `fewvit predict`, of image files in memory; their ids are their numbers.

        Raises BadImage for bytes that are no image, and for more than `max_pixels` pixels.
        """
        contract = self.contract
        pixels = [decode(one, contract.transform, contract.decode, max_pixels)[0] for one in images]
        features, said = outputs_of(self, pixels)
        ids, none = [str(i) for i in range(len(images))], np.full(len(images), -1)
        return list(decided(self, limits_of(self), FeatureSet(features, none, ids, []), [said]))


def load_onnx(path: str | os.PathLike[str]) -> OnnxBundle:
    """The exported bundle in a file. Raises as `read_onnx`, and UsageError for a backbone by itself."""
    graph, contract = read_onnx(Path(path))
    if contract.decision is None:
        raise UsageError(
            f"{printable(path)} is the backbone {contract.backbone} by itself: it has no classes",
            fix="`fewvit export onnx BUNDLE --out FILE.onnx` writes one with a classifier.",
        )
    return OnnxBundle(graph, contract, contract.decision)


def outputs_of(bundle: OnnxBundle, pixels: Sequence[np.ndarray]) -> tuple[np.ndarray, Said]:
    """Features (n, D), and what was computed of them, of pixels (H, W, 3) uint8.

    Raises IntegrityError for outputs of other shapes than the file says.
    """
    found = bundle.graph(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)))
    n, shapes = len(pixels), {FEATURES: (bundle.contract.width,), PROBABILITIES: (len(bundle.classes),)}
    if any(found[name].shape != (n, *shapes.get(name, ())) for name in bundle.contract.outputs):
        raise IntegrityError("the ONNX file gives outputs of other shapes than it says", fix="Export it again.")
    if not all(np.isfinite(one).all() for one in found.values()):
        raise NumericalError("the ONNX file gives NaN or Inf")
    return found[FEATURES], Said(found[PROBABILITIES], found.get(STRANGENESS))


def run_predict_onnx(
    file: Path,
    source: str,
    listing: Listing,
    work: Work,
    threshold: float | None,
    max_strangeness: float | None,
    notify: Callable[[str], None],
    report_skipped: Callable[[list[dict[str, str]]], None],
) -> Predictions:
    """As `run_predict`, by an exported bundle. Nothing is cached. Raises UsageError for features in place of images."""
    if is_features(source):
        raise UsageError(
            f"{source} has features, and an ONNX file takes images",
            fix="Give images, or the features to the bundle itself: `fewvit predict BUNDLE SRC`.",
        )
    bundle = load_onnx(file)
    limits = limits_of(bundle, threshold, max_strangeness)
    dataset = announce(open_dataset(source, listing), notify)
    started, passes = time.perf_counter(), _Passes(bundle, dataset, work)
    said = list(passes.run())
    report_skipped(passes.report.skipped)
    features = passes.features()
    rows = list(decided(bundle, limits, features, said))
    seconds = {"extract": round(time.perf_counter() - started, 3)}
    facts = {**_facts(bundle.contract), "seconds": seconds, **describe(passes.report)}
    return predictions(bundle, limits, features, rows, facts, notify)


class _Passes:
    """All images of a data set through the graph, a few at a time; those that can't be decoded are left out."""

    def __init__(self, bundle: OnnxBundle, dataset: Dataset, work: Work):
        self.bundle, self.dataset, self.work = bundle, dataset, work
        self.report = Report(images=len(dataset))
        self._bad: dict[int, str] = {}
        self._good: list[int] = []
        self._features: list[np.ndarray] = []

    def run(self) -> Iterator[Said]:
        """What was computed of each pass. Raises BadImages for more undecodable images than are allowed."""
        size, total = self.work.batch_size or _BATCH, len(self.dataset)
        workers = self.work.workers if self.work.workers is not None else min(16, os.cpu_count() or 1)
        begin = single_threaded if self.bundle.contract.decode == "fast" else None
        started = time.perf_counter()
        with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode", initializer=begin) as pool:
            for start in range(0, total, size):
                rows = range(start, min(start + size, total))
                pixels = [one for one in pool.map(self._decoded, rows) if one is not None]
                if pixels:
                    features, said = outputs_of(self.bundle, pixels)
                    self._features.append(features)
                    self.report.computed += len(features)
                    yield said
                self.report.seconds = time.perf_counter() - started
                if self.work.progress is not None:
                    done = rows.stop, total, self.report.computed, self.report.seconds
                    self.work.progress(Progress(*done, waiting=0.0, modelling=self.report.seconds))
        self.report.skipped = skipped_images(self.dataset, self._bad)
        require_enough(self.dataset, self.report.skipped, self.work)

    def _decoded(self, row: int) -> np.ndarray | None:
        """(H, W, 3) uint8, in a worker thread; what is wrong with an image is noted."""
        contract = self.bundle.contract
        try:
            data = self.dataset.read(row)
            pixels, notes = decode(data, contract.transform, contract.decode, self.work.max_pixels)
        except BadImage as error:
            self._bad[row] = str(error)
            return None
        except OSError as error:
            refuse_out_of_memory(error, "reading an image")
            self._bad[row] = (error.strerror or str(error)).lower()
            return None
        self.report.differing += bool(notes & int(POLICIES_DIFFER))
        return pixels

    def features(self) -> FeatureSet:
        """Those of the images that were decoded."""
        good, own = [row for row in range(len(self.dataset)) if row not in self._bad], self.dataset
        return FeatureSet(
            np.concatenate(self._features),
            own.labels[good],
            [own.ids[row] for row in good],
            own.classes,
            name=own.name,
            marking=None if own.marking is None else own.marking.select(good),
        )


def _facts(contract: Contract) -> Facts:
    """What the run's manifest says of the features."""
    return {
        "backbone": contract.backbone,
        "pool": contract.pool,
        "layers": contract.layers,
        "norm": contract.norm,
        "precision": "fp32",
        "engine": f"onnxruntime {onnxruntime_of().__version__}",
        "decode": contract.decode,
        "decoder": decoder_version(contract.decode),
        "preprocess": dict(contract.preprocess),
        "weights_sha256": contract.weights_sha256,
        "license": contract.license,
        "fingerprint": contract.fingerprint,
    }
