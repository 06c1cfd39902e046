"""What a mode trains of a trunk, low-rank updates against dense algebra, and adapters merged into their trunk."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewvit.backbones import Architecture
from fewvit.errors import CheckpointError, DataError, UsageError
from fewvit.finetune.adapters import Adapted, blocks_below, changed_tensors, prepare, read_peft
from fewvit.finetune.modes import MODES, recipe_for
from fewvit.methods._trunk import Trunk
from fewvit.models.adapter import merged
from fewvit.models.backbone import randomise
from fewvit.models.readout import Readout
from fewvit.models.vit import VisionTransformer
from fewvit.views.view import View

WIDE = Architecture(width=12, depth=3, heads=2, patch=4, grid=3)
RANK, ALPHA = 3, 7.5
READOUT = Readout()


def trunk(architecture: Architecture = WIDE, seed: int = 3) -> Trunk:
    made = Trunk(architecture)
    randomise(made, seed)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():  # norms too: nothing is trivial
            parameter.add_(torch.randn(parameter.shape, generator=stream) * 0.1)
    return made


def recipe(mode: str, **changes):
    made, _ = recipe_for(mode, WIDE, View(12, (1.0, 1.0)), "dino", 10, 5)
    return dataclasses.replace(made, rank=RANK, alpha=ALPHA, **changes)


def prepared(mode: str, reads_norm: bool = True, **changes) -> Trunk:
    made = trunk()
    prepare(made, recipe(mode, **changes), reads_norm, torch.Generator().manual_seed(1))
    return made


def trained(made: Trunk, seed: int = 8) -> Trunk:
    """As if training had moved everything that may change."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=stream) * 0.2)
    return made


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def names_of_trained(made: Trunk) -> set[str]:
    return {name for name, parameter in made.named_parameters() if parameter.requires_grad}


# ---- what changes


def in_block(i: int) -> set[str]:
    return {
        f"blocks.{i}.{name}.{kind}"
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }


EMBEDDING = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
NORM = {"norm.weight", "norm.bias"}


def test_each_mode_trains_what_it_says_and_nothing_else():
    everything = EMBEDDING | NORM | in_block(0) | in_block(1) | in_block(2)
    assert names_of_trained(prepared("full")) == everything
    assert names_of_trained(prepared("last-block")) == in_block(2) | NORM
    blocks = in_block(0) | in_block(1) | in_block(2) | NORM
    assert names_of_trained(prepared("bias")) == {name for name in blocks if name.endswith(".bias")}
    assert (
        names_of_trained(prepared("norm"))
        == {f"blocks.{i}.norm{n}.{k}" for i in range(3) for n in (1, 2) for k in ("weight", "bias")} | NORM
    )
    low_rank = {f"blocks.{i}.attn.qkv.updates.all.lora_{part}" for i in range(3) for part in "ab"}
    assert names_of_trained(prepared("lora")) == low_rank
    assert set(MODES) == {"full", "last-block", "bias", "norm", "lora"}


@pytest.mark.parametrize("mode", ["full", "last-block", "bias", "norm"])
def test_a_final_norm_that_is_not_read_is_not_trained(mode):
    assert names_of_trained(prepared(mode, reads_norm=False)) == names_of_trained(prepared(mode)) - NORM


def test_so_many_of_the_last_blocks_change_as_are_asked_for():
    assert names_of_trained(prepared("full", blocks=2)) == in_block(1) | in_block(2) | NORM
    assert {name.split(".")[1] for name in names_of_trained(prepared("lora", blocks=1))} == {"2"}
    for blocks in (0, 4, -1):
        with pytest.raises(UsageError, match="3 blocks"):
            prepared("lora", blocks=blocks)


@pytest.mark.parametrize(
    ("mode", "changes", "below"),
    [
        ("full", {}, None),
        ("last-block", {}, 2),
        ("lora", {}, 0),
        ("lora", {"blocks": 2}, 1),
        ("bias", {}, 0),
        ("norm", {"blocks": 1}, 2),
    ],
)
def test_what_lies_below_the_first_change_is_known(mode, changes, below):
    assert blocks_below(prepared(mode, **changes)) == below


# ---- low-rank updates against dense algebra

TARGETS = ["qkv", "q+v", "k", "qkv+proj+fc1+fc2", "fc1+q"]


def test_a_new_update_changes_no_bit():
    expected = trunk().read(images(), READOUT)
    assert torch.equal(prepared("lora", targets="q+k+v+proj+fc1+fc2").read(images(), READOUT), expected)


@pytest.mark.parametrize("targets", TARGETS)
def test_the_adapted_trunk_computes_what_dense_weights_do(targets):
    made = trained(prepared("lora", targets=targets))
    dense = {name: tensor.double() for name, tensor in trunk().state_dict().items()}
    for i, block in enumerate(made.blocks):
        for layer, holder in {"qkv": "attn", "proj": "attn", "fc1": "mlp", "fc2": "mlp"}.items():
            adapted = getattr(getattr(block, holder), layer)
            if not isinstance(adapted, Adapted):
                continue
            for third, update in adapted.updates.items():
                change = ALPHA / RANK * torch.einsum("or,ri->oi", update.lora_b.double(), update.lora_a.double())
                start = {"all": 0, "q": 0, "k": 12, "v": 24}[third]
                dense[f"blocks.{i}.{holder}.{layer}.weight"][start : start + len(change)] += change.detach()
    plain = VisionTransformer(WIDE).double()
    plain.load_state_dict(dense)
    expected = plain.read(images().double(), READOUT)
    torch.testing.assert_close(made.read(images(), READOUT).double(), expected, atol=2e-5, rtol=1e-4)
    assert (expected - trunk().read(images(), READOUT)).abs().max() > 0.01  # the update matters


def test_gradients_of_an_update_follow_from_the_dense_gradient():
    """dL/dA = s B^T G and dL/dB = s G A^T, with G = dL/dW of the merged weight."""
    made = trained(prepared("lora", targets="qkv+fc2"))
    made.read(images(), READOUT).square().sum().backward()
    plain = VisionTransformer(WIDE)
    plain.load_state_dict(merged(trunk().state_dict(), changed_tensors(made), "here"))
    plain.read(images(), READOUT).square().sum().backward()
    for adapted, dense in (
        (made.blocks[1].attn.qkv, plain.blocks[1].attn.qkv),
        (made.blocks[0].mlp.fc2, plain.blocks[0].mlp.fc2),
    ):
        update, g = adapted.updates["all"], dense.weight.grad
        torch.testing.assert_close(update.lora_a.grad, ALPHA / RANK * update.lora_b.T @ g, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(update.lora_b.grad, ALPHA / RANK * g @ update.lora_a.T, atol=1e-4, rtol=1e-3)
        assert adapted.base.weight.grad is None


def test_the_first_matrix_is_drawn_as_loras_authors_draw_it_and_depends_on_the_generator_alone():
    torch.manual_seed(99)
    one = prepared("lora").blocks[0].attn.qkv.updates["all"].lora_a
    torch.manual_seed(5)
    again = prepared("lora").blocks[0].attn.qkv.updates["all"].lora_a
    assert torch.equal(one, again)
    wide = (
        Adapted(torch.nn.Linear(400, 6), (), 50, 1.0, torch.Generator().manual_seed(0)).updates["all"].lora_a.detach()
    )
    bound = 1 / np.sqrt(400)  # uniform within it: what kaiming_uniform with a = sqrt(5) comes to
    assert 0.999 * bound < wide.abs().max() <= bound
    assert float(wide.std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert not torch.equal(prepared("lora").blocks[1].attn.qkv.updates["all"].lora_a, one)


@pytest.mark.parametrize("targets", ["", "qkv+q", "query", "fc3", "+"])
def test_targets_that_are_no_layers_are_refused(targets):
    with pytest.raises(UsageError, match="targets"):
        prepared("lora", targets=targets)


def test_a_rank_of_zero_is_refused():
    made = trunk()
    with pytest.raises(UsageError, match="rank"):
        prepare(made, dataclasses.replace(recipe("lora"), rank=0), True, torch.Generator())


# ---- adapters


@pytest.mark.parametrize("mode", ["lora", "last-block", "bias", "norm", "full"])
@pytest.mark.parametrize("reads_norm", [True, False])
def test_a_merged_adapter_is_the_tuned_trunk(mode, reads_norm):
    made = trained(prepared(mode, reads_norm, targets="q+v+fc1"))
    before = trunk().state_dict()
    kept = {name: tensor.clone() for name, tensor in before.items()}
    plain = VisionTransformer(WIDE)
    plain.load_state_dict(merged(before, changed_tensors(made), "here"))
    torch.testing.assert_close(plain.read(images(), READOUT), made.read(images(), READOUT), atol=2e-5, rtol=1e-4)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.items())  # the base stays what it was


def test_an_adapter_holds_only_what_changed():
    assert set(changed_tensors(prepared("lora", targets="q+v", blocks=1))) == {
        f"blocks.2.attn.{t}.lora_{p}" for t in "qv" for p in ("a", "b", "scale")
    }
    assert set(changed_tensors(prepared("norm", reads_norm=False, blocks=1))) == {
        f"blocks.2.norm{n}.{k}" for n in (1, 2) for k in ("weight", "bias")
    }


def test_an_adapter_of_another_architecture_is_refused_by_the_name_of_its_first_misfit():
    adapter = changed_tensors(trained(prepared("lora")))
    other = trunk(Architecture(width=8, depth=3, heads=2, patch=4, grid=3)).state_dict()
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.qkv"):
        merged(other, adapter, "file")
    shallow = trunk(Architecture(width=12, depth=2, heads=2, patch=4, grid=3)).state_dict()
    with pytest.raises(CheckpointError, match=r"blocks\.2\.attn\.qkv"):
        merged(shallow, adapter, "file")
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        merged(trunk().state_dict(), {"norm.weight": torch.zeros(5)}, "file")
    with pytest.raises(CheckpointError, match="nothing"):
        merged(trunk().state_dict(), {"nothing.bias": torch.zeros(5)}, "file")
    for missing in (".lora_b", ".lora_scale"):
        part = {name: tensor for name, tensor in adapter.items() if not name.endswith(missing)}
        with pytest.raises(CheckpointError, match="attn"):
            merged(trunk().state_dict(), part, "file")


# ---- peft's folders


def peft_folder(place, tensors, **config):
    place.mkdir()
    (place / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "lora_alpha": 6, "r": 2, "bias": "none", **config})
    )
    save_file(tensors, place / "adapter_model.safetensors")
    return place


def test_an_adapter_of_peft_for_transformers_names_is_merged_into_the_thirds(tmp_path):
    stream = torch.Generator().manual_seed(4)
    stem = "base_model.model.vit.encoder.layer.1"
    layers = {
        "attention.attention.query": ("attn.qkv", 0, 12, 12),
        "attention.attention.value": ("attn.qkv", 24, 12, 12),
        "output.dense": ("mlp.fc2", 0, 12, 48),
    }
    tensors, expected = {}, {name: t.clone() for name, t in trunk().state_dict().items()}
    for layer, (own, start, rows, columns) in layers.items():
        a, b = torch.randn(2, columns, generator=stream), torch.randn(rows, 2, generator=stream)
        tensors |= {f"{stem}.{layer}.lora_A.weight": a, f"{stem}.{layer}.lora_B.weight": b}
        expected[f"blocks.1.{own}.weight"][start : start + rows] += 6 / 2 * b @ a
    found = merged(trunk().state_dict(), read_peft(peft_folder(tmp_path / "p", tensors)), "p")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


def test_an_adapter_of_peft_for_timms_names_and_rank_stabilised_scale(tmp_path):
    a, b = torch.ones(4, 12), torch.ones(36, 4)
    stem = "base_model.model.blocks.0.attn.qkv"
    folder = peft_folder(tmp_path / "p", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, use_rslora=True, r=4)
    found = merged(trunk().state_dict(), read_peft(folder), "p")
    name = "blocks.0.attn.qkv.weight"
    torch.testing.assert_close(
        found[name] - trunk().state_dict()[name], torch.full((36, 12), 6 / 2 * 4.0), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("config", [{"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}])
def test_other_kinds_of_peft_are_refused(tmp_path, config):
    with pytest.raises(DataError, match="plain LoRA"):
        read_peft(peft_folder(tmp_path / "p", {"x": torch.zeros(1)}, **config))


@pytest.mark.parametrize(
    "name",
    ["base_model.model.head.lora_A.weight", "base_model.model.blocks.0.attn.other.lora_A.weight", "x.0.magnitude"],
)
def test_tensors_of_peft_that_are_no_layer_of_a_block_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="no "):
        read_peft(peft_folder(tmp_path / "p", {name: torch.zeros(2, 2)}))


def test_a_folder_that_is_no_peft_adapter_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"adapter_config\.json"):
        read_peft(tmp_path)


# ---- memory


def saved_bytes(module: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes that a forward keeps for backward, parameters apart; each memory once."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        module(x).sum()
    return sum(kept.values())


def test_a_frozen_layer_keeps_no_input_for_backward():
    from fewvit.training.on_cpu import FastLinear

    for kind in (torch.nn.Linear, FastLinear):
        layer = kind(16, 16)
        x = torch.randn(64, 16, requires_grad=True) * 1.0
        layer(x)  # the first call tries whether the fast product is right
        assert saved_bytes(layer, x) == 64 * 16 * 4
        layer.weight.requires_grad_(False)
        assert saved_bytes(layer, x) == 0
