"""What a command's function hands out beside its rows."""

from __future__ import annotations

from collections.abc import Sequence

from ...evaluate.details import Details


class Collected:
    """Details from one call or several, of one set of test images."""

    def __init__(self) -> None:
        self.details = Details()

    def keep(self, details: Details) -> None:
        """Take them beside those that are there."""
        self.details = Details(
            [*self.details.predicted, *details.predicted], [*self.details.episodes, *details.episodes]
        )

    def skipped(self, records: Sequence[dict[str, str]]) -> None:
        """Images that were left out: rows count them, and the sweep names them once, when features are made."""
