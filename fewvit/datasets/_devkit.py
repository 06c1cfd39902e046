"""ImageNet's development kit, whose meta.mat says which synset each of its numbers means."""

from __future__ import annotations

import os

import numpy as np

from ..errors import DataError

DEVKIT = os.path.join("ILSVRC2012_devkit_t12", "data")


def synsets_by_id(truth: str) -> dict[str, str]:
    """ILSVRC2012_ID as text -> synset, by the meta.mat of the devkit. Raises DataError if it is not at hand."""
    here = os.path.dirname(truth)
    places = [here, os.path.dirname(here), os.path.join(here, DEVKIT), os.path.join(os.path.dirname(here), DEVKIT)]
    found = next((path for place in places if os.path.isfile(path := os.path.join(place, "meta.mat"))), None)
    if found is None:
        raise DataError(
            "needs the devkit's meta.mat, which says what its numbers mean",
            file=truth,
            fix=f"Put meta.mat beside it, or unpack the devkit to {DEVKIT}.",
        )
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(found, squeeze_me=True)["synsets"])
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in synsets}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError("not the devkit's meta.mat", file=found) from error
