"""Extraction: equal to doing it by hand, never twice, never lost, and honest about bad images."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fewvit.datasets import Dataset, open_dataset
from fewvit.digests import DigestMemory
from fewvit.errors import BadImages, DataError, NumericalError, UsageError
from fewvit.extraction.cache import Cache, FeatureStore
from fewvit.extraction.calls import extract_features, load_backbone
from fewvit.extraction.extract import extract
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.work import Work, allowed_bad, describe
from fewvit.images import decode
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access
from fewvit.preprocess import Preprocess

from made_images import folder_of, jpeg, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture
def images(tmp_path):
    return folder_of(tmp_path / "pictures", {"cat": 5, "dog": 8})


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def pipeline(weights, tmp_path):
    return settle(resolve(str(weights), Access(tmp_path / "cache"), DigestMemory()), FeatureOptions())


def forbidden():
    raise AssertionError("the backbone was built although every row is in the store")


def settled(folder: Path) -> None:
    """Let files grow old enough for their time stamps to be trusted."""
    newest = max(p.stat().st_ctime_ns for p in folder.rglob("*"))
    time.sleep(max(0.0, 0.12 - (time.time_ns() - newest) / 1e9))


def test_features_are_those_of_each_image_alone(pipeline, images, cache):
    features = extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4))
    report = features.report
    backbone = build(pipeline.spec, Readout(), (224, 224), engine="eager")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for i, name in enumerate(features.ids):
        pixels, _ = decode((images / name).read_bytes(), Preprocess())
        by_hand = backbone.encode((torch.from_numpy(pixels)[None].permute(0, 3, 1, 2) / 255 - mean) / std)
        np.testing.assert_allclose(features.features[i], by_hand[0].numpy(), atol=2e-5)
    assert list(features.ids) == sorted(f"cat/{i:03d}.jpg" for i in range(5)) + sorted(
        f"dog/{i:03d}.jpg" for i in range(8)
    )
    assert features.labels.tolist() == [0] * 5 + [1] * 8
    assert (report.computed, report.cached) == (13, 0)


def test_a_second_run_builds_no_backbone_and_reads_no_image(pipeline, images, cache, monkeypatch):
    settled(images)
    first = extract(pipeline, open_dataset(str(images)), cache, Work())
    monkeypatch.setattr("fewvit.datasets.Dataset.read", lambda self, i: forbidden())
    again = extract(pipeline, open_dataset(str(images)), cache, Work(), build=forbidden)
    report = again.report
    assert again.features.tobytes() == first.features.tobytes()
    assert (report.computed, report.cached) == (0, 13)


def test_an_added_renamed_or_repeated_image_costs_only_itself(pipeline, images, cache):
    before = extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4))
    (images / "cat/000.jpg").rename(images / "cat/zebra.jpg")
    shutil.copy(images / "dog/001.jpg", images / "cat/copy.jpg")
    (images / "dog/new.jpg").write_bytes(jpeg(99))
    after = extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4))
    report = after.report
    row = {name: after.features[i] for i, name in enumerate(after.ids)}
    assert report.computed == 1
    assert row["cat/zebra.jpg"].tobytes() == before.features[0].tobytes()
    assert row["cat/copy.jpg"].tobytes() == row["dog/001.jpg"].tobytes()


def test_two_files_with_the_same_bytes_are_computed_once(pipeline, tmp_path, cache):
    folder = folder_of(tmp_path / "twins", {"a": 1, "b": 1})
    (folder / "b/000.jpg").write_bytes((folder / "a/000.jpg").read_bytes())
    features = extract(pipeline, open_dataset(str(folder)), cache, Work(batch_size=2))
    report = features.report
    assert report.computed == 1
    assert features.features[0].tobytes() == features.features[1].tobytes()


def test_a_rewritten_file_is_computed_again_even_with_the_old_size_and_mtime(pipeline, images, cache):
    settled(images)
    first = extract(pipeline, open_dataset(str(images)), cache, Work())
    target = images / "dog/002.jpg"
    status, data = target.stat(), bytearray(target.read_bytes())
    data[-40] ^= 1
    target.write_bytes(data)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = extract(pipeline, open_dataset(str(images)), cache, Work())
    report = again.report
    assert report.computed == 1
    assert not np.array_equal(first.features[7], again.features[7])


def test_bad_images_leave_the_others_bit_equal_and_are_named(pipeline, images, cache, tmp_path):
    clean = extract(pipeline, open_dataset(str(images)), Cache(tmp_path / "other"), Work(batch_size=4))
    (images / "cat/001x.jpg").write_bytes(jpeg(50)[:300])
    (images / "dog/zero.jpg").write_bytes(b"")
    (images / "dog/text.png").write_text("no picture")
    with pytest.raises(BadImages) as caught:
        extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4, max_bad="2"))
    assert caught.value.exit_code == 3
    assert all(name in str(caught.value) for name in ("3 of 16", "cat/001x.jpg", "dog/zero.jpg", "dog/text.png"))
    # the work was kept
    kept = extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4, max_bad="3"), build=forbidden)
    report = kept.report
    assert kept.features.tobytes() == clean.features.tobytes()
    assert kept.labels.tolist() == clean.labels.tolist()
    assert [(s["id"], s["class"]) for s in report.skipped] == [
        ("cat/001x.jpg", "cat"),
        ("dog/text.png", "dog"),
        ("dog/zero.jpg", "dog"),
    ]
    assert describe(report)["skipped"] == 3


@pytest.mark.parametrize(
    ("text", "total", "allowed"),
    [("0", 50, 0), ("3", 50, 3), ("1%", 99, 0), ("1%", 200, 2), ("50%", 9000, 1000), ("2.5%", 80, 2)],
)
def test_max_bad_is_a_number_or_a_share_of_at_most_a_thousand(text, total, allowed):
    assert allowed_bad(text, total) == allowed


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "%", "many%"])
def test_a_mistyped_max_bad_is_a_usage_error(text):
    with pytest.raises(UsageError):
        allowed_bad(text, 10)


def test_all_images_bad_is_an_error_whatever_is_allowed(pipeline, tmp_path, cache):
    (tmp_path / "bad/a").mkdir(parents=True)
    (tmp_path / "bad/a/x.jpg").write_bytes(b"")
    with pytest.raises(BadImages):
        extract(pipeline, open_dataset(str(tmp_path / "bad")), cache, Work(max_bad="100%"))


def test_nan_features_name_the_image_and_are_not_stored(pipeline, images, cache):
    def broken():
        backbone = build(pipeline.spec, Readout(), (224, 224))
        plain = backbone.encode
        backbone.encode = lambda images: plain(images).index_fill_(0, torch.tensor([2]), float("nan"))
        return backbone

    with pytest.raises(NumericalError, match=r"cat/002\.jpg") as caught:
        extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4), build=broken)
    assert caught.value.exit_code == 5
    assert len(cache.store(pipeline.key)) == 0


def test_what_was_computed_before_an_interruption_is_kept(pipeline, images, cache):
    def interrupted():
        backbone = build(pipeline.spec, Readout(), (224, 224))
        plain, calls = backbone.encode, []

        def encode(images):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return plain(images)

        backbone.encode = encode
        return backbone

    with pytest.raises(KeyboardInterrupt):
        extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4), build=interrupted)
    features = extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4))
    report = features.report
    assert (report.computed, report.cached) == (5, 8)


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (3, 1), (32, 4)])
def test_batch_size_and_workers_change_no_feature_beyond_rounding(pipeline, images, cache, tmp_path, batch, workers):
    reference = extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4, workers=2))
    other = extract(
        pipeline, open_dataset(str(images)), Cache(tmp_path / f"c{batch}"), Work(batch_size=batch, workers=workers)
    )
    np.testing.assert_allclose(other.features, reference.features, atol=1e-5)
    if batch == 4:
        assert other.features.tobytes() == reference.features.tobytes()


def test_the_number_of_workers_changes_no_bit(pipeline, images, tmp_path):
    runs = [
        extract(
            pipeline, open_dataset(str(images)), Cache(tmp_path / str(w)), Work(batch_size=4, workers=w)
        ).features.tobytes()
        for w in (0, 1, 3)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_without_a_cache_nothing_is_left_behind(pipeline, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    features = extract(pipeline, open_dataset(str(images)), None, Work())
    report = features.report
    assert report.computed == 13
    assert features.features.shape == (13, 64)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_images_that_the_two_decoders_show_differently_are_counted(pipeline, images, cache):
    from PIL import Image

    turned = Image.new("RGB", (40, 30), (200, 10, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(images / "cat/turned.jpg", exif=exif)
    Image.new("RGBA", (20, 20), (9, 9, 9, 90)).save(images / "dog/clear.png")
    for _ in range(2):  # the count comes from the store the second time
        features = extract(pipeline, open_dataset(str(images)), cache, Work())
        report = features.report
        assert report.differing == 2


def test_a_feature_set_says_which_pipeline_made_it(pipeline, images, cache, weights, tmp_path):
    features = extract(pipeline, open_dataset(str(images)), cache, Work())
    assert features.fingerprint == pipeline.fingerprint
    other = settle(resolve(str(weights), Access(tmp_path / "cache"), DigestMemory()), FeatureOptions(decode="pil"))
    assert other.fingerprint != pipeline.fingerprint


def test_the_python_door_gives_the_same_features(pipeline, images, cache, weights):
    features = extract(pipeline, open_dataset(str(images)), cache, Work())
    backbone = load_backbone(str(weights), cache_dir=cache.folder)
    again = extract_features(backbone, images, cache_dir=cache.folder)
    assert again.features.tobytes() == features.features.tobytes()
    assert again.fingerprint == features.fingerprint


def test_the_end_is_told_once_where_the_last_batch_is_full(pipeline, images, cache):
    seen = []  # 13 images
    extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=13, progress=seen.append))
    assert [p.done for p in seen] == [13]


def test_progress_ends_at_the_total(pipeline, images, cache):
    seen = []
    extract(pipeline, open_dataset(str(images)), cache, Work(batch_size=4, progress=seen.append))
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].computed) == (13, 13, 13)


def test_a_backbone_brings_its_size_and_precision_into_the_cache_key(images, cache, weights):
    plain, small, half = (
        load_backbone(str(weights), cache_dir=cache.folder, **options)
        for options in ({}, {"img_size": 64}, {"precision": "bf16"})
    )
    sets = [extract_features(backbone, images, cache_dir=cache.folder) for backbone in (plain, small, half)]
    assert len({s.fingerprint for s in sets}) == 3
    cosine = (
        (sets[0].features * sets[2].features).sum(1)
        / np.linalg.norm(sets[0].features, axis=1)
        / np.linalg.norm(sets[2].features, axis=1)
    )
    assert cosine.min() > 0.999
    assert sets[0].features.tobytes() != sets[2].features.tobytes()


def test_a_backbone_put_together_by_hand_has_no_fingerprint_to_go_by(pipeline, images, cache):
    with pytest.raises(UsageError, match="load_backbone"):
        extract_features(build(pipeline.spec, Readout(), (224, 224)), images, cache_dir=cache.folder)


# ---- what is told


def test_importing_and_building_are_no_part_of_the_speed(pipeline, images, cache, monkeypatch):
    real, slept = time.perf_counter, [0.0]
    monkeypatch.setattr("fewvit.extraction.extract.time.perf_counter", lambda: real() + slept[0])

    def slow_build():
        slept[0] += 1000
        return build(pipeline.spec, Readout(), (224, 224))

    def slow_import(device):
        slept[0] += 300
        return "cpu"

    monkeypatch.setattr("fewvit.models.engines.resolve_device", slow_import)
    seen = []
    features = extract(
        pipeline, open_dataset(str(images)), cache, Work(batch_size=4, progress=seen.append), build=slow_build
    )
    report = features.report
    assert 1300 <= report.starting < 1400
    assert 0 < report.waiting + report.modelling <= report.seconds < 100
    assert all(0 < p.elapsed < 100 for p in seen)
    assert report.images_per_second > 0.13  # 13 images in less than 100 s
    assert describe(report)["seconds_starting"] == pytest.approx(report.starting, abs=1e-3)


def test_decoders_are_imported_before_the_clock_starts(pipeline, images, cache, monkeypatch):
    """The first decode is one of nothing, before any image is read."""
    order: list[str] = []
    real = decode
    monkeypatch.setattr(
        "fewvit.extraction.extract.decode", lambda data, *rest: order.append("decoded") or real(data, *rest)
    )
    read = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, i: order.append("read") or read(self, i))
    extract(pipeline, open_dataset(str(images)), cache, Work(workers=1))
    assert order[:2] == ["decoded", "read"]


def test_a_cache_that_cannot_be_written_is_told_before_a_image_is_read(pipeline, images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(Dataset, "read", lambda self, i: pytest.fail("an image was read"))
    with pytest.raises(DataError, match=r"file/cache/features: .*\n.*--cache-dir"):
        extract(pipeline, open_dataset(str(images)), Cache(tmp_path / "file/cache"), Work(), build=forbidden)


def test_a_full_cache_that_cannot_be_written_is_good_enough_to_read(pipeline, images, cache, monkeypatch):
    settled(images)
    first = extract(pipeline, open_dataset(str(images)), cache, Work())
    monkeypatch.setattr(FeatureStore, "require_writable", lambda self: pytest.fail("nothing is to be written"))
    again = extract(pipeline, open_dataset(str(images)), cache, Work(), build=forbidden)
    assert again.features.tobytes() == first.features.tobytes()


def test_bad_images_are_named_by_the_path_where_they_lie(pipeline, images, cache, monkeypatch):
    for i in range(5):
        (images / f"cat/bad{i}.jpg").write_bytes(b"")
    monkeypatch.chdir(images.parent)
    with pytest.raises(BadImages) as caught:
        extract(pipeline, open_dataset(images.name), cache, Work(max_bad="1"))
    told = str(caught.value).splitlines()[0]
    assert "5 of 18 images of pictures cannot be decoded, 1 is allowed: " in told
    assert told.endswith("; ".join(f"{images}/cat/bad{i}.jpg (empty file)" for i in range(3)) + " …")


@pytest.mark.parametrize("name", ["dino_vits16", Path("weights.pth")])
def test_a_name_in_place_of_a_backbone_is_told_how_to_load_it(name, images):
    with pytest.raises(UsageError, match=rf"not its name '{name}'\n.*load_backbone\('{name}'\)") as error:
        extract_features(name, images)
    assert error.value.exit_code == 2


THREADS = """
import sys, threading, torch
from fewvit.models.backbone import Backbone
from fewvit_cli import main as cli
forward, real = set(), Backbone.encode
def encode(self, images):
    forward.add(torch.get_num_threads())
    return real(self, images)
Backbone.encode = encode
assert cli.run(sys.argv[1:]) == 0
later = []
thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
thread.start(); thread.join()
print("threads", *forward, torch.get_num_threads(), *later, file=sys.stderr)
"""


def test_the_network_computes_on_all_threads_though_each_decoder_wants_one(python, tmp_path):
    folder_of(tmp_path / "images", {"a": 3, "b": 2})
    weights = tiny_weights(tmp_path / "tiny.pth")
    words = (
        "extract",
        "-m",
        weights,
        "--data",
        tmp_path / "images",
        "--img-size",
        32,
        "--out",
        tmp_path / "x.npz",
        "-q",
    )
    found = python(
        THREADS, *words, OMP_NUM_THREADS="3", MKL_DYNAMIC="FALSE", FEWVIT_CACHE_DIR=str(tmp_path / "cache")
    ).stderr.splitlines()
    assert found[-1] == "threads 3 3 3"  # in the forward, after it, and in threads that begin later
