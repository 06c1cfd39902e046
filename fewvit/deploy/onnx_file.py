"""An ONNX file with a contract in its metadata, and the sha256 of all that stands before it at its very end.

An ONNX file is one protobuf message, and two of them written one after the other are one message: so the contract and
the digest are appended to the graph that was checked, byte for byte. Any program that reads ONNX reads the whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import (
    DataError,
    IntegrityError,
    MissingExtra,
    UsageError,
    from_os_error,
    in_one_line,
    refuse_out_of_memory,
)
from .contract import NAME, PIXELS, Contract, contract_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET = 18  # the exporter's own, and of 2022: what runs ONNX today runs it
_LARGEST = (1 << 31) - (1 << 24)  # bytes of weights: a protobuf message ends at 2 GiB, and the graph takes a few
_DIGEST = "fewvit.sha256"  # the entry that stands last
_METADATA, _KEY, _VALUE = 0x72, 0x0A, 0x12  # tags: field 14 of a model, fields 1 and 2 of an entry


def onnxruntime_of() -> Any:
    """The package. Raises MissingExtra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime is not installed, which runs ONNX files", fix=_INSTALL) from error
    return onnxruntime


_INSTALL = "pip install 'fewvit[onnx]'"


class OnnxFormat:
    """ONNX, written by torch and run by onnxruntime."""

    def require(self, n_bytes: int) -> None:
        """Raise UsageError for weights of more than 2 GiB, MissingExtra."""
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
        if missing:
            raise MissingExtra(f"{', '.join(missing)}: not installed, and needed to write ONNX", fix=_INSTALL)
        if n_bytes > _LARGEST:
            raise UsageError(
                f"{n_bytes / 2**30:.1f} GiB of weights: one ONNX file holds 2 GiB",
                fix="`fewvit export torch` has no such limit.",
            )

    def write(self, handle: IO[bytes], program: ExportedProgram, contract: Contract) -> Mapping[str, Any]:
        """Write the graph; its opset."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own packages, on each other
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=contract.outputs,
                dynamic_shapes=None,
            )
        if written is None:
            raise TypeError("the exporter gave no program")
        proto: Any = written.model_proto
        proto.producer_name = NAME
        _name_batch(proto)
        handle.write(proto.SerializeToString())
        return {"opset": OPSET}

    def load(self, path: Path, contract: Contract) -> OnnxGraph:
        """What runs it."""
        return OnnxGraph(session_of(path.read_bytes(), path), contract.outputs)

    def seal(self, handle: IO[bytes], program: ExportedProgram, contract: str) -> None:
        """Append the contract, and the digest of everything before."""
        handle.seek(0, io.SEEK_END)
        handle.write(entry(NAME, contract))
        handle.flush()
        with open(handle.name, "rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        handle.write(entry(_DIGEST, digest))


class OnnxGraph:
    """Pixels to outputs by name."""

    def __init__(self, session: Any, outputs: list[str]):
        self._session, self._outputs = session, outputs

    def __call__(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        """Of pixels (B, 3, H, W) uint8. Raises IntegrityError for a graph that cannot be run on them."""
        try:
            found = self._session.run(self._outputs, {PIXELS: pixels})
        except Exception as error:  # its own dozen types, and those of its binding
            refuse_out_of_memory(error, "running the ONNX file", pixels.nbytes)
            raise IntegrityError(f"onnxruntime cannot run the file: {in_one_line(error)[:200]}", fix=_AGAIN) from error
        return dict(zip(self._outputs, found, strict=True))


def read_onnx(path: Path) -> tuple[OnnxGraph, Contract]:
    """A file of `fewvit export onnx`, and what it says of itself; nothing else is given to onnxruntime.

    Raises DataError where there is none, IntegrityError for a damaged or foreign one or one of another schema.
    """
    onnxruntime_of()
    if not path.is_file():
        raise DataError("no such ONNX file", file=path, fix="`fewvit export onnx BUNDLE --out FILE.onnx` makes one.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, "reading the ONNX file") from error
    _require_whole(content, path)
    session = session_of(content, path)
    contract = contract_of(session.get_modelmeta().custom_metadata_map.get(NAME, ""), str(path))
    if [one.name for one in session.get_inputs()] != [PIXELS] or [
        one.name for one in session.get_outputs()
    ] != contract.outputs:
        raise IntegrityError("its inputs and outputs are not those that it names", file=path, fix=_AGAIN)
    if list(session.get_inputs()[0].shape[1:]) != [3, *contract.size]:
        raise IntegrityError("its graph takes pixels of another size than it says", file=path, fix=_AGAIN)
    return OnnxGraph(session, contract.outputs), contract


_AGAIN = "Copy it again, or export it again with `fewvit export onnx`."


def session_of(content: bytes, path: Path) -> Any:
    """onnxruntime's session on a CPU. Raises IntegrityError for what is no graph that it can run."""
    onnxruntime = onnxruntime_of()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own dozen types, and those of its binding
        refuse_out_of_memory(error, "loading the ONNX file", len(content))
        raise IntegrityError(
            f"onnxruntime cannot load it: {in_one_line(error)[:200]}", file=path, fix=_AGAIN
        ) from error


def _require_whole(content: bytes, path: Path) -> None:
    """Raise IntegrityError for bytes that are not as they were written."""
    last = len(entry(_DIGEST, "0" * 64))
    body, end = content[:-last], content[-last:]
    if end == entry(_DIGEST, hashlib.sha256(body).hexdigest()):
        return
    if is_ours(content[:256]) or end[:-64] == entry(_DIGEST, "0" * 64)[:-64]:
        raise IntegrityError("damaged: its sha256 is not the one it was written with", file=path, fix=_AGAIN)
    raise IntegrityError(
        "not a file of fewvit: it does not say which pixels it takes, and what it decides by",
        file=path,
        fix="`fewvit export onnx BUNDLE --out FILE.onnx` makes one.",
    )


def is_ours(head: bytes) -> bool:
    """Whether a file's first bytes name fewvit as what made it."""
    return bytes([0x12, len(NAME)]) + NAME.encode() in head[:64]  # field 2 of a model, its producer


def entry(name: str, value: str) -> bytes:
    """An entry of an ONNX file's metadata, as a message that may follow others."""
    inside = b"".join(
        bytes([tag]) + _varint(len(text)) + text for tag, text in ((_KEY, name.encode()), (_VALUE, value.encode()))
    )
    return bytes([_METADATA]) + _varint(len(inside)) + inside


def _varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _name_batch(proto: Any) -> None:
    """Call the first dimension of input and outputs `batch`, and drop what the exporter says of its own passes."""
    first = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for one in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in one.type.tensor_type.shape.dim:
            if dim.dim_param == first:
                dim.dim_param = "batch"
    for one in (*proto.graph.input, *proto.graph.output, *proto.graph.node, *proto.graph.value_info):
        del one.metadata_props[:]  # traces of our own source lines
