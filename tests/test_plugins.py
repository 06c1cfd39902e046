"""A plug-in is a file: the contract over every one of every kind.

And a new one of each kind, which is found without touching another file."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewvit
from fewvit import plugins
from fewvit.backbones import ClassifierPreset, Family, PositionRule, Protocol, Variant, families, family_of
from fewvit.classifiers import Traits, traits_of
from fewvit.datasets import Format, Listing
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UnknownName
from fewvit.extraction.protocols import protocols
from fewvit.finetune.modes import TuningRecipe
from fewvit.methods import Method, find_method
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve, run_backbone
from fewvit.models.spec import Access
from fewvit.models.vit import VisionTransformer
from fewvit.options import options_of
from fewvit.pretrain.request import evaluation_transform, protocol_for
from fewvit.runs.folder import RunFolder
from fewvit.training.recipe import Recipe, Step

from made_images import folder_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(fewvit.__file__).parent
KINDS = ("backbones", "classifiers", "datasets", "methods", "public_sets", "strangeness")
ALL = [(kind, name) for kind in KINDS for name in plugins.names(kind)]
every_plugin = pytest.mark.parametrize(("kind", "name"), ALL)


def public(kind: type) -> set[str]:
    """The values that a class gives names of its own; scikit-learn adds `set_score_request` to every estimator."""
    named = {name for name, value in vars(kind).items() if not name.startswith("_") and not callable(value)}
    return {name for name in named if not name.endswith("_request")}


def methods_of(protocol: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value.__func__)
        for name, value in vars(protocol).items()
        if isinstance(value, staticmethod)
    }


def test_the_folder_is_the_list():
    assert {"dino", "dinov2", "mae", "msn", "supervised"} <= set(plugins.names("backbones"))
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
    functions = {
        key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    assert not functions & {*plugins.names(kind), kind}


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_a_family_says_what_is_asked_of_it_and_nothing_that_nobody_reads(name):
    family = plugins.find("backbones", name)
    assert issubclass(family, Family)
    for attribute in ("license", "source", "protocol"):
        assert isinstance(getattr(family, attribute), str)
        assert getattr(family, attribute)
    assert protocols()[family.protocol].name == family.protocol
    assert isinstance(family.checkpoint_keys, tuple)
    assert all(isinstance(row, Variant) for row in family.variants.values())
    assert public(family) <= {*Family.__annotations__, *vars(Family)}  # a misspelt attribute would have no effect
    wanted = methods_of(Family)
    assert set(wanted) == {"recognises", "shows_origin", "trunk", "infer", "advice", "lowshot_method"}
    for key, signature in wanted.items():
        assert isinstance(inspect.getattr_static(family, key), staticmethod)
        assert list(inspect.signature(getattr(family, key)).parameters) == list(signature.parameters)
    assert family.recognises({}) is False
    assert set(family.full_tuning) <= {field.name for field in dataclasses.fields(TuningRecipe)}


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_the_protocols_of_a_family_are_frozen_and_give_options_that_there_are(name):
    for protocol in plugins.find("backbones", name).protocols:
        assert isinstance(protocol, Protocol)
        assert re.fullmatch(r"\w+(-\w+)?/\d+", protocol.name)
        assert protocol.norm in ("final", "none", "raw")
        for given in protocol.classifiers:
            assert isinstance(given, ClassifierPreset)
            assert set(given.options) <= set(options_of(plugins.find("classifiers", given.classifier)))


def test_no_protocol_and_no_position_rule_is_brought_by_two():
    brought = [one.name for family in families().values() for one in family.protocols]
    brought += [
        kind.protocol.name
        for _, kind in ((n, find_method(n)) for n in plugins.names("methods"))
        if kind.protocol is not None
    ]
    assert sorted(brought) == sorted(protocols())
    rules = [rule for family in families().values() for rule in family.positions]
    assert len(rules) == len(set(rules))


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_the_position_rule_of_a_family_gives_the_patches_that_are_asked_for(name):
    for rule in plugins.find("backbones", name).positions.values():
        assert isinstance(rule, PositionRule)
        table = torch.arange(2 * 5 * 5.0).reshape(1, 2, 5, 5)
        assert rule.resized(table, 7, 7).shape == (1, 2, 7, 7)
        assert rule.only_squares or rule.resized(table, 3, 8).shape == (1, 2, 3, 8)
        constant = torch.full((1, 2, 5, 5), 3.0)
        torch.testing.assert_close(rule.resized(constant, 8, 8), torch.full((1, 2, 8, 8), 3.0))


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_the_variants_of_a_family_name_rules_and_families_that_there_are(name):
    rules = {rule for family in families().values() for rule in family.positions}
    for row in plugins.find("backbones", name).variants.values():
        own = row.architecture
        assert own.timm or own.is_rotary or own.stages or own.positions in rules


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_the_advice_of_a_family_is_a_line_or_nothing(name):
    family = plugins.find("backbones", name)
    for task in ("knn", "lowshot", "linear", "something else"):
        for pool in ("cls", "mean"):
            said = family.advice(task, pool=pool, protocol=family.protocol, methods=["logistic"])
            assert said is None or (said and "\n" not in said)
    known = {*plugins.names("classifiers"), "last-block"}
    assert {
        family.lowshot_method(row.architecture, shots)
        for row in family.variants.values()
        for shots in (1, 2, 5, "1percent")
    } <= known


def test_only_maes_advice_says_what_its_frozen_features_are_not_good_for():
    mae = family_of("mae")
    assert "poor neighbour" in mae.advice("knn", pool="cls")
    assert mae.advice("knn", pool="mean") is None
    assert "--classifier last-block" in mae.advice("lowshot", methods=["logistic", "knn"])
    assert mae.advice("lowshot", methods=["logistic", "last-block"]) is None
    assert "--protocol mae/1" in mae.advice("linear", protocol="dino/1")
    assert mae.advice("linear", protocol="mae/1") is None
    assert [family_of("dino").advice(task, pool="cls", protocol="x/1") for task in ("knn", "lowshot", "linear")] == [
        None
    ] * 3


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_a_data_format_offers_what_the_protocol_asks(name, tmp_path):
    format_ = plugins.find("datasets", name)
    wanted = methods_of(Format)
    assert set(wanted) == {"accepts", "open"}
    for key, signature in wanted.items():
        assert isinstance(inspect.getattr_static(format_, key), staticmethod)
        assert list(inspect.signature(getattr(format_, key)).parameters) == list(signature.parameters)
    assert format_.accepts(str(tmp_path / "nothing here")) is False
    assert set(inspect.signature(Listing).parameters) == {
        *("follow_links", "allow_empty_class", "path_column", "label_column", "label_flag", "read_besides", "max_bytes")
    }


def two_classes() -> tuple[np.ndarray, np.ndarray]:
    """Rows (41, 5) of two classes that lie apart, 29 of one and 12 of the other."""
    labels = np.repeat([3, 7], [29, 12])
    return np.random.default_rng(3).standard_normal((41, 5)) + 5 * np.eye(5)[labels // 3], labels


@pytest.mark.parametrize("name", plugins.names("classifiers"))
def test_a_classifier_fits_and_predicts_labels_that_are_not_counted_from_zero(name):
    classifier = plugins.find("classifiers", name)
    assert traits_of(classifier).needs in ("features", "tokens")
    rows, labels = two_classes()
    made = classifier()
    assert made.fit(rows, labels) is made
    assert made.classes_.tolist() == [3, 7]
    shares = made.predict_proba(rows)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_array_equal(made.predict(rows), made.classes_[shares.argmax(axis=1)])
    assert made.score(rows, labels) > 0.9


@pytest.mark.parametrize("name", plugins.names("classifiers"))
def test_a_classifier_has_what_it_declares_and_declares_nothing_that_nobody_reads(name):
    classifier = plugins.find("classifiers", name)
    traits = traits_of(classifier)
    assert public(classifier) <= {field.name for field in dataclasses.fields(Traits)}
    assert traits.keeps in ("state", "support")
    assert hasattr(classifier, "add") == traits.grows
    assert hasattr(classifier, "probabilities") == traits.batched
    made = classifier().fit(*two_classes())
    assert all(hasattr(made, attribute) for attribute in traits.facts.values())
    if traits.penalty:
        assert traits.penalty in options_of(classifier)
        assert getattr(made, f"{traits.penalty}_") > 0
        assert made.why_
        assert traits.default_penalty_of


def test_a_classifier_that_declares_nothing_has_the_traits_of_scikit_learns_own():
    from sklearn.svm import SVC

    assert traits_of(SVC) == traits_of(SVC()) == Traits()
    fitted = [SVC(), SVC()]
    rows, labels = np.array([[0.0], [1], [6], [7]]), np.array([3, 3, 7, 7])
    Traits().fit_together(fitted, [(rows, labels), (rows, labels[::-1])])
    assert [one.predict([[6.5]]).tolist() for one in fitted] == [[7], [3]]
    assert Traits().summary(fitted, "2 shots") == ""


# ---- pretraining methods

every_method = pytest.mark.parametrize("name", plugins.names("methods"))


def smallest(name: str) -> Method:
    """The method's recipe with the fewest patches, of two blocks of one head."""
    presets = find_method(name).presets.values()
    small = min(
        presets, key=lambda recipe: (recipe.architecture.grid, recipe.architecture.width * recipe.architecture.depth)
    )
    return dataclasses.replace(
        small,
        architecture=dataclasses.replace(small.architecture, width=64, depth=2, heads=1),
        batch_size=4,
        epochs=3,
        precision="fp32",
    )


def one_step(recipe: Method, seed: int) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """A task of this seed after one step of gradient descent on random views, its loss and its gradients by name."""
    torch.manual_seed(seed)
    task: Any = recipe.task().train()
    step = Step(index=1, steps_per_epoch=7, epochs=recipe.epochs, seed=seed, rows=np.array([11, 2, 5, 3]))
    stream = torch.Generator().manual_seed(5)
    views = [
        torch.randn(4, 3, view.size, view.size, generator=stream) for view in recipe.views for _ in range(view.count)
    ]
    loss, facts = task(views, step)
    loss.backward()
    assert torch.isfinite(task.clip())
    gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.before_update(step)
    lr = task.schedule(step)["lr"]
    assert lr > 0
    assert task.schedule(step)["weight_decay"] >= 0
    assert all(torch.isfinite(value).all() for value in facts.values())
    with torch.no_grad():
        for group in task.groups():
            assert len(group["params"]) == len(group["names"])
            assert isinstance(group["decays"], bool)
            for parameter in group["params"]:
                parameter -= lr * (parameter.grad if parameter.grad is not None else 0)
    task.after_update(step)
    return task, loss.detach(), gradients


@every_method
def test_a_method_says_what_is_asked_of_it_and_its_presets_are_its_own(name):
    method = find_method(name)
    assert issubclass(method, Method)
    fields = {field.name for field in dataclasses.fields(method)}
    said = {key for key in vars(method) if not key.startswith("_") and key not in fields}
    assert said - {"task"} <= set(Method.__annotations__), "a misspelt attribute would have no effect"
    assert method.presets
    for preset, recipe in method.presets.items():
        assert type(recipe) is method, preset
        assert "/" in preset
        assert recipe.views
        recipe.architecture.check_size(
            recipe.architecture.grid * recipe.architecture.patch, recipe.architecture.grid * recipe.architecture.patch
        )
    assert (method.protocol is None) == (method.family in families())
    assert protocol_for(next(iter(method.presets.values()))).name in protocols()
    assert method.pool in ("", "cls", "mean", "cls+mean")


@every_method
def test_every_option_of_a_methods_own_is_explained_beside_it(name):
    """By a comment on its line, or above it; those that all recipes have are explained there."""
    method = find_method(name)
    lines = inspect.getsource(method).splitlines()
    fields = [node for node in ast.walk(ast.parse(inspect.getsource(method))) if isinstance(node, ast.AnnAssign)]
    ends = {node.lineno - 1: node.end_lineno for node in fields}
    shared = {field.name for field in dataclasses.fields(Recipe)}
    for field in dataclasses.fields(method):
        if field.name not in shared:
            [at] = [i for i, line in enumerate(lines) if re.match(rf"    {field.name}: ", line)]
            beside = any("#" in line for line in lines[at : ends[at]])
            assert beside or lines[at - 1].strip().startswith("#"), field.name


@every_method
def test_a_step_of_a_method_has_a_finite_loss_and_gradients_and_changes_its_encoder(name):
    recipe = smallest(name)
    torch.manual_seed(3)
    before = {key: tensor.clone() for key, tensor in recipe.task().encoder().state_dict().items()}
    task, loss, gradients = one_step(recipe, 3)
    assert torch.isfinite(loss)
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert any(bool((gradient != 0).any()) for gradient in gradients.values())
    after = task.encoder().state_dict()
    assert isinstance(task.encoder(), VisionTransformer)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert task.max_entropy is None or task.max_entropy > 0


@every_method
def test_a_method_is_a_function_of_its_seed(name):
    (one, loss, _), (same, again, _), (_, differing, _) = (one_step(smallest(name), seed) for seed in (3, 3, 4))
    assert torch.equal(loss, again)
    assert not torch.equal(loss, differing)
    states = [task.state_dict() for task in (one, same)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


@every_method
def test_the_encoder_of_a_method_is_a_backbone_again(name, tmp_path):
    from safetensors.torch import save_file

    recipe = smallest(name)
    torch.manual_seed(3)
    task: Any = recipe.task().eval()
    run, preprocess = RunFolder(tmp_path / "run"), evaluation_transform(recipe)
    made = run_backbone(recipe.family, protocol_for(recipe).name, recipe.architecture, preprocess)
    run.begin({"command": "pretrain", "method": name}, {"backbone": made})
    save_file({key: tensor.contiguous() for key, tensor in task.encoder().state_dict().items()}, run.encoder)
    spec = resolve(str(run.path), Access(tmp_path), DigestMemory())
    assert (spec.family, spec.protocol, spec.architecture) == (
        recipe.family,
        protocol_for(recipe).name,
        recipe.architecture,
    )
    readout = Readout(protocol_for(recipe).pool, norm=protocol_for(recipe).norm)
    images = torch.randn(2, 3, *preprocess.crop, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            build(spec, readout, preprocess.crop, engine="eager").encode(images), task.encoder().read(images, readout)
        )


@pytest.mark.parametrize(
    ("family", "protocol", "named"),
    [("dino", "dino/1", False), ("mae", "dino/1", False), ("of_a_method", "dino/1", True)],
)
def test_a_run_names_its_protocol_where_no_family_does_and_is_refused_where_nothing_does(
    family, protocol, named, tmp_path
):
    recipe = smallest("dino")
    made = run_backbone(family, protocol, recipe.architecture, evaluation_transform(recipe))
    assert ("protocol" in made) == named
    spec = resolve(run_of(tmp_path / "run", made), Access(tmp_path), DigestMemory(), weights="random")
    assert (spec.family, spec.protocol) == (family, protocol if named else families()[family].protocol)
    made.pop("protocol", None)
    with pytest.raises(CheckpointError, match="family gone, which is not known here"):
        resolve(
            run_of(tmp_path / "other", {**made, "family": "gone"}), Access(tmp_path), DigestMemory(), weights="random"
        )


def run_of(folder: Path, made: dict[str, Any]) -> str:
    """A run that made this backbone; its weights are not to be read."""
    RunFolder(folder).begin({"command": "pretrain"}, {"backbone": made})
    RunFolder(folder).encoder.write_bytes(b"nothing")
    return str(folder)


@every_method
def test_a_method_starts_from_a_released_trunk_with_every_tensor_of_it(name):
    recipe = smallest(name)
    torch.manual_seed(3)
    released = {key: tensor + 1 for key, tensor in recipe.task().encoder().state_dict().items()}
    task: Any = recipe.task()
    task.start_from(released)
    assert all(torch.equal(tensor, released[key]) for key, tensor in task.encoder().state_dict().items())


@every_method
def test_the_official_export_of_a_method_holds_named_tensors(name, tmp_path):
    task: Any = smallest(name).task()
    tree = task.official()
    assert tree
    torch.save(tree, tmp_path / "official.pth")
    read = torch.load(tmp_path / "official.pth", weights_only=True)
    trunk = {tuple(tensor.shape) for tensor in task.encoder().state_dict().values()}
    networks = [
        {key: tensor for key, tensor in part.items() if torch.is_tensor(tensor)}
        for part in read.values()
        if isinstance(part, dict)
    ]
    assert any(trunk <= {tuple(tensor.shape) for tensor in network.values()} for network in networks)


@every_method
def test_the_figures_of_a_method_are_rows_of_pixels_of_the_seed(name):
    recipe = smallest(name)
    task: Any = recipe.task().eval()
    assert hasattr(task, "figures") == bool(recipe.figures)
    if recipe.figures:
        size = recipe.architecture.grid * recipe.architecture.patch
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        rows, again = task.figures(images, 3), task.figures(images, 3)
        assert rows
        for called, pixels in rows.items():
            assert (pixels.dtype, pixels.shape) == (np.uint8, (2, size, size, 3))
            np.testing.assert_array_equal(pixels, again[called])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_plugin_is_refused_with_the_known_ones(kind):
    with pytest.raises(UnknownName) as error:
        plugins.find(kind, "zzz")
    assert error.value.exit_code == 2
    one = {"backbones": "family", "strangeness": "strangeness score", "public_sets": "public data set"}.get(
        kind, kind[:-1]
    )
    assert f"unknown {one} 'zzz'" in str(error.value)
    assert plugins.names(kind)[0] in str(error.value)


@pytest.mark.parametrize("name", ["_layout", "__init__", "../errors", "dino.py", "", "DINO"])
def test_what_is_no_plugin_cannot_be_reached_as_one(name):
    with pytest.raises(UnknownName):
        plugins.find("backbones", name)


# ---- a new plug-in of every kind: one file in a copy of the package, used from the command line

CLASSIFIER = '''
"""The nearest class mean."""
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from ._labels import numbered

class NearestMean(ClassifierMixin, BaseEstimator):
    """The class whose mean is nearest."""

    def __init__(self, sharpness: float = 1.0):
        self.sharpness = sharpness  # of the softmax over minus the squared distances

    def fit(self, X, y):
        X, y = validate_data(self, X, y)
        self.classes_, numbers = numbered(y)
        self.means_ = np.stack([X[numbers == c].mean(axis=0) for c in range(len(self.classes_))])
        return self

    def predict_proba(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        logits = -self.sharpness * ((X[:, None] - self.means_) ** 2).sum(axis=2)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def predict(self, X):
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(axis=1)]
'''
FORMAT = '''
"""A text file with a class and an image on each line."""
import os
import numpy as np
from . import Dataset
from ._listing import name_of

class Lines:
    """`x.lines`: `CLASS PATH`, paths relative to the file."""

    @staticmethod
    def accepts(source):
        return source.endswith(".lines")

    @staticmethod
    def open(source, listing):
        with open(source) as file:
            lines = file.read().splitlines()
        rows = sorted((line.split(maxsplit=1)[::-1] for line in lines), key=lambda row: row[0].encode())
        classes = sorted({label for _, label in rows})
        ids = [name for name, _ in rows]
        labels = np.array([classes.index(label) for _, label in rows])
        return Dataset(name_of(source), ids, labels, classes, _Files(os.path.dirname(source), ids))

class _Files:
    def __init__(self, root, ids):
        self.root, self.ids = root, ids

    def read(self, i):
        with open(self.place(i), "rb") as file:
            return file.read()

    def identity(self, i):
        return None

    def place(self, i):
        return os.path.join(self.root, self.ids[i])
'''
FAMILY = '''
"""I-JEPA: no class token to speak of."""
from . import Architecture, Family, ClassifierPreset, PositionRule, Protocol, Variant
from ..preprocess import Preprocess
from ._layout import infer_vit, split_trunk

def _nearest(table, rows, columns):
    import torch.nn.functional as F
    return F.interpolate(table, size=(rows, columns), mode="nearest")

class Ijepa(Family):
    """Published numbers: none."""
    license = "CC-BY-NC-4.0"
    source = "https://example.com/ijepa"
    protocol = "ijepa/1"
    _logistic = ClassifierPreset("logistic", {"lambd": 0.7}, "mine")
    protocols = (Protocol("ijepa/1", Preprocess((36, 36), (32, 32)), pool="mean", classifiers=(_logistic,)),)
    positions = {"nearest": PositionRule(_nearest)}
    model_types = ("ijepa",)
    variants = {"ijepa_tiny": Variant(Architecture(64, 1, 1, 16, grid=4, positions="nearest"), "https://example.com/ijepa.pth")}

    @staticmethod
    def recognises(tree):
        return "ijepa" in tree

    @staticmethod
    def trunk(tree, checkpoint_key):
        return split_trunk(tree["ijepa"])

    @staticmethod
    def infer(tensors):
        return infer_vit(tensors, "nearest")

    @staticmethod
    def advice(task, *, pool="", protocol="", methods=()):
        return f"ijepa has {pool} tokens for {task}" if task == "knn" else None
'''
METHOD = '''
"""The mean colour of an image from its patches: a task as small as can be."""
from __future__ import annotations
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from ..backbones import Architecture, Protocol
from ..preprocess import Preprocess
from ..views.view import View
from . import Method

@dataclass(frozen=True, kw_only=True)
class Colour(Method):
    """The mean colour of an image, told from its patches."""

    family: ClassVar[str] = "colour"
    protocol: ClassVar[Protocol] = Protocol("colour/1", Preprocess(interpolation="bilinear"), pool="mean")
    figures: ClassVar[str] = "colours"
    scale: float = 1.0  # of the loss

    presets: ClassVar[Mapping[str, Colour]]

    def task(self):
        import torch
        from torch import nn
        from ..training.clipping import clip_all
        from ..training.groups import decay_groups
        from ..training.schedules import mae_lr
        from ._trunk import Trunk, start_linears

        class Task(nn.Module):
            max_entropy = None

            def __init__(self, recipe):
                super().__init__()
                self.recipe, self.trunk = recipe, Trunk(recipe.architecture)
                self.head = nn.Linear(recipe.architecture.width, 3)
                start_linears(self)

            def forward(self, views, step):
                told = self.head(self.trunk.norm(self.trunk.encode(views[0]))[:, 1:].mean(dim=1))
                return self.recipe.scale * (told - views[0].mean(dim=(2, 3))).square().mean(), {}

            def groups(self):
                return decay_groups(self.named_parameters())

            def schedule(self, step):
                r = self.recipe
                lr = mae_lr(step.index / step.steps_per_epoch, step.epochs, r.warmup_epochs, r.peak_lr, 0.0)
                return {"lr": lr, "weight_decay": 0.0}

            def clip(self):
                return clip_all(self.parameters(), self.recipe.clip)

            def before_update(self, step): ...

            def after_update(self, step): ...

            def encoder(self):
                return self.trunk

            def start_from(self, tensors):
                self.trunk.start_from(tensors)

            def official(self):
                return {"model": self.trunk.state_dict()}

            def figures(self, images, seed):
                pixels = (images.detach() * 40 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
                return {"seen": pixels, "again": pixels}

        return Task(self)


Colour.presets = {
    "small/32": Colour(
        architecture=Architecture(64, 2, 1, 8, grid=4), views=(View(32, (0.5, 1.0)),),
        epochs=2, batch_size=4, lr=1e-3, warmup_epochs=0,
    )
}
'''
COMMANDS = """
import json, sys
from pathlib import Path
import fewvit
from fewvit_cli.main import run
assert Path(fewvit.__file__).parents[1] == Path(sys.argv[1])
for words in json.loads(sys.argv[2]):
    code = run(words)
    sys.stdout.flush()
    if code:
        sys.exit(f"{words} ended with {code}")
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
    (tmp_path / "fewvit_cli").symlink_to(ROOT / "cli")
    return tmp_path


@pytest.fixture
def commands(package, python):
    """`commands(kind, file, text, *lines)`.

    Stdout and stderr of command lines, where one file was added to the package.
    """

    def run(kind: str, file: str, text: str, *lines: list[object]) -> tuple[str, str]:
        (package / "fewvit" / kind / file).write_text(text)
        words = json.dumps([[str(word) for word in line] for line in lines])
        done = python(
            COMMANDS,
            package,
            words,
            PYTHONPATH=str(package),
            FEWVIT_CACHE_DIR=str(package / "cache"),
            FEWVIT_OFFLINE="1",
        )
        return done.stdout, done.stderr

    return run


def results(stdout: str) -> list[dict[str, Any]]:
    """The JSON objects that commands printed one after another."""
    found, rest = [], stdout.strip()
    while rest:
        value, end = json.JSONDecoder().raw_decode(rest)
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def features_file(path: Path, seed: int, per_class: int) -> Path:
    stream = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), per_class)
    rows = (stream.standard_normal((len(labels), 5)) + 2 * np.eye(5)[labels]).astype(np.float32)
    np.savez(
        path, features=rows, labels=labels, ids=[f"{seed}/{i}" for i in range(len(labels))], classes=["a", "b", "c"]
    )
    return path


def test_a_new_classifier_is_one_file(commands, package):
    sides = [
        "--train",
        features_file(package / "train.npz", 3, 7),
        "--test",
        features_file(package / "test.npz", 4, 29),
    ]
    same = [
        "--set",
        "centroid.metric=euclidean",
        "--set",
        "centroid.normalise=false",
    ]  # SimpleShot's UN: the same classifier
    chosen = ["--classifier", "nearest-mean,centroid", "--set", "nearest_mean.sharpness=0.5", *same]
    out, err = commands(
        "classifiers",
        "nearest_mean.py",
        CLASSIFIER,
        ["lowshot", "--classifier", "list", "--format", "json"],
        ["lowshot", *sides, *chosen, "--shots", "2,5", "--trials", 2, "--format", "json"],
        [
            "episodes",
            "--data",
            sides[3],
            "--classifier",
            "nearest_mean",
            "--ways",
            3,
            "--shots",
            2,
            "--episodes",
            5,
            "--format",
            "json",
        ],
        ["fit", "--data", sides[1], "--classifier", "nearest_mean", "--out", package / "b.fewvit", "--format", "json"],
        ["predict", package / "b.fewvit", sides[3], "--format", "json"],
    )
    listed, lowshot, episodes, fitted, predicted = results(out)
    [row] = [row for row in listed["rows"] if row["classifier"] == "nearest_mean"]
    assert (row["transductive"], row["options"], row["about"]) == (
        "no",
        "sharpness=1.0",
        "The class whose mean is nearest.",
    )
    top1 = {(r["method"], r["shots"], r["trial"]): r["value"] for r in lowshot["rows"] if r["metric"] == "top1"}
    assert {method for method, _, _ in top1} == {"nearest_mean", "centroid"}
    assert all(value == top1["centroid", *rest] for (_, *rest), value in top1.items())
    assert len(set(top1.values())) > 1
    assert episodes["rows"][0]["method"] == "nearest_mean"
    assert fitted["run"]["options"] == {"sharpness": 1.0}
    assert len(predicted["rows"]) == 87
    assert "wrote a nearest_mean bundle" in err


def test_a_new_data_format_is_one_file(commands, package):
    lines = {}
    for part, counts, seed in (("train", {"a": 3, "b": 4}, 0), ("test", {"a": 2, "b": 1}, 50)):
        folder = folder_of(package / part, counts, first_seed=seed)
        ids = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
        (folder / f"{part}.lines").write_text("".join(f"{name[0]} {name}\n" for name in ids))
        lines[part] = folder / f"{part}.lines"
    both = [
        ["--train", lines["train"], "--test", lines["test"]],
        ["--train", package / "train", "--test", package / "test"],
    ]
    words = [["knn", "--backbone", "fewvit_tiny", *pair, "--k", "1,3", "--format", "json"] for pair in both]
    out, _ = commands("datasets", "lines.py", FORMAT, *words)
    listed, folders = (sorted((row["k"], row["metric"], row["value"]) for row in one["rows"]) for one in results(out))
    assert listed == folders
    assert results(out)[0]["rows"][0]["n_train"] == 7


def test_a_new_family_is_one_file(commands, package):
    images = folder_of(package / "images", {"a": 3, "b": 4})
    # any: its layout is what is looked at
    model = VisionTransformer(find_method("dino").presets["small/32"].architecture)
    torch.save({"ijepa": model.state_dict()}, package / "x.pth")
    mine = ["--backbone", "ijepa_tiny", "--weights", "random"]
    out, err = commands(
        "backbones",
        "ijepa.py",
        FAMILY,
        ["backbones", "list", "ijepa", "--format", "json"],
        ["backbones", "check", package / "x.pth", "--format", "json"],
        ["knn", *mine, "--train", images, "--leave-one-out", "--k", 3, "--format", "json"],
        ["knn", *mine, "--train", images, "--leave-one-out", "--k", 3, "--img-size", "32x64", "--format", "json"],
        [
            "lowshot",
            *mine,
            "--train",
            images,
            "--test",
            images,
            "--shots",
            1,
            "--classifier",
            "logistic",
            "--format",
            "json",
        ],
        ["knn", "--help"],
    )
    objects, _, help_ = out.rpartition("Usage:")
    listed, checked, knn, wide, lowshot = results(objects)
    assert [row["backbone"] for row in listed["rows"]] == ["ijepa_tiny"]
    assert '"family": "ijepa"' in json.dumps(checked)
    for one in (knn, wide, lowshot):
        assert (one["run"]["protocol"], one["run"]["pool"]) == ("ijepa/1", "mean")
    assert (knn["run"]["preprocess"]["crop"], wide["run"]["preprocess"]["crop"]) == ([32, 32], [32, 64])
    assert "ijepa has mean tokens for knn" in err
    assert "lambda 0.7, mine" in err
    assert "ijepa/1" in help_
    assert re.search(r"bare file for [\w, \n]*\bijepa\b", help_)


def test_a_new_pretraining_method_is_one_file_and_its_run_is_a_backbone_of_a_family_that_has_none(commands, package):
    images, run = folder_of(package / "images", {"a": 6, "b": 7}), package / "run"
    out, _ = commands(
        "methods",
        "colour.py",
        METHOD,
        [
            "pretrain",
            "colour",
            "--preset",
            "small/32",
            "--data",
            images,
            "--out",
            run,
            "--set",
            "scale=2",
            "--format",
            "json",
        ],
        ["knn", "--backbone", run, "--train", images, "--leave-one-out", "--k", 3, "--format", "json"],
        [
            "knn",
            "--backbone",
            run,
            "--protocol",
            "dino/1",
            "--train",
            images,
            "--leave-one-out",
            "--k",
            3,
            "--format",
            "json",
        ],
        ["backbones", "info", run, "--format", "json"],
        ["backbones", "export", run, "--out", package / "official.pth", "--format", "json"],
        ["pretrain", "--help"],
    )
    objects, _, help_ = out.rpartition("Usage:")
    trained, knn, asked, info, exported = results(objects)
    assert {row["method"] for row in trained["rows"]} == {"colour"}
    assert (knn["run"]["protocol"], knn["run"]["pool"], knn["run"]["preprocess"]["interpolation"]) == (
        "colour/1",
        "mean",
        "bilinear",
    )
    assert (asked["run"]["protocol"], asked["run"]["pool"]) == ("dino/1", "cls")
    made = json.loads((run / "manifest.json").read_text())
    assert (made["backbone"]["family"], made["backbone"]["protocol"], made["what"]["recipe"]["scale"]) == (
        "colour",
        "colour/1",
        2.0,
    )
    assert "colour/1" in json.dumps(info)
    assert "model" in json.dumps(exported)
    assert (run / "colours/epoch-0002.png").exists()
    assert "colour: The mean colour of an image, told from its patches." in " ".join(help_.split())


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
