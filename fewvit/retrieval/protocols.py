"""The retrieval protocols: how an image is read, what is a right answer, and how a ranking is scored. No torch.

A protocol never changes; a better one gets the next number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnknownName, UsageError
from ..labels import Listed
from .relevance.artworks import KS as MET_KS
from .relevance.artworks import Artworks
from .relevance.by_label import ByLabel
from .relevance.copies import Copies
from .relevance.copydays import Copydays
from .relevance.landmarks import Landmarks
from .relevance.ranking import Relevance
from .relevance.revisited import Revisited

MULTI_SCALE = (1.0, 2**-0.5, 0.5)  # of the side of an image; three descriptors become one


@dataclass(frozen=True)
class Reading:
    """How an image becomes a descriptor; what is not given is the backbone's own."""

    transform: Mapping[str, Any] = field(default_factory=dict)  # fields of `Preprocess`, for `settle`
    pool: str | None = None
    whitening: bool = False  # with what other images say of the directions


@dataclass(frozen=True)
class RetrievalProtocol:
    """A named, versioned preset of an evaluation of an index."""

    name: str
    source: str
    reading: Reading
    relevance: Callable[..., Relevance]  # of (queries, index), or of (ground-truth file, queries, index)
    truth: str = ""  # what the ground-truth file is, in words; empty: there is none
    query_box: bool = False  # whether a query is what its box shows
    readings: Mapping[str, Reading] = field(default_factory=dict)  # of benchmarks, by name, that are read otherwise
    tuned_to: int = 0  # neighbours of validation queries that its numbers are chosen on; 0: it has none to choose
    may_leave_one_out: bool = False  # whether the index may hold the queries themselves

    def reading_of(self, benchmark: str = "") -> Reading:
        """How images of this benchmark are read."""
        return self.readings.get(benchmark, self.reading)

    def judge(
        self, file: str | os.PathLike[str] | None, queries: Listed, index: Listed, *, leave_one_out: bool = False
    ) -> Relevance:
        """The relevance of the index's images to the queries, which with `leave_one_out` are among them.

        Raises UsageError for a ground truth too many or too few, DataError for one that does not fit.
        """
        if leave_one_out and not self.may_leave_one_out:
            raise UsageError(f"protocol {self.name} has queries of its own: none is left out of the index")
        if self.truth and file is None:
            raise UsageError(f"protocol {self.name} needs a ground truth", fix=f"Give {self.truth}.")
        if file is not None and not self.truth:
            raise UsageError(f"protocol {self.name} reads no ground truth: labels and names of the images are enough")
        if self.truth:
            return self.relevance(file, queries, index)
        return self.relevance(queries, index, **({"leave_one_out": True} if leave_one_out else {}))


def _as_it_is(longest: int, scales: tuple[float, ...] = (1.0,)) -> Reading:
    """Images of their own proportions, shrunk to so many pixels of the longer side; DINO's own class token."""
    return Reading({"longest": longest, "interpolation": "lanczos", "scales": scales}, pool="cls")


_REVISITED = "the JSON that `fewvit data convert` made of gnd_roxford5k.pkl or gnd_rparis6k.pkl"
_PROTOCOLS = (
    RetrievalProtocol(
        "labels/1",
        "Musgrave et al. 2020, A Metric Learning Reality Check",
        Reading(),
        ByLabel.bound,
        may_leave_one_out=True,
    ),
    RetrievalProtocol(
        "revisitop/1",
        "Radenovic et al. 2018, Revisiting Oxford and Paris",
        _as_it_is(1024, MULTI_SCALE),
        Revisited.read,
        truth=_REVISITED,
        query_box=True,
    ),
    RetrievalProtocol(
        "dino/1",
        "Caron et al. 2021, table 3; its repository's README",
        _as_it_is(224),
        Revisited.read,
        truth=_REVISITED,
        readings={"rparis6k": _as_it_is(512, MULTI_SCALE)},
    ),
    RetrievalProtocol(
        "copydays/1",
        "Caron et al. 2021, table 4; Berman et al. 2019",
        Reading(
            {"cover": (320, 320), "crop": (320, 320), "stretched": True, "interpolation": "bicubic"},
            pool="cls+gem",
            whitening=True,
        ),
        Copydays.bound,
    ),
    RetrievalProtocol(
        "disc21/1",
        "Douze et al. 2021, The 2021 Image Similarity Dataset and Challenge",
        Reading(),
        Copies.read,
        truth="the challenge's CSV of query_id,reference_id",
    ),
    RetrievalProtocol(
        "gldv2/1",
        "Weyand et al. 2020, Google Landmarks Dataset v2",
        Reading(),
        Landmarks.read,
        truth="the retrieval solution's CSV of id,images,Usage",
    ),
    RetrievalProtocol(
        "met/1",
        "Ypsilantis et al. 2021, The Met Dataset",
        Reading(),
        Artworks.bound,
        tuned_to=max(MET_KS),
    ),
)
PROTOCOLS: Mapping[str, RetrievalProtocol] = {protocol.name: protocol for protocol in _PROTOCOLS}


def find_retrieval_protocol(name: str) -> RetrievalProtocol:
    """The preset of that name; raises UnknownName."""
    if name not in PROTOCOLS:
        raise UnknownName("retrieval protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def reading_named(name: str) -> Reading:
    """How `PROTOCOL` or `PROTOCOL:BENCHMARK` reads images. Raises UnknownName for either."""
    protocol, _, benchmark = name.partition(":")
    found = find_retrieval_protocol(protocol)
    if benchmark and benchmark not in found.readings:
        raise UnknownName(f"benchmark with a reading of its own under {protocol}", benchmark, found.readings)
    return found.reading_of(benchmark)
