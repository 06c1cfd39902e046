"""The ViT that is trained.

The frozen one's features, any patches left out, any crops joined, any image's branches dropped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fewvit.backbones import Architecture
from fewvit.errors import CheckpointError
from fewvit.methods._trunk import Trunk, start_linears
from fewvit.models.backbone import randomise
from fewvit.models.readout import Readout
from fewvit.models.vit import VisionTransformer
from fewvit.training.recipe import Step

PLAIN = Architecture(64, 3, 2, 8, grid=5)
REGISTERED = Architecture(64, 3, 2, 8, grid=5, registers=3, layer_scale=True)
both = pytest.mark.parametrize("architecture", [PLAIN, REGISTERED], ids=["plain", "registers"])


def made(architecture: Architecture = PLAIN, drop_path: float = 0.0) -> Trunk:
    """A trunk in which every parameter matters."""
    trunk = Trunk(architecture, drop_path)
    randomise(trunk, 3)
    stream = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    return trunk


def images(n: int, height: int = 40, seed: int = 11) -> Tensor:
    return torch.randn(n, 3, height, height, generator=torch.Generator().manual_seed(seed))


def step(rows, epoch: int = 3, seed: int = 5) -> Step:
    return Step(index=7 * epoch + 2, steps_per_epoch=7, epochs=11, seed=seed, rows=np.array(rows))


def branch(block, tokens: Tensor, which: int) -> Tensor:
    """What one of a block's two branches adds, written out."""
    if which == 0:
        return block.ls1(block.attn(block.norm1(tokens)))
    return block.ls2(block.mlp(block.norm2(tokens)))


def by_hand(trunk: Trunk, image: Tensor, patches: list[int] | None = None, scales: Tensor | None = None) -> Tensor:
    """Tokens (T, D) of one image.

    Its patches embedded one by one, positions added, those wanted put together, block after block.
    """
    a = trunk.architecture
    side = image.shape[-1] // a.patch
    table = trunk.positions(*image.shape[-2:])[0]
    weight = trunk.patch_embed.proj.weight.flatten(1)
    tokens = [trunk.cls_token[0, 0] + table[0], *(trunk.register_tokens[0] if a.registers else ())]
    for number in range(side**2) if patches is None else patches:
        top, left = a.patch * (number // side), a.patch * (number % side)
        pixels = image[:, top : top + a.patch, left : left + a.patch].flatten()
        tokens.append(weight @ pixels + trunk.patch_embed.proj.bias + table[1 + number])
    x = torch.stack(tokens)[None]
    for i, block in enumerate(trunk.blocks):
        for which in (0, 1):
            x = x + branch(block, x, which) * (1.0 if scales is None else scales[2 * i + which])
    return x[0]


@both
@pytest.mark.parametrize("side", [40, 24, 56])
def test_the_class_token_is_the_frozen_vits(architecture, side):
    trunk, frozen = made(architecture, drop_path=0.3), VisionTransformer(architecture)
    frozen.load_state_dict(trunk.state_dict())
    pixels = images(3, side)
    with torch.no_grad():
        torch.testing.assert_close(trunk.class_token(pixels), frozen.read(pixels, Readout()), atol=1e-5, rtol=0)
        torch.testing.assert_close(trunk.encode(pixels), frozen.last_blocks(pixels)[0], atol=1e-5, rtol=0)


@both
def test_patches_shared_by_a_batch_are_kept_with_their_positions_and_in_their_order(architecture):
    trunk, pixels, wanted = made(architecture), images(3), [17, 3, 4, 23, 0]
    with torch.no_grad():
        found = trunk.encode(pixels, keep=torch.tensor(wanted))
        for image, tokens in zip(pixels, found, strict=True):
            torch.testing.assert_close(tokens, by_hand(trunk, image, wanted), atol=1e-5, rtol=0)


@both
def test_each_image_may_keep_patches_of_its_own(architecture):
    trunk, pixels, wanted = made(architecture), images(3), [[17, 3, 4], [0, 24, 3], [5, 1, 9]]
    with torch.no_grad():
        found = trunk.encode(pixels, keep=torch.tensor(wanted))
        for image, own, tokens in zip(pixels, wanted, found, strict=True):
            torch.testing.assert_close(tokens, by_hand(trunk, image, own), atol=1e-5, rtol=0)


def test_a_class_token_that_saw_few_patches_is_normed_too():
    trunk, pixels, wanted = made(), images(2), [[17, 3, 4], [0, 24, 3]]
    with torch.no_grad():
        found = trunk.class_token(pixels, keep=torch.tensor(wanted))
        for image, own, token in zip(pixels, wanted, found, strict=True):
            torch.testing.assert_close(token, trunk.norm(by_hand(trunk, image, own)[0]), atol=1e-5, rtol=0)


def test_keeping_every_patch_in_order_is_keeping_none_out():
    trunk, pixels = made(), images(2)
    with torch.no_grad():
        assert torch.equal(trunk.encode(pixels, keep=torch.arange(25)), trunk.encode(pixels))


SIZES = [40, 40, 24, 24, 24, 40, 56]  # crops of one size need not all stand together


def test_crops_joined_give_what_each_gives_alone_in_the_order_given():
    trunk = made()
    crops = [images(2 + i % 3, size, seed=i) for i, size in enumerate(SIZES)]
    with torch.no_grad():
        joined = trunk.crops(crops)
        alone = [by_hand(trunk, image)[0] for crop in crops for image in crop]
    torch.testing.assert_close(joined, trunk.norm(torch.stack(alone)), atol=1e-5, rtol=0)


def test_neighbouring_crops_of_one_size_are_one_forward(monkeypatch):
    trunk, seen = made(), []
    monkeypatch.setattr(
        trunk, "embed", lambda pixels, embed=trunk.embed: (seen.append(tuple(pixels.shape[::2])), embed(pixels))[1]
    )
    trunk.crops([images(2, size) for size in SIZES])
    assert seen == [(4, 40), (6, 24), (2, 40), (2, 56)]


# ---- drop path


def test_each_image_has_its_own_branches_dropped():
    trunk, pixels = made(drop_path=0.4), images(3)
    scales = torch.tensor([[1.0, 1.0, 0.0, 1.25, 5 / 3, 0.0], [1.0, 1.0, 1.25, 0.0, 0.0, 0.0], [1.0] * 6])
    with torch.no_grad():
        found = trunk.encode(pixels, scales=scales)
        for image, own, tokens in zip(pixels, scales, found, strict=True):
            torch.testing.assert_close(tokens, by_hand(trunk, image, scales=own), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            trunk.encode(pixels)[0], by_hand(trunk, pixels[0]), atol=1e-5, rtol=0
        )  # the next forward drops nothing


def test_joined_crops_keep_their_own_scales():
    trunk = made(drop_path=0.4)
    crops = [images(3, size, seed=i) for i, size in enumerate(SIZES)]
    scales = trunk.draw_scales(step([3, 7, 13]), len(crops), torch.device("cpu"))
    with torch.no_grad():
        joined = trunk.crops(crops, scales)
        alone = [
            by_hand(trunk, image, scales=own)[0] for crop, many in zip(crops, scales) for image, own in zip(crop, many)
        ]
    torch.testing.assert_close(joined, trunk.norm(torch.stack(alone)), atol=1e-5, rtol=0)


def test_a_branch_is_dropped_as_often_as_its_depth_says_and_kept_ones_make_up_for_it():
    trunk, n = made(drop_path=0.4), 4001
    (scales,) = trunk.draw_scales(step(range(n)), 1, torch.device("cpu"))
    for branches, rate in zip(scales.T.split(2), (0.0, 0.2, 0.4), strict=True):
        for factors in branches:
            assert set(np.round(factors.unique().tolist(), 6)) == {*([0.0] if rate else []), round(1 / (1 - rate), 6)}
            assert float((factors == 0).float().mean()) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5)
    assert not torch.equal(scales[:, 4], scales[:, 5])


def test_what_is_dropped_depends_on_seed_epoch_row_and_crop_but_not_on_the_batch():
    trunk, cpu = made(drop_path=0.4), torch.device("cpu")
    rows = list(range(101))
    first, second = trunk.draw_scales(step(rows), 2, cpu)
    (apart,) = trunk.draw_scales(step([70, 7]), 1, cpu)
    assert torch.equal(apart, first[[70, 7]])
    others = [
        second,
        trunk.draw_scales(step(rows, epoch=4), 1, cpu)[0],
        trunk.draw_scales(step(rows, seed=6), 1, cpu)[0],
    ]
    assert not any(torch.equal(first, other) for other in others)
    assert made().draw_scales(step(rows), 2, cpu) is None


def gradients(trunk: Trunk, crops: list[Tensor], scales) -> list[Tensor]:
    trunk.zero_grad()
    (trunk.crops(crops, scales) * torch.linspace(-1, 1, 64)).square().sum().backward()
    return [p.grad.clone() for p in trunk.parameters()]


def test_computing_blocks_again_for_backward_changes_no_gradient_even_when_other_crops_came_between():
    trunk = made(drop_path=0.4)
    crops = [images(3, 40), images(3, 24)]
    scales = trunk.draw_scales(step([3, 7, 13]), 2, torch.device("cpu"))
    assert not torch.equal(*scales)
    stored = gradients(trunk, crops, scales)
    trunk.recompute = True
    for again, once in zip(gradients(trunk, crops, scales), stored, strict=True):
        assert torch.equal(again, once)


def test_a_block_is_computed_once_and_once_more_for_backward_only_where_that_is_asked_for():
    trunk, computed = made(), []
    trunk.blocks[1].register_forward_pre_hook(lambda block, inputs: computed.append(torch.is_grad_enabled()))
    for again in (False, True):
        trunk.recompute = again
        computed.clear()
        trunk.class_token(images(2)).sum().backward()
        assert len(computed) == 1 + again
        with torch.no_grad():
            trunk.class_token(images(2))
        assert len(computed) == 2 + again


# ---- what it starts from


def test_a_released_trunk_is_taken_over_whole_or_refused():
    trunk, other = Trunk(PLAIN), made()
    trunk.start_from(other.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in trunk.state_dict().items())
    with pytest.raises(CheckpointError, match=r"missing norm\.bias"):
        trunk.start_from({name: value for name, value in other.state_dict().items() if name != "norm.bias"})


def test_linear_layers_start_normal_with_the_deviation_asked_for_and_without_bias():
    trunk = made()
    torch.manual_seed(3)
    before = trunk.patch_embed.proj.weight.clone()
    start_linears(trunk, std=0.02)
    for block in trunk.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not layer.bias.any()
    assert torch.equal(trunk.patch_embed.proj.weight, before)
