"""Features as means over scales and mirror images: by hand, in the key, through bundles, and what is refused."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fewvit.backbones import Architecture, families
from fewvit.errors import UsageError
from fewvit.extraction.encoding import start_encoding
from fewvit.extraction.extract import backbone_of
from fewvit.extraction.notes import repeated
from fewvit.extraction.pipeline import FeatureOptions, Pipeline, settle
from fewvit.models.scales import copy_sizes, encode_at_scales
from fewvit.models.spec import BackboneSpec
from fewvit_cli import main as cli

SPEC = BackboneSpec("toy", "dino", Architecture(64, 2, 1, 16, grid=6), "dino/1", "random", seed=3)


def pipeline(**reading) -> Pipeline:
    return settle(SPEC, FeatureOptions(device="cpu", img_size="96", reading=reading or None))


def pixels(n: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 96, 96, 3), dtype=np.uint8)


def normalised(images: np.ndarray, own: Pipeline) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (own.preprocess.mean, own.preprocess.std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.fixture(scope="module")
def backbone():
    return backbone_of(pipeline(), engine="eager")


@pytest.mark.parametrize(
    ("reading", "sides", "mirrored"),
    [
        ({"flip": True}, (96,), (False, True)),
        ({"scales": (1.0, 0.707, 0.5)}, (96, 64, 48), (False,)),  # 67.9 pixels are 4 patches of 16, 48 are 3
        ({"scales": (1.0, 0.5), "flip": True}, (96, 48), (False, True)),
    ],
)
def test_a_feature_is_the_mean_over_the_views_one_by_one(reading, sides, mirrored, backbone):
    own = pipeline(**reading)
    found = start_encoding(backbone, pixels(), 3, own)
    parts = []
    for side in sides:
        x = normalised(pixels(), own)
        x = x if side == 96 else F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        parts += [backbone.encode(x[:, :, :, torch.arange(side - 1, -1, -1)] if turned else x) for turned in mirrored]
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0), atol=1e-5, rtol=1e-4)
    assert (found - start_encoding(backbone, pixels(), 3, pipeline())).abs().max() > 1e-3


def test_with_mirror_images_an_image_and_its_mirror_image_have_one_feature(backbone):
    own = pipeline(flip=True)
    turned = np.ascontiguousarray(pixels()[:, :, ::-1])
    torch.testing.assert_close(start_encoding(backbone, pixels(), 3, own), start_encoding(backbone, turned, 3, own))


def test_copies_have_whole_patches_where_the_backbone_reads_nothing_else():
    assert copy_sizes(224, 192, (1, 0.707, 0.5, 0.01), 16) == [(224, 192), (160, 128), (112, 96), (16, 16)]
    assert copy_sizes(101, 83, (1, 0.5)) == [(101, 83), (50, 41)]  # as in retrieval: floor(scale x side)


def test_images_of_sizes_of_their_own_are_scaled_as_in_retrieval(backbone):
    x = normalised(pixels(), pipeline())
    halves = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    wanted = (backbone.encode(x) + backbone.encode(halves)) / 2
    torch.testing.assert_close(encode_at_scales(backbone, x, (1, 0.5)), wanted)


def test_views_have_a_key_of_their_own_and_off_they_have_the_old_one():
    asked = [{}, {"flip": True}, {"scales": (1.0, 0.5)}, {"scales": (1.0, 0.5), "flip": True}, {"scales": (0.5,)}]
    assert len({pipeline(**one).fingerprint for one in asked}) == len(asked)
    assert pipeline(flip=False, scales=(1.0,)).fingerprint == pipeline().fingerprint
    assert list(pipeline().key["preprocess"]) == ["cover", "crop", "interpolation", "mean", "std"]


def test_what_a_mean_over_views_costs_is_told():
    options = FeatureOptions()
    assert repeated(pipeline(), options) is None
    note = repeated(pipeline(scales=(1.0, 0.5), flip=True), options)
    assert note == (
        "a feature is the mean over views of 96x96, 48x48 pixels, each also mirrored: about 2.5 times the work of one"
    )


def test_half_precision_at_several_sizes_is_no_work_for_what_compiles_for_one(monkeypatch):
    from fewvit.models import engines

    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    half = FeatureOptions(device="cpu", img_size="96", precision="bf16")
    assert settle(SPEC, dataclasses.replace(half, reading={"flip": True})).engine == "openvino"
    assert settle(SPEC, dataclasses.replace(half, reading={"scales": (1.0, 0.5)})).engine != "openvino"


def test_scales_that_are_none_or_that_a_model_cannot_read_are_refused():
    for scales in ((), (0.0,), (-1.0,), (5.0,), (1.0, 1.0)):
        with pytest.raises(UsageError, match="--scales"):
            pipeline(scales=scales)
    row = families()["supervised"].variants["deit_vitb16"]
    spec = dataclasses.replace(SPEC, name="deit", family="supervised", architecture=row.architecture)
    assert settle(spec, FeatureOptions(device="cpu", reading={"flip": True})).preprocess.flip
    with pytest.raises(UsageError, match="images of one size"):
        settle(spec, FeatureOptions(device="cpu", reading={"scales": (1.0, 0.5)}))


def test_a_bundle_reads_new_images_by_the_views_that_it_was_fitted_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    for name, images in (("a", pixels(3)), ("b", 255 - pixels(3) // 2)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            (tmp_path / "set" / name / f"{i}.png").write_bytes(file.getvalue())
    own = ["--backbone", "fewvit_tiny", "--scales", "1,0.5", "--flip"]
    made = [str(tmp_path / name) for name in ("x.bundle", "views.npz", "plain.npz")]
    data = str(tmp_path / "set")
    assert cli.run(["fit", *own, "--data", data, "--classifier", "centroid", "--out", made[0]]) == 0
    assert cli.run(["extract", *own, "--data", data, "--out", made[1]]) == 0
    assert cli.run(["extract", *own[:2], "--data", data, "--out", made[2]]) == 0
    capsys.readouterr()
    for source in (data, made[1]):
        assert cli.run(["predict", made[0], source, "--format", "csv"]) == 0
    assert cli.run(["predict", made[0], made[2]]) == 4  # features of other views
