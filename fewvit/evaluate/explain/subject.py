"""What is explained: the features of one backbone, how they were made, and how the published ones are made."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ...backbones import IMAGENET, Benchmark, Protocol, families, find_variant, variants
from ...errors import FewvitError
from ...extraction.pipeline import DECODERS, FeatureOptions, Pipeline, settle
from ...extraction.protocols import find_protocol, protocols
from ...features import FeatureSet
from ...models.spec import BackboneSpec
from ...results import Row
from ..inputs import Inputs
from ..predictions import Predicted

_TASKS = ("", "lowshot")  # those that a protocol may have a transform for


@dataclass(frozen=True)
class Subject:
    """The features of one backbone, or of its last block where each was measured."""

    inputs: Inputs
    train: FeatureSet
    test: FeatureSet | None
    spec: BackboneSpec | None  # None: features whose backbone is not known
    here: Pipeline | None  # None: features that were not made as any protocol says, or by what is not known
    published: Pipeline | None  # that of the backbone's own protocol; None: the backbone is not known
    rows: Sequence[Row]  # of the result
    predicted: Sequence[Predicted]

    @property
    def protocol(self) -> Protocol | None:
        """The preset that published numbers of this backbone were measured with."""
        if self.published is not None:
            return self.published.protocol
        name = self.inputs.known_protocol
        return find_protocol(name) if name in protocols() else None

    @property
    def benchmark(self) -> Benchmark:
        """The images that published numbers were measured on."""
        return self.protocol.benchmark if self.protocol is not None else IMAGENET


def subject_of(
    inputs: Inputs,
    train: FeatureSet,
    test: FeatureSet | None,
    rows: Sequence[Row],
    predicted: Sequence[Predicted],
    task: str = "",
) -> Subject:
    """The subject behind an evaluation's inputs; `task` as in `settle`. `train` and `test` are of the last block."""
    here = inputs.pipeline if inputs.pipeline is not None else recognised(train)
    spec = here.spec if here is not None else spec_of_features(train)
    published = as_published(spec, task) if spec is not None else None
    return Subject(inputs, train, test, spec, here, published, rows, predicted)


def as_published(spec: BackboneSpec, task: str) -> Pipeline:
    """The pipeline of the backbone's own protocol, with the official pixels."""
    return settle(spec, FeatureOptions(decode="pil"), task)


def reads_as_published(pipeline: Pipeline, task: str = "") -> bool:
    """Whether features are those of the backbone's published numbers: its own weights, readout, norm and transform.

    Decoder and precision may differ: they are worth less than a number's last digit.
    """
    own, spec = as_published(pipeline.spec, task), pipeline.spec
    known = find_variant(spec.name)[1].sha256 if spec.name in variants() else ""
    alike = ("pool", "layers", "blocks", "each", "norm", "preprocess")
    return known in ("", spec.weights_sha256) and all(getattr(pipeline, one) == getattr(own, one) for one in alike)


def spec_of_features(features: FeatureSet) -> BackboneSpec | None:
    """The named backbone that a features file says it was made with, without its weights; None where it names none."""
    if features.backbone not in variants() or not features.weights:
        return None
    family, variant = find_variant(features.backbone)
    return BackboneSpec(
        name=features.backbone,
        family=family,
        architecture=variant.architecture,
        protocol=families()[family].protocol,
        weights_sha256=features.weights,
        published=variant.published,
        preprocess=variant.preprocess,
    )


def recognised(features: FeatureSet) -> Pipeline | None:
    """How a features file was made, found by its fingerprint among the protocols in fp32; None where by none of them.

    A fingerprint cannot be read, but those that the protocols give can be made again.
    """
    spec = spec_of_features(features)
    if spec is None or spec.is_random or not features.fingerprint:
        return None
    # fingerprints are equal where protocols read alike: then it is the one that the file names
    likely = [name for name in (features.protocol, spec.protocol) if name in protocols()]
    for name, decode, task in itertools.product(dict.fromkeys([*likely, *protocols()]), DECODERS, _TASKS):
        try:
            pipeline = settle(spec, FeatureOptions(protocol=name, decode=decode), task)
        except FewvitError:  # a protocol that this backbone cannot be read by
            continue
        if pipeline.fingerprint == features.fingerprint:
            return pipeline
    return None
