"""A weights file, opened without ever running what is in it: the tree of its tensors, or one error that says what the file is.

Three doors: `verify_file` (are these the published bytes?), `read_checkpoint` (what is in them?), `fill` (do they fit this module, all of them?).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import stat
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .errors import CheckpointError, DataError, counted, from_os_error, printable
from .files import replacing
from .runs import ANEW

if TYPE_CHECKING:
    from torch import Tensor, nn

_BLOCK = 1 << 20  # bytes read at a time
_HEAD = 1 << 16  # bytes looked at to say what a file is
_MAX_HEADER = 16 << 20  # bytes of a safetensors header; that of a ViT-g with optimizer stays below one MiB
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # how torch's own format from before 1.6 begins
AGAIN = "Delete it and fetch it again (`fewvit backbones fetch NAME`), or get it anew where it came from."
_NEVER = "fewvit never runs the code of a weights file: ask its author for plain tensors, best as .safetensors."
_ALLOWING = threading.Lock()  # torch keeps one list of allowed globals for the whole process


def read_checkpoint(path: str | os.PathLike[str], expected_sha256: str | None = None, expected_bytes: int | None = None) -> dict[Any, Any]:
    """The tree in a .pth, .pt, .tar or .safetensors file, on the CPU, sharing no memory with the file; safetensors give a flat dict.

    What the file is, its first bytes say, never its name. Everything is read through one open file, so that the bytes checked are
    the bytes loaded. Raises DataError when there is no such file, CheckpointError for whatever is wrong inside it.
    """
    with _opened(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        _refuse_foreign(handle, path)
        _refuse_other_size(path, size, expected_bytes)
        if expected_sha256 is not None:
            _refuse_other_digest(path, _hashed(handle, "sha256"), expected_sha256)
        kind = _kind(handle, path, size)
        if kind == "zip":
            _check_archive(handle, path, size, check_crc=expected_sha256 is None)  # a matching sha256 vouches for more than CRCs do
        tree = _read_safetensors(handle, path, size) if kind == "safetensors" else _read_torch(handle, path, kind)
    if not isinstance(tree, dict):
        raise CheckpointError(f"holds a {type(tree).__name__} where a dict of tensors was expected", file=path)
    return tree


def require_file(path: str | os.PathLike[str]) -> None:
    """Nothing; raises DataError unless `path` is a regular file that can be opened."""
    with _opened(path):
        pass


def require_finite(tensors: dict[str, Tensor], file: str | os.PathLike[str]) -> None:
    """Nothing; raises CheckpointError naming the first tensors that hold NaN or Inf, or no plain numbers at all. One pass."""
    import torch

    unfit = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
    if unfit:
        raise CheckpointError(f"{_some(unfit)}: not a dense tensor with values (quantized, sparse or without data)", file=file)
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        what = "NaN" if bool(torch.isnan(_summable(tensors[bad[0]])).any()) else "Inf"
        raise CheckpointError(
            f"{what} in {_some(bad)} of {counted(len(tensors), 'tensor')}: damaged, or saved by a run that had diverged",
            file=file,
            fix=_again(file),
        )


def fill(module: nn.Module, tensors: dict[str, Tensor], file: str | os.PathLike[str], ignorable: Sequence[str] = ()) -> None:
    """Nothing; every parameter and persistent buffer of `module` then holds a copy of its namesake, in the module's dtype.

    `ignorable` are patterns (`head.*`) of names that may be left over. Raises CheckpointError with the first five mismatches and their
    counts, before anything is copied.
    """
    import torch

    wanted = {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    if any(value.is_meta for value in wanted.values()):
        raise ValueError(f"{type(module).__name__} has tensors on the meta device: build it on a real one before it is filled")
    mismatches = _mismatches(wanted, tensors, ignorable)
    if any(mismatches.values()):
        raise CheckpointError(
            f"does not fit {type(module).__name__}: {_listed(mismatches)}",
            file=file,
            fix="It seems to belong to another architecture; `fewvit backbones check FILE` says which.",
        )
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(tensors[name])


def verify_file(path: str | os.PathLike[str], sha256: str | None, pin: bool, md5_prefix: str | None = None) -> str:
    """The sha256 of a file, in hex, after it was compared with whatever is known of it: `sha256`, the start of its md5, or the pin.

    Without a published `sha256` and with `pin`, the first digest seen is kept in `<file>.sha256`, in the format of sha256sum, and every
    later one must equal it; in a folder that cannot be written there is no pin. Raises CheckpointError naming both digests.
    """
    with _opened(path) as handle:
        if md5_prefix is not None:
            _refuse_other_digest(path, _hashed(handle, "md5"), md5_prefix, "md5")
        found = _hashed(handle, "sha256")
    if sha256 is not None:
        _refuse_other_digest(path, found, sha256)
    elif pin:
        _compare_with_pin(Path(path), found)
    return found


def pinned_digest(path: str | os.PathLike[str]) -> str | None:
    """The sha256 that was pinned for `path` when it was first seen, or None. Raises CheckpointError when the pin is unreadable."""
    pin = _pin_of(Path(path))
    try:
        words = pin.read_text("utf-8", errors="replace").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, "reading a pinned digest") from error
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0].lower()):
        raise CheckpointError("is no sha256 in hex", file=pin, fix="Delete it, and the file's digest is pinned anew.")
    return words[0].lower()


def _again(path: str | os.PathLike[str]) -> str:
    """What to do about a damaged file: nobody but the run that made it can give a run's own again."""
    return ANEW if (Path(path).parent / "manifest.json").is_file() else AGAIN


def foreign_kind(head: bytes) -> str | None:
    """What a file is that begins with `head` and can be no weights file: "a web page (its title: …)", "a gzip file"; None if it may be one."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "a tar archive; unpack it, the weights are a file inside"
    if head.startswith(b"version https://git-lfs"):
        oid, size = re.search(rb"oid sha256:([0-9a-f]{64})", head), re.search(rb"size (\d+)", head)
        told = f" for {int(size[1]):,} bytes with sha256 {oid[1][:16].decode()}…" if oid and size else ""
        return f"a Git-LFS pointer{told}; `git lfs pull` fetches the weights"
    return _text_kind(head)


# --- what a file is ---------------------------------------------------------------------------------------------------------

_MAGIC = {
    b"\x1f\x8b": "a gzip file; gunzip it first",
    b"BZh": "a bzip2 file; unpack it first",
    b"\xfd7zXZ": "an xz file; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it first",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"\x89HDF": "an HDF5 file; fewvit reads torch and safetensors files",
    b"\x93NUMPY": "a NumPy array; fewvit reads torch and safetensors files",
}


def _is_old_tar(head: bytes) -> bool:
    """Whether the first block is the header of a tar without the ustar mark: the sum in it must be right."""
    try:
        return len(head) >= 512 and head[0] != 0x80 and bool(tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape").name)
    except (tarfile.HeaderError, ValueError):
        return False


def _text_kind(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    low = text[:1024].lower()
    if low.startswith((b"<!doctype html", b"<html", b"<head", b"<script")) or (low.startswith(b"<") and b"<html" in low):
        title = re.search(rb"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
        shown = " ".join(title[1].decode("utf-8", "replace").split())[:80] if title else ""
        return f"a web page (its title: {printable(shown)})" if shown else "a web page without a title"
    if low.startswith(b"<?xml"):
        return "an XML document, as servers send for an error"
    if not text or not _is_text(head):
        return None
    return (
        "JSON text, as servers send for an error"
        if text[:1] in b"{["
        else f"plain text ({printable(text[:40].decode('utf-8', 'replace'))}…)"
    )


def _is_text(head: bytes) -> bool:
    """Whether `head` is UTF-8 without control characters; a character cut at its end is forgiven."""
    try:
        text = head[: len(head) - 3 if len(head) >= _HEAD else len(head)].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode("utf-8")
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", text)


def _refuse_foreign(handle: IO[bytes], path: str | os.PathLike[str]) -> None:
    handle.seek(0)
    head = handle.read(_HEAD)
    if not head:
        raise CheckpointError("is empty (0 bytes); its download did not finish", file=path, fix=_again(path))
    kind = foreign_kind(head)
    if kind is not None:
        raise CheckpointError(f"is not a weights file but {kind}", file=path, fix=None if ";" in kind else _again(path))


def _kind(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> str:
    """`zip`, `safetensors`, `legacy` (torch before 1.6) or `pickle`, which means anything else."""
    handle.seek(0)
    head = handle.read(64)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(_LEGACY):
        return "legacy"
    return "safetensors" if head[8:9] == b"{" or os.fspath(path).endswith(".safetensors") else "pickle"


# --- size and digest --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise DataError("is a folder, not a weights file" if os.path.isdir(path) else "is no regular file", file=path)
        handle = open(path, "rb")  # noqa: SIM115  closed below; errors of the body are not this one's
    except FileNotFoundError as error:
        raise DataError("no such file", file=path, fix="Check the spelling of --weights or --backbone.") from error
    except OSError as error:
        raise from_os_error(error, "opening a weights file") from error
    with handle:
        yield handle


def _refuse_other_size(path: str | os.PathLike[str], size: int, expected: int | None) -> None:
    if expected is not None and size != expected:
        what = f"cut: {_megabytes(size, expected)}" if size < expected else f"too long: {size:,} bytes where {expected:,} were published"
        raise CheckpointError(what, file=path, fix=_again(path))


def _megabytes(have: int, want: int) -> str:
    """`41.2 of 82.7 MB`, and the bytes where megabytes would not show the difference."""
    shown = f"{have / 1e6:.1f} of {want / 1e6:.1f} MB"
    return shown if f"{have / 1e6:.1f}" != f"{want / 1e6:.1f}" else f"{have:,} of {want:,} bytes"


def _hashed(handle: IO[bytes], algorithm: str) -> str:
    handle.seek(0)
    return hashlib.file_digest(handle, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]


def _refuse_other_digest(path: str | os.PathLike[str], found: str, expected: str, algorithm: str = "sha256") -> None:
    expected = expected.strip().lower()
    if not expected or not found.startswith(expected) or (algorithm == "sha256" and len(expected) != 64):
        raise CheckpointError(
            f"{algorithm} is {found}, expected {expected}: these are not the published bytes", file=path, fix=_again(path)
        )


def _pin_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _compare_with_pin(path: Path, found: str) -> None:
    pinned = pinned_digest(path)
    if pinned is None:
        with contextlib.suppress(DataError), replacing(_pin_of(path), "w") as handle:  # a shared folder may be read-only
            handle.write(f"{found}  {path.name}\n")
    elif pinned != found:
        fix = f"If you replaced the file on purpose, delete {printable(_pin_of(path))}; if not, fetch the file again."
        raise CheckpointError(f"sha256 is {found}, but {pinned} when it was first used: the file has changed", file=path, fix=fix)


# --- torch files ------------------------------------------------------------------------------------------------------------


def _check_archive(handle: IO[bytes], path: str | os.PathLike[str], size: int, check_crc: bool) -> None:
    """Nothing; raises CheckpointError unless the zip is whole, was written by torch.save and its records have the bytes they had then."""
    try:
        archive = zipfile.ZipFile(handle)
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # zipfile meets hostile bytes with half a dozen types of error
        raise CheckpointError(
            f"cut or damaged: {size / 1e6:.1f} MB are here, but not the end of the archive", file=path, fix=_again(path)
        ) from error
    with archive:
        if "constants.pkl" in names:
            raise CheckpointError("is a TorchScript archive: a program, not weights", file=path, fix=_NEVER)
        if "data.pkl" not in names:
            shown = _some([printable(info.filename) for info in archive.infolist()]) if archive.infolist() else "nothing"
            raise CheckpointError(f"is not a weights file but another zip archive, holding {shown}", file=path)
        if sum(info.file_size for info in archive.infolist()) > size:
            raise CheckpointError(
                "has records that are compressed or overlap; torch writes neither", file=path, fix="Load it with torch and save it again."
            )
        if check_crc:
            _check_records(archive, path)


def _check_records(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Nothing; raises CheckpointError when some records differ from their CRC-32, which torch.load never looks at.

    When all of them differ, the writer had CRCs switched off (`torch.serialization.set_crc32_options`): accepted.
    """
    records = [info for info in archive.infolist() if info.file_size]
    damaged = [info.filename for info in records if not _is_intact(archive, info)]
    if 0 < len(damaged) < len(records):
        raise CheckpointError(
            f"damaged: record {_some([printable(name) for name in damaged])} of {len(records)} is not what was written (CRC-32)",
            file=path,
            fix=_again(path),
        )


def _is_intact(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(record) as stream:
            while stream.read(_BLOCK):
                pass
    except Exception:  # a wrong CRC, or whatever zipfile makes of a damaged header
        return False
    return True


def _read_torch(handle: IO[bytes], path: str | os.PathLike[str], kind: str) -> Any:
    """What torch.save wrote; raises CheckpointError, with the globals that the file names when they are the reason."""
    import torch

    with _only_allowed_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of odd pickles that it goes on to refuse
        foreign = _foreign_globals(handle) if kind == "zip" else []
        if foreign:
            raise _refusal(foreign, path)
        try:
            handle.seek(0)
            return torch.load(handle, map_location="cpu", weights_only=True)
        except Exception as error:  # ten types were seen over a thousand damaged files
            foreign = re.findall(r"GLOBAL (\S+) (?:was not|whose)", str(error))
            if foreign:
                raise _refusal(foreign, path) from error
            if isinstance(error, _NoNumberError):
                raise CheckpointError(f"refused: {error}", file=path, fix=_NEVER) from error
            what = "is no file that torch wrote, or a damaged one" if kind == "pickle" else "damaged or cut"
            raise CheckpointError(f"{what} ({_reason(error)})", file=path, fix=_again(path)) from error


def _foreign_globals(handle: IO[bytes]) -> list[str]:
    """The globals named in a torch zip that are not allowed, without loading; none if the pickle is unreadable: loading will say why."""
    import torch

    handle.seek(0)
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(handle))
    except Exception:
        return []


def _refusal(names: list[str], path: str | os.PathLike[str]) -> CheckpointError:
    return CheckpointError(
        f"refused: it asks to call {_some([printable(name)[:80] for name in names], 5)}, which is not on the allow-list",
        file=path,
        fix=_NEVER,
    )


@contextlib.contextmanager
def _only_allowed_globals() -> Iterator[None]:
    """Within the block torch.load accepts the one allow-list and nothing that other libraries added to the process's list."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals

    allowed: list[Any] = [
        argparse.Namespace,  # the arguments in the files of DINO and MAE
        (_numpy_dtype, "numpy.dtype"),
        (_numpy_scalar, "numpy._core.multiarray.scalar"),
        (_numpy_scalar, "numpy.core.multiarray.scalar"),  # the spelling of NumPy 1, in every file from 2021
    ]
    with _ALLOWING:
        others = get_safe_globals()
        clear_safe_globals()
        try:
            with safe_globals(allowed):
                yield
        finally:
            add_safe_globals(others)


class _NoNumberError(ValueError):
    """A NumPy object in a file that is anything but one number or the dtype of one."""


class _numpy_dtype:  # noqa: N801  stands in for the function numpy.dtype
    """A numeric dtype as a pickle describes it: `code` (`f8`) and byte order. NumPy takes it wherever it takes a dtype.

    NumPy's own `dtype.__setstate__` takes its flags from the file, also the one for "these are pointers" (observed); so no file reaches it.
    """

    _CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        if not isinstance(code, str) or code not in self._CODES:
            raise _NoNumberError(f"NumPy dtype {code!r} is not a numeric one")
        self.dtype = np.dtype(code)

    def __repr__(self) -> str:
        return f"dtype({self.dtype.str!r})"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, order, *rest = state
        if version not in (3, 4) or order not in ("<", ">", "|", "=") or rest[:5] != [None, None, None, -1, -1] or rest[5] != 0:
            raise _NoNumberError("a NumPy dtype with a state that no numeric one has")
        self.dtype = self.dtype.newbyteorder(order)


def _numpy_scalar(dtype: _numpy_dtype, raw: bytes) -> np.generic:
    """The NumPy number with these bytes; never an object, never a pointer."""
    if not isinstance(dtype, _numpy_dtype) or not isinstance(raw, bytes) or len(raw) != dtype.dtype.itemsize:
        raise _NoNumberError("a NumPy scalar that is not the bytes of one number")
    value: np.generic = np.frombuffer(raw, dtype.dtype)[0]
    return value


# --- safetensors ------------------------------------------------------------------------------------------------------------


def _read_safetensors(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> dict[str, Tensor]:
    """The tensors, in memory of their own: a mapped file that someone cuts kills the process that reads it (SIGBUS)."""
    from safetensors.torch import load

    _check_header(handle, path, size)
    handle.seek(0)
    try:
        return load(handle.read())
    except Exception as error:  # its own error, and those of torch for dtypes and shapes
        raise CheckpointError(f"is a damaged safetensors file ({_reason(error)})", file=path, fix=_again(path)) from error


def _check_header(handle: IO[bytes], path: str | os.PathLike[str], size: int) -> None:
    """Nothing; raises CheckpointError unless the header fits in the file, is JSON and names each tensor once."""
    handle.seek(0)
    length = int.from_bytes(handle.read(8), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"announces a safetensors header of {length:,} bytes; {_MAX_HEADER:,} is the limit", file=path, fix=_again(path)
        )
    if length > size - 8:
        raise CheckpointError(
            f"cut: the safetensors header alone has {length:,} bytes, {max(size - 8, 0):,} are here", file=path, fix=_again(path)
        )
    try:
        header = json.loads(handle.read(length), object_pairs_hook=_unique)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except Exception as error:  # not UTF-8, not JSON, nested beyond the stack, of another structure
        raise CheckpointError(f"has a damaged safetensors header ({_reason(error)})", file=path, fix=_again(path)) from error
    if size != whole:
        raise CheckpointError(f"{'cut' if size < whole else 'too long'}: {_megabytes(size, whole)}", file=path, fix=_again(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. Two readers may choose differently between two values of one name, so a repeated name is an error."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


# --- tensors against a module -----------------------------------------------------------------------------------------------


def _mismatches(wanted: dict[str, Tensor], given: dict[str, Tensor], ignorable: Sequence[str]) -> dict[str, list[str]]:
    """For each kind of mismatch its sentences, in the module's order and then the file's."""
    import torch

    both = [(name, given[name], want) for name, want in wanted.items() if name in given]
    unfit = [f"{name} is no dense tensor" for name, have, _ in both if not isinstance(have, torch.Tensor) or not _is_plain(have)]
    dense = [(name, have, want) for name, have, want in both if isinstance(have, torch.Tensor) and _is_plain(have)]
    left_over = [name for name in given if name not in wanted and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignorable)]
    return {
        "of another shape": [
            f"{name} has {tuple(have.shape)}, want {tuple(want.shape)}" for name, have, want in dense if have.shape != want.shape
        ],
        "missing": [f"missing {name}" for name in wanted if name not in given],
        "unexpected": [f"unexpected {printable(name)}" for name in left_over],
        "of another kind of number": [
            f"{name} has {have.dtype}, want {want.dtype}" for name, have, want in dense if not torch.can_cast(have.dtype, want.dtype)
        ],
        "without values": unfit,
    }


def _listed(mismatches: dict[str, list[str]]) -> str:
    """`3 missing, 1 unexpected: missing a, missing b, …`: the counts and the first five, each kind having its turn."""
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in mismatches.items() if found)
    longest = max(len(found) for found in mismatches.values())
    turns = [found[turn] for turn in range(longest) for found in mismatches.values() if turn < len(found)]
    return f"{counts}: {'; '.join(turns[:5])}{'; …' if len(turns) > 5 else ''}"


def _is_plain(tensor: Tensor) -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or Inf. The sum says yes for nearly every tensor, at twice the speed; it may itself overflow."""
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = _summable(tensor)
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _summable(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 2 else tensor  # float8 has no sum


def _some(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _reason(error: BaseException) -> str:
    """The error's type and the last line of its text that says something, cut at 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "docs/stable" not in line]
    return f"{type(error).__name__}: {printable(lines[-1])[:160]}" if lines else type(error).__name__
