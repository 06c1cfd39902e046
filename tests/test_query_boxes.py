"""Queries cropped to their box: the pixels of the box, in the cache of their own, and what is said of a box beside."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fewvit.datasets import open_dataset
from fewvit.digests import DigestMemory
from fewvit.errors import BadImages, DataError
from fewvit.extraction.cache import Cache
from fewvit.extraction.extract import extract
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.work import Work
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access
from fewvit.retrieval.protocols import find_retrieval_protocol
from fewvit.retrieval.query_boxes import boxed

from made_images import jpeg, tiny_weights

BOX = (7.4, 11.6, 90.5, 120.2)  # rounded half to even: 7, 12, 90, 120


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(i, (131, 97)))
    return folder


def test_a_query_is_the_pixels_of_its_box(photos):
    dataset = boxed(open_dataset(str(photos)), [BOX, None, BOX])
    whole = np.asarray(Image.open(photos / "0.jpg").convert("RGB"))
    found = np.asarray(Image.open(io.BytesIO(dataset.read(0))))
    np.testing.assert_array_equal(found, whole[12:120, 7:90])
    assert dataset.read(1) == (photos / "1.jpg").read_bytes()
    assert list(dataset.ids) == ["0.jpg", "1.jpg", "2.jpg"]
    assert dataset.place(2) == str(photos / "2.jpg")


def test_a_box_that_leaves_the_image_a_little_is_black_there_as_with_pillow(photos):
    found = Image.open(io.BytesIO(boxed(open_dataset(str(photos)), [(90, 120, 99, 133)] * 3).read(0)))
    wanted = Image.open(photos / "0.jpg").convert("RGB").crop((90, 120, 99, 133))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("box", [(97, 0, 105, 9), (0, 131, 9, 140), (-9, 0, 0, 9), (0, -9, 9, 0), (5.1, 0, 5.2, 9)])
def test_a_box_beside_its_image_is_an_error_that_names_the_query(photos, box):
    with pytest.raises(DataError, match=r"of query 1\.jpg lies beside its image of 97 x 131 pixels"):
        boxed(open_dataset(str(photos)), [None, box, None]).read(1)


def test_a_crop_and_its_whole_image_are_two_rows_of_one_store(photos, tmp_path):
    """Both are of one pipeline, so of one fingerprint, as a search wants it."""
    weights = tiny_weights(tmp_path / "tiny.pth")
    spec = resolve(str(weights), Access(tmp_path / "cache"), DigestMemory())
    reading = find_retrieval_protocol("dino/1").reading.transform
    pipeline, cache = settle(spec, FeatureOptions(device="cpu", reading=reading)), Cache(tmp_path / "cache")
    dataset = open_dataset(str(photos))
    whole = extract(pipeline, dataset, cache, Work())
    crops = extract(pipeline, boxed(dataset, [BOX] * 3), cache, Work())
    assert crops.report.computed == 3
    assert crops.fingerprint == whole.fingerprint
    assert (np.abs(crops.features - whole.features).max(axis=1) > 1e-3).all()
    for i in range(3):
        Image.open(photos / f"{i}.jpg").convert("RGB").crop((7, 12, 90, 120)).save(photos / f"{i}.png")
        (photos / f"{i}.jpg").unlink()
    saved = extract(pipeline, open_dataset(str(photos)), cache, Work())
    np.testing.assert_array_equal(saved.features, crops.features)


def test_what_cannot_be_decoded_stays_a_bad_image(photos, tmp_path):
    (photos / "1.jpg").write_bytes(b"no image")
    spec = resolve(str(tiny_weights(tmp_path / "tiny.pth")), Access(tmp_path / "cache"), DigestMemory())
    with pytest.raises(BadImages, match=r"1\.jpg \(not an image of a known format"):
        extract(settle(spec, FeatureOptions(device="cpu")), boxed(open_dataset(str(photos)), [BOX] * 3), None, Work())
