"""A features file: bytes that changed, which the sums of its zip must show, and arrays that are others."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewvit.features import FeatureSet

from fuzz.formats import _bundles
from fuzz.judging import Mutant
from fuzz.mutations import changed_arrays, damaged

_FILE = "x.npz"
_TYPES = ("f2", "f4", "f8", "i1", "i8", "u1", "u8", "?", "c16", "S3", "U3", "M8[s]")


def rewritten(data: bytes, stream: random.Random) -> bytes:
    """An npz of other arrays, now and then with a member twice or a header that lies."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = changed_arrays(dict(archive), stream, _TYPES)
    members = {}
    for name, array in arrays.items():
        member = io.BytesIO()
        np.lib.format.write_array(member, array, allow_pickle=False)
        members[f"{name}.npy"] = member.getvalue()
    kind = stream.random()
    if members and kind < 0.3:
        name = stream.choice(sorted(members))
        members[name] = _lying(members[name], stream)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


def other_npz(name: str, data: bytes, stream: random.Random) -> Mutant:
    """An npz `name` whose bytes changed, or whose arrays are others."""
    if stream.random() < 0.5:
        return Mutant({name: damaged(data, stream)}, checked=True, how="bytes")
    return Mutant({name: rewritten(data, stream)}, checked=False, how="arrays")


def _lying(member: bytes, stream: random.Random) -> bytes:
    """A member whose header says another shape or type, or is damaged."""
    shapes = (b"(99999999999, 9)", b"(-1, 3)", b"(4, 3)", b"(1e3,)", b"(" * 300, b"None", b"(2**70,)", b"(0, 0)")
    start, end = member.find(b"(", 10), member.find(b")", 10)
    if stream.random() < 0.5 and 0 < start < end:
        shape = stream.choice(shapes)
        old = member[start : end + 1]
        member = member[:start] + shape + member[end + 1 :]
        short = len(shape) - len(old)
        if short > 0:  # the header's length is in its eighth byte
            length = int.from_bytes(member[8:10], "little") + short
            member = member[:8] + length.to_bytes(2, "little") + member[10:]
        return member
    return damaged(member[:128], stream) + member[128:]


class _Features:
    codes = frozenset({3, 5})  # 5: NaN and Inf among the numbers

    def make(self, folder: Path) -> None:
        _bundles.features(11, 3).save(folder / _FILE)

    def mutant(self, files: Mapping[str, bytes], stream: random.Random) -> Mutant:
        return other_npz(_FILE, files[_FILE], stream)

    def read(self, folder: Path, changed: Collection[str]) -> Any:
        found = FeatureSet.load(folder / _FILE)
        return [found.features, found.labels, list(found.ids), list(found.classes), found.fingerprint, found.weights]


FORMAT = _Features()
