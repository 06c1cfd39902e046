"""What the steps of a linear probe share: the command's plan, and what it comes to for one backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..datasets import Dataset
from ..evaluate.inputs import FeatureReader
from ..runs.folder import RunFolder
from ..runs.request import Audience, Effort
from ..sources import Given
from .protocols import Probe, Reading
from .request import LinearProbeRequest

HEAD = "head.safetensors"  # in the run's folder


@dataclass(frozen=True)
class Plan:
    """What is to be probed, and how."""

    reader: FeatureReader
    given: Given
    request: LinearProbeRequest
    effort: Effort
    folder: RunFolder | None  # None: nothing is kept
    audience: Audience
    device: str
    predicts: bool = False  # whether the chosen heads' predictions are wanted too

    @property
    def notify(self) -> Callable[[str], None]:
        """Takes a note for the user, one line."""
        return self.audience.notify


@dataclass(frozen=True)
class Settled:
    """What one backbone's heads are, before they see its features."""

    protocol: str
    probe: Probe  # before it is fitted to the data
    reading: Reading
    images: Dataset | None  # to train on with --augment; None: features were given
