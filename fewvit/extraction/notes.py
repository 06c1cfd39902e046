"""What to tell of a settled pipeline before features are made: an odd size, another token than usual, what it costs."""

from __future__ import annotations

from .pipeline import FeatureOptions, Pipeline


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


TOKENS = {
    "cls": "class token",
    "cls2": "second class token",
    "mean": "mean patch token",
    "attn": "own attention pool",
}  # by `pool`


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
    """What to tell before features are made: odd sizes and tokens, how a model of timm is read, what it costs."""
    found = [tell(pipeline, options) for tell in (oversized, other_token, own_reading, repeated)]
    return [note for note in found if note]


def own_reading(pipeline: Pipeline, options: FeatureOptions) -> str | None:
    """A note on how a model of timm is read: pool, pixels, and the flags that change it.

    None for ViTs of ours, which their protocols speak for.
    """
    spec, tokens, preprocess = pipeline.spec, pipeline.spec.tokens, pipeline.preprocess
    if tokens is None:
        return None
    own = "" if options.pool or tokens.head == pipeline.pool else TIMM_HEADS.get(tokens.head, "")
    said = (
        f", as its authors read it; timm {own}" if own and tokens.official else f"; its own head {own}" if own else ""
    )
    mean, std = (",".join(f"{value:.3g}" for value in part) for part in (preprocess.mean, preprocess.std))
    pixels = "as they are" if preprocess.is_plain else f"normalised by mean {mean} std {std}"
    token = TOKENS.get(pipeline.pool, pipeline.pool)
    return (
        f"{spec.name}: read by its {token}{said} (--pool); pixels from 0 to 1 {pixels}, "
        f"resized to {_by(preprocess.cover)}, cropped to {_by(preprocess.crop)} (timm's configuration; --img-size)"
    )


def _by(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


# what timm's heads do where that is not what is read, by `Tokens.head`
TIMM_HEADS = {
    "cls": "takes the class token",
    "mean": "averages the patch tokens",
    "attn": "pools by attention",
}


def repeated(pipeline: Pipeline, options: FeatureOptions) -> str | None:
    """A note on what a mean over views costs; None where an image is read once, or as retrieval reads it."""
    own, copies = pipeline.preprocess, pipeline.copies
    if pipeline.size is None or (len(copies) == 1 and not own.flip):
        return None
    times = (1 + own.flip) * sum(height * width for height, width in copies) / (own.crop[0] * own.crop[1])
    sizes = ", ".join(f"{height}x{width}" for height, width in copies)
    mirrored = ", each also mirrored" if own.flip else ""
    return f"a feature is the mean over views of {sizes} pixels{mirrored}: about {times:.1f} times the work of one"
