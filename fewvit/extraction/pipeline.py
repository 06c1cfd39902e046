"""From an image's bytes to a feature, settled before any of it runs: backbone, readout, transform, decoder, precision.

Its key names the feature store, so that whatever can change a feature is in it. No torch unless the precision asks for
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..backbones import Protocol, family_of
from ..errors import UsageError
from ..images import decoder_version
from ..models.pools import EACH_TOKEN, pool_of
from ..models.readout import BOTH, Layers, Readout
from ..models.scales import copy_sizes, smallest_side
from ..models.spec import BackboneSpec
from ..preprocess import Preprocess, parse_size, sized
from .cache import key_digest
from .protocols import POOLS, find_protocol

PRECISIONS = ("fp32", "bf16", "fp16", "auto")
DECODERS = ("fast", "pil")


@dataclass(frozen=True)
class FeatureOptions:
    """What a user may ask of the features; None or empty means the protocol's."""

    protocol: str | None = None
    pool: str | None = None
    layers: str | None = None  # N or `lastN`, `block6,block12`; or `each`: one row per block
    img_size: str | None = None
    precision: str = "fp32"
    decode: str = "fast"
    device: str = "auto"
    reading: Mapping[str, Any] | None = None  # fields of the transform that a retrieval protocol sets, over all others


@dataclass(frozen=True)
class Pipeline:
    """A settled way from bytes to features."""

    spec: BackboneSpec
    protocol: Protocol
    preprocess: Preprocess
    pool: str
    layers: int
    each: bool  # the layers are rows of their own, not one long feature
    norm: str
    decode: str
    precision: str
    device: str
    blocks: tuple[int, ...] = ()  # these alone, from 1, in place of the last `layers`, which then counts them

    @property
    def readout(self) -> Readout:
        """Which tokens become the feature vector."""
        return Readout(self.pool, self.layers, self.norm, self.blocks)

    @property
    def layers_asked(self) -> str:
        """The value of `--layers` that asks for these, but for `each`."""
        return Layers(self.layers, blocks=self.blocks).text

    @property
    def layers_read(self) -> int | list[int]:
        """For keys and manifests: how many of the last blocks, or the numbers of those that were chosen."""
        return list(self.blocks) or self.layers

    @property
    def key(self) -> dict[str, Any]:
        """Everything that decides a feature's value; `backbone`, `protocol` and `weights_sha256` are labels."""
        return {
            "backbone": self.spec.name,
            "protocol": self.protocol.name,
            "weights": self.spec.fingerprint,
            "weights_sha256": self.spec.weights_sha256,
            "pool": self.pool,
            "layers": self.layers_read,
            "norm": self.norm,
            "preprocess": self.preprocess.to_dict(),
            "decoder": decoder_version(self.decode),
            "precision": self.precision_tag,
        }

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images that the backbone reads; None: each has its own."""
        return None if self.preprocess.longest else self.preprocess.crop

    def too_small(self, height: int, width: int) -> str:
        """Why an image of this many pixels, as it is read, has no patch at every scale; empty where it has."""
        patch, scales = self.spec.architecture.patch, self.preprocess.scales
        if self.size is not None or smallest_side(height, width, scales) >= patch:
            return ""
        at = f" at scale {min(scales):.3g}" if min(scales) < 1 else ""
        return f"{width} x {height} pixels{at}: less than a patch of {patch}"

    @property
    def precision_tag(self) -> str:
        """The precision, and for half precision what computed it: engines differ in the third digit there."""
        if self.precision == "fp32":
            return "fp32"
        from ..models.engines import resolve_device

        return f"{self.precision}-{self.engine}-{resolve_device(self.device).partition(':')[0]}"

    @property
    def engine(self) -> str:
        """What computes on its device where nothing else is asked for."""
        from ..models.engines import choose_engine, resolve_device

        own, one_size = self.spec.architecture, self.size is not None and self.copies == [self.size]
        return choose_engine(self.precision, resolve_device(self.device), plain_vit=own.is_vit, one_size=one_size)

    @property
    def whole_patch(self) -> int:
        """Pixels of which the sides of copies are multiples; 0 where images have sizes of their own."""
        return 0 if self.size is None else self.spec.architecture.patch

    @property
    def copies(self) -> list[tuple[int, int]]:
        """(height, width) of the copies whose features are averaged; empty where images have sizes of their own."""
        return [] if self.size is None else copy_sizes(*self.size, self.preprocess.scales, self.whole_patch)

    @property
    def fingerprint(self) -> str:
        """sha256 of `key` in hex: equal for pipelines that give equal features, whatever they are called."""
        return key_digest(self.key)

    @property
    def facts(self) -> dict[str, Any]:
        """For a result's manifest."""
        shown = {
            "protocol": self.protocol.name,
            "pool": self.pool,
            "layers": self.layers_read,
            "norm": self.norm,
            "precision": self.precision,
            "decode": self.decode,
        }
        count = self.spec.architecture.parameters
        return {
            **shown,
            **({"parameters": count} if count is not None else {}),
            "preprocess": self.preprocess.to_dict(),
            "decoder": decoder_version(self.decode),
            "weights_sha256": self.spec.weights_sha256,
            "license": self.spec.license,
            "fingerprint": self.fingerprint,
        }


def check_options(options: FeatureOptions) -> None:
    """Raise UsageError for what is right for no backbone."""
    _check_choice("--precision", options.precision, PRECISIONS)
    _check_choice("--decode", options.decode, DECODERS)
    if options.pool is not None:
        _check_choice("--pool", options.pool, (*POOLS, EACH_TOKEN))
    if options.img_size:
        parse_size(options.img_size)


def settle(spec: BackboneSpec, options: FeatureOptions, task: str = "") -> Pipeline:
    """The pipeline of a backbone under these options.

    For the tasks `lowshot` and `finetune` a protocol may have another transform, for the latter a family another
    protocol.

    Raises UsageError for what the backbone or the family's rule cannot do.
    """
    tuned = family_of(spec.family).tuned_protocol if task == "finetune" else ""
    protocol = find_protocol(options.protocol or tuned or spec.protocol)
    check_options(options)
    preprocess = dataclasses.replace(
        protocol.transform(task), **{**_tuples(spec.preprocess), **_tuples(options.reading or {})}
    )
    size = parse_size(options.img_size) if options.img_size else None
    preprocess = sized(preprocess, size, protocol.whole_above)
    if preprocess.longest:
        spec.architecture.check_any_size()
    else:
        _check_copies(spec, preprocess)
    if protocol.norm in ("none", "raw") and spec.architecture.timm:
        raise UsageError(
            f"--protocol {protocol.name} reads tokens before the final norm; timm's models, such as {spec.name}, "
            "give them after it"
        )
    layers = _layers(options.layers, protocol, spec)
    classes = family_of(spec.family).class_tokens
    pool = pool_of(options.pool, protocol, spec.architecture, spec.tokens, spec.name, classes)
    _check_together(layers, pool, options)
    precision = options.precision
    if precision == "auto":
        from ..models.engines import resolve_device, resolve_precision

        precision = resolve_precision("auto", resolve_device(options.device))
    return Pipeline(
        spec,
        protocol,
        preprocess,
        pool,
        layers.count,
        layers.each,
        protocol.norm,
        options.decode,
        precision,
        options.device,
        layers.blocks,
    )


def _check_copies(spec: BackboneSpec, preprocess: Preprocess) -> None:
    """Raise UsageError for scales that are none, and for sizes that the backbone does not read."""
    scales = preprocess.scales
    if not scales or not all(0 < scale <= 4 for scale in scales) or len(set(scales)) < len(scales):
        raise UsageError(
            f"--scales {','.join(f'{scale:g}' for scale in scales)}: give numbers above 0 and up to 4, each once"
        )
    if scales != (1.0,) and spec.architecture.timm:
        raise UsageError(f"--scales: {spec.name} is built for images of one size", fix="Leave --scales away.")
    spec.architecture.check_size(*preprocess.crop)
    for size in copy_sizes(*preprocess.crop, scales, spec.architecture.patch):
        spec.architecture.check_size(*size)


def _check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{flag} {value!r} is not one of {', '.join(choices)}")


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _layers(asked: str | None, protocol: Protocol, spec: BackboneSpec) -> Layers:
    if spec.architecture.stages and asked not in (None, "1", "last1"):
        raise UsageError(
            f"--layers {asked}: {spec.name} is a ConvNeXt, whose earlier stages have other widths and no norm",
            fix="Use --layers 1, its last stage.",
        )
    return Layers(protocol.layers) if asked is None else Layers.of(asked, spec.architecture.layers, spec.name)


def _check_together(layers: Layers, pool: str, options: FeatureOptions) -> None:
    """Raise UsageError for a pool that is not of these blocks."""
    if layers.each and pool not in _PER_BLOCK:
        raise UsageError(f"--layers each gives one token per block, so it goes with --pool cls or mean, not {pool}")
    if options.pool == EACH_TOKEN and not layers.each:
        raise UsageError("--pool each gives a row for each kind of token, so it goes with --layers each")
    if pool == "attn" and (layers.count > 1 or layers.blocks):
        raise UsageError(
            f"--pool attn is the model's own head over its last block, and --layers {layers.text} asks for others",
            fix="Leave --layers away, or use --pool mean.",
        )


_PER_BLOCK = ("cls", "cls2", "mean", "gem", BOTH)
