"""Where memory, threads or handles of files run out, no file is called damaged: every reader ends with exit code 6."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from fewvit import errors, images
from fewvit.backbones import Architecture
from fewvit.checkpoints import hostile, reading
from fewvit.datasets import archive, open_dataset, shards
from fewvit.datasets._arrow import readable
from fewvit.digests import DigestMemory, contents_of
from fewvit.errors import DataError, ResourceError
from fewvit.evaluate.details import load_details
from fewvit.features import FeatureSet
from fewvit.models.timm_model import TimmModel
from fewvit.preprocess import Preprocess
from fewvit.report import read as reports
from fewvit.runs.result_file import read_result

from made_images import folder_of, jpeg

SMALL = Preprocess(cover=(37, 37), crop=(31, 31))
LACKS = {
    "memory": MemoryError(),
    "memory of torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    "threads": RuntimeError("can't start new thread"),
    "primitives": RuntimeError("could not create a primitive"),
}


def saved(folder: Path, name: str) -> Path:
    """A sound file of each kind."""
    path = folder / name
    tensors = {"a": torch.zeros(3)}
    if name == "x.npz":
        np.savez(path, features=np.zeros((2, 3), np.float32), labels=np.zeros(2, np.int64))
    elif name == "x.pth":
        torch.save(tensors, path)
    elif name == "x.safetensors":
        safetensors.torch.save_file(tensors, path)
    elif name == "x.zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/1.jpg", jpeg(1))
    elif name == "x.tar":
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("1.jpg")
            member.size = len(jpeg(1))
            tar.addfile(member, io.BytesIO(jpeg(1)))
    elif name == "x.png":
        Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(path)
    elif name == "x.jpg":
        path.write_bytes(jpeg(1))
    return path


def checkpoint(path: Path) -> object:
    return reading.read_checkpoint(path)


def decoded(path: Path) -> object:
    return images.decode(path.read_bytes(), SMALL)


def decoded_whole(path: Path) -> object:
    return images.decode_whole(path.read_bytes())


def pixels(path: Path) -> object:
    return images.pixels_of(Image.open(path), SMALL)


def listed(path: Path) -> object:
    return open_dataset(str(path))


# what reads a file of which name, and the call in it that fails
READERS = {
    "features": ("x.npz", FeatureSet.load, (np, "load")),
    "details": ("x.npz", load_details, (np, "load")),
    "weights": ("x.pth", checkpoint, (torch, "load")),
    "the directory of weights": ("x.pth", checkpoint, (hostile.zipfile, "ZipFile")),
    "safetensors": ("x.safetensors", checkpoint, (safetensors.torch, "load")),
    "the header of safetensors": ("x.safetensors", checkpoint, (reading.json, "loads")),
    "a zip of images": ("x.zip", listed, (archive.zipfile, "ZipFile")),
    "a tar of images": ("x.tar", listed, (shards.tarfile, "open")),
    "a PNG": ("x.png", decoded, (images, "open_wholly")),
    "a whole PNG": ("x.png", decoded_whole, (images, "open_wholly")),
    "a JPEG": ("x.jpg", decoded, (images, "_jpeg_reader")),
    "a whole JPEG": ("x.jpg", decoded_whole, (images, "_jpeg_reader")),
    "an opened image": ("x.png", pixels, (images, "_of_pillow")),
    "a model of timm": (
        "",
        lambda path: TimmModel(Architecture(8, 1, 1, 8, timm="vit_x"), (8, 8)),
        (timm, "create_model"),
    ),
}


@pytest.mark.parametrize("lack", LACKS)
@pytest.mark.parametrize("reader", READERS)
def test_what_a_reader_lacks_is_told_as_such_and_no_file_is_blamed(reader, lack, tmp_path, monkeypatch):
    name, read, (place, call) = READERS[reader]
    path = saved(tmp_path, name)

    def fail(*args, **kwargs):
        raise LACKS[lack]

    monkeypatch.setattr(errors, "_is_to_be_had", lambda size: False)
    monkeypatch.setattr(place, call, fail)
    with pytest.raises(Exception) as caught:  # noqa: PT011  what kind it is decides
        read(path)
    error = caught.value
    if not isinstance(error, ResourceError):  # it passes through, and the command line knows it
        assert error is LACKS[lack]
        return
    assert error.exit_code == 6
    assert "out of memory while" in str(error)
    assert not any(word in str(error).lower() for word in ("damaged", "delete", "fetch", "again"))


@pytest.mark.parametrize("lack", LACKS)
def test_pyarrow_s_lack_of_memory_is_no_damage(lack, monkeypatch):
    pytest.importorskip("pyarrow")
    with pytest.raises((ResourceError, RuntimeError)) as caught, readable("x.parquet", "Parquet file"):
        raise LACKS[lack]
    assert isinstance(caught.value, ResourceError) or caught.value is LACKS[lack]


@pytest.fixture
def no_handles():
    """Nothing more can be opened by this process; a handle of a folder that is open stays usable."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []

    def take() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))

    yield take
    for handle in taken:
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_image_that_cannot_be_opened_for_want_of_handles_is_not_skipped(tmp_path, no_handles):
    dataset = open_dataset(str(folder_of(tmp_path / "images", {"a": 2, "b": 3})))
    no_handles()
    with pytest.raises(ResourceError, match="Too many open files while reading an image"):
        contents_of(dataset, DigestMemory())


@pytest.mark.parametrize(
    "read", [read_result, reports._json, FeatureSet.load, load_details], ids=lambda read: read.__name__
)
def test_a_file_that_cannot_be_opened_for_want_of_handles_is_not_damaged(read, tmp_path, no_handles):
    path = saved(tmp_path, "x.npz")
    no_handles()
    with pytest.raises(ResourceError, match="Too many open files") as caught:
        read(path)
    assert caught.value.exit_code == 6


def test_a_features_file_that_lies_about_its_size_is_damaged_and_not_short_of_memory(tmp_path):
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 999)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("features.npy", header.getvalue())
    with pytest.raises(DataError, match="not a readable features file"):
        FeatureSet.load(path)
