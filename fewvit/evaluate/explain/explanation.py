"""Every check of an evaluation, in the order in which a number comes about, and last the published number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...results import Row
from ..lowshot_options import LowShotOptions
from .collapse import collapse_checks
from .data import data_checks
from .method import knn_checks, lowshot_checks
from .numbers import knn_number, lowshot_numbers
from .reading import reading_checks
from .subject import Subject
from .weights import weights_checks


def explain_knn(subject: Subject) -> list[Row]:
    """The checks of a k-NN evaluation as rows `check`, `here`, `published`, `verdict`, `meaning`.

    Raises CheckpointError where the weights file does not fill its trunk.
    """
    checks = [
        *weights_checks(subject),
        *reading_checks(subject),
        *knn_checks(subject),
        *data_checks(subject),
        *collapse_checks(subject),
    ]
    return [check.row for check in (*checks, knn_number(subject, checks))]


def explain_lowshot(subject: Subject, options: LowShotOptions, chosen: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """As `explain_knn`, of a low-shot evaluation; `chosen` are the classifiers' facts in the manifest."""
    checks = [
        *weights_checks(subject),
        *reading_checks(subject),
        *lowshot_checks(subject, options, chosen),
        *data_checks(subject, train_images=False),
        *collapse_checks(subject),
    ]
    return [check.row for check in (*checks, *lowshot_numbers(subject, checks))]
