"""`fewvit fit` and `fewvit predict`.

From labelled images to labels, and every way in which the two do not fit together.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from fewvit import plugins
from fewvit.bundles import bundle as bundles
from fewvit.bundles.file import load_bundle
from fewvit.calibration import cross_validated_temperature, expected_calibration_error, held_out, scale
from fewvit.features import FeatureSet
from fewvit_cli import main as cli

from made_images import folder_of, jpeg, tiny_weights

SMALL = ("--img-size", "32")  # pixels: two by two patches


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Labelled images of three classes; `more` has one of them and a new one; `flat` has no labels."""
    root = tmp_path_factory.mktemp("images")
    folder_of(root / "train", {"cat": 5, "dog": 7, "owl": 3})
    folder_of(root / "more", {"dog": 2, "eel": 3}, first_seed=50)
    folder_of(root / "test", {"cat": 2, "dog": 3, "owl": 2}, first_seed=100)
    (root / "flat").mkdir()
    for path in (root / "test").glob("*/*.jpg"):
        shutil.copy(path, root / "flat" / f"{path.parent.name}-{path.name}")
    return root


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache-of-bundles"))
    monkeypatch.delenv("FEWVIT_WEIGHTS_DIR", raising=False)


@pytest.fixture
def fewvit(capsys):
    """Runs a command line; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def bundle(fewvit, weights, images, tmp_path):
    """Fits a bundle of the training images; gives its path."""

    def make(*words: object, data="train"):
        path = tmp_path / "b.fewvit"
        code, _, err = fewvit("fit", "-m", weights, *SMALL, "--data", images / data, "--out", path, *words)
        assert code == 0, err
        return path

    return make


@pytest.fixture
def predicted(fewvit):
    """Rows of a prediction, by id."""

    def run(*words: object) -> dict[str, dict]:
        code, out, err = fewvit("predict", *words, "--format", "json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["schema"], found["task"]) == ("fewvit.result/1", "predict")
        return {row["id"]: row for row in found["rows"]}

    return run


def extracted(fewvit, weights, source, path, *words: object) -> FeatureSet:
    code, _, err = fewvit("extract", "-m", weights, *(words or SMALL), "--data", source, "--out", path)
    assert code == 0, err
    return FeatureSet.load(path)


def features_file(path, labels, classes, *, seed=0, fingerprint="", dim=11):
    rng = np.random.default_rng(seed)
    labels = np.array(labels)
    rows = rng.normal(size=(len(labels), dim)).astype(np.float32) + 5 * np.eye(dim, dtype=np.float32)[labels % dim]
    FeatureSet(rows, labels, [f"{path.stem}/{i}" for i in range(len(labels))], classes, fingerprint).save(path)
    return path


# ---- there and back


@pytest.mark.parametrize(("name", "options"), [("knn", {"k": 3}), ("centroid", {}), ("logistic", {})])
def test_new_images_get_what_the_estimator_says_with_the_confidence_of_its_calibration(
    fewvit, bundle, predicted, weights, images, tmp_path, name, options
):
    path = bundle("--classifier", name, *(word for k, v in options.items() for word in ("--set", f"{k}={v}")))
    train = extracted(fewvit, weights, images / "train", tmp_path / "train.npz")
    test = extracted(fewvit, weights, images / "test", tmp_path / "test.npz")
    make = lambda: plugins.find("classifiers", name)(**options)  # noqa: E731
    estimator = make().fit(train.features, train.labels)
    temperature = cross_validated_temperature(make, train.features, train.labels)
    confidence = scale(estimator.predict_proba(test.features), temperature).max(axis=1)

    rows = predicted(path, images / "test", "--threshold", "0")
    assert list(rows) == test.ids
    assert [row["label"] for row in rows.values()] == [train.classes[c] for c in estimator.predict(test.features)]
    assert [row["confidence"] for row in rows.values()] == confidence.tolist()
    assert all(0 <= row["confidence"] <= 1 for row in rows.values())


def test_images_in_folders_flat_in_an_archive_and_as_features_get_the_same(
    fewvit, bundle, predicted, weights, images, tmp_path
):
    path = bundle("--classifier", "centroid")
    folder = [(row["label"], row["confidence"]) for row in predicted(path, images / "test").values()]
    assert [(row["label"], row["confidence"]) for row in predicted(path, images / "flat").values()] == folder
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        for file in (images / "test").glob("*/*.jpg"):
            archive.write(file, file.relative_to(images / "test"))
    assert [(row["label"], row["confidence"]) for row in predicted(path, tmp_path / "test.zip").values()] == folder
    extracted(fewvit, weights, images / "test", tmp_path / "test.npz")
    assert [(row["label"], row["confidence"]) for row in predicted(path, tmp_path / "test.npz").values()] == folder


def test_a_label_is_unknown_exactly_below_the_threshold_given_or_stored(bundle, predicted, images):
    path = bundle("--classifier", "knn", "--set", "k=3")
    rows = predicted(path, images / "test", "--threshold", "0")
    edge = sorted(row["confidence"] for row in rows.values())[3]
    wanted = {image: row["best"] if row["confidence"] >= edge else "unknown" for image, row in rows.items()}
    assert {
        image: row["label"] for image, row in predicted(path, images / "test", "--threshold", edge).items()
    } == wanted
    assert "unknown" in wanted.values()
    assert len(set(wanted.values())) > 1
    stored = bundle("--classifier", "knn", "--set", "k=3", "--threshold", edge)
    assert {image: row["label"] for image, row in predicted(stored, images / "test").items()} == wanted


def test_a_confidence_exactly_at_the_threshold_is_neither_called_nor_counted_as_unknown(fewvit, tmp_path):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    assert fewvit("fit", "--data", train, "--classifier", "centroid", "--out", tmp_path / "b.fewvit")[0] == 0
    test = features_file(tmp_path / "test.npz", [0, 1, 0, 1, 1], ["x", "y"], seed=1)
    ask = lambda threshold: json.loads(  # noqa: E731
        fewvit(
            "predict",
            tmp_path / "b.fewvit",
            test,
            "--threshold",
            threshold,
            "--max-strangeness",
            "inf",
            "--format",
            "json",
        )[1]
    )
    confidences = sorted(row["confidence"] for row in ask(0)["rows"])
    assert len(set(confidences)) == 5
    for below, edge in enumerate(confidences):
        found = ask(edge)
        assert found["run"]["unknown"] == below
        assert [row["label"] == "unknown" for row in found["rows"]].count(True) == below


def test_how_many_images_are_predicted_at_a_time_changes_nothing(fewvit, predicted, tmp_path, monkeypatch):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    assert fewvit("fit", "--data", train, "--classifier", "centroid", "--out", tmp_path / "b.fewvit")[0] == 0
    test = features_file(tmp_path / "test.npz", [0, 1, 0, 1, 1, 0, 0], ["x", "y"], seed=1)
    whole = predicted(tmp_path / "b.fewvit", test)
    monkeypatch.setattr("fewvit.bundles.predict._BLOCK", 3)
    assert predicted(tmp_path / "b.fewvit", test) == whole
    assert len(whole) == 7


@pytest.mark.slow
def test_predict_makes_features_as_fit_did_without_being_told(fewvit, predicted, images, tmp_path):
    how = (
        "--weights",
        "random",
        "--seed",
        "7",
        "--img-size",
        "32x48",
        "--pool",
        "cls+mean",
        "--layers",
        "2",
        "--decode",
        "pil",
    )
    path = tmp_path / "b.fewvit"
    assert (
        fewvit("fit", "-m", "dino_vitt16", *how, "--data", images / "train", "--classifier", "centroid", "--out", path)[
            0
        ]
        == 0
    )
    test = extracted(fewvit, "dino_vitt16", images / "test", tmp_path / "test.npz", *how)
    assert test.fingerprint == load_bundle(path).fingerprint
    from_features = predicted(path, tmp_path / "test.npz")
    assert predicted(path, images / "test") == from_features
    assert load_bundle(path).width == 3 * 192


def test_fit_tells_what_it_was_fitted_on_and_how_it_does_on_held_out_images(fewvit, weights, images, tmp_path):
    words = (
        "-m",
        weights,
        *SMALL,
        "--data",
        images / "train",
        "--classifier",
        "centroid",
        "--out",
        tmp_path / "b.fewvit",
    )
    code, out, err = fewvit("fit", *words, "--format", "json")
    assert code == 0
    result = json.loads(out)
    rows = {row["metric"]: row for row in result["rows"]}
    assert (result["task"], rows["images"]["value"], rows["classes"]["value"]) == ("fit", 15, 3)
    assert rows["calibration_temperature"]["value"] == load_bundle(tmp_path / "b.fewvit").temperature
    assert rows["top1"]["n_test"] == rows["ece"]["n_test"] == 15
    train = extracted(fewvit, weights, images / "train", tmp_path / "train.npz")
    held = held_out(plugins.find("classifiers", "centroid"), train.features, train.labels)
    assert rows["top1"]["value"] == pytest.approx(100 * np.mean(held.probabilities.argmax(axis=1) == held.labels))
    shares = scale(held.probabilities, rows["calibration_temperature"]["value"])
    assert rows["ece"]["value"] == pytest.approx(expected_calibration_error(shares, held.labels))
    assert result["run"]["weights_sha256"] == load_bundle(tmp_path / "b.fewvit").recipe.weights_sha256
    assert "b.fewvit" in err


def test_one_image_per_class_is_not_calibrated_and_that_is_said(fewvit, tmp_path):
    one = features_file(tmp_path / "one.npz", [0, 1, 2], ["x", "y", "z"])
    code, out, err = fewvit(
        "fit", "--data", one, "--classifier", "centroid", "--out", tmp_path / "b.fewvit", "--format", "json"
    )
    assert code == 0
    assert "not calibrated" in err
    assert load_bundle(tmp_path / "b.fewvit").temperature == 1
    assert {row["metric"] for row in json.loads(out)["rows"]} == {"images", "classes", "calibration_temperature"}


def test_the_table_shows_every_column_and_csv_and_files_hold_the_rows(fewvit, bundle, images, tmp_path):
    path = bundle("--classifier", "centroid")
    lines = fewvit("predict", path, images / "test", "--threshold", "1")[1].splitlines()
    assert lines[0].split() == [*("id", "label", "target", "confidence", "strangeness", "unknown_by", "best", "second")]
    assert [line.split()[1] for line in lines[1:]] == ["unknown"] * 7
    out = fewvit("predict", path, images / "test", "--format", "csv", "--out", tmp_path / "p.csv")[1]
    table = list(csv.DictReader(io.StringIO(out)))
    assert [row["id"] for row in table] == sorted(f"{p.parent.name}/{p.name}" for p in (images / "test").glob("*/*"))
    assert (tmp_path / "p.csv").read_text() == out
    fewvit("predict", path, images / "test", "--out", tmp_path / "p.json")
    assert [str(row["confidence"]) for row in json.loads((tmp_path / "p.json").read_text())["rows"]] == [
        row["confidence"] for row in table
    ]


def test_labelled_images_have_their_label_beside_the_prediction_and_their_accuracy_is_told(
    fewvit, bundle, predicted, images
):
    path = bundle("--classifier", "centroid")
    rows = predicted(path, images / "test", "--threshold", "0.4")
    assert {image: row["target"] for image, row in rows.items()} == {image: image.partition("/")[0] for image in rows}
    right = sum(row["best"] == row["target"] for row in rows.values())
    below = sum(row["confidence"] < 0.4 for row in rows.values())
    _, out, err = fewvit("predict", path, images / "test", "--threshold", "0.4", "--format", "json")
    assert f"{below} of 7 images below the threshold of 0.4" in err
    assert f"{100 * right / 7:.2f} % of the 7 images labelled" in err
    told = json.loads(out)["run"]
    assert (told["unknown"], told["labelled"], told["top1"]) == (below, 7, 100 * right / 7)
    assert fewvit("predict", path, images / "test", "-q")[2] == ""


def test_labels_that_the_bundle_does_not_know_are_no_targets_to_judge_by(fewvit, tmp_path):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    assert fewvit("fit", "--data", train, "--classifier", "centroid", "--out", tmp_path / "b.fewvit")[0] == 0
    some = features_file(tmp_path / "some.npz", [0, 0, 1, 2, 2, -1], ["x", "y", "z"])
    code, out, err = fewvit("predict", tmp_path / "b.fewvit", some, "--format", "json")
    assert (code, [row["target"] for row in json.loads(out)["rows"]]) == (0, ["x", "x", "y", "z", "z", None])
    assert json.loads(out)["run"]["labelled"] == 3
    assert [line.split()[2] for line in fewvit("predict", tmp_path / "b.fewvit", some)[1].splitlines()[1:4]] == [
        "x",
        "x",
        "y",
    ]
    assert fewvit("predict", tmp_path / "b.fewvit", some, "--format", "csv")[1].splitlines()[-1].split(",")[2] == ""
    for labels in ([2, 2, 2], [-1, -1, -1]):
        other = features_file(tmp_path / "other.npz", labels, ["x", "y", "z"])
        code, out, err = fewvit("predict", tmp_path / "b.fewvit", other, "--format", "json")
        assert (code, "below the threshold of 0.5" in err, "labelled with" in err) == (0, True, False)
        assert "target" not in json.loads(out)["rows"][0]
        assert "top1" not in json.loads(out)["run"]


def test_unlabelled_images_and_empty_classes_are_left_out_of_a_fit(fewvit, tmp_path):
    some = features_file(tmp_path / "some.npz", [1, 1, 3, 3, 3, -1], ["w", "x", "y", "z"])
    code, _, err = fewvit("fit", "--data", some, "--classifier", "centroid", "--out", tmp_path / "b.fewvit")
    assert code == 0
    assert "1 unlabelled" in err
    found = load_bundle(tmp_path / "b.fewvit")
    assert (found.classes, found.counts) == (["x", "z"], [2, 3])


@pytest.mark.parametrize(("name", "said"), [("unknown", True), ("owl", False)])
def test_a_class_that_is_called_as_doubtful_predictions_are_is_told(fewvit, tmp_path, name, said):
    some = features_file(tmp_path / "some.npz", [0, 1] * 7, ["cat", name])
    code, _, err = fewvit("fit", "--data", some, "--classifier", "centroid", "--out", tmp_path / "b.fewvit")
    assert code == 0, err
    assert ("a class is called `unknown`" in err) is said


def test_bad_images_fail_a_prediction_unless_they_are_allowed(fewvit, bundle, images, tmp_path):
    path = bundle("--classifier", "centroid")
    shutil.copytree(images / "test", tmp_path / "t")
    (tmp_path / "t/cat/bad.jpg").write_bytes(jpeg(1)[:200])
    code, _, err = fewvit("predict", path, tmp_path / "t")
    assert code == 3
    assert "cat/bad.jpg" in err
    code, out, err = fewvit(
        "predict", path, tmp_path / "t", "--max-bad", "1", "--format", "json", "--out", tmp_path / "p.json"
    )
    assert code == 0
    assert "skipped cat/bad.jpg" in err
    assert len(json.loads(out)["rows"]) == 7
    assert json.loads((tmp_path / "p.skipped.jsonl").read_text())["id"] == "cat/bad.jpg"


def test_one_image_gets_the_prediction_that_it_gets_among_others(bundle, predicted, images):
    path = bundle("--classifier", "centroid")
    among = predicted(path, images / "test")
    wanted = {
        **among["dog/001.jpg"],
        "id": "001.jpg",
        "confidence": pytest.approx(among["dog/001.jpg"]["confidence"], abs=1e-5),
        "strangeness": pytest.approx(among["dog/001.jpg"]["strangeness"], rel=1e-4),
    }
    assert wanted.pop("target") == "dog"
    assert predicted(path, images / "test/dog/001.jpg") == {"001.jpg": wanted}


def test_features_without_labels_are_predicted_and_those_without_a_fingerprint_too_with_a_note(
    fewvit, bundle, predicted, weights, images, tmp_path
):
    path = bundle("--classifier", "centroid")
    test = extracted(fewvit, weights, images / "test", tmp_path / "test.npz")
    labelled = predicted(path, tmp_path / "test.npz")
    wanted = {
        image: {name: value for name, value in row.items() if name != "target"} for image, row in labelled.items()
    }
    np.savez(tmp_path / "bare.npz", features=test.features, ids=np.array(test.ids), fingerprint=test.fingerprint)
    assert predicted(path, tmp_path / "bare.npz") == wanted
    np.savez(tmp_path / "barer.npz", features=test.features, ids=np.array(test.ids))
    assert predicted(path, tmp_path / "barer.npz") == wanted
    assert "no fingerprint" in fewvit("predict", path, tmp_path / "barer.npz")[2]
    assert "no fingerprint" not in fewvit("predict", path, tmp_path / "bare.npz")[2]
    code, _, err = fewvit("fit", "--data", tmp_path / "bare.npz", "--out", tmp_path / "n.fewvit")
    assert code == 3
    assert "no array labels" in err


# ---- more images


@pytest.mark.parametrize(("name", "words"), [("knn", ("--set", "k=3")), ("centroid", ())])
def test_add_takes_more_images_and_new_classes_as_if_they_had_been_there(
    bundle, predicted, fewvit, weights, images, tmp_path, name, words
):
    path = bundle("--classifier", name, *words)
    before = load_bundle(path)
    code, _, err = fewvit("fit", "--add", "--data", images / "more", "--out", path)
    assert code == 0, err
    assert "added 5 images and 1 new class to" in err
    grown = load_bundle(path)
    assert (grown.classes, grown.counts) == (["cat", "dog", "owl", "eel"], [5, 9, 3, 3])
    assert (grown.temperature, grown.recipe, grown.fingerprint) == (
        before.temperature,
        before.recipe,
        before.fingerprint,
    )

    shutil.copytree(images / "train", tmp_path / "all")
    for file in (images / "more").glob("*/*"):
        (tmp_path / "all" / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "all" / file.parent.name / f"more-{file.name}")
    whole = extracted(fewvit, weights, tmp_path / "all", tmp_path / "all.npz")
    test = extracted(fewvit, weights, images / "test", tmp_path / "test.npz")
    estimator = load_bundle(path).estimator
    fresh = type(estimator)(**estimator.get_params()).fit(
        whole.features, np.array([whole.classes[c] for c in whole.labels])
    )
    wanted = fresh.predict_proba(test.features)[:, [list(fresh.classes_).index(c) for c in grown.classes]]
    np.testing.assert_allclose(grown.probabilities(test.features), wanted, atol=1e-6)
    assert {row["best"] for row in predicted(path, images / "more").values()} <= set(grown.classes)


def test_each_addition_tells_whose_calibration_it_is(bundle, fewvit, images, tmp_path):
    path = bundle("--classifier", "centroid")
    folder_of(tmp_path / "later", {"cat": 2}, first_seed=70)
    for data in (images / "more", tmp_path / "later"):
        code, _, err = fewvit("fit", "--add", "--data", data, "--out", path)
        assert code == 0, err
        assert "still that of 15 images of the first fit" in err
    one = features_file(tmp_path / "one.npz", [0, 1], ["x", "y"])
    fewvit("fit", "--data", one, "--classifier", "centroid", "--out", tmp_path / "c.fewvit")
    more = features_file(tmp_path / "more.npz", [0, 1], ["x", "y"], seed=5)
    assert "stays without calibration" in fewvit("fit", "--add", "--data", more, "--out", tmp_path / "c.fewvit")[2]


@pytest.mark.parametrize(("name", "words"), [("knn", ("--set", "k=3")), ("centroid", ())])
def test_images_that_a_bundle_holds_are_not_added_again(bundle, fewvit, images, tmp_path, name, words):
    path = bundle("--classifier", name, *words)
    shutil.copytree(images / "more", tmp_path / "both")
    shutil.copytree(
        images / "train", tmp_path / "both", dirs_exist_ok=True
    )  # its dog/000.jpg and dog/001.jpg lie over those of `more`
    for data, said in [
        (images / "train", "15 of 15 images left out"),
        (images / "more", "added 5 images"),
        (images / "more", "5 of 5 images left out"),
        (tmp_path / "both", "18 of 18 images left out"),
    ]:
        code, _, err = fewvit("fit", "--add", "--data", data, "--out", path)
        assert code == 0, err
        assert said in err
    assert load_bundle(path).counts == [5, 7 + 2, 3, 3]
    folder_of(tmp_path / "both", {"owl": 5}, first_seed=80)
    (tmp_path / "both/owl/000.jpg").write_bytes((images / "train/owl/000.jpg").read_bytes())
    code, _, err = fewvit("fit", "--add", "--data", tmp_path / "both", "--out", path)
    assert code == 0, err
    assert "16 of 20 images left out" in err
    assert "added 4 images and 0 new classes" in err
    assert load_bundle(path).counts == [5, 7 + 2, 3 + 4, 3]


def test_what_cannot_be_added_is_refused_and_the_bundle_stays(bundle, fewvit, weights, images, tmp_path):
    other = tiny_weights(tmp_path / "other.pth", seed=6)
    narrow = features_file(tmp_path / "narrow.npz", [0, 1, 1], ["cat", "dog"])
    path = bundle("--classifier", "logistic")
    assert_refused(fewvit, path, 2, "fit", "--add", "--data", images / "more", "--out", path, named="together")
    path = bundle("--classifier", "centroid")
    more = ("fit", "--add", "--data", images / "more", "--out", path)
    assert_refused(fewvit, path, 4, *more, "-m", other, *SMALL, named="weights")
    assert_refused(fewvit, path, 4, *more, "-m", weights, *SMALL, "--pool", "mean", named="pool")
    assert_refused(fewvit, path, 2, *more, "--classifier", "knn", named="--add keeps")
    assert_refused(fewvit, path, 2, *more, "--set", "temperature=1", named="--add keeps")
    assert_refused(fewvit, path, 4, "fit", "--add", "--data", narrow, "--out", path, named="columns")
    assert_refused(fewvit, path, 3, "fit", "--add", "--data", images / "flat", "--out", path, named="no labels")
    code, _, err = fewvit(*more, "-m", weights, *SMALL)  # said again, and right
    assert code == 0, err


def test_of_two_additions_at_once_the_second_is_told_and_loses_nothing(bundle, fewvit, images, monkeypatch):
    path = bundle("--classifier", "centroid")
    more = ("fit", "--add", "--data", images / "more", "--out", path)
    real, others = bundles.Bundle.grown, []

    def grown(self, *rest):
        if not others:  # while this one is at work another one is done
            others.append(None)
            assert fewvit(*more)[0] == 0
            others[0] = path.read_bytes()
        return real(self, *rest)

    monkeypatch.setattr(bundles.Bundle, "grown", grown)
    code, out, err = fewvit(*more)
    assert (code, out) == (4, "")
    assert "another process changed" in err
    assert path.read_bytes() == others[0]
    code, _, err = fewvit(*more)  # the same command again
    assert code == 0, err
    assert "5 of 5 images left out" in err
    assert path.read_bytes() == others[0]


def test_a_backbone_that_is_not_the_bundle_s_is_told_before_its_weights_are_fetched(
    bundle, fewvit, images, tmp_path, monkeypatch
):
    monkeypatch.setattr("fewvit.checkpoints.finding.obtain", lambda *_, **__: pytest.fail("weights were fetched"))
    path = bundle("--classifier", "centroid")
    more = ("fit", "--add", "--data", images / "more", "--out", path)
    assert_refused(fewvit, path, 4, *more, "-m", "dino_vitb16", named="another backbone than dino_vitb16")
    random = tmp_path / "random.fewvit"
    how = ("-m", "dino_vitt16", "--weights", "random", *SMALL)
    assert fewvit("fit", *how, "--data", images / "train", "--classifier", "centroid", "--out", random)[0] == 0
    more = ("fit", "--add", "--data", images / "more", "--out", random)
    assert_refused(fewvit, random, 4, *more, "-m", "dino_vits16", *SMALL, named="another backbone than dino_vits16")
    assert_refused(fewvit, random, 4, *more, "-m", "dino_vitt16", *SMALL, named="another backbone than dino_vitt16")
    code, _, err = fewvit(*more, *how)
    assert code == 0, err


def assert_refused(fewvit, path, code, *words, named) -> None:
    before = path.read_bytes()
    found, out, err = fewvit(*words)
    assert (found, out) == (code, ""), (words, err)
    assert named in err, (words, err)
    assert path.read_bytes() == before


# ---- weights


def test_weights_that_have_moved_are_found_by_name_or_told(fewvit, predicted, weights, images, tmp_path, monkeypatch):
    here, there = tmp_path / "tiny.pth", tmp_path / "elsewhere" / "tiny.pth"
    shutil.copy(weights, here)
    path = tmp_path / "b.fewvit"
    assert (
        fewvit("fit", "-m", here, *SMALL, "--data", images / "train", "--classifier", "centroid", "--out", path)[0] == 0
    )
    wanted = predicted(path, images / "test")
    there.parent.mkdir()
    here.rename(there)
    code, _, err = fewvit("predict", path, images / "test")
    assert code == 2
    assert "--weights FILE" in err
    assert predicted(path, images / "test", "--weights", there) == wanted
    monkeypatch.setenv("FEWVIT_WEIGHTS_DIR", str(there.parent))
    assert predicted(path, images / "test") == wanted
    tiny_weights(here, seed=6)
    code, _, err = fewvit("predict", path, images / "test")
    assert code == 4
    assert "other weights" in err


# ---- errors


def test_each_wrong_call_has_its_exit_code_and_names_what_is_wrong(fewvit, bundle, weights, images, tmp_path):
    fitted = bundle("--classifier", "centroid")
    data = features_file(tmp_path / "a.npz", [0, 1] * 7, ["x", "y"], fingerprint="1" * 64)
    other = features_file(tmp_path / "other.npz", [0, 1] * 7, ["x", "y"], fingerprint="2" * 64)
    bare = features_file(tmp_path / "bare.npz", [-1] * 7, ["x", "y"])
    single = features_file(tmp_path / "single.npz", [1] * 7, ["x", "y"])
    of_features = tmp_path / "f.fewvit"
    assert fewvit("fit", "--data", data, "--classifier", "centroid", "--out", of_features)[0] == 0
    damaged = tmp_path / "damaged.fewvit"
    damaged.write_bytes(fitted.read_bytes()[:-7])
    out = ("--out", tmp_path / "new.fewvit")
    for code, words, named in [
        (2, ("fit", "--data", data), "--out BUNDLE"),
        (2, ("fit", *out), "--data"),
        (2, ("fit", "--data", data, *out, "--classifier", "oracle"), "oracle"),
        (2, ("fit", "--data", data, *out, "--classifier", "knn,centroid"), "one classifier"),
        (2, ("fit", "--data", data, *out, "--classifier", "label_propagation"), "transductive"),
        (2, ("fit", "--data", data, *out, "--classifier", "knn", "--set", "wings=2"), "wings"),
        (2, ("fit", "--data", data, *out, "--classifier", "knn", "--set", "k=20"), "k = 20"),
        (2, ("fit", "--data", data, *out, "--classifier", "knn", "--set", "k=13"), "a fifth that is held out"),
        (2, ("fit", "--data", data, *out, "--classifier", "centroid", "--threshold", "1.5"), "1.5"),
        (
            2,
            ("fit", "-m", f"{weights},fewvit_tiny", "--data", images / "train", *out, "--classifier", "centroid"),
            "several",
        ),
        (
            2,
            ("fit", "-m", weights, "--layers", "each", "--data", images / "train", *out, "--classifier", "centroid"),
            "--layers each",
        ),
        (3, ("fit", "--data", bare, *out, "--classifier", "centroid"), "no labels"),
        (3, ("fit", "--data", single, *out, "--classifier", "centroid"), "one class"),
        (3, ("fit", "--data", tmp_path / "gone.npz", *out, "--classifier", "centroid"), "gone.npz"),
        (3, ("fit", "--add", "--data", data, *out), "no such bundle"),
        (2, ("predict", fitted), "SRC"),
        (2, ("predict", fitted, images / "test", "--threshold", "-0.1"), "-0.1"),
        (2, ("predict", of_features, images / "test"), "features file"),
        (3, ("predict", tmp_path / "gone.fewvit", images / "test"), "gone.fewvit"),
        (3, ("predict", fitted, tmp_path / "nowhere"), "nowhere"),
        (4, ("predict", damaged, images / "test"), "damaged.fewvit"),
        (4, ("predict", weights, images / "test"), "tiny.pth"),
        (4, ("predict", of_features, other), "another backbone"),
        (4, ("predict", fitted, data), "columns"),
    ]:
        found, shown, err = fewvit(*words)
        assert (found, shown) == (code, ""), (words, found, err)
        message = err[f"\n{err}".rindex("\nfewvit: ") :]
        assert named in message, (words, message)
        assert message.strip().count("\n") <= 1, (words, message)
    assert not (tmp_path / "new.fewvit").exists()


# ---- strangeness


def test_far_pictures_are_unknown_and_it_is_told_by_what(fewvit, tmp_path):
    train = features_file(tmp_path / "train.npz", [0, 1, 2] * 9, ["x", "y", "z"])
    strange = features_file(tmp_path / "strange.npz", [7] * 5, ["x"] * 7 + ["s"], seed=3)
    path = tmp_path / "b.fewvit"
    words = ("--classifier", "centroid", "--out", path, "--strangers", strange, "--known-share", "0.9")
    code, out, err = fewvit("fit", "--data", train, *words, "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    by = {(row["metric"], row.get("by")): row for row in found["rows"]}
    stored = load_bundle(path).strangeness
    assert found["run"]["strangeness"] == stored.facts
    assert (by["auroc", stored.name]["value"], by["fpr@95", stored.name]["value"]) == (1, 0)
    assert "90 % of 27 held-out images are not" in err
    assert [row["threshold"] for row in found["rows"] if row["metric"] == "risk"] == [0, 0.3, 0.5, 0.7, 0.9, 0.95]
    assert "a threshold of 0.5 names" in err

    code, out, err = fewvit("predict", path, strange, "--threshold", "0", "--format", "json")
    found = json.loads(out)
    assert [(row["label"], row["unknown_by"]) for row in found["rows"]] == [("unknown", "strangeness")] * 5
    run = found["run"]
    assert [run[k] for k in ("unknown", "unknown_by_confidence", "unknown_by_strangeness")] == [5, 0, 5]
    assert run["max_strangeness"] == stored.threshold
    assert "0 of 5 images below the threshold of 0" in err
    assert "5 of 5 images stranger than" in err
    code, out, err = fewvit(
        "predict", path, strange, "--threshold", "0", "--max-strangeness", "inf", "--format", "json"
    )
    assert (json.loads(out)["run"]["unknown"], "stranger than" in err) == (0, False)


def test_noise_is_stranger_than_pictures_of_the_classes(fewvit, predicted, tmp_path):
    """By the bundled backbone, from digits."""
    digits = extracted(fewvit, "fewvit_tiny", "digits/test", tmp_path / "digits.npz", "--img-size", "32")
    half = np.arange(len(digits)) % 2 == 0
    for name, rows in (("known", ~half), ("train", half)):
        digits.select(np.flatnonzero(rows)).save(tmp_path / f"{name}.npz")
    (tmp_path / "noise").mkdir()
    for i in range(5):
        (tmp_path / "noise" / f"{i}.jpg").write_bytes(jpeg(i, (64, 64)))
    extracted(fewvit, "fewvit_tiny", tmp_path / "noise", tmp_path / "noise.npz", "--img-size", "32")
    assert (
        fewvit("fit", "--data", tmp_path / "train.npz", "--classifier", "centroid", "--out", tmp_path / "b.fewvit")[0]
        == 0
    )
    flagged = [
        [row["unknown_by"] for row in predicted(tmp_path / "b.fewvit", source, "--threshold", "0").values()]
        for source in (tmp_path / "noise.npz", tmp_path / "known.npz")
    ]
    assert flagged[0] == ["strangeness"] * 5
    assert np.mean([by is not None for by in flagged[1]]) < 0.15


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--known-share", "0"), 2, "--known-share 0"),
        (("--strangeness", "crystal-ball"), 2, "crystal-ball"),
        (("--add", "--known-share", "0.9"), 2, "--add keeps"),
        (("--strangers", "gone"), 3, "gone"),
    ],
    ids=["share", "score", "add", "gone"],
)
def test_a_wrong_wish_about_strangeness_is_told(fewvit, tmp_path, words, code, named):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    found, _, err = fewvit("fit", "--data", train, "--out", tmp_path / "b.fewvit", *words)
    assert (found, named in err) == (code, True), err
    assert not (tmp_path / "b.fewvit").exists()


def test_strangers_of_a_known_class_are_refused_before_anything_is_fitted(fewvit, tmp_path, monkeypatch):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    strange = features_file(tmp_path / "strange.npz", [0, 1] * 3, ["y", "s"], seed=3)
    monkeypatch.setattr("fewvit.bundles.fit.fit_bundle", None)
    code, _, err = fewvit("fit", "--data", train, "--out", tmp_path / "b.fewvit", "--strangers", strange)
    assert (code, "1 class of --strangers, such as y, is the bundle's" in err) == (3, True), err


def test_that_all_images_vote_where_they_are_fewer_than_the_papers_k_is_said(fewvit, tmp_path):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    code, _, err = fewvit("fit", "--data", train, "--classifier", "knn", "--out", tmp_path / "b.fewvit")
    assert code == 0, err
    assert "k-NN, 14 labelled images: all 14 images vote, fewer than the papers' k = 20" in err


def test_a_limit_of_strangeness_that_is_none_is_told(fewvit, tmp_path):
    train = features_file(tmp_path / "train.npz", [0, 1] * 7, ["x", "y"])
    assert fewvit("fit", "--data", train, "--out", tmp_path / "b.fewvit")[0] == 0
    code, _, err = fewvit("predict", tmp_path / "b.fewvit", train, "--max-strangeness", "nan")
    assert (code, "--max-strangeness nan" in err) == (2, True)


def marked(path, labels, accepted=None, answers=None):
    """Features that point at the classes x, y, z in turn, and are marked."""
    rows = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    ids = [f"{i}.png" for i in range(4)]
    arrays = {"accepted": accepted, "answers": answers}
    found = {name: np.array(array) for name, array in arrays.items() if array is not None}
    np.savez(path, features=rows, labels=np.array(labels), ids=ids, classes=["x", "y", "z", "w"], **found)
    return path


@pytest.fixture
def axes(fewvit, tmp_path):
    """A bundle whose classes x, y and z lie on three axes."""
    rows = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    rows = rows + 0.01 * np.random.default_rng(3).normal(size=rows.shape).astype(np.float32)
    np.savez(tmp_path / "t.npz", features=rows, labels=np.repeat([0, 1, 2], 5), classes=["x", "y", "z"])
    code, _, err = fewvit(
        "fit", "--data", tmp_path / "t.npz", "--classifier", "centroid", "--out", tmp_path / "b.fewvit"
    )
    assert code == 0, err
    return tmp_path / "b.fewvit"


def test_any_of_an_image_s_right_classes_is_right_as_the_best(fewvit, axes, tmp_path):
    """Best are x, y, z, x; right are (y x), (w x), (z), (w): two of the three that the bundle can know."""
    source = marked(tmp_path / "m.npz", [1, 3, 2, 3], [[1, 0], [3, 0], [2, -1], [3, -1]])
    code, out, err = fewvit("predict", axes, source, "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert [row["best"] for row in result["rows"]] == ["x", "y", "z", "x"]
    assert [row["target"] for row in result["rows"]] == ["x", "w", "z", "w"]
    assert (result["run"]["labelled"], result["run"]["top1"]) == (3, pytest.approx(200 / 3))
    assert "66.67 % of the 3 images labelled" in err


def test_predictions_for_a_masked_set_are_among_its_answers(fewvit, axes, tmp_path):
    source = marked(tmp_path / "m.npz", [1, 1, 2, 2], answers=[1, 2])
    code, out, err = fewvit("predict", axes, source, "--format", "json")
    assert code == 0, err
    assert {row["best"] for row in json.loads(out)["rows"]} == {"y", "z"}
    assert fewvit("predict", axes, marked(tmp_path / "m.npz", [3, 3, 3, 3], answers=[3]))[0] == 3


@pytest.mark.parametrize(
    ("accepted", "said"),
    [
        ([[0, 1], [-1, -1], [2, 0], [0, 1]], "1.png"),
        (np.empty((4, 0), np.int64), "0.png"),
        ([[0, 1], [1, 0], [2, 0], [1, 2]], "3.png"),
    ],
)
def test_right_classes_without_the_label_are_refused_by_the_image(fewvit, axes, tmp_path, accepted, said):
    source = marked(tmp_path / "m.npz", [0, 1, 2, 0], accepted)
    code, _, err = fewvit("predict", axes, source)
    assert (code, said in err, "accepted" in err) == (3, True, True), err
