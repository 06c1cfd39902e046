"""What the linear classifiers of DINO and DINOv2 receive, where a readout of the library is that input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewvit.digests import DigestMemory
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access

CASES = [
    *((f"dino/n{n}_avgpool0/classifier_input", "dino_backbone.pth", Readout("cls", n)) for n in (1, 2, 3)),
    *((f"dinov2/create_linear_input/n{n}_avgpool0", "dinov2.pth", Readout("cls", n)) for n in (1, 2, 3)),
    *((f"dinov2/create_linear_input/n{n}_avgpool1", "dinov2.pth", Readout("cls+mean", n)) for n in (1, 2, 3)),
]


@pytest.fixture(scope="module")
def images(parity) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(parity.arrays("preprocess.npz")["dino"]).permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.fixture(scope="module")
def models(parity, tmp_path_factory):
    access, memory = Access(tmp_path_factory.mktemp("cache"), offline=True), DigestMemory()
    files = {file for _, file, _ in CASES}
    return {file: build(resolve(str(parity.folder / file), access, memory), Readout(), (224, 224)) for file in files}


@pytest.mark.parametrize(("key", "file", "readout"), CASES, ids=[key for key, _, _ in CASES])
def test_a_readout_is_the_input_of_the_official_classifier(key, file, readout, parity, models, images):
    backbone = models[file]
    found = Backbone(backbone.model, backbone.spec, readout).encode(images)
    assert found.shape[1] == readout.width(backbone.spec.architecture.width)
    parity.check("linear.npz", key, found.numpy())


def test_dinos_average_pooling_interleaves_what_cls_mean_concatenates(parity, models, images):
    backbone = models["dino_backbone.pth"]
    plain = Backbone(backbone.model, backbone.spec, Readout("cls+mean")).encode(images)
    interleaved = plain.view(len(plain), 2, -1).transpose(1, 2).flatten(1)  # class 0, mean 0, class 1, mean 1, ...
    parity.check("linear.npz", "dino/n1_avgpool1/classifier_input", interleaved.numpy())


@pytest.mark.parametrize("block", range(3))
def test_tokens_of_each_block_are_the_ones_that_dinov2s_linear_evaluation_reads(block, parity, models, images):
    tokens = models["dinov2.pth"].tokens(images[:4], layers=3)[block]
    parity.check("linear.npz", f"dinov2/tokens/block{block}/class", tokens[:, 0].numpy())
    parity.check("linear.npz", f"dinov2/tokens/block{block}/patch_first2imgs", tokens[:2, 1::16].numpy())


@pytest.mark.parametrize("case", [case for case in CASES if case[0].startswith("dino/")], ids=lambda case: case[0])
def test_the_official_logits_follow_from_the_readout(case, parity, models, images):
    key, file, readout = case
    stem = key.removesuffix("/classifier_input")
    arrays = parity.arrays("linear.npz")
    found = Backbone(models[file].model, models[file].spec, readout).encode(images).numpy()
    parity.check(
        "linear.npz", f"{stem}/logits", found @ np.transpose(arrays[f"{stem}/weight"]) + arrays[f"{stem}/bias"]
    )
