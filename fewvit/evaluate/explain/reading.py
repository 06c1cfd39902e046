"""How an image becomes a feature, beside how the backbone's own protocol has it."""

from __future__ import annotations

from collections.abc import Iterator

from ...extraction.pipeline import Pipeline
from .check import DIFFERS, OK, UNKNOWN, Check, Value, compared
from .subject import Subject

_NORMS = {"final": "after the final norm", "none": "before the final norm"}
_MEANINGS = {
    "protocol": "It sets transform, token and classifier: --protocol.",
    "pool": "Which tokens become the feature: --pool.",
    "layers": "Of how many last blocks the class tokens are taken: --layers.",
    "norm": "Where class tokens are taken: MSN's before the final norm, all others' after it. --protocol.",
    "image size": "Pixels that reach the backbone, height x width: --img-size.",
    "resize": "What the image covers before its centre is cropped: it grows with --img-size.",
    "interpolation": "Of the resize, antialiased as in Pillow: it comes with --protocol.",
    "mean": "What is taken off pixels / 255: it comes with --protocol and the backbone.",
    "std": "What the rest is divided by: it comes with --protocol and the backbone.",
}
_DECODER = (
    "fast turns images as EXIF says, puts white under alpha and scales 16-bit grey; --decode pil gives the official "
    "pixels."
)
_PRECISION = "Of the backbone: --precision. Half precision rounds similarities, so that many are equal."


def reading_checks(subject: Subject) -> Iterator[Check]:
    """Protocol, token, transform, decoder and precision."""
    here, published = subject.here, subject.published
    if here is None:
        yield _unknown(subject)
        return
    values, expected = _settings(here), _settings(published) if published is not None else {}
    for what, meaning in _MEANINGS.items():
        yield compared(what, values[what], expected.get(what), meaning)
    yield _decoder(subject, here)
    precision = published.protocol.published_precision if published is not None else None
    yield compared("precision", here.precision, precision, _PRECISION)


def _settings(pipeline: Pipeline) -> dict[str, Value]:
    transform = pipeline.preprocess
    return {
        "protocol": pipeline.protocol.name,
        "pool": pipeline.pool,
        "layers": f"each of {pipeline.layers}" if pipeline.each else _blocks_of(pipeline),
        "norm": _NORMS[pipeline.norm],
        "image size": "{}x{}".format(*transform.crop),
        "resize": "{}x{}".format(*transform.cover),
        "interpolation": transform.interpolation,
        "mean": " ".join(f"{value:g}" for value in transform.mean),
        "std": " ".join(f"{value:g}" for value in transform.std),
    }


def _blocks_of(pipeline: Pipeline) -> Value:
    """How many of the last blocks, or which."""
    return pipeline.layers_asked if pipeline.blocks else pipeline.layers


def _unknown(subject: Subject) -> Check:
    """Of features that were made in a way that is not known."""
    own = subject.protocol.name if subject.protocol is not None else None
    return Check(
        "protocol",
        subject.train.protocol or None,
        own,
        UNKNOWN,
        "A features file keeps its way of making as a fingerprint alone, and no protocol in fp32 has this one. With "
        "images in place of features everything can be told.",
    )


def _decoder(subject: Subject, here: Pipeline) -> Check:
    """Official pixels, or how many images the other policy shows differently."""
    reports = [side.report for side in subject.inputs.sides if side.report is not None]
    if here.decode == "pil":
        return Check("decoder", "pil", "pil", OK, _DECODER)
    if not reports:
        return Check("decoder", here.decode, "pil", UNKNOWN, _DECODER)
    images, differing = (sum(getattr(report, name) for report in reports) for name in ("images", "differing"))
    value = f"{here.decode}, {differing} of {images} images differ"
    return Check("decoder", value, "pil", DIFFERS if differing else OK, _DECODER)
