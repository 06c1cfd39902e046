"""Linear probes against the official code: what heads read, what they make of it, and the boxes of MAE's crops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fewvit.digests import DigestMemory
from fewvit.features import FeatureSet
from fewvit.linear import ranks
from fewvit.linear.head_grid import HeadGrid
from fewvit.linear.linear_head import LinearHead, read_linear_head
from fewvit.linear.protocols import PROBES, Input, find_probe, head_readings, settle_reading
from fewvit.metrics import top_k_accuracy
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access
from fewvit.training.recipe import Step
from fewvit.views.crops import draw

DINO_HEADS = [
    ("n1_avgpool0", "cls", 1),
    ("n1_avgpool1", "cls+mean", 1),
    ("n2_avgpool0", "cls", 2),
    ("n3_avgpool0", "cls", 3),
]


@pytest.fixture(scope="module")
def images(parity) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(parity.arrays("preprocess.npz")["dino"]).permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.fixture(scope="module")
def backbone(parity, tmp_path_factory):
    """A small official checkpoint as a backbone."""
    access, memory, made = Access(tmp_path_factory.mktemp("cache"), offline=True), DigestMemory(), {}

    def named(file: str) -> Backbone:
        if file not in made:
            made[file] = build(resolve(str(parity.folder / file), access, memory), Readout(), (224, 224))
        return made[file]

    return named


def features(backbone: Backbone, reading, images: torch.Tensor) -> torch.Tensor:
    """What the heads of a reading get, from one forward."""
    readout = Readout(reading.pool, reading.layers, reading.norm)
    return reading.arranged(Backbone(backbone.model, backbone.spec, readout).encode(images))


@pytest.mark.parametrize(("key", "pool", "layers"), DINO_HEADS)
def test_dinos_official_head_gives_its_official_logits_loss_and_accuracies(
    key, pool, layers, parity, backbone, images, tmp_path
):
    """A file in DINO's layout; what it reads follows from its width, and for the avgpool head from --pool."""
    arrays, model = parity.arrays("linear.npz"), backbone("dino_backbone.pth")
    state = {f"module.linear.{name}": torch.from_numpy(arrays[f"dino/{key}/{name}"]) for name in ("weight", "bias")}
    torch.save({"epoch": 100, "state_dict": state}, tmp_path / "dino_deitsmall16_linearweights.pth")
    head, _ = read_linear_head(tmp_path / "dino_deitsmall16_linearweights.pth")
    asked = pool if pool == "cls+mean" else None
    reading = head_readings("dino/1", model.spec.architecture, "final", head.weight.shape[1], pool=asked)[0]
    assert (reading.inputs[0].pool, reading.inputs[0].layers) == (pool, layers)
    x = features(model, reading, images)
    parity.check("linear.npz", f"dino/{key}/classifier_input", x.numpy())
    scores = head.chunked_scores(x.numpy())
    parity.check("linear.npz", f"dino/{key}/logits", scores)
    targets = np.arange(8) % 6
    rank = ranks(scores, FeatureSet(scores, targets, list(map(str, range(8))), list(map(str, range(scores.shape[1])))))
    loss = float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(targets)))
    parity.check(
        "linear.npz", f"dino/{key}/loss_acc1_acc5", np.array([loss, top_k_accuracy(rank, 1), top_k_accuracy(rank, 5)])
    )


def test_the_heads_of_one_reading_get_the_inputs_that_dinov2_creates_for_each(parity, backbone, images):
    model = backbone("dinov2.pth")
    probe = dataclasses.replace(PROBES["dinov2/1"], blocks=(1, 2, 3))
    reading = settle_reading(probe, model.spec.architecture, "final")
    x = features(model, reading, images).numpy()
    assert len(reading.inputs) == 6
    for one in reading.inputs:
        key = f"dinov2/create_linear_input/n{one.layers}_avgpool{int(one.pool == 'cls+mean')}"
        parity.check("linear.npz", key, x[:, one.start : one.stop])


def test_msns_classifier_gives_the_official_logits(parity):
    """LayerNorm with weights, then unit length, then linear; on the class token before the final norm."""
    arrays = parity.arrays("linear.npz")
    x = parity.arrays("features.npz")["msn.target_encoder/s224/forward_blocks1"]
    recipe = dataclasses.replace(find_probe("msn/1"), lrs=(1.0, 6.4))
    heads = HeadGrid(recipe, (Input(1, "cls", 0, 64),), 7, seed=0)
    stack = heads.stacks[0]
    with torch.no_grad():
        stack.weight[1], stack.bias[1] = (torch.from_numpy(arrays[f"msn/linear.{name}"]) for name in ("weight", "bias"))
        stack.gain[1], stack.shift[1] = (torch.from_numpy(arrays[f"msn/norm.{name}"]) for name in ("weight", "bias"))
        parity.check("linear.npz", "msn/logits", stack.scores(torch.from_numpy(x))[:, 1].numpy())
    heads.keep(1, 1)
    parity.check("linear.npz", "msn/logits", heads.kept_head()[2].chunked_scores(x))


def test_maes_head_has_the_official_logits_and_batch_statistics(parity):
    arrays = parity.arrays("linear.npz")
    x = parity.arrays("features.npz")["mae_full/s224/cls"]
    heads = HeadGrid(find_probe("mae/1"), (Input(1, "cls", 0, 64),), 7, seed=0)
    stack = heads.stacks[0]
    with torch.no_grad():
        stack.weight[0], stack.bias[0] = (torch.from_numpy(arrays[f"mae/1.{name}"]) for name in ("weight", "bias"))
        parity.check("linear.npz", "mae/logits_train", stack.train().scores(torch.from_numpy(x))[:, 0].numpy())
    parity.check("linear.npz", "mae/running_mean", stack.batch_norm.running_mean.numpy())
    parity.check("linear.npz", "mae/running_var", stack.batch_norm.running_var.numpy())
    heads.keep(0, 1)
    parity.check("linear.npz", "mae/logits_eval_after_one_update", heads.kept_head()[2].chunked_scores(x))


def test_one_batch_through_the_loops_door_updates_maes_statistics_once(parity):
    x = parity.arrays("features.npz")["mae_full/s224/cls"]
    heads = HeadGrid(find_probe("mae/1"), (Input(1, "cls", 0, 64),), 7, seed=0).train()
    heads([torch.from_numpy(x), torch.arange(8) % 7], Step(0, 1, 1, 0, np.arange(8)))
    parity.check("linear.npz", "mae/running_mean", heads.stacks[0].batch_norm.running_mean.numpy())


def test_maes_patch_means_have_a_norm_that_has_learnt_nothing(parity, backbone, images):
    model = backbone("mae_full.pth")
    reading = settle_reading(find_probe("mae/1"), model.spec.architecture, "final", pool="mean")
    parity.check("features.npz", "mae_full/s224/global_pool", features(model, reading, images).numpy())


def test_maes_probe_crops_the_official_boxes(parity):
    """One draw, clipped: the official numbers are drawn again here, from torch's generator, and go into our rule."""
    view, found = PROBES["mae/1"].view(224), []
    for i in range(40):
        width, height = 500 - 3 * i, 375 + 5 * (i % 7)
        torch.manual_seed(12000 + i)
        area = torch.empty(1).uniform_(0.08, 1.0).item()
        ratio = torch.empty(1).uniform_(*np.log((3 / 4, 4 / 3))).item()
        wide = min(round((area * width * height * np.exp(ratio)) ** 0.5), width)
        tall = min(round((area * width * height / np.exp(ratio)) ** 0.5), height)
        top, left = torch.randint(0, height - tall + 1, (1,)).item(), torch.randint(0, width - wide + 1, (1,)).item()
        numbers = np.full((1, 1, 33), 0.5)
        numbers[..., 0] = (area - 0.08) / 0.92
        numbers[..., 1] = (ratio - np.log(3 / 4)) / (np.log(4 / 3) - np.log(3 / 4))
        numbers[..., 20], numbers[..., 21] = (top + 0.5) / (height - tall + 1), (left + 0.5) / (width - wide + 1)
        found.append(draw(view, np.array([[height, width]]), numbers).boxes[0, 0])
    parity.check("schedules.npz", "mae/random_resized_crop_boxes", np.stack(found))


def test_a_stored_head_is_the_same_on_paper_and_in_memory(parity, tmp_path):
    """Our own file of MSN's classifier gives the official logits, too."""
    arrays = parity.arrays("linear.npz")
    given = {
        name: torch.from_numpy(arrays[f"msn/{name}"])
        for name in ("linear.weight", "linear.bias", "norm.weight", "norm.bias")
    }
    head = LinearHead(
        given["linear.weight"],
        given["linear.bias"],
        "layer",
        {"gain": given["norm.weight"], "shift": given["norm.bias"]},
    )
    head.save(tmp_path / "head.safetensors", {})
    x = parity.arrays("features.npz")["msn.target_encoder/s224/forward_blocks1"]
    parity.check("linear.npz", "msn/logits", read_linear_head(tmp_path / "head.safetensors")[0].chunked_scores(x))
