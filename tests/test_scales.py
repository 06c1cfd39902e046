"""Images of any size at several scales: patches by hand, official rules by a second implementation, and extraction."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from fewvit.backbones import Architecture
from fewvit.datasets import open_dataset
from fewvit.digests import DigestMemory
from fewvit.errors import BadImages, UsageError
from fewvit.extraction.cache import Cache
from fewvit.extraction.extract import extract
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.work import Work
from fewvit.models.build import build
from fewvit.models.engines import accelerate
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.scales import encode_at_scales, smallest_side
from fewvit.models.spec import Access, BackboneSpec

from made_images import jpeg, tiny_weights
from oracles import resized_positions

TINY = Architecture(width=64, depth=2, heads=1, patch=16, grid=6)
MULTI = (1.0, 2**-0.5, 0.5)


@pytest.fixture(scope="module")
def backbone():
    made = build(BackboneSpec("toy", "dino", TINY, "dino/1", "random", seed=3), Readout(), None, engine="eager")
    stream = torch.Generator().manual_seed(7)
    for parameter in made.model.parameters():
        parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=stream))
    return made


def pixels(height: int, width: int, n: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(5))


def by_hand(backbone, images: torch.Tensor, *, as_it_is: bool = False) -> torch.Tensor:
    """DINO's class token: whole patches from the top left, positions resized by (patches + 0.1) / grid in float64."""
    model, patch = backbone.model, TINY.patch
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    table = model.pos_embed.detach()
    if not as_it_is:
        table = torch.from_numpy(resized_positions(table.numpy(), "dino", rows, columns)).float()
    patches = model.patch_embed.proj(images[..., : rows * patch, : columns * patch]).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), patches], dim=1) + table
    for block in model.blocks:
        tokens = block(tokens)
    return model.norm(tokens)[:, 0].detach()


@pytest.mark.parametrize("size", [(83, 101), (96, 80), (16, 31), (112, 64), (97, 111)])
def test_what_is_over_at_the_right_and_below_is_left_out_and_positions_are_resized(backbone, size):
    """97 x 111 pixels are 6 x 6 patches, as many as the table has; but no square, so DINO resizes it all the same."""
    images = pixels(*size, n=2)
    np.testing.assert_allclose(backbone.encode(images), by_hand(backbone, images), atol=2e-5)


def test_a_square_with_the_tables_patches_takes_it_as_it_is(backbone):
    for side in (96, 101):
        images = pixels(side, side)
        np.testing.assert_allclose(backbone.encode(images), by_hand(backbone, images, as_it_is=True), atol=2e-5)
    assert (by_hand(backbone, images) - by_hand(backbone, images, as_it_is=True)).abs().max() > 1e-3


def bilinear(image: np.ndarray, scale: float) -> np.ndarray:
    """(C, floor(sH), floor(sW)): sampled at (i + 1/2) / s - 1/2, edges repeated, in float64; not antialiased."""
    out = image.astype(np.float64)
    for axis in (1, 2):
        n = out.shape[axis]
        at = np.maximum((np.arange(math.floor(n * scale)) + 0.5) / scale - 0.5, 0)
        low = np.minimum(np.floor(at).astype(int), n - 1)
        high, share = np.minimum(low + 1, n - 1), at - low
        share = share.reshape((-1, 1) if axis == 1 else (1, -1))
        out = out.take(low, axis) * (1 - share) + out.take(high, axis) * share
    return out


def test_several_scales_give_the_mean_of_features_that_are_not_normalised(backbone):
    images = pixels(101, 83)
    copies = [images, *(torch.from_numpy(bilinear(images[0].numpy(), s)).float()[None] for s in MULTI[1:])]
    assert [tuple(copy.shape[-2:]) for copy in copies] == [(101, 83), (71, 58), (50, 41)]
    wanted = sum(by_hand(backbone, copy) for copy in copies) / 3
    np.testing.assert_allclose(encode_at_scales(backbone, images, MULTI), wanted, atol=5e-5)
    torch.testing.assert_close(encode_at_scales(backbone, images, (1.0,)), backbone.encode(images), atol=0, rtol=0)


def test_the_smallest_side_is_that_of_the_smallest_copy():
    assert smallest_side(101, 83, MULTI) == 41
    assert smallest_side(101, 83, (1.0,)) == 83


def test_a_backbone_of_one_size_refuses_parts_of_patches_and_openvino_other_sizes():
    spec = BackboneSpec("toy", "dino", TINY, "dino/1", "random")
    with pytest.raises(UsageError, match="101 is not a multiple"):
        build(spec, Readout(), (96, 96), engine="eager").encode(pixels(96, 101))
    with pytest.raises(UsageError, match="openvino engine reads images of one size"):
        accelerate(
            build(spec, Readout(), None, engine="eager"), None, device="cpu", precision="bf16", engine="openvino"
        )


# ---- extraction


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth", TINY)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(131, 97), (97, 131), (64, 48), (131, 97), (61, 211)]):
        (folder / f"{i}.jpg").write_bytes(jpeg(i, size))
    return folder


def pipeline_of(weights, tmp_path, **options):
    spec = resolve(str(weights), Access(tmp_path / "cache"), DigestMemory())
    reading = {"longest": 112, "interpolation": "lanczos", "scales": MULTI}
    return settle(spec, dataclasses.replace(FeatureOptions(device="cpu", reading=reading), **options))


@pytest.mark.parametrize("pool", ["cls", "cls+gem"])
def test_features_of_photos_of_many_sizes_are_those_of_each_alone(weights, photos, tmp_path, pool):
    pipeline = pipeline_of(weights, tmp_path, pool=pool, decode="pil")
    cache = Cache(tmp_path / "cache")
    features = extract(pipeline, open_dataset(str(photos)), cache, Work(batch_size=4))
    model = build(pipeline.spec, Readout(pool), None, engine="eager")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for i, name in enumerate(features.ids):
        image = Image.open(io.BytesIO((photos / name).read_bytes())).convert("RGB")
        image.thumbnail((112, 112), Image.Resampling.LANCZOS)
        x = (torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2) / 255 - mean) / std
        np.testing.assert_allclose(features.features[i], encode_at_scales(model, x, MULTI)[0], atol=2e-5)
    again = extract(pipeline, open_dataset(str(photos)), cache, Work(), build=lambda: pytest.fail("built again"))
    np.testing.assert_array_equal(again.features, features.features)


def test_a_photos_feature_is_the_same_bits_alone_and_among_others(weights, photos, tmp_path):
    pipeline = pipeline_of(weights, tmp_path)
    together = extract(pipeline, open_dataset(str(photos)), None, Work())
    alone = extract(pipeline, open_dataset(str(photos / "2.jpg")), None, Work())
    np.testing.assert_array_equal(alone.features[0], together.features[2])


def test_a_photo_without_a_patch_at_its_smallest_scale_is_a_bad_image(weights, photos, tmp_path):
    (photos / "thin.jpg").write_bytes(jpeg(7, (112, 31)))
    with pytest.raises(BadImages, match=r"thin\.jpg \(31 x 112 pixels at scale 0\.5: less than a patch of 16\)"):
        extract(pipeline_of(weights, tmp_path), open_dataset(str(photos)), None, Work())
    kept = extract(pipeline_of(weights, tmp_path), open_dataset(str(photos)), None, Work(max_bad="1"))
    assert len(kept) == 5
