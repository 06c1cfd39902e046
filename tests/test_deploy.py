"""Exported files: the outputs of fewvit's own modules, whatever the trunk and the classifier; and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import importlib.util
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewvit
from fewvit.backbones import Architecture
from fewvit.bundles.bundle import Bundle
from fewvit.bundles.strangeness import fit_strangeness
from fewvit.classifiers import classifiers, traits_of
from fewvit.deploy import exporting
from fewvit.deploy.contract import Contract, Decision, contract_of
from fewvit.deploy.onnx_file import OnnxFormat, entry, read_onnx, session_of
from fewvit.errors import DataError, IntegrityError, NumericalError, UsageError
from fewvit.extraction.encoding import start_encoding
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models.build import build
from fewvit.models.spec import BackboneSpec
from fewvit.strangeness import score_names

from made_images import folder_of, tiny_weights

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|onnx|onnxscript|copyreg|timm|numpy).*")

SMALL = Architecture(width=48, depth=2, heads=3, patch=16, grid=5)
# trunk -> (family, architecture, options of its features); a new kind of trunk is one more line
TRUNKS = {
    "plain": ("dino", SMALL, {"img_size": "48x64"}),
    "registers-scale-swiglu": (
        "dinov2",
        Architecture(
            48, 2, 3, 14, 5, registers=2, layer_scale=True, feed_forward="swiglu", hidden=64, positions="antialias"
        ),
        {"img_size": "42", "pool": "cls+mean", "layers": "2"},
    ),
    "fc-norm": ("mae", dataclasses.replace(SMALL, depth=1, final_norm="fc_norm"), {"img_size": "80"}),
    "rotary": (
        "dinov3",
        Architecture(48, 1, 3, 16, 1, registers=4, layer_scale=True, positions="rotary", eps=1e-5),
        {"img_size": "48"},
    ),
    "mirrored-block": ("dino", SMALL, {"img_size": "48", "layers": "block1", "reading": {"flip": True}}),
    "convnext": (
        "dinov3",
        Architecture(32, 5, 0, 32, positions="none", layer_scale=True, stages=((1, 8), (1, 16), (2, 24), (1, 32))),
        {"img_size": "64"},
    ),
    "timm-swin": (
        "supervised",
        Architecture(768, 1, 1, 1, 224, timm="swin_tiny_patch4_window7_224"),
        {"img_size": "224", "pool": "mean"},
    ),
    "timm-convnext": (
        "supervised",
        Architecture(64, 1, 1, 1, 160, timm="test_convnext.r160_in1k"),
        {"img_size": "160", "pool": "mean"},
    ),
    "timm-resnet": (
        "supervised",
        Architecture(384, 1, 1, 1, 160, timm="test_resnet.r160_in1k"),
        {"img_size": "160", "pool": "mean"},
    ),
}


@pytest.fixture
def noise(monkeypatch):
    """Untrained weights without zeros and ones: every bias and norm counts."""
    import torch

    def fill(model, seed):
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                ones = float(tensor.ndim == 1 and name.endswith("weight"))  # a norm's
                tensor.copy_(torch.randn(tensor.shape, generator=stream) * 0.1 + ones)

    monkeypatch.setattr("fewvit.models.backbone.randomise", fill)


def pipeline_of(trunk):
    family, architecture, options = TRUNKS[trunk]
    from fewvit.backbones import family_of

    spec = BackboneSpec(trunk, family, architecture, family_of(family).protocols[0].name, "random", seed=3)
    return settle(spec, FeatureOptions(device="cpu", **options))


SLOW = (
    "registers-scale-swiglu",
    "fc-norm",
    "mirrored-block",
    "convnext",
    "timm-swin",
    "timm-convnext",
    "timm-resnet",
)  # deep graphs


@pytest.mark.parametrize("trunk", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in TRUNKS])
def test_every_trunk_has_the_same_features_in_onnxruntime(trunk, noise, tmp_path):
    import torch

    pipeline = pipeline_of(trunk)
    written = exporting.export_file(tmp_path / "b.onnx", OnnxFormat(), pipeline, None)
    run, contract = read_onnx(tmp_path / "b.onnx")
    assert (contract, written.contract.outputs) == (written.contract, ["features"])
    pixels = np.random.default_rng(7).integers(0, 256, (5, 3, *contract.size), dtype=np.uint8)
    mean, std = (np.float32(v).reshape(1, 3, 1, 1) for v in (pipeline.preprocess.mean, pipeline.preprocess.std))
    backbone = build(pipeline.spec, pipeline.readout, pipeline.size, engine="eager")
    images = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std)
    expected = backbone.encode(images).numpy()
    if pipeline.preprocess.flip:
        expected = (expected + backbone.encode(images.flip(-1)).numpy()) / 2
    assert expected.std() > 0.01
    np.testing.assert_allclose(run(pixels)["features"], expected, atol=1e-4)


# ---- heads


def rows(n, seed=0):
    centres = np.random.default_rng(11).normal(size=(4, 23))
    stream = np.random.default_rng(seed)
    return (centres[np.arange(n) % 4] + 0.8 * stream.normal(size=(n, 23))).astype(np.float32), np.arange(n) % 4


def bundle_of(name, score="", **options):
    X, y = rows(41)
    strangeness = fit_strangeness(X, y, name=score)[0] if score else None
    estimator = classifiers()[name](**options).fit(X, y)
    return Bundle(name, estimator, list("wxyz"), [11, 10, 10, 10], 23, strangeness=strangeness, temperature=0.6)


INDUCTIVE = [
    name for name, kind in classifiers().items() if not (traits_of(kind).transductive or traits_of(kind).extra)
]


def test_every_classifier_and_score_gives_the_same_numbers_in_onnxruntime(tmp_path):
    import torch

    from fewvit.deploy.network import Head

    bundles = [bundle_of(name, score) for name, score in zip(INDUCTIVE, score_names(), strict=True)]
    bundles += [
        bundle_of("logistic", rows="raw", intercept=True, lambd=0.1),
        bundle_of("centroid", metric="euclidean", centering="support"),
    ]

    class All(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = torch.nn.ModuleList(map(Head, bundles))

        def forward(self, features):
            return tuple(one for head in self.heads for one in head(features))

    example, dynamic = torch.zeros(2, 23), ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        program = torch.export.export(All().eval(), (example,), dynamic_shapes=dynamic)
    content = torch.onnx.export(program, (), dynamo=True, verbose=False, opset_version=18, input_names=["features"])
    session = session_of(content.model_proto.SerializeToString(), tmp_path)
    X, _ = rows(13, seed=5)
    X[0] = 0  # no direction
    for n in (1, 13):
        found = iter(session.run(None, {"features": X[:n]}))
        for bundle in bundles:
            np.testing.assert_allclose(next(found), bundle.confidences(bundle.probabilities(X[:n])), atol=1e-5)
            if bundle.strangeness is not None:
                np.testing.assert_allclose(next(found), bundle.strangeness.of(X[:n]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(name for name, kind in classifiers().items() if traits_of(kind).transductive))
def test_a_classifier_of_whole_sets_refuses_for_itself(name):
    X, y = rows(20)
    with pytest.raises(UsageError, match="labels a whole set of images at once"):
        classifiers()[name]().fit(X, y).graph()


def test_a_classifier_that_says_nothing_of_graphs_is_refused():
    from sklearn.naive_bayes import GaussianNB

    from fewvit.deploy.network import graph_of

    bundle = Bundle("bayes", GaussianNB().fit(*rows(20)), list("wxyz"), [5] * 4, 23)
    with pytest.raises(UsageError, match="bayes does not say how it is written as a graph"):
        graph_of(bundle)


# ---- files


@pytest.fixture
def fewvit_(capsys):
    from fewvit_cli import main as cli

    def run(*words):
        capsys.readouterr()
        code = cli.run([*map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A bundle on a small backbone, and what was exported of it."""
    from fewvit_cli import main as cli

    root = tmp_path_factory.mktemp("deploy")
    weights = tiny_weights(root / "own.pth", Architecture(width=64, depth=2, heads=1, patch=16, grid=14))
    folder_of(root / "train", {"a": 7, "b": 6, "c": 5})
    folder_of(root / "val", {"a": 3, "b": 4}, first_seed=500)
    made = ["-m", weights, "--img-size", 48, "--data", root / "train", "--cache-dir", root / "cache"]
    for words in (
        ["fit", *made, "--classifier", "knn", "--out", root / "x.bundle"],
        ["export", "onnx", root / "x.bundle", "--out", root / "x.onnx"],
    ):
        assert cli.run([*map(str, words)]) == 0
    return root


def test_an_exported_bundle_gives_the_labels_of_the_bundle(place, fewvit_):
    how = ("--format", "json", "--cache-dir", place / "cache", "--threshold", 0.4)
    ours, theirs = (
        json.loads(fewvit_("predict", *which, place / "val", *how)[1])
        for which in ((place / "x.bundle",), ("--onnx", place / "x.onnx"))
    )
    assert [list(row) for row in theirs["rows"]] == [list(row) for row in ours["rows"]]
    for own, other in zip(ours["rows"], theirs["rows"], strict=True):
        for name, value in own.items():
            assert other[name] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), name
    assert {row["best"] for row in ours["rows"]} > {"a"}  # labels that can differ
    for name in ("top1", "unknown", "threshold", "max_strangeness", "decode", "weights_sha256", "temperature"):
        assert theirs["run"][name] == ours["run"][name], name
    assert theirs["run"]["engine"].startswith("onnxruntime")


def test_what_a_file_decides_with_travels_in_its_metadata(place):
    from fewvit.bundles.file import load_bundle

    onnx = pytest.importorskip("onnx")
    model = onnx.load(place / "x.onnx")
    onnx.checker.check_model(model)
    [text] = [one.value for one in model.metadata_props if one.key == "fewvit"]
    found, bundle = json.loads(text), load_bundle(place / "x.bundle")
    assert found["schema"] == "fewvit.deployed/1"
    size = {"height": 48, "width": 48}
    assert found["input"] == {"name": "pixels", "dtype": "uint8", "layout": "NCHW", "channels": "RGB", **size}
    assert found["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    decision = found["decision"]
    assert (decision["classes"], decision["threshold"]) == (["a", "b", "c"], bundle.threshold)
    assert decision["max_strangeness"] == bundle.strangeness.threshold
    assert decision["bundle_sha256"] == bundle.sha256
    assert (found["opset"], [one.version for one in model.opset_import if not one.domain]) == (18, [18])
    assert found["checked"]["batches"] == [1, 3]
    assert 0 <= found["checked"]["largest_difference"] <= 1e-4
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 48, 48]


def test_predicting_with_pil_pixels_builds_and_imports_no_torch(place, tmp_path, fewvit_):
    """A copy of the file that says `pil`: what decides is in its metadata alone."""
    import hashlib

    body = (place / "x.onnx").read_bytes()
    start = body.rindex(b"fewvit.sha256") - 4
    text = json.loads(dict(session_of(body, place).get_modelmeta().custom_metadata_map)["fewvit"])
    again = body[:start] + entry("fewvit", json.dumps({**text, "decode": "pil"}))
    (tmp_path / "pil.onnx").write_bytes(again + entry("fewvit.sha256", hashlib.sha256(again).hexdigest()))
    program = (
        "import sys\nfrom fewvit_cli.main import run\ncode = run(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    words = ["predict", "--onnx", tmp_path / "pil.onnx", place / "val", "-q"]
    found = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "0 []", found.stderr


@pytest.mark.parametrize("at", [200, 20_000, -3000, -30])
def test_damaged_bytes_are_refused(place, tmp_path, fewvit_, at):
    content = bytearray((place / "x.onnx").read_bytes())
    content[at] ^= 4
    (tmp_path / "x.onnx").write_bytes(content)
    code, out, err = fewvit_("predict", "--onnx", tmp_path / "x.onnx", place / "val")
    assert (code, out) == (4, "")
    assert "damaged: its sha256 is not" in err


def test_files_that_are_not_ours_are_refused(place, tmp_path):
    whole = (place / "x.onnx").read_bytes()
    cases = {
        "cut.onnx": (whole[:5000], "damaged"),
        "empty.onnx": (b"", "not a file of fewvit"),
        "foreign.onnx": (b"\x08\x08\x12\x07pytorch" + whole[40:9000], "not a file of fewvit"),
    }
    for name, (content, told) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError, match=told):
            read_onnx(tmp_path / name)
    with pytest.raises(DataError, match="no such ONNX file"):
        read_onnx(tmp_path / "gone.onnx")


DECISION = {
    "classifier": "knn",
    "classes": ["a", "b"],
    "counts": [3, 4],
    "threshold": 0.5,
    "max_strangeness": None,
    "temperature": 1.0,
    "strangeness": None,
    "bundle_sha256": "",
}


def test_a_graph_of_another_size_than_it_says_is_refused(place, tmp_path):
    """Sealed anew, so that only the graph itself contradicts."""
    whole = (place / "x.onnx").read_bytes()
    _, contract = read_onnx(place / "x.onnx")
    other = dataclasses.replace(contract, preprocess={**contract.preprocess, "crop": [64, 64], "cover": [64, 64]})
    body = whole[: -len(entry("fewvit.sha256", "0" * 64))] + entry("fewvit", other.to_json())
    digest = hashlib.sha256(body).hexdigest()
    (tmp_path / "x.onnx").write_bytes(body + entry("fewvit.sha256", digest))
    with pytest.raises(IntegrityError):
        read_onnx(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": "fewvit.deployed/2"}, "newer fewvit"),
        ({"schema": "other/1"}, "no contract of fewvit"),
        ({"width": -3}, "no contract of fewvit"),
        ({"preprocess": {"crop": [7]}}, "no contract of fewvit"),
        ({"preprocess": {"cover": None}}, "no contract of fewvit"),
        ({"preprocess": {"crop": [32, 48], "interpolation": "magic"}}, "no contract of fewvit"),
        ({"preprocess": {"crop": [32, 48], "mean": [9, 0, 0]}}, "no contract of fewvit"),
        ({"decode": None}, "no contract of fewvit"),
        ({"decision": {**DECISION, "strangeness": "x"}}, "no contract of fewvit"),
        ({"decision": {**DECISION, "counts": ["a", "b"]}}, "no contract of fewvit"),
        ({"decision": {**DECISION, "temperature": 1e308}}, "no contract of fewvit"),
        ({"decision": {"classes": ["a", "a"]}}, "no contract of fewvit"),
        (None, "no contract of fewvit"),
    ],
)
def test_another_schema_is_refused(change, told):
    decision = Decision(**DECISION)
    contract = Contract("x", "", "", "", "cls", 1, "final", 5, {"crop": [32, 48]}, "fast", decision)
    assert contract_of(contract.to_json(), "f") == contract
    assert contract.size == (32, 48)
    text = "[3" if change is None else json.dumps({**json.loads(contract.to_json()), **change})
    with pytest.raises(IntegrityError, match=told):
        contract_of(text, "f")


class Shifted(OnnxFormat):
    """A file whose features are 3e-4 too large, of the largest one."""

    def write(self, handle, program, contract):
        handle.write(b"half")
        return {}

    def load(self, path, contract):
        assert path.read_bytes() == b"half"
        backbone = exporting.backbone_of(self.pipeline, engine="eager")

        def run(pixels):
            found = start_encoding(backbone, pixels.transpose(0, 2, 3, 1), len(pixels), self.pipeline).numpy()
            return {"features": found + 3e-4 * max(1, np.abs(found).max())}

        return run


def test_an_output_that_differs_leaves_no_file(tmp_path, noise):
    kind = Shifted()
    kind.pipeline = pipeline_of("fc-norm")
    (tmp_path / "b.onnx").write_bytes(b"mine")
    with pytest.raises(NumericalError, match=r"features differ from fewvit's by 0\.0003"):
        exporting.export_file(tmp_path / "b.onnx", kind, kind.pipeline, None)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("b.onnx", b"mine")]


def test_weights_beyond_what_a_file_holds_are_refused():
    with pytest.raises(UsageError, match=r"4\.2 GiB of weights: one ONNX file holds 2 GiB"):
        OnnxFormat().require(int(4.2 * 2**30))


def test_a_missing_extra_is_told(monkeypatch, place):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"fewvit\[onnx\]"):
        read_onnx(place / "x.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="onnx, onnxscript, onnxruntime: not installed"):
        OnnxFormat().require(0)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("export", "onnx", "PLACE/own.pth"), 2, "no file to write"),
        (("export", "onnx", "PLACE/own.pth", "--out", "OUT/x.pt"), 2, "ends in .onnx"),
        (("export", "onnx", "PLACE/own.pth", "--out", "OUT/mine.onnx"), 2, "not an ONNX file of fewvit"),
        (("export", "onnx", "PLACE/own.pth", "--out", "OUT/m.onnx", "--precision", "bf16"), 2, "computes in fp32"),
        (("export", "onnx", "PLACE/own.pth", "--out", "OUT/m.onnx", "--layers", "each"), 2, "one feature per block"),
        (("export", "onnx", "PLACE/own.pth,fewvit_tiny", "--out", "OUT/m.onnx"), 2, "names several"),
        (("export", "onnx", "PLACE/x.bundle", "--out", "OUT/m.onnx", "--pool", "mean"), 2, "says itself how"),
        (("export", "torch", "PLACE/own.pth", "--out", "OUT/mine.pt2"), 2, "not an exported program of fewvit"),
        (("predict", "--onnx", "PLACE/x.onnx", "PLACE/x.bundle", "PLACE/val"), 2, "takes the place of BUNDLE"),
        (("predict", "--onnx", "PLACE/x.onnx", "OUT/x.npz"), 2, "takes images"),
        (("predict", "--onnx", "PLACE/x.onnx", "PLACE/val", "--device", "cuda"), 2, "leave --weights, --device away"),
        (("predict", "PLACE/x.bundle"), 2, "no images: give BUNDLE SRC"),
    ],
)
def test_bad_requests_write_nothing(place, tmp_path, fewvit_, words, code, told):
    for name in ("mine.onnx", "mine.pt2"):
        (tmp_path / name).write_text("seven\n")
    found, out, err = fewvit_(*[w.replace("PLACE", str(place)).replace("OUT", str(tmp_path)) for w in words])
    assert (found, out, told in err) == (code, "", True), err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine.onnx", "mine.pt2"]


def test_a_bundle_without_its_weights_is_refused_and_weights_can_be_named(place, tmp_path, fewvit_):
    (moved := tmp_path / "moved.pth").write_bytes((place / "own.pth").read_bytes())
    hidden = (place / "own.pth").rename(place / "hidden")
    try:
        code, _, err = fewvit_("export", "onnx", place / "x.bundle", "--out", tmp_path / "y.onnx")
        assert (code, "own.pth is not where it was" in err, (tmp_path / "y.onnx").exists()) == (2, True, False)
        code, _, err = fewvit_("export", "torch", place / "x.bundle", "--out", tmp_path / "y.pt2", "--weights", moved)
        assert code == 0, err
        assert "licence" not in err  # a bare file of DINO's layout is taken for Apache-2.0
    finally:
        hidden.rename(place / "own.pth")
    import torch

    from fewvit.deploy.onnx_file import read_onnx

    extra = {"fewvit.json": ""}
    module = torch.export.load(tmp_path / "y.pt2", extra_files=extra).module()
    assert json.loads(extra["fewvit.json"])["decision"]["classes"] == ["a", "b", "c"]
    run, contract = read_onnx(place / "x.onnx")
    pixels = np.random.default_rng(3).integers(0, 256, (5, 3, 48, 48), dtype=np.uint8)
    for name, found in zip(contract.outputs, module(torch.from_numpy(pixels)), strict=True):
        np.testing.assert_allclose(found.numpy(), run(pixels)[name], atol=1e-4)


# ---- over HTTP


@contextlib.contextmanager
def served(app):
    """The application on a port of its own."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def test_the_example_serves_a_bundle_and_refuses_what_is_no_picture(place, fewvit_):
    pytest.importorskip("uvicorn")
    file = Path(__file__).parents[1] / "examples/serve_bundle.py"
    spec = importlib.util.spec_from_file_location("serve_bundle", file)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert len(file.read_text().splitlines()) <= 40
    rows = json.loads(fewvit_("predict", "--onnx", place / "x.onnx", place / "val", "--format", "json")[1])["rows"]
    huge = io.BytesIO()
    Image.new("L", (6000, 5000)).save(huge, "PNG")
    with served(example.app_for(fewvit.load_onnx(place / "x.onnx"))) as port:

        def ask(method, body=None):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                connection.request(method, "/", body)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())

        assert ask("GET") == (200, {"classes": ["a", "b", "c"], "threshold": 0.5})
        for row in rows[:2]:
            status, found = ask("POST", (place / "val" / row["id"]).read_bytes())
            assert (status, found["label"], found["best"]) == (200, row["label"], row["best"])
            assert found["confidence"] == pytest.approx(row["confidence"], abs=1e-6)
        assert ask("POST", b"no picture")[0] == 400
        assert ask("POST", b"")[0] == 400
        status, found = ask("POST", huge.getvalue())
        assert (status, "30000000" in found["error"].replace(",", "") or "5000" in found["error"]) == (400, True)
        assert ask("POST", b"x" * (example.MAX_BYTES + 1))[0] == 413


@pytest.mark.slow
def test_the_classifier_of_a_fine_tuned_adapter_is_exported_with_it(tmp_path, fewvit_):
    """Low-rank updates, merged; the bundle in the run's folder."""
    from made_runs import place_of_runs, words_for

    place = place_of_runs(tmp_path)
    words = [*words_for("finetune", place), "--mode", "lora"]
    code, _, err = fewvit_(*words)
    assert code == 0, err
    [bundle] = (place / "run").glob("*.bundle")
    code, _, err = fewvit_("export", "onnx", bundle, "--out", place / "x.onnx")
    assert code == 0, err
    how = ("--format", "json", "--threshold", 0.3)
    ours, theirs = (
        json.loads(fewvit_("predict", *which, place / "images/val", *how)[1])["rows"]
        for which in ((bundle,), ("--onnx", place / "x.onnx"))
    )
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]
    assert [row["confidence"] for row in theirs] == pytest.approx([row["confidence"] for row in ours], abs=1e-4)


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("Apache-2.0", ""),
        ("CC-BY-NC-4.0", "contains weights licensed CC-BY-NC-4.0: see whether you may pass it on"),
        ("", "contains weights of a licence that fewvit does not know"),
    ],
)
def test_a_licence_that_is_not_free_is_told(license, told):
    contract = Contract("x", "", license, "", "cls", 1, "final", 5, {"crop": [32, 48]}, "fast")
    lines = exporting.notes(exporting.Exported(contract, 0.0, 7, {}), pipeline_of("plain"))
    assert "(batch, 3, 32, 48)" in lines[0]
    assert (len(lines), told in lines[-1]) == (2 if told else 1, True)


def test_a_folder_that_cannot_be_written_is_told(place, tmp_path, fewvit_):
    (tmp_path / "file").write_text("")
    code, _, err = fewvit_("export", "onnx", place / "own.pth", "--img-size", 48, "--out", tmp_path / "file/x.onnx")
    assert (code, "writing x.onnx" in err or "not a directory" in err.lower()) == (3, True), err
