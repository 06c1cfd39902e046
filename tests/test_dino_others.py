"""DINO's published networks that are no ViTs, built by timm from DINO's files: ResNet-50 and XCiT."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewvit.backbones import families, find_variant
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, UsageError
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models.backbone import Backbone
from fewvit.models.build import build
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access

PUBLISHED = {  # k-NN, linear; from the repository's tables
    "dino_resnet50": (67.5, 75.3),
    "dino_xcit_s12_16": (76.0, 77.8),
    "dino_xcit_s12_8": (77.1, 79.2),
    "dino_xcit_m24_16": (76.4, 78.8),
    "dino_xcit_m24_8": (77.9, 80.3),
}
FILES = {
    "dino_resnet50": "dino_resnet50",
    "dino_xcit_s12_16": "dino_xcit_small_12_p16",
    "dino_xcit_s12_8": "dino_xcit_small_12_p8",
    "dino_xcit_m24_16": "dino_xcit_medium_24_p16",
    "dino_xcit_m24_8": "dino_xcit_medium_24_p8",
}


@pytest.fixture
def home(tmp_path) -> Access:
    return Access(tmp_path / "cache", offline=True)


def images(side: int = 224) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(7))


def shaken(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors after each was given a value that is not trivial: statistics and scales too."""
    stream = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=stream)
            positive = name.endswith(("running_var", "temperature")) or "gamma" in name
            value.copy_(0.5 + torch.sigmoid(noise) if positive else noise * 0.05 + (value if value.ndim < 2 else 0))
    return {name: value.clone() for name, value in model.state_dict().items()}


def backbone(name: str, file: Path, access: Access, side: int = 224, **asked: str) -> Backbone:
    spec = resolve(name, access, DigestMemory(), weights=str(file))
    pipeline = settle(spec, FeatureOptions(**asked))
    return build(spec, Readout(pipeline.pool, pipeline.layers, pipeline.norm), (side, side), engine="eager")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_holds_what_the_repository_says(name):
    family, row = find_variant(name)
    stem = FILES[name]
    assert family == "dino"
    assert row.url == f"https://dl.fbaipublicfiles.com/dino/{stem}_pretrain/{stem}_pretrain.pth"
    assert row.published == dict(zip(("knn", "linear"), PUBLISHED[name], strict=True))
    import timm

    with torch.device("meta"):
        model = timm.create_model(row.architecture.timm, num_classes=0)
    assert model.num_features == row.architecture.width
    if name != "dino_resnet50":
        assert (len(model.blocks), model.blocks[0].attn.num_heads) == (row.architecture.depth, row.architecture.heads)


@pytest.mark.parametrize("layout", ["backbone", "full", "with a classifier"])
def test_a_resnets_feature_is_torchvisions_before_its_classifier(layout, home, tmp_path):
    import torchvision

    model = torchvision.models.resnet50()
    tensors = shaken(model)
    model.fc = nn.Identity()
    bare = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    tree = {
        "backbone": bare,
        "with a classifier": tensors,
        "full": {
            "student": {f"module.backbone.{name}": value + 1 for name, value in bare.items()},
            "teacher": {f"backbone.{name}": value for name, value in bare.items()}
            | {"head.mlp.0.weight": torch.ones(3)},
        },
    }[layout]
    torch.save(tree, tmp_path / "r.pth")
    made = backbone("dino_resnet50", tmp_path / "r.pth", home)
    with torch.inference_mode():
        wanted = model.eval()(images())
    assert (made.readout.pool, made.encode(images()).shape) == ("mean", (2, 2048))
    torch.testing.assert_close(made.encode(images()), wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="no class token"):
        backbone("dino_resnet50", tmp_path / "r.pth", home, pool="cls")


def official_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors as facebookresearch/xcit calls them: queries, keys and values of the class are one tensor."""
    named = {name.replace("pos_embed.", "pos_embeder."): value for name, value in tensors.items()}
    for query in [name for name in named if ".attn.q." in name]:
        parts = [named.pop(query.replace(".q.", f".{one}.")) for one in "qkv"]
        named[query.replace(".q.", ".qkv.")] = torch.cat(parts)
    return named


class Xcit:
    """XCiT's forward pass from its official tensors alone; a second implementation (El-Nouby et al. 2021)."""

    def __init__(self, tensors: dict[str, Tensor], heads: int):
        self.t, self.heads = tensors, heads

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return x * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            self.t[f"{name}.{one}"].view(1, -1, 1, 1) for one in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.fc2", F.gelu(self.linear(f"{name}.fc1", x)))

    def split(self, name: str, x: Tensor) -> list[Tensor]:
        """Queries, keys and values (B, heads, N, d)."""
        parts = self.linear(f"{name}.qkv", x).chunk(3, dim=-1)
        return [one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in parts]

    def patches(self, x: Tensor) -> Tensor:
        steps = sorted({int(name.split(".")[2]) for name in self.t if name.startswith("patch_embed.proj.")})
        for step in steps:
            x = F.conv2d(x, self.t[f"patch_embed.proj.{step}.0.weight"], stride=2, padding=1)
            x = self.batch_norm(f"patch_embed.proj.{step}.1", x)
            x = x if step == steps[-1] else F.gelu(x)
        return x

    def places(self, rows: int, columns: int) -> Tensor:
        half = self.t["pos_embeder.token_projection.weight"].shape[1] // 2
        powers = 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

        def waves(n: int) -> Tensor:  # (n, half)
            angles = (torch.arange(1, n + 1) / (n + 1e-6) * 2 * math.pi)[:, None] / powers
            return torch.where(torch.arange(half) % 2 == 0, angles.sin(), angles.cos())

        y, x = waves(rows)[:, None].expand(-1, columns, -1), waves(columns)[None].expand(rows, -1, -1)
        both = torch.cat([y, x], dim=-1).permute(2, 0, 1)[None]
        name = "pos_embeder.token_projection"
        return F.conv2d(both, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def block(self, i: int, x: Tensor, rows: int, columns: int) -> Tensor:
        at, scale = f"blocks.{i}", [self.t[f"blocks.{i}.gamma{n}"] for n in (1, 2, 3)]
        q, k, v = self.split(f"{at}.attn", self.norm(f"{at}.norm1", x))
        q, k = (one / one.norm(dim=2, keepdim=True).clamp(min=1e-12) for one in (q, k))  # of channels
        attention = (q.transpose(2, 3) @ k * self.t[f"{at}.attn.temperature"]).softmax(dim=-1)  # (B, heads, d, d)
        mixed = (v @ attention.transpose(2, 3)).transpose(1, 2).flatten(2)
        x = x + scale[0] * self.linear(f"{at}.attn.proj", mixed)
        grid = self.norm(f"{at}.norm3", x).transpose(1, 2).unflatten(2, (rows, columns))
        for conv in ("conv1", "conv2"):
            name = f"{at}.local_mp.{conv}"
            grid = F.conv2d(grid, self.t[f"{name}.weight"], self.t[f"{name}.bias"], padding=1, groups=x.shape[-1])
            grid = self.batch_norm(f"{at}.local_mp.bn", F.gelu(grid)) if conv == "conv1" else grid
        x = x + scale[2] * grid.flatten(2).transpose(1, 2)
        return x + scale[1] * self.mlp(f"{at}.mlp", self.norm(f"{at}.norm2", x))

    def class_block(self, i: int, x: Tensor) -> Tensor:
        at, scale = f"cls_attn_blocks.{i}", [self.t[f"cls_attn_blocks.{i}.gamma{n}"] for n in (1, 2)]
        normed = self.norm(f"{at}.norm1", x)
        q, k, v = self.split(f"{at}.attn", normed)
        attention = (q[:, :, :1] @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
        token = self.linear(f"{at}.attn.proj", (attention @ v).transpose(1, 2).flatten(2))
        x = x + scale[0] * torch.cat([token, normed[:, 1:]], dim=1)
        x = self.norm(f"{at}.norm2", x)
        return torch.cat([x[:, :1] + scale[1] * self.mlp(f"{at}.mlp", x[:, :1]), 2 * x[:, 1:]], dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        grid = self.patches(images)
        rows, columns = grid.shape[-2:]
        x = (grid + self.places(rows, columns)).flatten(2).transpose(1, 2)
        for i in range(1 + max(int(name.split(".")[1]) for name in self.t if name.startswith("blocks."))):
            x = self.block(i, x, rows, columns)
        x = torch.cat([self.t["cls_token"].expand(len(x), -1, -1), x], dim=1)
        for i in range(2):
            x = self.class_block(i, x)
        return self.norm("norm", x)[:, 0]


@pytest.mark.parametrize("name", ["dino_xcit_s12_16", pytest.param("dino_xcit_s12_8", marks=pytest.mark.slow)])
def test_an_xcits_class_token_is_that_of_a_second_implementation(name, home, tmp_path):
    import timm

    model = timm.create_model(find_variant(name)[1].architecture.timm, num_classes=0)
    tensors = official_names(shaken(model))
    torch.save(tensors, tmp_path / "x.pth")
    made = backbone(name, tmp_path / "x.pth", home, 96)
    with torch.inference_mode():
        wanted, own = Xcit(tensors, heads=8)(images(96)), model.eval()(images(96))
    assert made.readout.pool == "cls"
    torch.testing.assert_close(made.encode(images(96)), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.encode(images(96)), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="no class token in each block"):
        backbone(name, tmp_path / "x.pth", home, 96, layers="2").encode(images(96))
    with pytest.raises(CheckpointError, match="dino_xcit_s12_16"):
        resolve(str(tmp_path / "x.pth"), home, DigestMemory())


def test_a_resnets_file_under_a_vits_name_is_refused(home, tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "r.pth")
    with pytest.raises(CheckpointError, match="a ResNet"):
        backbone("dino_vits16", tmp_path / "r.pth", home)
    assert not any(kind.recognises({"layer1.0.conv1.weight": torch.zeros(3)}) for kind in families().values())
