"""What other programs load: a module for mteb, read without mteb. tests/parity/test_mteb_model.py runs it in mteb."""

from __future__ import annotations

import ast
import io
import json

import numpy as np
import pytest
from PIL import Image

import fewvit
from fewvit.backbones import families
from fewvit.errors import DataError, NumericalError, UsageError
from fewvit.export.mteb_model import SEEN

from made_images import jpeg, tiny_weights

# ---- images in memory


def save_all(folder):
    """Pictures of every kind that the two policies treat differently; each file's name says which."""
    random = np.random.default_rng(3)
    colour = random.integers(0, 256, (47, 61, 4), dtype=np.uint8)
    wide = random.integers(0, 65536, (53, 41), dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    folder.mkdir()
    Image.fromarray(colour[:, :, :3]).save(folder / "plain.png")
    Image.fromarray(colour[:, :, :3]).save(folder / "turned.png", exif=turned)
    Image.fromarray(colour).save(folder / "clear.png")
    Image.fromarray(colour[:, :, 0]).save(folder / "grey.png")
    Image.fromarray(wide).save(folder / "wide.png")
    palette = Image.fromarray(colour[:, :, :3]).quantize(17)
    palette.save(folder / "palette.png", transparency=3)
    (folder / "photo.jpg").write_bytes(jpeg(5))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_all(tmp_path_factory.mktemp("images") / "all")


@pytest.fixture(scope="module")
def backbone():
    return fewvit.load_backbone("fewvit_tiny", device="cpu")


@pytest.mark.parametrize("decode", ["fast", "pil"])
def test_images_in_memory_have_the_features_of_their_files(backbone, pictures, decode):
    of_files = fewvit.extract_features(backbone, pictures, decode=decode)
    images = [Image.open(pictures / name) for name in of_files.ids]
    found = fewvit.encode_images(backbone, images, decode=decode)
    exact = [name.endswith(".png") or decode == "pil" for name in of_files.ids]
    assert sum(exact) in (6, 7)
    np.testing.assert_array_equal(found[exact], of_files.features[exact])
    np.testing.assert_allclose(found, of_files.features, atol=0.02)  # two decoders of one JPEG
    assert found.dtype == np.float32
    alone = np.concatenate([fewvit.encode_images(backbone, [image], decode=decode, batch_size=3) for image in images])
    np.testing.assert_array_equal(alone, found)  # a row does not depend on its neighbours


def test_images_of_their_own_sizes_are_encoded_one_by_one(pictures, tmp_path):
    import dataclasses

    whole = fewvit.load_backbone(str(tiny_weights(tmp_path / "tiny.pth")), device="cpu")
    reading = dataclasses.replace(whole.pipeline.preprocess, longest=48, interpolation="lanczos")
    own = dataclasses.replace(whole.pipeline, preprocess=reading)
    from fewvit.extraction.extract import backbone_of

    whole = backbone_of(own)
    whole.pipeline = own
    of_files = fewvit.extract_features(whole, pictures, decode="pil")
    images = [Image.open(pictures / name) for name in of_files.ids]
    np.testing.assert_array_equal(fewvit.encode_images(whole, images, decode="pil"), of_files.features)


def test_no_images_have_no_features(backbone):
    assert fewvit.encode_images(backbone, []).shape == (0, 192)


def test_an_image_that_cannot_be_read_is_named_by_its_place(backbone, pictures):
    good = Image.open(pictures / "plain.png")
    with pytest.raises(DataError, match="image 1 cannot be read: float values"):
        fewvit.encode_images(backbone, [good, Image.new("F", (9, 9))])
    with pytest.raises(DataError, match="image 9 cannot be read: 1 x 60000 pixels would be"):
        fewvit.encode_images(backbone, [*[good] * 9, Image.new("RGB", (1, 60000))])
    with pytest.raises(DataError, match="image 0 cannot be read: image file is truncated"):
        fewvit.encode_images(backbone, [Image.open(io.BytesIO(jpeg(1, (301, 407))[:900]))])
    with pytest.raises(UsageError, match="encode_images takes a backbone, not its name"):
        fewvit.encode_images("fewvit_tiny", [good])  # type: ignore[arg-type]


def test_features_that_are_not_finite_are_refused(pictures):
    broken = fewvit.load_backbone("fewvit_tiny", device="cpu", engine="eager")
    broken.model.norm.bias.data[3] = float("nan")
    with pytest.raises(NumericalError, match="NaN or Inf for image 0"):
        fewvit.encode_images(broken, [Image.open(pictures / "plain.png")])


# ---- the module


def read(file):
    """What a module assigns, and the keywords of its ModelMeta; names stay names."""
    tree = ast.parse(file.read_text())
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            name = node.targets[0].id
            if isinstance(node.value, ast.Call):
                values[name] = {
                    word.arg: ast.unparse(word.value)
                    if isinstance(word.value, ast.Name | ast.Attribute) or word.arg == "loader_kwargs"
                    else ast.literal_eval(word.value)
                    for word in node.value.keywords
                }
            else:
                values[name] = ast.literal_eval(node.value)
    return values


@pytest.fixture
def fewvit_(capsys):
    from fewvit_cli import main as cli

    def run(*words):
        code = cli.run(["export", "mteb-model", *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Untrained weights under the names of the published files, where weights are looked for."""
    monkeypatch.setenv("FEWVIT_WEIGHTS_DIR", str(tmp_path))

    def put(variant):
        row = next(f.variants[variant] for f in families().values() if variant in f.variants)
        return tiny_weights(tmp_path / row.file_name, row.architecture)

    return put


def test_a_published_backbone_has_its_authors_metadata(fewvit_, official, tmp_path):
    file = official("dino_vits16")
    code, out, err = fewvit_("dino_vits16", "--out", tmp_path / "dino.py", "--offline", "--format", "json")
    assert code == 0, err
    found = read(tmp_path / "dino.py")
    import hashlib

    assert found["WEIGHTS"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["BACKBONE"] == {
        "name": "dino_vits16",
        "protocol": "dino/1",
        "pool": "cls",
        "layers": 1,
        "img_size": (224, 224),
        "precision": "fp32",
    }
    meta = found["META"]
    assert meta["name"] == "facebookresearch/dino_vits16"
    # by hand: patches, positions and class token, 12 blocks of norms, qkv, projection and feed-forward, the last norm
    d = 384
    block = 4 * d + (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    assert meta["n_parameters"] == (3 * 16 * 16 * d + d) + 197 * d + d + 12 * block + 2 * d == 21_665_664
    assert (meta["embed_dim"], meta["memory_usage_mb"], meta["release_date"]) == (384, 83, "2021-04-29")
    assert (meta["license"], meta["open_weights"]) == ("apache-2.0", True)
    assert meta["public_training_code"] == meta["reference"] == "https://github.com/facebookresearch/dino"
    assert meta["training_datasets"] == set(SEEN["imagenet-1k"])
    assert "Emerging Properties" in meta["citation"]
    assert json.loads(out)["rows"][0]["trained_on"] == "ImageNet-1k"
    assert "fill in" not in err


def test_other_readouts_and_data_of_their_own_stand_in_the_module(fewvit_, official, tmp_path):
    official("dino_vits16_gldv2")
    words = ("dino_vits16_gldv2", "--offline", "--pool", "cls+mean", "--layers", 2, "--img-size", 96, "--decode", "pil")
    code, _, err = fewvit_(*words, "--name", "own/landmarks", "--out", tmp_path / "m.py")
    assert code == 0, err
    found = read(tmp_path / "m.py")
    asked = {key: found["BACKBONE"][key] for key in ("pool", "layers", "img_size")}
    assert asked == {"pool": "cls+mean", "layers": 2, "img_size": (96, 96)}
    assert found["DECODE"] == "pil"
    meta = found["META"]
    assert (meta["name"], meta["embed_dim"]) == ("own/landmarks", 3 * 384)
    assert meta["training_datasets"] == {"GLDv2I2IRetrieval"}


def test_a_licence_that_forbids_commerce_is_said(fewvit_, official, tmp_path):
    import torch

    file = official("msn_vits16")
    torch.save({"target_encoder": torch.load(file, weights_only=True)}, file)
    code, _, err = fewvit_("msn_vits16", "--offline", "--out", tmp_path / "m.py")
    assert code == 0, err
    found = read(tmp_path / "m.py")
    assert found["BACKBONE"]["protocol"] == "msn/1"
    meta = found["META"]
    assert (meta["license"], meta["name"], meta["embed_dim"]) == ("cc-by-nc-4.0", "facebookresearch/msn_vits16", 384)
    assert (meta["release_date"], meta["training_datasets"]) == ("2022-04-14", set(SEEN["imagenet-1k"]))


def test_what_is_not_known_is_left_open_and_told(fewvit_, tmp_path):
    weights = tiny_weights(tmp_path / "own.pth")
    code, _, err = fewvit_(weights, "--out", tmp_path / "m.py")
    assert code == 0, err
    found = read(tmp_path / "m.py")
    assert found["BACKBONE"]["name"] == str(weights)
    meta = found["META"]
    assert (meta["open_weights"], meta["training_datasets"], meta["citation"]) == (False, None, None)
    assert meta["name"] == "fewvit/own.pth"
    assert "is here alone" in err
    assert "does not know release_date, reference, training_datasets, citation" in err
    # other weights under a variant's name are not what its authors published
    code, _, err = fewvit_(
        "dino_vitt16",
        "--weights",
        tiny_weights(tmp_path / "x.pth", families()["dino"].variants["dino_vitt16"].architecture),
        "--out",
        tmp_path / "m.py",
    )
    assert code == 0, err
    meta = read(tmp_path / "m.py")["META"]
    assert (meta["open_weights"], meta["training_datasets"], meta["citation"]) == (False, None, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fewvit_tiny",), "no file to write"),
        (("fewvit_tiny", "--out", "OUT/my-model.py"), "a Python module is a name of letters"),
        (("fewvit_tiny", "--out", "OUT/model.txt"), "a Python module is a name of letters"),
        (("fewvit_tiny", "--out", "OUT/m.py", "--name", "tiny"), "mteb calls a model ORGANISATION/NAME"),
        (("fewvit_tiny", "--out", "OUT/m.py", "--layers", "each"), "one feature per block"),
        (("fewvit_tiny,dino_vits16", "--out", "OUT/m.py"), "one module is of one backbone"),
        (("dino_vitt16", "--weights", "random", "--out", "OUT/m.py"), "random weights"),
        (("fewvit_tiny", "--out", "OUT/mine.py"), "would replace a file that is not a module of fewvit for mteb"),
    ],
)
def test_what_makes_no_module_is_refused_and_nothing_is_written(fewvit_, tmp_path, words, told):
    (tmp_path / "mine.py").write_text("print(7)\n")
    code, out, err = fewvit_(*[str(word).replace("OUT", str(tmp_path)) for word in words])
    assert (code, out, told in err) == (2, "", True), err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert (tmp_path / "mine.py").read_text() == "print(7)\n"


def test_a_module_is_replaced_by_the_next_one(fewvit_, tmp_path):
    for name in ("own/one", "own/two"):
        code, _, err = fewvit_("fewvit_tiny", "--out", tmp_path / "m.py", "--name", name)
        assert code == 0, err
        assert read(tmp_path / "m.py")["META"]["name"] == name


def test_every_published_backbone_says_what_it_was_trained_on_and_where_that_is_seen():
    for name in ("dino", "msn", "mae"):
        family = families()[name]
        assert family.publication is not None
        for row in family.variants.values():
            assert (row.pretrained_on or family.pretrained_on) in SEEN
    assert families()["dinov2"].pretrained_on not in SEEN  # nobody lists which images of LVD-142M are whose


def test_a_module_of_a_path_with_quotes_and_odd_bytes_is_python(fewvit_, tmp_path):
    """Its name stands in a docstring, and in a text that is that path."""
    folder = tmp_path / 'a"""+1\\N \udcff'
    folder.mkdir()
    weights = tiny_weights(folder / "tiny.pth")
    code, _, err = fewvit_(weights, "--name", "a/b", "--out", tmp_path / "x.py")
    assert code == 0, err
    tree = ast.parse((tmp_path / "x.py").read_bytes())
    [arguments] = [one.value for one in tree.body if isinstance(one, ast.Assign) and one.targets[0].id == "BACKBONE"]
    assert ast.literal_eval(arguments)["name"] == str(weights)


def test_a_module_is_not_called_by_a_keyword(fewvit_, tmp_path):
    assert fewvit_("fewvit_tiny", "--out", tmp_path / "class.py")[0] == 2
