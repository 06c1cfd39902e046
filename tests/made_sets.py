"""The published layouts of public data sets, tiny: real images and files of the real formats.

An image is of one colour, which tells its class whatever the file is called; folders are in another order than classes.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fewvit.datasets import Dataset


def colour_of(number: int) -> tuple[int, int, int]:
    """A colour for each of 1000 classes, no two alike; red, green and blue differ."""
    return number % 32 * 8, number // 32 * 8, 255 - number % 32 * 4


def png(number: int, side: int = 3) -> bytes:
    return _bytes(number, side, "PNG")


def jpeg(number: int, side: int = 8) -> bytes:
    return _bytes(number, side, "JPEG")


def _bytes(number: int, side: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour_of(number)).save(file, kind, **({"quality": 100} if kind == "JPEG" else {}))
    return file.getvalue()


def number_of(data: bytes) -> int:
    """The class that an image's colour tells."""
    red, green, _ = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3).mean(axis=0)
    return round(float(red) / 8) + 32 * round(float(green) / 8)


def seen(dataset: Dataset) -> dict[str, set[int]]:
    """Class name -> the numbers that its images' colours tell."""
    found: dict[str, set[int]] = {}
    for row in range(len(dataset)):
        name = dataset.classes[dataset.labels[row]]
        found.setdefault(name, set()).add(number_of(dataset.read(row)))
    return found


def write(root: Path, files: Mapping[str, bytes | str]) -> str:
    """Files below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def real_json(lists: Mapping[int, Sequence[int]], length: int = 50_000) -> str:
    """ReaL's file, whose list of image `number` stands at its place less one."""
    return json.dumps([list(lists.get(place + 1, ())) for place in range(length)])


# ---- pickles as Python 2 wrote them: text and bytes are one kind there


def old_pickle(content: Mapping[str, object]) -> bytes:
    """A dict of text, lists of numbers or text, and uint8 arrays, in Python 2's protocol 2."""
    return b"\x80\x02}(" + b"".join(_old(key) + _old(value) for key, value in content.items()) + b"u."


def _old(value: object) -> bytes:
    if isinstance(value, str):
        return _old_string(value.encode("latin1"))
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_old, value)) + b"e"
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.uint8
    begun = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(_old, value.shape)) + b"t"
    return begun + b"(K\x01" + shape + kind + b"\x89" + _old_string(value.tobytes()) + b"tb"


def _old_string(data: bytes) -> bytes:
    return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data


def cifar_rows(numbers: Sequence[int]) -> np.ndarray:
    """Rows (N, 3072): all red, all green, all blue. The first pixel row is black, so that turned pictures are seen."""
    rows = np.zeros((len(numbers), 3, 32, 32), np.uint8)
    for row, number in enumerate(numbers):
        rows[row] = np.array(colour_of(number), np.uint8)[:, None, None]
    rows[:, :, 0, :] = 0
    return rows.reshape(len(numbers), 3072)


def cifar10(root: Path, names: Sequence[str], *, modern: bool = False, packed: bool = False) -> str:
    """Seven images over five batches and three to be tested on, of classes in an order that is not the alphabet's."""
    batches = {f"data_batch_{n}": [(n * 3) % len(names), (n + 1) % len(names)] for n in range(1, 6)}
    batches["test_batch"] = [len(names) - 1, 0, 1]
    files = {
        name: {"data": cifar_rows(numbers), "labels": numbers, "filenames": [f"{n}.png" for n in numbers]}
        for name, numbers in batches.items()
    }
    written = {name: _pickled(content, modern) for name, content in files.items()}
    written["batches.meta"] = _pickled({"label_names": list(names), "num_vis": 3072}, modern)
    return _placed(root, "cifar-10-batches-py", "cifar-10-python.tar.gz", written, packed)


def cifar100(root: Path, fine: Sequence[str], numbers: Sequence[int], *, packed: bool = False) -> str:
    content = {
        "data": cifar_rows(numbers),
        "fine_labels": list(numbers),
        "coarse_labels": [0 for _ in numbers],
        "filenames": ["x.png" for _ in numbers],
    }
    meta = {"fine_label_names": list(fine), "coarse_label_names": ["all"]}
    written = {"train": old_pickle(content), "test": old_pickle(content), "meta": old_pickle(meta)}
    return _placed(root, "cifar-100-python", "cifar-100-python.tar.gz", written, packed)


def _pickled(content: dict[str, object], modern: bool) -> bytes:
    """As Python 2 wrote it, or with bytes for keys as Python 3 reads it and writes it again."""
    if not modern:
        return old_pickle(content)
    return pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=2)


def _placed(root: Path, inner: str, archive: str, files: Mapping[str, bytes], packed: bool) -> str:
    if not packed:
        return os.path.dirname(write(root / inner, files))
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / archive, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{inner}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(root)


def stl10(root: Path, names: Sequence[str], labels: Mapping[str, Sequence[int]]) -> str:
    """Binary files: red, green, blue, each column by column. The first pixel row is black. Labels count from 1."""
    for part, numbers in labels.items():
        pictures = np.zeros((len(numbers), 96, 96, 3), np.uint8)  # row, column, colour
        for row, number in enumerate(numbers):
            pictures[row] = colour_of(number)
        pictures[:, 0] = 0
        write(root / "stl10_binary", {f"{part}_X.bin": pictures.transpose(0, 3, 2, 1).tobytes()})
        write(root / "stl10_binary", {f"{part}_y.bin": bytes(number + 1 for number in numbers)})
    write(root / "stl10_binary", {"class_names.txt": "\n".join(names) + "\n"})
    return str(root)


def flowers(root: Path, labels: Sequence[int], sets: Mapping[str, Sequence[int]]) -> str:
    """`labels` of image 1, 2, …, from 1; `sets`: trnid, valid, tstid, of image numbers."""
    from scipy.io import savemat

    write(root, {f"jpg/image_{n:05d}.jpg": jpeg(label) for n, label in enumerate(labels, 1)})
    savemat(root / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(root / "setid.mat", {name: np.array([numbers], np.uint16) for name, numbers in sets.items()})
    return str(root)


def vtab(root: Path, name: str, labels: Mapping[str, Sequence[int]]) -> str:
    """Lists and images of one set; train800val200 is the two together."""
    files: dict[str, bytes | str] = {}
    lines: dict[str, list[str]] = {}
    for part, numbers in labels.items():
        for row, number in enumerate(numbers):
            path = f"images/{part}/{(row * 7) % 11:02d}_{row}.png"
            files[path] = png(number)
            lines.setdefault(part, []).append(f"{path} {number}")
    lines["train800val200"] = lines["train800"] + lines["val200"]
    files.update({f"{part}.txt": "\n".join(rows) + "\n" for part, rows in lines.items()})
    return write(root / name, files)
