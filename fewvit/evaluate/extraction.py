"""What `fewvit extract` does: one set of features per backbone, and a row with their number and width."""

from __future__ import annotations

from ..datasets import Listing
from ..errors import UsageError
from ..features import FeatureSet
from ..results import Facts, Row
from .inputs import FeatureReader, Found, Inputs, measured


def run_extract(
    reader: FeatureReader, source: str, listing: Listing, *, to_file: bool
) -> tuple[list[Row], Facts, FeatureSet, list[dict[str, str]]]:
    """Rows, the run's manifest, the last backbone's features and the skipped images.

    Raises UsageError where one file would have to hold several feature sets.
    """
    if to_file and len(reader.backbones.names) > 1:
        raise UsageError("--out holds the features of one backbone; give one, or leave --out away to fill the cache")
    if to_file and reader.options.layers == "each":
        raise UsageError(
            "--layers each is one row per block and goes with an evaluation; for a file give a number of blocks"
        )
    kept: list[FeatureSet] = []
    skipped: list[dict[str, str]] = []

    def measure(inputs: Inputs, name: str) -> Found:
        kept[:] = [inputs.train]
        n, width = inputs.train.features.shape
        return [{"method": "extract", "metric": "images", "value": n, "dim": width, "skipped": len(inputs.skipped)}], {}

    rows, facts = measured(
        reader, reader.one(source, listing, unlabelled=True), measure, skipped.extend, reader.backbones.seed
    )
    return rows, facts, kept[0], skipped
