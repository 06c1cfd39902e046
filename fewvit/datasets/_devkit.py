"""ImageNet's development kit, whose meta.mat says which synset each of its numbers means."""

from __future__ import annotations

import os

from ..errors import DataError, from_os_error
from ..files import whole
from ..untrusted.matlab import number_of, text_of, variables_of

_MOST_BYTES = 16 << 20  # of meta.mat; the published one has less than one MiB
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
    try:
        synsets = variables_of(whole(found, _MOST_BYTES), "synsets").get("synsets")
        if not isinstance(synsets, list):
            raise ValueError("it has no struct `synsets`")
        return {str(number_of(row, "ILSVRC2012_ID")): text_of(row, "WNID") for row in synsets}
    except OSError as error:
        raise from_os_error(error, "reading meta.mat") from error
    except ValueError as error:
        raise DataError(f"not the devkit's meta.mat ({error})", file=found) from error
