"""Sources: images and features answer one question in one way, alone and in pairs.

They say what is wrong before an image is read."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.datasets import Listing
from fewvit.digests import DigestMemory
from fewvit.errors import DataError, FingerprintMismatch, UsageError
from fewvit.evaluate.inputs import Backbones, FeatureReader
from fewvit.extraction.cache import Cache
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.work import Work
from fewvit.features import FeatureSet
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access
from fewvit.sources import Extractor, Given, Sources, is_features, open_source, open_sources, require_source

from made_images import folder_of, tiny_weights


@pytest.fixture
def pipeline(tmp_path):
    return settle(
        resolve(str(tiny_weights(tmp_path / "tiny.pth")), Access(tmp_path / "cache"), DigestMemory()), FeatureOptions()
    )


@pytest.fixture
def extractor(tmp_path) -> Extractor:
    return Extractor(Cache(tmp_path / "cache"), Work(), DigestMemory())


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    folder_of(root / "train", {"cat": 5, "dog": 3, "owl": 2})
    folder_of(root / "val", {"owl": 2, "dog": 1}, first_seed=100)
    return root


def saved(path, features: FeatureSet) -> str:
    features.save(path)
    return str(path)


def silent(line: str) -> None:
    """Nobody is notified."""


def test_images_and_the_file_of_their_features_answer_alike(images, pipeline, extractor, tmp_path):
    lines: list[str] = []
    computed = open_source(str(images / "train"), Given().listing, extractor, lines.append)
    features = computed.features(pipeline)
    stored = open_source(saved(tmp_path / "x.npz", features), Given().listing, extractor, lines.append)
    assert (computed.images is None, stored.images is None) == (False, True)
    for source in (computed, stored):
        found = source.features(pipeline)
        assert found.features.tobytes() == features.features.tobytes()
        assert list(source.ids) == list(found.ids) == list(features.ids)
        assert source.labels.tolist() == found.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
        assert list(source.classes) == ["cat", "dog", "owl"]
        assert source.fingerprint(pipeline) == found.fingerprint == pipeline.fingerprint
    assert features.report.computed == 10
    assert stored.features(None).report is None
    assert lines == []


@pytest.mark.parametrize("given", ["images", "train stored", "test stored", "both stored"])
def test_a_pair_counts_the_classes_of_train_whatever_its_sides_are(given, images, pipeline, extractor, tmp_path):
    sides = {name: str(images / name) for name in ("train", "val")}
    for name in {"images": [], "train stored": ["train"], "test stored": ["val"], "both stored": ["train", "val"]}[
        given
    ]:
        features = open_source(sides[name], Given().listing, extractor, silent).features(pipeline)
        sides[name] = saved(tmp_path / f"{name}.npz", features)
    sources = open_sources(Given(None, sides["train"], sides["val"]), extractor, silent)
    assert sources.have_images == (given != "both stored")
    assert (sources.datasets is not None) == (given == "images")
    train, test = sources.features(pipeline)
    assert list(test.classes) == list(train.classes) == ["cat", "dog", "owl"]
    assert {name.split("/")[0]: label for name, label in zip(test.ids, test.labels.tolist(), strict=True)} == {
        "dog": 1,
        "owl": 2,
    }


def test_features_of_another_backbone_are_refused_before_an_image_is_read(images, pipeline, tmp_path):
    class Forbidden(Extractor):
        def features(self, pipeline, dataset):
            raise AssertionError("an image was read")

    other = FeatureSet(np.eye(3, 7, dtype=np.float32), np.arange(3), ["a", "b", "c"], ["cat", "dog", "owl"], "e" * 64)
    file = saved(tmp_path / "other.npz", other)
    extractor = Forbidden(None, Work(), DigestMemory())
    for train, test in ((str(images / "train"), file), (file, str(images / "val"))):
        with pytest.raises(FingerprintMismatch) as error:
            open_sources(Given(None, train, test), extractor, silent).features(pipeline)
        marks = [mark[:12] for mark in (pipeline.fingerprint, other.fingerprint)]
        assert f"train features are of {marks[train == file]}, test features of {marks[train != file]}" in str(
            error.value
        )


@pytest.mark.parametrize("stored", [False, True])
def test_a_test_class_without_train_images_is_refused_in_the_same_words_for_images_and_features(
    stored, images, pipeline, extractor, tmp_path
):
    folder_of(images / "val", {"yak": 1, "emu": 2}, first_seed=300)
    train, test = (str(images / name) for name in ("train", "val"))
    if stored:
        test = saved(tmp_path / "t.npz", open_source(test, Given().listing, extractor, silent).features(pipeline))
    with pytest.raises(
        DataError, match=r"2 classes of the test set are not in the training set: emu, yak\n.*images of 3 classes;"
    ):
        open_sources(Given(None, train, test), extractor, silent)


def test_a_class_of_a_features_file_without_a_row_cannot_be_learnt_but_an_allowed_empty_class_is_no_error(
    extractor, tmp_path
):
    train = saved(tmp_path / "a.npz", FeatureSet(np.eye(2, 5), np.array([0, 0]), ["a", "b"], ["cat", "dog"]))
    test = saved(tmp_path / "b.npz", FeatureSet(np.eye(2, 5), np.array([0, 1]), ["c", "d"], ["cat", "dog"]))
    with pytest.raises(DataError, match="not in the training set: dog"):
        open_sources(Given(None, train, test), extractor, silent)
    folder_of(tmp_path / "train", {"cat": 2})
    (tmp_path / "train" / "dog").mkdir()
    folder_of(tmp_path / "val", {"cat": 1, "dog": 1}, first_seed=9)
    given = Given(str(tmp_path), listing=Listing(allow_empty_class=True))
    assert open_sources(given, extractor, silent).sides[1].labels.tolist() == [0, 1]


def test_a_features_file_that_does_not_say_its_backbone_is_taken_with_a_note(images, pipeline, extractor, tmp_path):
    features = open_source(str(images / "val"), Given().listing, extractor, silent).features(pipeline)
    nameless = saved(tmp_path / "n.npz", FeatureSet(features.features, features.labels, features.ids, features.classes))
    lines: list[str] = []
    open_sources(Given(None, str(images / "train"), nameless), extractor, lines.append).features(pipeline)
    assert lines == [
        f"{nameless} carries no fingerprint, so nothing shows that its features belong to the other side's backbone"
    ]


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_side_without_any_label_is_refused_before_an_image_is_read(side, images, extractor, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted((images / "train").rglob("*.jpg"))[:3]):
        (flat / f"{number}.jpg").write_bytes(file.read_bytes())
    sides = {name: str(images / name) for name in ("train", "val")} | {side: str(flat)}
    with pytest.raises(DataError, match=f"the {'train' if side == 'train' else 'test'} images have no labels"):
        open_sources(Given(None, sides["train"], sides["val"]), extractor, silent)


def test_images_beside_features_need_the_backbone_that_the_features_name(images, pipeline, extractor, tmp_path):
    features = open_source(str(images / "train"), Given().listing, extractor, silent).features(pipeline)
    sources = open_sources(Given(None, saved(tmp_path / "t.npz", features), str(images / "val")), extractor, silent)
    backbones = Backbones(["dino_vits16"], Access(tmp_path / "cache", offline=True))
    reader = FeatureReader(backbones, FeatureOptions(), None, Work())
    with pytest.raises(UsageError, match=r"made with tiny.pth(.|\n)*Give --backbone tiny.pth"):
        list(reader.each(sources))


def test_one_source_has_no_test_side(images, pipeline, extractor):
    alone = Sources(open_source(str(images / "val"), Given().listing, extractor, silent))
    train, test = alone.features(pipeline)
    assert (len(train), test, len(alone.sides)) == (3, None, 1)


def test_a_features_file_is_no_data_with_two_parts(extractor):
    with pytest.raises(UsageError, match="give feature files with --train and --test"):
        open_sources(Given("x.npz"), extractor, silent)


def test_what_is_given_is_looked_at_before_anything_is_opened(tmp_path):
    assert [is_features(source) for source in ("a.npz", "a.npz/b", None)] == [True, False, False]
    with pytest.raises(UsageError, match="give --data SRC"):
        require_source(None)
    with pytest.raises(DataError, match="no such file"):
        require_source(str(tmp_path / "gone.npz"))
    assert require_source("anything else") == "anything else"
