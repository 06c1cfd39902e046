"""Every encoding in dinov3/more, against what the official code of TIPSv2, Franca and iBOT gave for it.

And what the mistakes that a loader could make would cost: each is made once, and is seen.
"""

from __future__ import annotations

import copy
import functools
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fewvit.digests import DigestMemory
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.engines import packing_works
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec

ARRAYS = {
    "tipsv2.npz": "tips_features.npz",
    "tipsv2_g.npz": "tips_features.npz",
    "franca.pth": "franca_features.npz",
    "ibot_teacher.pth": "ibot_features.npz",
    "ibot_student.pth": "ibot_features.npz",
}
FAMILY = {"tipsv2.npz": "tipsv2", "tipsv2_g.npz": "tipsv2", "franca.pth": "franca"}
FAMILY |= {"ibot_teacher.pth": "ibot", "ibot_student.pth": "ibot"}  # the teacher by its name alone


def tiled(x: torch.Tensor) -> torch.Tensor:
    """Two images of 448 pixels, each of four of 224."""
    upper, lower = (torch.cat([x[a::4], x[b::4]], dim=3) for a, b in ((0, 1), (2, 3)))
    return torch.cat([upper, lower], dim=2)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "s448": lambda x: tiled(x[:, :, 16:240, 16:240]),
    "s224": lambda x: x[:, :, 16:240, 16:240],
    "s154x224": lambda x: x[:, :, 48:202, 16:240],
    "s98": lambda x: x[:, :, 79:177, 79:177],
    "s160x224": lambda x: x[:, :, 48:208, 16:240],
    "s96": lambda x: x[:, :, 80:176, 80:176],
}
COMMON = ("cls", "patchmean", "patchtokens_sub", "inter_cls")
WHAT = {
    "tips": ((*COMMON, "inter_patchmean", "cls2"), ("s448", "s224", "s154x224")),
    "franca": ((*COMMON, "inter_patchmean"), ("s224", "s154x224", "s98")),
    "ibot": ((*COMMON, "avgpool1_knn", "avgpool2"), ("s224", "s160x224", "s96")),
}


def kind_of(file: str) -> str:
    return ARRAYS[file].partition("_")[0]


KEYS = [
    f"{file}/{view}/{what}" for file in ARRAYS for what in WHAT[kind_of(file)][0] for view in WHAT[kind_of(file)][1]
]


@pytest.fixture(scope="module")
def more(parity) -> Any:
    return type(parity)(parity.folder / "dinov3" / "more")


def test_no_stored_encoding_is_forgotten(more):
    stored = {key for file in set(ARRAYS.values()) for key in more.arrays(file) if "tok_idx" not in key}
    assert set(KEYS) | {"tips/pixels224_first2"} == stored


@pytest.fixture(scope="module")
def spec_of(more, tmp_path_factory) -> Callable[[str], BackboneSpec]:
    access, memory = Access(tmp_path_factory.mktemp("cache"), offline=True), DigestMemory()
    return functools.cache(lambda file: resolve(str(more.folder / file), access, memory))


@pytest.fixture(scope="module")
def backbone_of(spec_of) -> Callable[..., Backbone]:
    return functools.cache(lambda file, engine="eager": build(spec_of(file), Readout(), (224, 224), engine=engine))


@pytest.fixture(scope="module")
def images(parity, spec_of) -> Callable[[str], torch.Tensor]:
    """The eight images (8, 3, 256, 256), normalised as the file's spec says."""
    with np.load(parity.folder / "dinov3" / "preprocess.npz") as arrays:
        pixels = torch.from_numpy(arrays["dinov3"]).permute(0, 3, 1, 2).float() / 255

    def normalised(file: str) -> torch.Tensor:
        from fewvit.extraction.pipeline import FeatureOptions, settle

        how = settle(spec_of(file), FeatureOptions()).preprocess
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (how.mean, how.std))
        return (pixels - mean) / std

    return functools.cache(normalised)


def read(backbone: Backbone, x: torch.Tensor, pool: str = "cls", layers: int = 1, norm: str = "final") -> torch.Tensor:
    return Backbone(backbone.model, backbone.spec, Readout(pool, layers, norm)).encode(x)


def reading(backbone: Backbone, x: torch.Tensor, what: str, sampled: np.ndarray) -> torch.Tensor:
    """What is stored under the name `what` for the images of a view."""
    layers = min(4 if backbone.spec.family == "franca" else 2, backbone.spec.architecture.depth)
    prefix = backbone.model.prefix
    match what:
        case "cls" | "cls2":
            return read(backbone, x, what)
        case "patchmean":
            return read(backbone, x, "mean")
        case "inter_cls" | "inter_patchmean":
            rows = read(backbone, x, "cls" if what == "inter_cls" else "mean", layers)
            return rows.view(len(rows), layers, -1).transpose(0, 1)
        case "patchtokens_sub":
            return backbone.tokens(x[:2])[0][:, prefix:][:, torch.from_numpy(sampled)]
        case "avgpool1_knn":
            return read(backbone, x, "mean", norm="raw")
        case "avgpool2":
            return read(backbone, x, "cls+mean", layers)
    raise KeyError(what)


@pytest.mark.parametrize("engine", ["eager", "packed"])
@pytest.mark.parametrize("key", KEYS)
def test_an_encoding_is_the_official_one(key, engine, more, backbone_of, images):
    if engine == "packed" and not packing_works():
        pytest.skip("torch has no packed oneDNN layers on this machine")
    file, view, what = key.split("/")
    sampled = more.arrays(ARRAYS[file])[f"{kind_of(file)}/tok_idx/{view}"]
    found = reading(backbone_of(file, engine), VIEWS[view](images(file)), what, sampled)
    more.check(ARRAYS[file], key, found.numpy())


def test_each_file_is_taken_for_what_it_shows(spec_of):
    assert {file: spec_of(file).family for file in ARRAYS} == FAMILY


def test_the_architecture_of_each_file_is_the_one_its_manifest_states(more, spec_of):
    for file in ARRAYS:
        facts, a = more.manifest["files"][file], spec_of(file).architecture
        native = (a.side * a.patch, a.width, a.depth, a.heads, a.patch)
        assert native == tuple(facts[key] for key in ("native_img", "embed_dim", "depth", "heads", "patch")), file
        assert a.registers == facts.get("num_register_tokens", 0)


# ---- mistakes that a loader could make; the manifest says how far each lands

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def with_architecture(file: str, spec: BackboneSpec, **changed: Any) -> Backbone:
    """The file's tensors in a ViT that differs so."""
    return build(
        replace(spec, architecture=replace(spec.architecture, **changed)), Readout(), (224, 224), engine="eager"
    )


def with_swapped_halves(backbone: Backbone) -> Backbone:
    """Both halves of SwiGLU's first layer in each other's place."""
    changed = copy.deepcopy(backbone)
    for block in changed.model.blocks:
        for part in (block.mlp.fc1.weight, block.mlp.fc1.bias):
            part.copy_(torch.cat(part.chunk(2)[::-1]))
    return changed


MISTAKES = {  # file, view, what is stored, the least that it is off by, the mistaken reading
    "bicubic positions of TIPSv2": ("tipsv2.npz", "s224", "cls", 0.2, {"positions": "antialias"}),
    "positions of TIPSv2 without antialiasing": ("tipsv2.npz", "s154x224", "cls", 0.1, {"positions": "dino"}),
    "another eps in TIPSv2": ("tipsv2.npz", "s224", "cls", 1e-4, {"eps": 1e-5}),
    "another eps in Franca": ("franca.pth", "s98", "cls", 1e-4, {"eps": 1e-5}),
    "antialiased positions of Franca": ("franca.pth", "s98", "cls", 1.0, {"positions": "antialias"}),
    "positions of Franca without the offset": ("franca.pth", "s98", "cls", 0.3, {"positions": "mae"}),
    "positions of iBOT without the offset": ("ibot_teacher.pth", "s96", "cls", 0.3, {"positions": "mae"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_architecture_is_seen(mistake, more, spec_of, images):
    file, view, what, least, changed = MISTAKES[mistake]
    found = read(with_architecture(file, spec_of(file), **changed), VIEWS[view](images(file)))
    assert np.abs(found.numpy() - more.arrays(ARRAYS[file])[f"{file}/{view}/{what}"]).max() > least


def test_other_mistaken_readings_are_seen(more, backbone_of, images):
    def off(file: str, view: str, what: str, found: torch.Tensor) -> float:
        return float(np.abs(found.numpy() - more.arrays(ARRAYS[file])[f"{file}/{view}/{what}"]).max())

    tips, x = backbone_of("tipsv2.npz"), VIEWS["s224"](images("tipsv2.npz"))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in IMAGENET)
    assert off("tipsv2.npz", "s224", "cls", read(tips, (x - mean) / std)) > 1
    assert off("tipsv2.npz", "s224", "cls", read(tips, x, "cls2")) > 1
    swapped = with_swapped_halves(backbone_of("franca.pth"))
    assert off("franca.pth", "s98", "cls", read(swapped, VIEWS["s98"](images("franca.pth")))) > 1
    ibot, y = backbone_of("ibot_teacher.pth"), VIEWS["s96"](images("ibot_teacher.pth"))
    assert off("ibot_teacher.pth", "s96", "avgpool1_knn", read(ibot, y, "mean")) > 1
    # MSN's readings of class tokens before the norm leave patch means after it, as they were
    torch.testing.assert_close(read(ibot, y, "mean", norm="none"), read(ibot, y, "mean"))


def test_the_pixels_of_tipsv2_at_low_resolution_are_the_official_ones(more, parity, shared):
    from fewvit.extraction.protocols import find_protocol
    from fewvit.images import decode

    with np.load(parity.folder / "dinov3" / "preprocess.npz") as arrays:
        names = [str(name) for name in arrays["file_names"][:2]]
    with zipfile.ZipFile(shared / "data" / "imagenet18.zip") as archive:
        found = [decode(archive.read(one), find_protocol("tipsv2-lowres/1").preprocess, "pil")[0] for one in names]
    more.check("tips_features.npz", "tips/pixels224_first2", np.stack(found))
