"""Bundles: what comes back predicts the same to the last bit, and a file that is not what was written is refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import threading

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from fewvit import files, plugins
from fewvit.backbones import families
from fewvit.bundles import file as bundles
from fewvit.bundles.bundle import Bundle
from fewvit.bundles.file import load_bundle, replace_bundle, save_bundle
from fewvit.bundles.fit import FittingRequest, check_classifier, fit_bundle
from fewvit.bundles.predict import UNKNOWN, predict_rows
from fewvit.calibration import scale
from fewvit.classifiers._episodic import Support
from fewvit.digests import DigestMemory
from fewvit.errors import (
    CheckpointError,
    DataError,
    FingerprintMismatch,
    IntegrityError,
    NumericalError,
    ResourceError,
    UsageError,
)
from fewvit.extraction.pipeline import FeatureOptions
from fewvit.extraction.recipe import Recipe
from fewvit.features import FeatureSet
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec

from made_images import jpeg

ALL = [plugins.find("classifiers", name) for name in plugins.names("classifiers")]
INDUCTIVE = [
    name
    for name, kind in zip(plugins.names("classifiers"), ALL, strict=True)
    if not getattr(kind, "transductive", False)
]
OPTIONS = {"knn": {"k": 3}}
CLASSES = ["ant", "cät", "dog", "eel"]  # no image is of `eel`
D = 13


def features(n: int, seed: int, labels=(0, 1, 2), fingerprint: str = "f" * 64) -> FeatureSet:
    stream = np.random.default_rng(seed)
    own = np.concatenate([np.repeat(labels, 2), stream.choice(labels, n - 2 * len(labels))])
    rows = stream.standard_normal((n, D)).astype(np.float32) + 2 * np.eye(D, dtype=np.float32)[own]
    return FeatureSet(rows, own, [f"{seed}/{i}" for i in range(n)], CLASSES, fingerprint)


def fitted(name: str = "centroid", seed: int = 3) -> Bundle:
    return fit_bundle(features(53, seed), FittingRequest(name, OPTIONS.get(name, {}), threshold=0.7))[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "b.fewvit"


# ---- round trip


@pytest.mark.parametrize("name", INDUCTIVE)
def test_what_is_loaded_predicts_the_same_to_the_last_bit(name, path):
    bundle, test = fitted(name), features(101, 7).features
    wanted = bundle.estimator.predict_proba(test)
    save_bundle(path, bundle)
    found = load_bundle(path)
    np.testing.assert_array_equal(found.estimator.predict_proba(test), wanted)
    np.testing.assert_array_equal(found.estimator.predict(test), bundle.estimator.predict(test))
    assert len(np.unique(wanted.argmax(axis=1))) == 3
    assert found.estimator.get_params() == bundle.estimator.get_params()
    for field in (
        "classifier",
        "classes",
        "counts",
        "width",
        "fingerprint",
        "temperature",
        "threshold",
        "recipe",
        "versions",
    ):
        assert getattr(found, field) == getattr(bundle, field), field


def test_a_bundle_knows_its_classes_and_how_many_images_each_had():
    bundle = fitted()
    assert bundle.classes == ["ant", "cät", "dog"]
    assert bundle.counts == np.bincount(features(53, 3).labels).tolist()
    assert (bundle.width, bundle.fingerprint, bundle.threshold) == (D, "f" * 64, 0.7)


@pytest.mark.parametrize("name", ["knn", "logistic"])
def test_where_to_compute_is_not_stored(name, path):
    bundle = fit_bundle(features(53, 3), FittingRequest(name, OPTIONS.get(name, {}), device="cpu"))[0]
    assert bundle.estimator.device == "cpu"
    save_bundle(path, bundle)
    assert load_bundle(path).estimator.device == "auto"
    assert load_bundle(path, device="cpu").estimator.device == "cpu"
    assert b"device" not in path.read_bytes().replace(b'"device": "auto"', b"")  # the recipe's alone


def test_reading_a_bundle_runs_no_pickle(path, monkeypatch):
    save_bundle(path, fitted())
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *a, **k: pytest.fail("pickle was called"))
    assert load_bundle(path).classes == ["ant", "cät", "dog"]


def test_the_same_bundle_gives_the_same_bytes(path, tmp_path):
    first, second = (save_bundle(p, fitted()) for p in (path, tmp_path / "other"))
    assert first == second
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -1.5,
        float("inf"),
        "ü\udcff",
        np.float32(1 / 3),
        np.int64(7),
        np.bool_(True),
        np.dtype(np.float32),
    ],
    ids=lambda v: f"{type(v).__name__}",
)
def test_plain_values_come_back_as_they_were(value):
    arrays: dict = {}
    packed = json.loads(json.dumps(bundles._packed(value, "x", arrays, "toy"), allow_nan=False))
    found = bundles._unpacked(packed, arrays)
    assert found == value
    assert type(found) is type(value) or isinstance(value, float)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3), np.float32), np.array(7.0), np.arange(6.0).reshape(2, 3).T, np.arange(5, dtype=np.uint16)],
)
def test_arrays_come_back_with_their_type_shape_and_order_in_memory(array):
    arrays: dict = {}
    for value in (array, torch.from_numpy(array)):
        found = bundles._unpacked(bundles._packed(value, "x", arrays, "toy"), arrays)
        assert type(found) is type(value)
        np.testing.assert_array_equal(np.asarray(found), array)
        assert (np.asarray(found).dtype, np.asarray(found).shape) == (array.dtype, array.shape)
        assert np.asarray(found).strides == array.strides
        assert arrays["x"].flags.c_contiguous


def test_records_of_classifiers_come_back_field_by_field():
    arrays: dict = {}
    record = Support(torch.arange(6.0).reshape(1, 2, 3), torch.tensor([[3, 7]]), 11)
    assert record.one_hot.shape == (1, 2, 11)  # what is worked out on demand is not stored
    found = bundles._unpacked(bundles._packed(record, "x", arrays, "toy"), arrays)
    assert sorted(arrays) == ["x.labels", "x.rows"]
    assert isinstance(found, Support)
    assert found.rows.tolist() == record.rows.tolist()
    assert (found.labels.tolist(), found.n_classes) == ([[3, 7]], 11)


def test_an_attribute_that_no_file_can_hold_is_refused_by_name(path):
    bundle = fitted()
    bundle.estimator.oracle = object()
    with pytest.raises(UsageError, match=r"centroid holds an? object \(state\.oracle\)"):
        save_bundle(path, bundle)
    assert not path.exists()


# ---- damage


def rewritten(path, **changes) -> None:
    """The bundle with other entries in its manifest, signed as if it had been written so."""
    with safetensors.safe_open(path, "numpy") as file:
        manifest = json.loads(file.metadata()["fewvit.bundle"]) | changes
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    signed(path, manifest, arrays)


def without(path, *names: str) -> None:
    """The bundle without some entries of its manifest and arrays, signed as an older fewvit wrote it."""
    with safetensors.safe_open(path, "numpy") as file:
        manifest = {k: v for k, v in json.loads(file.metadata()["fewvit.bundle"]).items() if k not in names}
        arrays = {name: file.get_tensor(name) for name in file.keys() if name not in names}  # noqa: SIM118
    signed(path, manifest, arrays)


def signed(path, manifest: dict, arrays: dict) -> None:
    manifest["sha256"] = bundles._digest(manifest, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, {"fewvit.bundle": json.dumps(manifest, sort_keys=True)}))


def test_a_bundle_from_before_its_calibration_was_counted_still_loads(path):
    save_bundle(path, fitted())
    assert load_bundle(path).calibrated_on == 53
    without(path, "calibrated_on")
    assert load_bundle(path).calibrated_on is None


def test_a_flipped_byte_anywhere_is_found(path):
    save_bundle(path, fitted())
    data = path.read_bytes()
    for place in [*range(0, len(data), 31), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(IntegrityError) as error:
            load_bundle(path)
        assert str(path) in str(error.value)
    path.write_bytes(data)
    assert load_bundle(path).counts == fitted().counts


@pytest.mark.parametrize(
    "seen_as", [lambda a: a.view(np.int8), lambda a: a.reshape(-1)], ids=["other type", "other shape"]
)
def test_the_same_bytes_as_another_array_are_found(path, seen_as):
    save_bundle(path, fitted())
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays = {name: seen_as(array) for name, array in safetensors.numpy.load_file(path).items()}
    path.write_bytes(safetensors.numpy.save(arrays, metadata))
    with pytest.raises(IntegrityError, match="sha256"):
        load_bundle(path)


@pytest.mark.parametrize("size", [0, 3, 8, 101, -1, -97])
def test_a_bundle_that_is_cut_short_is_refused(path, size):
    save_bundle(path, fitted())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(IntegrityError, match="damaged"):
        load_bundle(path)


def test_arrays_of_another_bundle_under_a_manifest_are_refused(path):
    save_bundle(path, fitted(seed=3))
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_bundle(path, fitted(seed=5))
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(path), metadata))
    with pytest.raises(IntegrityError, match="sha256"):
        load_bundle(path)


def test_a_newer_format_is_refused_and_called_new(path):
    save_bundle(path, fitted())
    rewritten(path, schema="fewvit.bundle/2", invented_later=True)
    with pytest.raises(IntegrityError, match=r"newer fewvit \(format 2"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classifier": "crystal_ball"}, "crystal_ball"),
        ({"classifier": "../centroid"}, "centroid"),
        ({"options": {"wings": {"value": 2}}}, "wings"),
        ({"state": {"_learnt": {"record": "_episodic.EpisodicClassifier", "fields": {}}}}, "EpisodicClassifier"),
        (
            {"state": {"_learnt": {"record": "_episodic.require_above", "fields": {"bound": {"value": 1}}}}},
            "require_above",
        ),
        ({"state": {"_learnt": {"array": "state.gone", "as": "array", "order": "C"}}}, "state.gone"),
        ({"recipe": {"backbone": "dino_vits16"}}, "options"),
        ({"schema": "someone.else/1"}, "manifest"),
        ({"schema": 1}, "manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_this_fewvit_is_an_integrity_error(path, changes, named):
    save_bundle(path, fitted())
    rewritten(path, **changes)
    with pytest.raises(IntegrityError, match=named):
        load_bundle(path)


def test_what_is_no_bundle_is_told_apart(path, tmp_path):
    with pytest.raises(DataError, match="no such bundle"):
        load_bundle(path)
    with pytest.raises(DataError, match="not a file"):
        load_bundle(tmp_path)
    path.write_text("id,label\n")
    with pytest.raises(IntegrityError, match=r"not a bundle but plain text \(id,label"):
        load_bundle(path)
    path.write_bytes(jpeg(3))
    with pytest.raises(IntegrityError, match=r"not a bundle but a JPEG image\n.*comes first"):
        load_bundle(path)
    features(11, 5).save(tmp_path / "f.npz")
    with pytest.raises(IntegrityError, match="not a bundle but a features file"):
        load_bundle(tmp_path / "f.npz")
    path.write_bytes(safetensors.numpy.save({"weight": np.zeros(3)}))
    with pytest.raises(IntegrityError, match="without a bundle's manifest"):
        load_bundle(path)


def test_a_run_folder_is_told_with_what_to_use_in_its_place(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"a run folder(.|\n)*fewvit fit -m "):
        load_bundle(tmp_path)
    save_bundle(tmp_path / "classifier.bundle", fitted())
    with pytest.raises(DataError, match=r"a run folder(.|\n)*Use its classifier, .*/classifier\.bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", INDUCTIVE)
def test_a_bundle_is_no_backbone_and_is_told_what_it_is_for(name, path, tmp_path):
    save_bundle(path, fitted(name))
    with pytest.raises(CheckpointError, match=r"a classifier bundle, not a backbone\n.*fewvit predict"):
        resolve(str(path), Access(tmp_path / "cache", offline=True), DigestMemory())


def test_a_full_disk_leaves_the_old_bundle(path, monkeypatch):
    save_bundle(path, fitted(seed=3))
    before = path.read_bytes()

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError, match="disk full"):
        save_bundle(path, fitted(seed=5))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from fewvit import files
from fewvit.bundles.file import load_bundle, save_bundle
bundle = load_bundle(sys.argv[1])
files.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
save_bundle(sys.argv[1], bundle)
"""


def test_a_kill_while_writing_leaves_the_old_bundle(path, python):
    save_bundle(path, fitted())
    before = path.read_bytes()
    assert python(KILLED, path, check=False).returncode == -9
    assert path.read_bytes() == before
    assert load_bundle(path).classes == ["ant", "cät", "dog"]


# ---- more images


def more(labels) -> tuple[np.ndarray, np.ndarray]:
    extra = features(31, 11, labels)
    return extra.features, extra.labels


@pytest.mark.parametrize("name", ["centroid", "knn"])
@pytest.mark.parametrize("labels", [(0, 2), (1, 3)], ids=["known classes", "a new class"])
def test_a_bundle_that_grows_predicts_as_one_fitted_on_all(name, labels, path):
    save_bundle(path, fitted(name))
    rows, numbers = more(labels)
    grown = load_bundle(path).grown(rows, numbers, CLASSES[: max(3, max(labels) + 1)])
    save_bundle(path, grown)
    own, test = features(53, 3), features(101, 7).features
    X, y = np.concatenate([own.features, rows]), np.concatenate([own.labels, numbers])
    wanted = plugins.find("classifiers", name)(**OPTIONS.get(name, {})).fit(X, y).predict_proba(test)
    np.testing.assert_allclose(load_bundle(path).probabilities(test), wanted, atol=1e-6)
    assert grown.counts == np.bincount(y).tolist()
    assert grown.temperature == fitted(name).temperature


@pytest.mark.parametrize("name", ["centroid", "knn"])
def test_a_bundle_knows_the_rows_it_holds_and_under_which_class(name, path):
    save_bundle(path, fitted(name))
    rows, numbers = more((1, 3))
    own = features(53, 3)
    names = [CLASSES[c] for c in own.labels]
    bundle = load_bundle(path)
    assert bundle.holds(own.features, names).all()
    assert not bundle.holds(own.features, ["eel"] * 53).any()
    assert not bundle.holds(np.nextafter(own.features, 9), names).any()
    assert not bundle.holds(rows, [CLASSES[c] for c in numbers]).any()
    save_bundle(path, bundle.grown(rows, numbers, CLASSES))
    both = np.concatenate([own.features[7:], rows])
    assert load_bundle(path).holds(both, names[7:] + [CLASSES[c] for c in numbers]).all()


def test_a_bundle_from_before_its_rows_were_known_loads_and_knows_what_is_added_from_now_on(path):
    save_bundle(path, fitted())
    without(path, "seen")
    own, (rows, numbers) = features(53, 3), more((1, 3))
    old = load_bundle(path)
    assert not old.holds(own.features, [CLASSES[c] for c in own.labels]).any()
    save_bundle(path, old.grown(rows, numbers, CLASSES))
    assert load_bundle(path).holds(rows, [CLASSES[c] for c in numbers]).all()


def test_a_classifier_that_must_be_fitted_anew_does_not_grow():
    rows, numbers = more((0, 2))
    with pytest.raises(UsageError, match=r"ridge cannot take more images(.|\n)*together"):
        fitted("ridge").grown(rows, numbers, CLASSES)


# ---- fitting and predicting


def test_a_transductive_classifier_is_refused_with_a_reason():
    refused = [name for name in plugins.names("classifiers") if name not in INDUCTIVE]
    assert refused
    for name in refused:
        with pytest.raises(UsageError, match="transductive: it labels a whole set"):
            check_classifier(name)


def test_a_row_says_unknown_exactly_below_the_threshold():
    bundle, test = fitted("knn"), features(101, 7)
    p = scale(bundle.estimator.predict_proba(test.features), bundle.temperature)
    edge = float(np.sort(p.max(axis=1))[31])
    rows = list(predict_rows(bundle, test, edge, np.inf))
    assert [row["confidence"] for row in rows] == p.max(axis=1).tolist()
    assert [row["label"] == UNKNOWN for row in rows] == (p.max(axis=1) < edge).tolist()
    assert [row["best"] for row in rows] == [bundle.classes[c] for c in bundle.estimator.predict(test.features)]
    assert all(row["label"] in (UNKNOWN, row["best"]) and row["second"] != row["best"] for row in rows)
    assert [row["id"] for row in rows] == test.ids
    assert [row["label"] for row in predict_rows(bundle, test)] == [
        row["label"] for row in predict_rows(bundle, test, 0.7)
    ]


def test_the_second_class_is_the_second_best_one():
    bundle, test = fitted("knn"), features(101, 7)
    shares = bundle.estimator.predict_proba(test.features)
    for row, p in zip(predict_rows(bundle, test), shares.tolist(), strict=True):
        order = sorted(range(3), key=lambda c: (-p[c], c))
        assert [row["best"], row["second"]] == [bundle.classes[c] for c in order[:2]]


def test_predictions_do_not_hang_on_how_many_images_are_held_at_once(monkeypatch):
    bundle, test = fitted("centroid"), features(101, 7)
    whole = list(predict_rows(bundle, test))
    monkeypatch.setattr("fewvit.bundles.predict._BLOCK", 7)
    parts = list(predict_rows(bundle, test))
    assert [row["label"] for row in parts] == [row["label"] for row in whole]
    np.testing.assert_allclose([row["confidence"] for row in parts], [row["confidence"] for row in whole], atol=1e-5)


def test_probabilities_that_are_no_numbers_are_a_numerical_error():
    class Broken:
        def predict_proba(self, X):
            return np.full((len(X), 2), np.nan)

    with pytest.raises(NumericalError, match="broken gives probabilities"):
        Bundle("broken", Broken(), ["a", "b"], [3, 7], 2).probabilities(np.zeros((3, 2)))


# ---- the features must be the bundle's


def test_features_of_another_fingerprint_or_width_are_refused():
    bundle = fitted()
    bundle.require(features(11, 5))
    bundle.require(features(11, 5, fingerprint=""))
    with pytest.raises(FingerprintMismatch, match=r"fitted on features of ffff.*, these are of eeee"):
        bundle.require(features(11, 5, fingerprint="e" * 64))
    with pytest.raises(FingerprintMismatch, match="13 columns, these have 7"):
        bundle.require(FeatureSet(np.zeros((3, 7), np.float32), np.zeros(3, int), list("abc"), CLASSES))


KEY = {
    "backbone": "tiny",
    "weights": "w" * 64,
    "pool": "cls",
    "layers": 1,
    "norm": "final",
    "decoder": "fast/1",
    "precision": "bf16-torch-cpu",
}


class Pipe:
    """As much of a pipeline as a recipe looks at."""

    def __init__(self, **changes):
        self.key = {**KEY, "preprocess": {"crop": (224, 224)}, **changes}
        self.spec = type("Spec", (), {"name": "tiny"})


def recipe(**changes) -> Recipe:
    given = {"backbone": "dino_vits16", "weights": None, "checkpoint_key": None, "family": None, "seed": 0}
    rest = {"options": FeatureOptions(), "key": Pipe().key, "weights_sha256": "a" * 64, "license": ""}
    return Recipe(**{**given, **rest, **changes})


def test_another_backbone_or_transform_is_refused_and_another_decoder_is_told():
    said: list[str] = []
    recipe().require(Pipe(backbone="called otherwise"), said.append)
    assert said == []
    for name, other in {
        "weights": "v" * 64,
        "pool": "mean",
        "layers": 2,
        "preprocess": {},
        "precision": "fp32",
    }.items():
        with pytest.raises(FingerprintMismatch, match=name):
            recipe().require(Pipe(**{name: other}), said.append)
    recipe().require(Pipe(decoder="fast/1, Pillow 99", precision="bf16-openvino-cpu"), said.append)
    assert [line.split()[5] for line in said] == ["decoder", "precision"]


def test_a_variant_that_cannot_be_the_bundle_s_is_refused_by_name_and_one_that_can_be_is_not():
    def key(name: str, family: str = "dino") -> dict:
        spec = BackboneSpec("called otherwise", family, families()[family].variants[name].architecture, "", "a" * 64)
        return {**Pipe().key, "weights": spec.fingerprint}

    named, bare = recipe(key=key("dino_vits16")), recipe(key=key("dino_vits16"), backbone="/there/x.pth")
    for own in (named, bare):
        own.require_backbone("dino_vits16", None, None)
        own.require_backbone("/there/x.pth", None, None)  # of a file its digest decides
        own.require_backbone("dino_vitb16", "y.pth", None)
        for other in ("dino_vitb16", "msn_vits16", "dino_vits8"):
            with pytest.raises(FingerprintMismatch, match=f"another backbone than {other}"):
                own.require_backbone(other, None, None)
    bare.require_backbone("dino_vits16_gldv2", None, None)  # of this shape: its weights decide
    with pytest.raises(FingerprintMismatch, match="another backbone than dino_vits16_gldv2"):
        named.require_backbone("dino_vits16_gldv2", None, None)


def test_weights_are_found_where_they_were_or_where_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("FEWVIT_WEIGHTS_DIR", raising=False)
    assert recipe().located(None, tmp_path) == recipe()
    assert recipe(weights="random").located(None, tmp_path).weights == "random"
    old, new = tmp_path / "old" / "tiny.pth", tmp_path / "weights" / "tiny.pth"
    for path in (old, new):
        path.parent.mkdir()
        path.write_bytes(b"w")
    bare = recipe(backbone=str(old))
    assert bare.located(None, tmp_path).backbone == str(old)
    old.unlink()
    assert bare.located(None, tmp_path).backbone == str(new)
    assert recipe(weights=str(old)).located(None, tmp_path).weights == str(new)
    new.unlink()
    with pytest.raises(UsageError, match=r"tiny\.pth is not where it was(.|\n)*--weights FILE"):
        bare.located(None, tmp_path)
    assert bare.located(str(new), tmp_path).backbone == str(new)
    assert recipe(weights=str(old)).located(str(new), tmp_path).weights == str(new)


# ---- two processes at one bundle


def test_what_another_process_added_meanwhile_is_not_overwritten(path):
    save_bundle(path, fitted())
    first, second = load_bundle(path), load_bundle(path)
    assert first.sha256 == second.sha256 == save_bundle(path, fitted())
    rows, labels = more((0, 2))
    written = replace_bundle(path, first.grown(rows, labels, CLASSES[:3]))
    before = path.read_bytes()
    with pytest.raises(
        IntegrityError, match=r"another process changed or removed(.|\n)*Run the same command again"
    ) as error:
        replace_bundle(path, second.grown(rows, labels, CLASSES[:3]))
    assert error.value.exit_code == 4
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    third = load_bundle(path)
    assert third.sha256 == written
    replace_bundle(path, third.grown(rows, labels, CLASSES[:3]))
    assert load_bundle(path).counts == [
        n + 2 * m for n, m in zip(fitted().counts, np.bincount(labels, minlength=3), strict=True)
    ]


def test_a_bundle_that_was_removed_meanwhile_is_not_written_again(path):
    save_bundle(path, fitted())
    loaded = load_bundle(path)
    path.unlink()
    with pytest.raises(IntegrityError, match="changed or removed"):
        replace_bundle(path, loaded)
    assert not path.exists()


def test_the_look_at_the_file_and_its_replacement_are_one_step(path, monkeypatch):
    """Whoever looks while another one writes waits, and then sees what was written."""
    save_bundle(path, fitted())
    first, second = load_bundle(path), load_bundle(path)
    rows, labels = more((0, 2))
    outcome: list[object] = []

    def add() -> None:
        try:
            outcome.append(replace_bundle(path, second.grown(rows, labels, CLASSES[:3])))
        except IntegrityError as error:
            outcome.append(error)

    real, other = bundles.save_bundle, threading.Thread(target=add)

    def slow(*args):
        if not other.ident:
            other.start()
            other.join(timeout=0.3)  # it cannot end while this one is at work
        return real(*args)

    monkeypatch.setattr(bundles, "save_bundle", slow)
    written = replace_bundle(path, first.grown(rows, labels, CLASSES[:3]))
    other.join(timeout=30)
    assert isinstance(outcome[0], IntegrityError)
    assert load_bundle(path).sha256 == written
