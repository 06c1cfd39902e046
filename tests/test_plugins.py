"""A plug-in is a file: the contract over every one of every kind, and a new one that is found without touching another file."""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest

import fewvit
from fewvit import plugins
from fewvit.backbones import Family, Variant
from fewvit.datasets import Format, Listing
from fewvit.errors import UnknownName
from fewvit.extraction.protocols import PROTOCOLS

PACKAGE = Path(fewvit.__file__).parent
KINDS = ("backbones", "classifiers", "datasets")
ALL = [(kind, name) for kind in KINDS for name in plugins.names(kind)]
every_plugin = pytest.mark.parametrize(("kind", "name"), ALL)


def methods_of(protocol: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(value.__func__) for name, value in vars(protocol).items() if isinstance(value, staticmethod)}


def test_the_folder_is_the_list():
    assert plugins.names("backbones") == ["dino", "dinov2", "mae", "msn", "supervised"]
    for kind in KINDS:
        files = {path.stem for path in (PACKAGE / kind).iterdir() if path.suffix == ".py"}
        assert set(plugins.names(kind)) == {stem for stem in files if not stem.startswith("_")}
        assert plugins.names(kind) == sorted(plugins.names(kind))


@every_plugin
def test_a_file_holds_exactly_one_public_class_and_it_is_found(kind, name):
    module = importlib.import_module(f"fewvit.{kind}.{name}")
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    [public] = [value for value in own if not value.__name__.startswith("_")]
    assert plugins.find(kind, name) is public
    assert plugins.find(kind, name.replace("_", "-")) is public


@every_plugin
def test_a_plugin_is_documented_file_and_class(kind, name):
    assert inspect.getdoc(importlib.import_module(f"fewvit.{kind}.{name}"))
    own = vars(plugins.find(kind, name)).get("__doc__")
    assert own
    assert own.strip()


@every_plugin
def test_functions_beside_the_class_bear_no_modules_name(kind, name):
    module = importlib.import_module(f"fewvit.{kind}.{name}")
    functions = {key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__}
    assert not functions & {*plugins.names(kind), kind}


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_a_family_offers_what_the_protocol_asks(name):
    family = plugins.find("backbones", name)
    for attribute in ("license", "source", "protocol"):
        assert isinstance(getattr(family, attribute), str)
        assert getattr(family, attribute)
    assert family.protocol in PROTOCOLS
    assert isinstance(family.checkpoint_keys, tuple)
    assert all(isinstance(row, Variant) for row in family.variants.values())
    wanted = methods_of(Family)
    assert set(wanted) == {"recognises", "trunk", "infer"}
    assert {key: list(inspect.signature(getattr(family, key)).parameters) for key in wanted} == {
        key: list(signature.parameters) for key, signature in wanted.items()
    }
    assert set(Family.__annotations__) <= set(vars(family))
    assert family.recognises({}) is False


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_a_data_format_offers_what_the_protocol_asks(name, tmp_path):
    format_ = plugins.find("datasets", name)
    wanted = methods_of(Format)
    assert set(wanted) == {"accepts", "open"}
    for key, signature in wanted.items():
        assert isinstance(inspect.getattr_static(format_, key), staticmethod)
        assert list(inspect.signature(getattr(format_, key)).parameters) == list(signature.parameters)
    assert format_.accepts(str(tmp_path / "nothing here")) is False
    assert list(inspect.signature(Listing).parameters) == ["follow_links", "allow_empty_class"]


@pytest.mark.parametrize("name", plugins.names("classifiers"))
def test_a_classifier_fits_and_predicts_labels_that_are_not_counted_from_zero(name):
    classifier = plugins.find("classifiers", name)
    assert classifier.needs in ("features", "tokens")
    stream = np.random.default_rng(3)
    labels = np.repeat([3, 7], [29, 12])
    rows = stream.standard_normal((41, 5)) + 5 * np.eye(5)[labels // 3]
    made = classifier()
    assert made.fit(rows, labels) is made
    assert made.classes_.tolist() == [3, 7]
    shares = made.predict_proba(rows)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_array_equal(made.predict(rows), made.classes_[shares.argmax(axis=1)])
    assert made.score(rows, labels) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_plugin_is_refused_with_the_known_ones(kind):
    with pytest.raises(UnknownName) as error:
        plugins.find(kind, "zzz")
    assert error.value.exit_code == 2
    assert f"unknown {kind[:-1]} 'zzz'" in str(error.value)
    assert plugins.names(kind)[0] in str(error.value)


@pytest.mark.parametrize("name", ["_layout", "__init__", "../errors", "dino.py", "", "DINO"])
def test_what_is_no_plugin_cannot_be_reached_as_one(name):
    with pytest.raises(UnknownName):
        plugins.find("backbones", name)


# ---- a new plug-in, in a copy of the package

CLASSIFIER = '''
"""The nearest class mean."""
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

class NearestMean(ClassifierMixin, BaseEstimator):
    """The class whose mean is nearest."""
    needs = "features"

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([np.asarray(X)[y == c].mean(axis=0) for c in self.classes_])
        return self

    def predict(self, X):
        return self.classes_[((np.asarray(X)[:, None] - self.means_) ** 2).sum(axis=2).argmin(axis=1)]
'''
USE = """
import sys, numpy as np
from pathlib import Path
from fewvit import plugins
assert Path(plugins.__file__).parents[1] == Path(sys.argv[1])
found = plugins.find("classifiers", "nearest-mean")().fit([[0.0], [1], [7]], np.array([3, 3, 7])).predict([[6.0], [0.2]])
print(plugins.names("classifiers"), found.tolist())
"""
BROKEN = """
import sys
from fewvit import plugins
try:
    plugins.find("classifiers", sys.argv[1])
except TypeError as error:
    print(error)
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package, to be grown."""
    shutil.copytree(PACKAGE, tmp_path / "fewvit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_new_classifier_is_one_file(package, python):
    (package / "fewvit" / "classifiers" / "nearest_mean.py").write_text(CLASSIFIER)
    names = sorted([*plugins.names("classifiers"), "nearest_mean"])
    assert python(USE, package, PYTHONPATH=str(package)).stdout.strip() == f"{names} [7, 3]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("class One: pass\nclass Two: pass\n", "['One', 'Two']"),
        ("class _Hidden: pass\n", "[]"),
        ("from collections import OrderedDict\n", "[]"),  # an imported class is not its own
        ("def function(): pass\n", "[]"),
    ],
)
def test_a_file_with_none_or_two_public_classes_is_told_so(text, told, package, python):
    (package / "fewvit" / "classifiers" / "strange.py").write_text(text)
    found = python(BROKEN, "strange", PYTHONPATH=str(package)).stdout.strip()
    assert found == f"fewvit.classifiers.strange must hold exactly one public class, it holds {told}"
