"""What an exported file says of itself: what goes in, what comes out, and what a label is decided with. No torch.

It stands in the file as JSON under the name `fewvit`. The pixels are uint8 RGB, resized and cropped; scaling to 0 … 1,
mean and deviation are in the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import FewvitError, IntegrityError
from ..images import POLICIES
from ..preprocess import Preprocess
from ..untrusted.texts import json_of, require_file_text

SCHEMA, FORMAT = "fewvit.deployed", 1
NAME = "fewvit"  # of the entry in a file
PIXELS = "pixels"  # the input
FEATURES, PROBABILITIES, STRANGENESS = "features", "probabilities", "strangeness"  # the outputs, in this order


@dataclass(frozen=True)
class Decision:
    """What a bundle decides with, beside the outputs."""

    classifier: str
    classes: Sequence[str]  # columns of `probabilities`
    counts: Sequence[int]  # labelled images of each
    threshold: float  # of the largest probability, below which the label is `unknown`
    max_strangeness: float | None  # above which it is; None: nothing is unknown for it
    temperature: float  # that the probabilities were calibrated with; it is in the graph
    strangeness: Mapping[str, Any] | None  # what the bundle says of the score; None: there is no such output
    bundle_sha256: str


@dataclass(frozen=True)
class Contract:
    """All that a user of the file has to know."""

    backbone: str
    weights_sha256: str
    license: str  # of the weights, which are in the file; empty: unknown
    fingerprint: str  # of the pipeline, in float32
    pool: str
    layers: int | Sequence[int]  # how many of the last blocks, or which ones, from 1
    norm: str
    width: int  # columns of `features`
    preprocess: Mapping[str, Any]  # as `Preprocess.to_dict`
    decode: str  # what becomes of EXIF, alpha and 16 bits: fast or pil
    decision: Decision | None = None  # None: a backbone by itself

    @property
    def transform(self) -> Preprocess:
        """The resize and the crop that the pixels went through."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in self.preprocess.items()}
        return Preprocess(**fields)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pixels."""
        height, width = self.transform.crop
        return height, width

    @property
    def outputs(self) -> list[str]:
        """The names of what comes out, in order."""
        if self.decision is None:
            return [FEATURES]
        return [FEATURES, PROBABILITIES, *([STRANGENESS] if self.decision.strangeness is not None else [])]

    def to_json(self, **more: Any) -> str:
        """As it stands in a file; `more` is what the writer says besides, such as how it was checked."""
        from .. import __version__

        height, width = self.size
        shape = {"dtype": "uint8", "layout": "NCHW", "channels": "RGB", "height": height, "width": width}
        described = {"input": {"name": PIXELS, **shape}, "outputs": self.outputs, **asdict(self), **more}
        return json.dumps({"schema": f"{SCHEMA}/{FORMAT}", "fewvit": __version__, **described}, allow_nan=False)


def contract_of(text: str, file: str) -> Contract:
    """The contract in a file's entry. Raises IntegrityError for another schema and for what is none."""
    try:
        found = json_of(text)
        number = int(found["schema"].removeprefix(f"{SCHEMA}/"))
        if number > FORMAT:
            raise IntegrityError(
                f"written by a newer fewvit (format {number}, this one reads {FORMAT})", file=file, fix="Update fewvit."
            )
        decision = found["decision"]
        contract = Contract(
            **{name: found[name] for name in Contract.__dataclass_fields__ if name != "decision"},
            decision=None if decision is None else Decision(**decision),
        )
        _require_sound(contract)
        return contract
    except IntegrityError:
        raise
    except (FewvitError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"what it says of itself is no contract of fewvit: {type(error).__name__}",
            file=file,
            fix="Export it again with `fewvit export onnx`.",
        ) from error


def _require_sound(contract: Contract) -> None:
    """Raise ValueError or TypeError unless the numbers can be those of a contract."""
    own, decision = contract.transform, contract.decision
    sides = (*own.cover, *own.crop, contract.width)
    sound = len(own.cover) == len(own.crop) == 2 and all(type(side) is int and 1 <= side <= 1 << 14 for side in sides)
    sound &= len(own.mean) == len(own.std) == 3 and all(0 <= one <= 1 for one in own.mean) and min(own.std) > 0
    sound &= (own.longest, own.scales) == (0, (1.0,)) and {type(own.stretched), type(own.flip)} == {bool}
    sound &= contract.decode in POLICIES and all(isinstance(one, str) for one in (contract.backbone, contract.license))
    if decision is not None:
        require_file_text(*decision.classes, decision.classifier, decision.bundle_sha256)
        sound &= all(type(count) is int and count >= 0 for count in decision.counts)
        sound &= decision.strangeness is None or isinstance(decision.strangeness, Mapping)
        sound &= len(set(decision.classes)) == len(decision.classes) == len(decision.counts) > 0
        sound &= 0 <= decision.threshold <= 1 and 0 < decision.temperature < 1e6
        sound &= decision.max_strangeness is None or abs(decision.max_strangeness) < 1e300
    if not sound:
        raise ValueError("numbers that are none of a contract")
