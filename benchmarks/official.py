"""The official procedures, written from their description: the peers of every comparison.

Sources: Caron et al. 2021 with its appendix, and the evaluation settings of facebookresearch/dino as documented: resize
256 bicubic, centre 224; pre-norm ViT with plain attention; k-NN with weights exp(similarity / 0.07) for k = 10, 20,
100, 200, one pass each.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

KS, TEMPERATURE = (10, 20, 100, 200), 0.07
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pil_pixels(data: bytes):
    """The official pixels of an image file, as a Pillow image of 224 x 224."""
    from PIL import Image
    from torchvision.transforms import functional as tv

    image = Image.open(io.BytesIO(data)).convert("RGB")
    return tv.center_crop(tv.resize(image, 256, interpolation=tv.InterpolationMode.BICUBIC), 224)


def pil_tensor(data: bytes) -> Tensor:
    """The model's input (3, 224, 224) float32: the official pixels through ToTensor and Normalize."""
    from torchvision.transforms import functional as tv

    return tv.normalize(tv.to_tensor(pil_pixels(data)), MEAN, STD)


def vit_forward(weights: Mapping[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """Normed class tokens (B, D) of images (B, 3, H, W): a pre-norm ViT with its attention matrix written out."""
    patch = weights["patch_embed.proj.weight"].shape[-1]
    patches = (
        F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=patch)
        .flatten(2)
        .transpose(1, 2)
    )
    # (B, T, D)
    x = torch.cat([weights["cls_token"].expand(len(images), -1, -1), patches], dim=1) + weights["pos_embed"]
    x = blocks(x, weights, "blocks.", heads)
    return F.layer_norm(x, x.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-6)[:, 0]


def blocks(x: Tensor, weights: Mapping[str, Tensor], prefix: str, heads: int) -> Tensor:
    """Tokens (B, T, D) through the pre-norm blocks called `prefix`, the attention matrix written out."""
    b, t, d = x.shape
    depth = 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix))
    for i in range(depth):

        def linear(y: Tensor, layer: str, block: str = f"{prefix}{i}.") -> Tensor:
            return F.linear(y, weights[f"{block}{layer}.weight"], weights[f"{block}{layer}.bias"])

        def norm(y: Tensor, layer: str, block: str = f"{prefix}{i}.") -> Tensor:
            return F.layer_norm(y, (d,), weights[f"{block}{layer}.weight"], weights[f"{block}{layer}.bias"], 1e-6)

        q, k, v = linear(norm(x, "norm1"), "attn.qkv").reshape(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * (d // heads) ** -0.5).softmax(dim=-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(b, t, d), "attn.proj")
        x = x + linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")
    return x


def knn_evaluation(
    train: Tensor, labels: Tensor, test: Tensor, targets: Tensor, n_classes: int
) -> dict[int, tuple[float, float]]:
    """k -> (top-1, top-5) in percent of unit-length features (N, D) and (Q, D).

    The classifier runs once for each k, as the official script does.
    """
    return {k: knn_classifier(train, labels, test, targets, k, n_classes) for k in KS}


def knn_classifier(
    train: Tensor, labels: Tensor, test: Tensor, targets: Tensor, k: int, n_classes: int
) -> tuple[float, float]:
    """Top-1 and top-5 in percent.

    Queries go in 100 chunks; each neighbour's class becomes a one-hot row, weighted and summed; all classes are sorted.
    """
    bank = train.t()
    size = len(test) // 100
    one_hot = torch.zeros(size * k, n_classes, device=train.device)
    top1 = top5 = 0
    for start in range(0, len(test), size):
        queries, wanted = test[start : start + size], targets[start : start + size]
        similarity, near = torch.mm(queries, bank).topk(k, largest=True, sorted=True)  # (b, k)
        one_hot.resize_(len(queries) * k, n_classes).zero_().scatter_(1, labels[near].view(-1, 1), 1)
        weight = (similarity / TEMPERATURE).exp()
        votes = (one_hot.view(len(queries), k, n_classes) * weight[:, :, None]).sum(dim=1)  # (b, C)
        hit = votes.sort(dim=1, descending=True).indices == wanted[:, None]
        top1 += hit[:, :1].sum().item()
        top5 += hit[:, : min(5, k)].sum().item()
    return 100.0 * top1 / len(test), 100.0 * top5 / len(test)
