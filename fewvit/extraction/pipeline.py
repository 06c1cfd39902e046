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
from ..errors import UsageError, counted
from ..images import decoder_version
from ..models.pools import pool_of
from ..models.scales import smallest_side
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
    layers: str | None = None  # a number, or `each`: one row per block
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

    @property
    def key(self) -> dict[str, Any]:
        """Everything that decides a feature's value; `backbone`, `protocol` and `weights_sha256` are labels."""
        return {
            "backbone": self.spec.name,
            "protocol": self.protocol.name,
            "weights": self.spec.fingerprint,
            "weights_sha256": self.spec.weights_sha256,
            "pool": self.pool,
            "layers": self.layers,
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
        from ..models.engines import choose_engine, resolve_device

        device = resolve_device(self.device)
        engine = choose_engine(
            self.precision, device, plain_vit=self.spec.architecture.is_vit, one_size=self.size is not None
        )
        return f"{self.precision}-{engine}-{device.partition(':')[0]}"

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
            "layers": self.layers,
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
        _check_choice("--pool", options.pool, POOLS)
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
        spec.architecture.check_size(*preprocess.crop)
    if protocol.norm in ("none", "raw") and spec.architecture.timm:
        raise UsageError(
            f"--protocol {protocol.name} reads tokens before the final norm; timm's models, such as {spec.name}, "
            "give them after it"
        )
    layers, each = _layers(options.layers, protocol, spec)
    classes = family_of(spec.family).class_tokens
    pool = pool_of(options.pool, protocol, spec.architecture, spec.tokens, spec.name, classes)
    if each and pool not in ("cls", "cls2", "mean"):
        raise UsageError(f"--layers each gives one token per block, so it goes with --pool cls or mean, not {pool}")
    precision = options.precision
    if precision == "auto":
        from ..models.engines import resolve_device, resolve_precision

        precision = resolve_precision("auto", resolve_device(options.device))
    return Pipeline(
        spec,
        protocol,
        preprocess,
        pool,
        layers,
        each,
        protocol.norm,
        options.decode,
        precision,
        options.device,
    )


def oversized(pipeline: Pipeline, options: FeatureOptions) -> str | None:
    """A note where no size was asked for and images have over four times the patches of the backbone's position table.

    None for a backbone without a table, which does not show what it was trained on.

    So it is with the bare file of a backbone that was trained on small images: without a run's manifest it takes the
    protocol's 224 pixels.
    """
    own = pipeline.spec.architecture
    if options.img_size is not None or not own.is_vit or own.is_rotary or pipeline.size is None:
        return None
    height, width = pipeline.preprocess.crop
    patches = (height // own.patch) * (width // own.patch)
    if patches <= 4 * own.cells:
        return None
    trained = own.grid * own.patch if isinstance(own.grid, int) else "x".join(str(n * own.patch) for n in own.grid)
    return (
        f"{pipeline.spec.name} was trained at {trained} px and reads images at {height}x{width} px here, as "
        f"{patches} patches in place of {own.cells}; --img-size {trained} takes its own size, and is faster"
    )


TOKENS = {"cls": "class token", "cls2": "second class token", "mean": "mean patch token"}  # by `pool`


def other_token(pipeline: Pipeline, options: FeatureOptions) -> str | None:
    """A note for a fine-tuned backbone whose token is not the one that its protocol reads of others; else None.

    None too where the user asked for a token.
    """
    spec, usual = pipeline.spec, pipeline.protocol.pool
    if not spec.tuned or options.pool is not None or usual in ("", pipeline.pool):
        return None
    return (
        f"{spec.name} was fine-tuned to be read by its {TOKENS[pipeline.pool]}, where {pipeline.protocol.name} reads "
        f"the {TOKENS[usual]} of other backbones; --pool {pipeline.pool} reads those so too"
    )


def notes(pipeline: Pipeline, options: FeatureOptions) -> list[str]:
    """What to tell before features are made: an odd size, another token than usual, how a model of timm is read."""
    found = (oversized(pipeline, options), other_token(pipeline, options), own_reading(pipeline, options))
    return [note for note in found if note]


def own_reading(pipeline: Pipeline, options: FeatureOptions) -> str | None:
    """A note on how a model of timm is read, where nobody asked for a pool: pool, pixels, and the flags that change it.

    None for ViTs of ours, which their protocols speak for.
    """
    spec, tokens, preprocess = pipeline.spec, pipeline.spec.tokens, pipeline.preprocess
    if tokens is None or options.pool is not None:
        return None
    own = "" if tokens.head == pipeline.pool else TIMM_HEADS.get(tokens.head, "")
    said = (
        f", as its authors read it; timm {own}" if own and tokens.official else f"; its own head {own}" if own else ""
    )
    mean, std = (",".join(f"{value:.3g}" for value in part) for part in (preprocess.mean, preprocess.std))
    pixels = "as they are" if preprocess.is_plain else f"normalised by mean {mean} std {std}"
    return (
        f"{spec.name}: read by its {TOKENS[pipeline.pool]}{said} (--pool); pixels from 0 to 1 {pixels}, "
        f"{'x'.join(map(str, preprocess.crop))} (timm's configuration; --img-size)"
    )


# what timm's heads do where that is not what is read, by `Tokens.head`
TIMM_HEADS = {
    "cls": "takes the class token",
    "mean": "averages the patch tokens",
    "attn": "pools by attention",
}


def _check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{flag} {value!r} is not one of {', '.join(choices)}")


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _layers(asked: str | None, protocol: Protocol, spec: BackboneSpec) -> tuple[int, bool]:
    depth = spec.architecture.layers
    if spec.architecture.stages and asked not in (None, "1"):
        raise UsageError(
            f"--layers {asked}: {spec.name} is a ConvNeXt, whose earlier stages have other widths and no norm",
            fix="Use --layers 1, its last stage.",
        )
    if asked is None:
        return protocol.layers, False
    if asked == "each":
        return depth, True
    if not asked.isdecimal() or not 1 <= int(asked) <= depth:
        raise UsageError(
            f"--layers {asked!r}: {spec.name} has {counted(depth, 'block')}, so give 1 to {depth}, or `each`"
        )
    return int(asked), False
