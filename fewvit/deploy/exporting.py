"""From a backbone or a bundle to a checked file. The kinds of files are in `onnx_file` and `torch_file`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from ..backbones._licences import licence_of
from ..bundles.bundle import Bundle
from ..errors import NumericalError, UsageError
from ..extraction.encoding import start_encoding
from ..extraction.extract import backbone_of
from ..extraction.pipeline import Pipeline
from ..files import replacing
from ..seeds import generator
from .contract import FEATURES, PROBABILITIES, STRANGENESS, Contract, Decision

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from ..models.backbone import Backbone

TOLERANCE = 1e-4  # of an output, or of its largest value where that is above 1
BATCHES = (1, 3)  # images of the passes by which a file is checked
Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # pixels (B, 3, H, W) uint8 -> output by name


class Format(Protocol):
    """A kind of file."""

    def require(self, n_bytes: int) -> None:
        """Raise UsageError where weights of so many bytes do not fit, MissingExtra where a package is missing."""

    def write(self, handle: IO[bytes], program: ExportedProgram, contract: Contract) -> Mapping[str, Any]:
        """Write the program, without its contract; what there is to say of it, such as a version."""

    def load(self, path: Path, contract: Contract) -> Run:
        """What runs the file that was written, as its users will."""

    def seal(self, handle: IO[bytes], program: ExportedProgram, contract: str) -> None:
        """Put the contract into the file, which is then whole."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    contract: Contract
    difference: float  # the largest, between the file's outputs and ours
    n_bytes: int
    facts: Mapping[str, Any]


def export_file(path: Path, kind: Format, pipeline: Pipeline, bundle: Bundle | None, bundle_name: str = "") -> Exported:
    """Write the network of a pipeline, and of a bundle on its features, in a kind of file.

    The file is loaded and run before it is given its name: nothing is there where its outputs are not ours. Raises
    UsageError for what no file can hold, and NumericalError for outputs that differ.
    """
    from .network import Network, program_of

    size = _one_size(pipeline)
    pipeline = dataclasses.replace(pipeline, precision="fp32", device="cpu")
    backbone = backbone_of(pipeline, engine="eager")  # packed layers are operators of this machine's
    network = Network(backbone, pipeline.preprocess, bundle)
    kind.require(sum(t.nbytes for t in (*network.parameters(), *network.buffers())))
    contract = contract_for(pipeline, backbone.readout.width(pipeline.spec.architecture.width), bundle)
    program = program_of(network, size)
    with replacing(path) as handle:
        facts = kind.write(handle, program, contract)
        handle.flush()
        difference = largest_difference(kind.load(Path(handle.name), contract), contract, backbone, pipeline, bundle)
        checked = {"batches": BATCHES, "largest_difference": difference, "tolerance": TOLERANCE}
        kind.seal(handle, program, contract.to_json(**facts, checked=checked))
        n_bytes = handle.seek(0, 2)
    return Exported(contract, difference, n_bytes, facts)


def contract_for(pipeline: Pipeline, width: int, bundle: Bundle | None) -> Contract:
    """What the file says of itself."""
    return Contract(
        backbone=pipeline.spec.name,
        weights_sha256=pipeline.spec.weights_sha256,
        license=pipeline.spec.license,
        fingerprint=pipeline.fingerprint,
        pool=pipeline.pool,
        layers=pipeline.layers_read,
        norm=pipeline.norm,
        width=width,
        preprocess=json.loads(json.dumps(pipeline.preprocess.to_dict())),
        decode=pipeline.decode,
        decision=_decision(bundle) if bundle is not None else None,
    )


def _decision(bundle: Bundle) -> Decision:
    strangeness = bundle.strangeness
    return Decision(
        bundle.classifier,
        list(bundle.classes),
        list(bundle.counts),
        bundle.threshold,
        strangeness.threshold if strangeness is not None else None,
        bundle.temperature,
        dict(strangeness.facts) if strangeness is not None else None,
        bundle.sha256,
    )


def _one_size(pipeline: Pipeline) -> tuple[int, int]:
    """(height, width). Raises UsageError where the features are not of one pass over images of one size."""
    if pipeline.size is None or tuple(pipeline.preprocess.scales) != (1.0,):
        raise UsageError(
            f"--protocol {pipeline.protocol.name} reads images of many sizes or scales; a file has one input size",
            fix="Choose another protocol.",
        )
    if pipeline.each:
        raise UsageError("--layers each is one feature per block; a file has one", fix="Give --layers N.")
    return pipeline.size


# ---- the check


def fixed_pixels(n: int, size: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 3) uint8, always the same: noise, over blocks of even colour so that not all images look alike."""
    stream = generator("pixels of an exported file", n)
    height, width = size
    coarse = stream.integers(0, 256, (n, -(-height // 16), -(-width // 16), 3))
    even = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return ((even + stream.integers(0, 256, even.shape)) // 2).astype(np.uint8)


def largest_difference(
    run: Run, contract: Contract, backbone: Backbone, pipeline: Pipeline, bundle: Bundle | None
) -> float:
    """The largest difference between the file's outputs and those of fewvit's own modules, which are not traced.

    What a bundle makes of features is compared on the file's features: a neighbour that two roundings order otherwise
    is no fault of the graph's. Raises NumericalError where an output differs by more than TOLERANCE.
    """
    found = 0.0
    for n in BATCHES:
        pixels = fixed_pixels(n, contract.size)
        theirs = run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        ours = {FEATURES: start_encoding(backbone, pixels, n, pipeline).numpy()}
        if bundle is not None:
            ours[PROBABILITIES] = bundle.confidences(bundle.probabilities(theirs[FEATURES]))
            if bundle.strangeness is not None:
                ours[STRANGENESS] = bundle.strangeness.of(theirs[FEATURES])
        for name, expected in ours.items():
            found = max(found, _difference(name, theirs[name], expected))
    return found


def _difference(name: str, theirs: np.ndarray, ours: np.ndarray) -> float:
    if theirs.shape != ours.shape:
        raise NumericalError(f"the exported {name} have the shape {theirs.shape}, not {ours.shape}")
    difference = float(np.abs(theirs - ours).max()) / max(1.0, float(np.abs(ours).max()))
    if not difference <= TOLERANCE:  # NaN is not
        raise NumericalError(
            f"the exported {name} differ from fewvit's by {difference:.2g}, more than {TOLERANCE:g}; none written",
            fix="Please report it, with the versions of torch and onnxruntime.",
        )
    return difference


# ---- words


def notes(exported: Exported, pipeline: Pipeline) -> Sequence[str]:
    """What a user should know of a file that was written."""
    contract = exported.contract
    height, width = contract.size
    lines = [
        f"it takes uint8 RGB of the shape (batch, 3, {height}, {width}), resized and cropped as "
        f"{pipeline.protocol.name} has it; mean and deviation are in it"
    ]
    if pipeline.precision != "fp32":
        lines.append(f"the features were made in {pipeline.precision}; the file computes in fp32")
    if not licence_of(contract.license).is_free:
        terms = f"licensed {contract.license}" if contract.license else "of a licence that fewvit does not know"
        lines.append(f"the file contains weights {terms}: see whether you may pass it on")
    return lines
