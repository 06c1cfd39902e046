"""The processes that torchrun starts beside each other, as its environment variables tell of them. No torch."""

from __future__ import annotations

import os

from ..errors import FewvitError


class LostProcess(FewvitError):
    """Another of the processes that work together has ended."""


class LeftToTheFirst(Exception):
    """This process has done its share; the first one goes on alone."""


def process_count() -> int:
    """How many processes torchrun started; 1 for one that is alone."""
    return int(os.environ["WORLD_SIZE"]) if _is_started_by_torchrun() else 1


def process_number() -> int:
    """The number of this process, from 0. The first one speaks and writes files."""
    return int(os.environ["RANK"]) if _is_started_by_torchrun() else 0


def _is_started_by_torchrun() -> bool:
    return all(os.environ.get(name, "").isdecimal() for name in ("WORLD_SIZE", "RANK"))
