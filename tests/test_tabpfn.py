"""TabPFN behind its extra: what fewvit does around the package.

Most tests run on a stand-in of the same names (tests/stand_in). Those marked `extras` run the package itself on weights
of its own architecture, untrained and a thousandth of its size, for its real weights are under licences of their own.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fewvit.bundles.bundle import Bundle
from fewvit.bundles.file import load_bundle, save_bundle
from fewvit.bundles.fit import FittingRequest, fit_bundle
from fewvit.classifiers.tabpfn import _SILENT, TabPFN
from fewvit.errors import CheckpointError, MissingExtra, Unobtainable, UsageError
from fewvit.features import FeatureSet

HERE = Path(__file__).parent


def rows(n: int, width: int, seed: int = 3, classes=(3, 7)) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, width) around means that lie apart; class c has every len(classes)-th row."""
    stream = np.random.default_rng(seed)
    own = np.resize(classes, n)
    centres = {c: np.random.default_rng(c).standard_normal(width) * 2 for c in classes}
    return stream.standard_normal((n, width)) + np.stack([centres[c] for c in own]), own


def test_the_prompt_is_the_principal_components_of_the_labelled_rows_alone():
    (X, y), (queries, _) = rows(31, 137), rows(11, 137, seed=5)
    made = TabPFN(pca=13).fit(X, y)
    wanted = PCA(13, svd_solver="full").fit(X)
    found = made._model.prompt_
    np.testing.assert_allclose(np.abs(found), np.abs(wanted.transform(X)), atol=1e-9)
    np.testing.assert_allclose(np.abs(made._projected(queries)), np.abs(wanted.transform(queries)), atol=1e-9)
    assert made.components_ == 13


@pytest.mark.parametrize(("n", "width", "components"), [(5, 137, 4), (31, 7, 7), (211, 137, 100)])
def test_there_are_no_more_components_than_rows_tell_apart_columns_or_a_hundred(n, width, components):
    made = TabPFN().fit(*rows(n, width))
    assert made.components_ == components
    assert made._model.prompt_.shape == (n, components)


def test_few_columns_reach_the_model_as_they_are():
    X, y = rows(31, 7)
    np.testing.assert_array_equal(TabPFN().fit(X, y)._model.prompt_, X)


def test_axes_do_not_change_their_sign_with_the_order_of_the_rows():
    X, y = rows(31, 137)
    order = np.random.default_rng(7).permutation(31)
    one, other = TabPFN(pca=5).fit(X, y), TabPFN(pca=5).fit(X[order], y[order])
    np.testing.assert_allclose(one._projected(X), other._projected(X), atol=1e-9)


def test_many_queries_are_asked_a_thousand_at_a_time_without_a_difference(monkeypatch):
    made, (queries, _) = TabPFN().fit(*rows(31, 7)), rows(61, 7, seed=5)
    whole = made.predict_proba(queries)
    monkeypatch.setattr("fewvit.classifiers.tabpfn._QUERIES", 7)
    np.testing.assert_allclose(made.predict_proba(queries), whole, atol=1e-12)


def test_options_reach_the_package():
    model = TabPFN(estimators=3, seed=11, device="cpu", ignore_limits=True).fit(*rows(31, 7))._model
    assert (model.n_estimators, model.random_state, model.device) == (3, 11, "cpu")
    assert model.ignore_pretraining_limits
    assert TabPFN().fit(*rows(31, 7))._model.n_estimators == "auto"


def test_more_classes_than_the_weights_know_are_refused_and_named():
    X, _ = rows(33, 7)
    TabPFN().fit(X, np.arange(33) % 10)
    with pytest.raises(UsageError, match=r"at most 10 classes apart, and there are 11(.|\n)*logistic"):
        TabPFN().fit(X, np.arange(33) % 11)


def test_a_refusal_of_the_package_is_one_of_fewvits_and_says_what_lifts_it():
    X, y = rows(1009, 2)
    with pytest.raises(UsageError, match=r"refuses these 1009 rows: Running on CPU .*\n.*ignore_limits=true"):
        TabPFN().fit(X, y)
    assert TabPFN(ignore_limits=True).fit(X, y).classes_.tolist() == [3, 7]


def test_options_that_cannot_be_are_refused():
    for options, told in (({"pca": 0}, "pca = 0"), ({"estimators": 0}, "estimators = 0")):
        with pytest.raises(UsageError, match=told):
            TabPFN(**options).fit(*rows(31, 7))


def test_without_weights_it_says_which_file_from_where_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TABPFN_MODEL_CACHE_DIR", str(tmp_path))
    missing, fix = "no weights of TabPFN are here, and fewvit downloads none", "licence.*TabPFN-v2-clf.*weights=FILE"
    with pytest.raises(Unobtainable, match=rf"zk73skhh.ckpt: {missing}\n.*{fix}"):
        TabPFN().fit(*rows(31, 7))
    with pytest.raises(Unobtainable, match=r"other\.ckpt"):
        TabPFN(weights=str(tmp_path / "other.ckpt")).fit(*rows(31, 7))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_weights_is_refused_and_named(tmp_path):
    (tmp_path / "mine.ckpt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"mine.ckpt: is no weights file that tabpfn reads .*not a checkpoint"):
        TabPFN(weights=str(tmp_path / "mine.ckpt")).fit(*rows(31, 7))


def test_the_digest_follows_the_file(tmp_path):
    import hashlib

    file = tmp_path / "mine.ckpt"
    for content, second in ((b"weights 1", 1), (b"weights 2", 2)):
        file.write_bytes(content)
        os.utime(file, (second, second))
        made = TabPFN(weights=str(file)).fit(*rows(31, 7))
        assert made.weights_sha256_ == hashlib.sha256(content).hexdigest()
        assert made.weights_ == "mine.ckpt"
    assert TabPFN.summary([made], "1 shot").startswith(f"tabpfn, 1 shot: mine.ckpt ({made.weights_sha256_[:12]}…), 7 c")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tabpfn", None)
    with pytest.raises(MissingExtra, match=r"fewvit\[tabpfn\]"):
        TabPFN().fit(*rows(31, 7))


def bundle() -> Bundle:
    X, y = rows(53, 137, classes=(0, 1))
    features = FeatureSet(X.astype(np.float32), y, [str(i) for i in range(53)], ["ant", "bee"], "f" * 64)
    return fit_bundle(features, FittingRequest("tabpfn", {}))[0]


def test_a_bundle_on_a_machine_without_the_weights_says_so_and_is_not_called_damaged(tmp_path, monkeypatch):
    save_bundle(tmp_path / "b.bundle", bundle())
    queries = rows(11, 137)[0].astype(np.float32)
    before = load_bundle(tmp_path / "b.bundle").probabilities(queries)
    np.testing.assert_array_equal(before, load_bundle(tmp_path / "b.bundle").probabilities(queries))
    monkeypatch.setenv("TABPFN_MODEL_CACHE_DIR", str(tmp_path))
    with pytest.raises(Unobtainable, match="no weights of TabPFN"):
        load_bundle(tmp_path / "b.bundle")
    monkeypatch.setitem(sys.modules, "tabpfn", None)
    with pytest.raises(MissingExtra):
        load_bundle(tmp_path / "b.bundle")


def test_nothing_is_sent_and_no_browser_opened():
    TabPFN().fit(*rows(31, 7))
    assert all(os.environ[name] for name in _SILENT)
    assert os.environ["TABPFN_DISABLE_TELEMETRY"] == "1"


# ---- the package itself


@pytest.fixture(scope="module")
def whole_way(tmp_path_factory) -> dict:
    """What the package itself made of untrained weights, in a process without the stand-in and without a network."""
    folder = tmp_path_factory.mktemp("tabpfn")
    for name, n, seed in (("train", 61, 3), ("test", 31, 5)):
        X, y = rows(n, 137, seed, classes=(0, 1))
        features = FeatureSet(X.astype(np.float32), y, [f"{name}/{i}" for i in range(n)], ["ant", "bee"], "f" * 64)
        features.save(folder / f"{name}.npz")
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and "stand_in" not in path]
    done = subprocess.run(
        [
            sys.executable,
            str(HERE / "tabpfn_whole_way.py"),
            str(folder),
            str(folder / "train.npz"),
            str(folder / "test.npz"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    if "No module named 'tabpfn'" in done.stderr:
        pytest.skip("tabpfn is not installed: make test-extras")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.extras
def test_the_package_goes_the_whole_way_without_a_network(whole_way):
    assert whole_way["codes"] == dict.fromkeys(("lowshot", "episodes", "fit", "predict"), 0)
    assert whole_way["senders"] == []


@pytest.mark.extras
def test_the_probabilities_are_the_packages_own_on_the_components(whole_way):
    assert whole_way["spread"] > 0.01
    assert whole_way["difference"] < 1e-6


@pytest.mark.extras
def test_the_packages_refusals_are_fewvits(whole_way):
    assert {name: kind for name, (kind, _) in whole_way["errors"].items()} == {
        "classes": "UsageError",
        "no weights": "Unobtainable",
        "damaged": "CheckpointError",
    }
    assert "at most 10 classes" in whole_way["errors"]["classes"][1]


@pytest.mark.extras
def test_the_stand_in_asks_for_nothing_that_the_package_has_not():
    code = (
        "import inspect, json; from tabpfn import TabPFNClassifier as T; from tabpfn.model_loading import *; "
        "s = ModelSource.get_classifier_v2(); get_cache_dir(); "
        "print(json.dumps([list(inspect.signature(T).parameters), s.repo_id, s.default_filename]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parent)
    if "No module named 'tabpfn'" in done.stderr:
        pytest.skip("tabpfn is not installed: make test-extras")
    parameters, repository, name = json.loads(done.stdout)
    import tabpfn

    source = tabpfn.model_loading.ModelSource.get_classifier_v2()
    assert set(inspect.signature(tabpfn.TabPFNClassifier).parameters) <= set(parameters)
    assert (source.repo_id, source.default_filename) == (repository, name)
