"""Pixels to train on: those of the decoder, whether they are kept in memory, in a file, or decoded anew."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewvit.datasets import Dataset, open_dataset
from fewvit.errors import DataError, ResourceError
from fewvit.images import BadImage, decode_whole
from fewvit.views import training_images as module
from fewvit.views.training_images import TrainingImages

from made_images import jpeg

SIZES = [(47, 61), (47, 61), (31, 17), (47, 61), (5, 90)]  # height, width


class Counting:
    """A reader that knows how often each image was read."""

    def __init__(self, files: list[bytes]):
        self.files, self.reads = files, [0] * len(files)

    def read(self, i: int) -> bytes:
        self.reads[i] += 1
        if not self.files[i]:
            raise FileNotFoundError(2, "No such file or directory")
        return self.files[i]

    def identity(self, i: int) -> None:
        return None

    def place(self, i: int) -> str:
        return f"/somewhere/{i}.jpg"


def dataset_of(files: list[bytes]) -> Dataset:
    return Dataset("test", [f"{i}.jpg" for i in range(len(files))], np.full(len(files), -1), [], Counting(files))


def of_sizes(sizes: list[tuple[int, int]]) -> Dataset:
    return dataset_of([jpeg(seed, size) for seed, size in enumerate(sizes)])


def expected(dataset: Dataset, row: int) -> torch.Tensor:
    return torch.from_numpy(decode_whole(dataset.reader.files[row])).permute(2, 0, 1)


def assert_holds(images: TrainingImages, dataset: Dataset, numbers: list[int]) -> None:
    read = images.read(np.array(numbers))
    assert len(read) == len(numbers)
    for number, image in zip(numbers, read, strict=True):
        assert image.dtype == torch.uint8
        assert torch.equal(image, expected(dataset, images.rows[number]))


def png(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


# ---- where images are kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[(47, 61)] * 7, SIZES], ids=["one size", "many sizes"])
@pytest.mark.parametrize("memory", [1 << 20, 20_000, 0], ids=["in memory", "moved to a file", "in a file"])
def test_small_images_are_decoded_once_and_kept(sizes, memory, tmp_path):
    dataset = of_sizes(sizes)
    images = TrainingImages(dataset, workers=2, memory_bytes=memory, folder=tmp_path / "run")
    assert len(images) == len(dataset)
    before = list(dataset.reader.reads)
    for numbers in ([4, 0, 1], [2], [3, 3, 1, 0, 2, 4]):
        assert_holds(images, dataset, numbers)
    assert dataset.reader.reads == before
    assert (tmp_path / "run").exists() == (memory < 1 << 20)
    assert list(tmp_path.rglob("*.*")) == []  # the file has no name: nothing is left behind by a process that is killed


def test_images_of_one_size_come_as_one_tensor_and_others_as_a_list():
    images = TrainingImages(of_sizes(SIZES), workers=1)
    together, apart = images.read(np.array([3, 0])), images.read(np.array([3, 2]))
    assert together.shape == (2, 3, 47, 61)
    assert [tuple(image.shape) for image in apart] == [(3, 47, 61), (3, 31, 17)]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("numbers", [[0, 1], [0, 2]], ids=["one size", "two sizes"])
def test_a_pixels_values_lie_together_in_memory(large, numbers, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 16 if large else 10_000)
    for image in TrainingImages(of_sizes(SIZES), workers=1).read(np.array(numbers)):
        assert image.stride()[0] == 1
        assert image.stride()[2] == 3


def test_small_images_without_room_or_folder_are_decoded_each_time():
    dataset = of_sizes(SIZES)
    images = TrainingImages(dataset, workers=1, memory_bytes=20_000)
    assert_holds(images, dataset, [4, 1, 2])
    before = sum(dataset.reader.reads)
    assert_holds(images, dataset, [0, 1, 2])
    assert sum(dataset.reader.reads) == before + 3


def test_large_images_are_decoded_each_time(tmp_path):
    dataset = of_sizes([(130, 127), (47, 61), (130, 127)])
    images = TrainingImages(dataset, workers=2, folder=tmp_path)
    before = np.array(dataset.reader.reads)
    for numbers in ([0, 2], [2, 1, 0]):
        assert_holds(images, dataset, numbers)
    assert (np.array(dataset.reader.reads) - before).tolist() == [2, 1, 2]
    assert images.skipped == []


def test_more_images_than_are_decoded_at_a_time_keep_their_order(monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    dataset = of_sizes([(11 + k % 3, 7) for k in range(11)])
    assert_holds(TrainingImages(dataset, workers=3), dataset, list(range(11))[::-1])


def test_the_bytes_of_memory_are_counted_to_the_last(tmp_path):
    sizes = [(47, 61)] * 3
    exact = 3 * 47 * 61 * 3
    TrainingImages(of_sizes(sizes), workers=1, memory_bytes=exact, folder=tmp_path / "fits")
    TrainingImages(of_sizes(sizes), workers=1, memory_bytes=exact - 1, folder=tmp_path / "does not")
    assert not (tmp_path / "fits").exists()
    assert (tmp_path / "does not").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("count", [1, 1009], ids=["at the end", "on the way"])
def test_a_full_disk_is_an_error_of_resources(count, tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda dir: open("/dev/full", "r+b"))  # noqa: SIM115
    with pytest.raises(ResourceError, match="disk full while keeping decoded images"):
        TrainingImages(dataset_of([jpeg(0, (7, 11))] * count), workers=1, memory_bytes=0, folder=tmp_path)


# ---- what cannot be decoded ----------------------------------------------------------------------------------------


def test_small_images_that_cannot_be_decoded_are_named_at_the_start_and_skipped():
    dataset = dataset_of([jpeg(0), b"no picture", jpeg(2), b"", jpeg(4)])
    images = TrainingImages(dataset, workers=2)
    assert [record["id"] for record in images.skipped] == ["1.jpg", "3.jpg"]
    assert "not an image" in images.skipped[0]["reason"]
    assert images.skipped[1]["reason"] == "No such file or directory"
    assert images.rows.tolist() == [0, 2, 4]
    assert len(images) == 3
    assert_holds(images, dataset, [2, 0, 1])


@pytest.mark.parametrize(("broken", "reason"), [(b"no picture", "not an image"), (b"", "No such file")])
def test_a_large_image_that_cannot_be_decoded_is_an_error_when_it_is_read(broken, reason):
    images = TrainingImages(dataset_of([jpeg(0, (130, 127)), broken, jpeg(2)]), workers=1)
    assert len(images) == 3
    with pytest.raises(DataError, match=f"^/somewhere/1.jpg: cannot be decoded: {reason}"):
        images.read(np.array([0, 1]))


def test_where_nothing_can_be_decoded_reading_is_an_error():
    images = TrainingImages(dataset_of([b"a", b"b"]), workers=1)
    with pytest.raises(DataError, match=r"/somewhere/1\.jpg"):
        images.read(np.array([1]))


def test_an_image_of_more_pixels_than_allowed_cannot_be_decoded():
    images = TrainingImages(of_sizes(SIZES), workers=1, max_pixels=47 * 61 - 1)
    assert images.rows.tolist() == [2, 4]
    assert "max-pixels" in images.skipped[0]["reason"]


# ---- whole images ------------------------------------------------------------------------------------------------


def test_grey_images_have_three_equal_channels(tmp_path):
    grey = np.random.default_rng(3).integers(0, 256, (9, 7), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(png(grey))
    (image,) = TrainingImages(open_dataset(str(tmp_path)), workers=1).read(np.array([0]))
    np.testing.assert_array_equal(image, np.stack([grey] * 3))


def test_whole_images_are_upright_and_opaque():
    pixels = np.random.default_rng(3).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] > 99, 255, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    seen = np.where(pixels[..., 3:] > 0, pixels[..., :3], 255)
    np.testing.assert_array_equal(decode_whole(png(pixels, exif=exif)), np.rot90(seen, -1))


def test_a_whole_jpeg_is_what_pillow_decodes_within_rounding():
    data = jpeg(5, (97, 123))
    found = decode_whole(data)
    assert found.flags["C_CONTIGUOUS"]
    assert np.abs(found.astype(int) - np.asarray(Image.open(io.BytesIO(data)))).max() <= 2


def test_a_whole_image_may_be_as_narrow_as_it_likes_but_not_too_large():
    line = png(np.zeros((1, 60_000, 3), np.uint8))
    assert decode_whole(line).shape == (1, 60_000, 3)
    with pytest.raises(BadImage, match="more than --max-pixels 59999"):
        decode_whole(line, max_pixels=59_999)
