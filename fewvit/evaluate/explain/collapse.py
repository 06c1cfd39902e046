"""Whether features, or predictions, are nearly all the same: no protocol has a value for that, but common sense has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...metrics import effective_number, mean_cosine, rankme
from .check import DIFFERS, OK, Check
from .subject import Subject

_ONE_DIRECTION = 2.0  # an effective rank below: less than two directions
_ALIKE = 0.99  # a mean cosine above: similarities differ by less than a hundredth, where k-NN's T is 0.07
_FEW = 0.5  # of the classes that the test images are of


def collapse_checks(subject: Subject) -> Iterator[Check]:
    """Effective rank and mean cosine of the training features, and how many classes were predicted."""
    features = subject.train.features
    if len(features) > 1:
        rank, cosine = rankme(features), mean_cosine(features)
        yield Check(
            "effective rank",
            f"{rank:.1f} of {min(features.shape)}",
            None,
            DIFFERS if rank < _ONE_DIRECTION else OK,
            "RankMe of the training features: below 2 they have collapsed. Only to be compared within one method.",
        )
        yield Check(
            "mean cosine",
            f"{cosine:.4f} of all pairs",
            None,
            DIFFERS if cosine > _ALIKE else OK,
            "Above 0.99 similarities hardly differ: exp(s / T) then counts neighbours and no longer weighs them. "
            "--pool and --layers may show more.",
        )
    if subject.predicted:
        yield _predicted(subject)


def _predicted(subject: Subject) -> Check:
    """Of all that were predicted, those spread over the fewest classes."""
    truth = subject.predicted[0].labels
    spread = min(effective_number(np.asarray(one.predictions)) for one in subject.predicted)
    wanted = effective_number(truth[truth >= 0])
    return Check(
        "predicted classes",
        f"{spread:.1f} of {wanted:.1f}",
        None,
        DIFFERS if spread < _FEW * wanted else OK,
        "exp of the entropy of predicted and of true classes: less than half says that some classes draw all to them.",
    )
