"""MSN (Assran et al. 2022, "Masked Siamese Networks for Label-Efficient Learning").

Views with patches left out find the prototypes of the whole.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import seeds
from ..checkpoints.filling import fill
from ..errors import CheckpointError, UsageError
from ..training.clipping import clip_all
from ..training.distributed import mean_over_processes, sum_over_processes, world_size
from ..training.groups import decay_groups
from ..training.recipe import Step
from ..training.schedules import msn_linear, msn_lr, msn_weight_decay
from ..training.task import ParameterGroup
from ._batch_norm import BatchNorm
from ._trunk import Trunk, start_linears

if TYPE_CHECKING:
    from .msn import Msn


class MsnTask(nn.Module):
    """An anchor network that sees parts of an image, and its moving average that sees all, agree about prototypes.

    The target is the average of weights, sharpened and balanced over the batch; nothing else keeps the prototypes from
    being one.
    """

    def __init__(self, recipe: Msn):
        super().__init__()
        _check(recipe)
        self.recipe = recipe
        self.anchor = _Network(recipe)
        self.target = copy.deepcopy(self.anchor).requires_grad_(False)
        bound = 1 / math.sqrt(recipe.out_width)
        self.prototypes = nn.Parameter(torch.empty(recipe.prototypes, recipe.out_width).uniform_(-bound, bound))

    @property
    def max_entropy(self) -> float:
        """log K: the entropy in nats of a target that knows nothing."""
        return math.log(self.recipe.prototypes)

    # what the loop asks

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts: views (B, 3, size, size) in the order target, random anchors, focal anchors."""
        r = self.recipe
        with (
            torch.no_grad()
        ):  # in train mode as the anchor: its BatchNorm sees the batch's own statistics, as published
            wholes = self.target(views[0])
        scales = self.anchor.trunk.draw_scales(step, len(views) - 1, views[1].device)
        anchors = self.project(views[1:], self.kept_patches(step), scales)
        with torch.autocast(anchors.device.type, enabled=False):
            log_p = log_assignments(anchors, self.prototypes, r.temperature, r.label_smoothing)  # (V B, K)
            with torch.no_grad():
                targets = sharpened(
                    log_assignments(wholes, self.prototypes, r.temperature, r.label_smoothing),
                    self.schedule(step)["sharpening"],
                )
                targets = balanced(targets, r.sinkhorn_rounds) if r.sinkhorn else targets
            parts = loss_parts(log_p, targets)
        loss = parts["cross_entropy"] + r.memax_weight * parts["memax"] + r.entropy_weight * parts["anchor_entropy"]
        return loss, {name: part.detach() for name, part in parts.items()} | _target_facts(targets)

    def groups(self) -> list[ParameterGroup]:
        """The anchor network with and without weight decay; the prototypes, their gradients summed over processes."""
        network = decay_groups(self._named_anchor())
        return [*network, {"params": [self.prototypes], "names": ["prototypes"], "decays": False, "reduce": "sum"}]

    def schedule(self, step: Step) -> dict[str, float]:
        """Learning rate, weight decay, the target's momentum and the sharpening T at a step."""
        r, index, total = self.recipe, step.index, step.total
        warmup, scale = round(r.warmup_epochs * step.steps_per_epoch), r.peak_lr / r.lr
        final = r.weight_decay if r.final_weight_decay is None else r.final_weight_decay
        return {
            "lr": msn_lr(index, total, warmup, r.start_lr * scale, r.peak_lr, r.min_lr),
            "weight_decay": msn_weight_decay(index, total, r.weight_decay, final),
            "momentum": msn_linear(index, total, *r.momentum),
            "sharpening": msn_linear(index, total, *r.sharpening),
        }

    def clip(self) -> Tensor:
        """The norm of the anchor network's gradient before it was clipped to the recipe's.

        The prototypes' is left as it is.
        """
        return clip_all(self.anchor.parameters(), self.recipe.clip)

    def before_update(self, step: Step) -> None:
        """Nothing is held back."""

    @torch.no_grad()
    def after_update(self, step: Step) -> None:
        """Move the target's parameters towards the anchor's; its BatchNorm buffers are its own."""
        momentum = self.schedule(step)["momentum"]
        for slow, fast in zip(self.target.parameters(), self.anchor.parameters(), strict=True):
            slow.mul_(momentum).add_(fast, alpha=1 - momentum)

    # what goes in and what comes out

    def encoder(self) -> Trunk:
        """The target's trunk: what MSN evaluates."""
        return self.target.trunk

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the trunk of released weights for anchor and target; projector and prototypes start fresh."""
        for network in (self.anchor, self.target):
            network.trunk.start_from(tensors)

    def start_from_official(self, tree: Mapping[str, Any]) -> None:
        """Take everything that a full MSN checkpoint holds: both networks with their projectors, and the prototypes.

        Raises CheckpointError for another layout or architecture.
        """
        file, missing = (
            "the MSN checkpoint",
            [key for key in ("encoder", "target_encoder", "prototypes") if key not in tree],
        )
        if missing:
            raise CheckpointError(
                f"holds no {', '.join(missing)}",
                file=file,
                fix="A full checkpoint of MSN's own training has all three.",
            )
        fill(_Prototypes(self.prototypes), {"prototypes": tree["prototypes"]}, file)
        for network, key in ((self.anchor, "encoder"), (self.target, "target_encoder")):
            fill(network, {_own(name): tensor for name, tensor in tree[key].items()}, f"{file} ({key})")

    def official(self) -> dict[str, Any]:
        """What MSN's own checkpoint holds, but for the optimizer and where the run stands."""
        r = self.recipe
        networks = {"encoder": self.anchor, "target_encoder": self.target}
        tensors = {
            key: {f"module.{_official(n)}": t for n, t in network.state_dict().items()}
            for key, network in networks.items()
        }
        settings = {
            "batch_size": r.batch_size,
            "world_size": world_size(),
            "lr": r.peak_lr,
            "temperature": r.temperature,
        }
        return {**tensors, "prototypes": self.prototypes.detach(), **settings}

    # parts of a step

    def project(self, anchors: Sequence[Tensor], keep: Tensor | None, scales: Sequence[Tensor] | None = None) -> Tensor:
        """Projections (V B, out) of the anchors, view by view; of random anchors only the patches `keep` (K,) are seen.

        Each kind of view is a batch of its own for the projector's BatchNorm, as in the official forward over a list.
        `scales` are the factors of drop path for each view.
        """
        found, start = [], 0
        for kind, view in enumerate(self.recipe.views[1:]):
            own = slice(start, start + view.count)
            dropped = None if scales is None else torch.cat(list(scales[own]))
            found.append(self.anchor(torch.cat(list(anchors[own])), keep if kind == 0 else None, dropped))
            start += view.count
        return torch.cat(found)

    def kept_patches(self, step: Step) -> Tensor | None:
        """The patches (K,) that all random anchors of a step keep, in random order; None where none is left out."""
        r = self.recipe
        if not r.patch_drop:
            return None
        patches = (r.views[1].size // r.architecture.patch) ** 2
        order = seeds.generator(step.seed, "mask", step.index).permutation(patches)
        return torch.from_numpy(order[: int(patches * (1 - r.patch_drop))]).to(self.prototypes.device)

    def _named_anchor(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((_official(name), parameter) for name, parameter in self.anchor.named_parameters())


# --- the loss, formula by formula -----------------------------------------------------------------------------------


def log_assignments(features: Tensor, prototypes: Tensor, temperature: float, smoothing: float = 0.0) -> Tensor:
    """log p (B, K): softmax of the cosines of features (B, D) and prototypes (K, D) over `temperature`, in float32."""
    cosines = F.normalize(features.float(), dim=1) @ F.normalize(prototypes.float(), dim=1).T
    log_p = F.log_softmax(cosines / temperature, dim=1)
    if not smoothing:
        return log_p
    uniform = math.log(smoothing / len(prototypes))
    return torch.logaddexp(log_p + math.log1p(-smoothing), torch.full_like(log_p, uniform))


def sharpened(log_p: Tensor, sharpening: float) -> Tensor:
    """p^(1/T) (B, K), each row scaled to sum to 1; float64, where no prototype is too far away to have a share."""
    return F.softmax(log_p.double() / sharpening, dim=1)


def balanced(p: Tensor, rounds: int = 3) -> Tensor:
    """Targets (B, K) near `p` that use every prototype for the same share of all processes' batches; rows sum to 1.

    Source: Sinkhorn and Knopp 1967 as in Caron et al. 2020 (SwAV); MSN gives it the sharpened probabilities. Without
    rounds those are the targets, as SwAV's procedure scales their sum to 1 before the rounds.
    """
    if rounds == 0:
        return p
    samples, prototypes = len(p) * world_size(), p.shape[1]
    for _ in range(rounds):
        p = p / (sum_over_processes(p.sum(dim=0)) * prototypes)  # columns sum to 1/K
        p = p / (p.sum(dim=1, keepdim=True) * samples)  # rows sum to 1/B
    return p * samples


def loss_parts(log_p: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """`cross_entropy` H(t, p), `memax` log K - H(mean p), `anchor_entropy` mean H(p).

    Of log p (V B, K), view by view, and targets (B, K).
    """
    views, prototypes = len(log_p) // len(targets), log_p.shape[1]
    targets = targets.to(log_p.dtype).repeat(views, 1)
    p = log_p.exp()
    mean = mean_over_processes(p.mean(dim=0))  # (K,) over views, batch and processes
    return {
        "cross_entropy": -(targets * log_p).sum(dim=1).mean(),
        "memax": math.log(prototypes) - torch.special.entr(mean).sum(),
        "anchor_entropy": -(p * log_p).sum(dim=1).mean(),
    }


def _target_facts(targets: Tensor) -> dict[str, Tensor]:
    """What shows a collapse: entropies in nats, and how many prototypes are the nearest of some target."""
    mean = sum_over_processes(targets.mean(dim=0)) / world_size()
    return {
        "target_entropy": torch.special.entr(targets).sum(dim=1).mean(),
        "mean_target_entropy": torch.special.entr(mean).sum(),
        "prototypes_used": torch.bincount(targets.argmax(dim=1), minlength=targets.shape[1]).count_nonzero(),
    }


# --- networks -------------------------------------------------------------------------------------------------------


class _Network(nn.Module):
    """A trunk and the projector on its normed class token; `fc` is MSN's name for it."""

    def __init__(self, recipe: Msn):
        super().__init__()
        width, hidden = recipe.architecture.width, recipe.projector_width
        self.trunk = Trunk(recipe.architecture, recipe.drop_path)
        self.fc = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(width, hidden),
                bn1=BatchNorm(hidden),
                gelu1=nn.GELU(),
                fc2=nn.Linear(hidden, hidden),
                bn2=BatchNorm(hidden),
                gelu2=nn.GELU(),
                fc3=nn.Linear(hidden, recipe.out_width),
            )
        )
        _initialise(self)

    def forward(self, images: Tensor, keep: Tensor | None = None, scales: Tensor | None = None) -> Tensor:
        """Projections (B, out) of images (B, 3, H, W), seen through the patches `keep` (K,).

        With drop path where `scales` (B, 2L) are given.
        """
        return self.fc(self.trunk.class_token(self._whole_patches(images), keep, scales))

    def _whole_patches(self, images: Tensor) -> Tensor:
        """The pixels that the patch convolution reaches: of 96 pixels, patches of 7 cover the first 91."""
        patch = self.trunk.architecture.patch
        height, width = (pixels // patch * patch for pixels in images.shape[-2:])
        return images[..., :height, :width]


class _Prototypes(nn.Module):
    """The prototypes under their name, for a strict load."""

    def __init__(self, prototypes: nn.Parameter):
        super().__init__()
        self.prototypes = prototypes


@torch.no_grad()
def _initialise(network: _Network) -> None:
    """Linears, class token and positions truncated normal with std 0.02, zero biases.

    The patch convolution Kaiming-normal.
    """
    start_linears(network)
    for tokens in (network.trunk.cls_token, network.trunk.pos_embed):
        nn.init.trunc_normal_(tokens, std=0.02)
    nn.init.kaiming_normal_(network.trunk.patch_embed.proj.weight)


def _official(name: str) -> str:
    """A parameter's name in MSN's files, without the `module.` that DistributedDataParallel puts before it."""
    return name.removeprefix("trunk.")


def _own(name: str) -> str:
    """The name in `_Network` of a tensor of MSN's files."""
    short = name.removeprefix("module.")
    return short if short.startswith("fc.") else f"trunk.{short}"


def _check(recipe: Msn) -> None:
    """Raise UsageError for a recipe that cannot be trained."""
    if len(recipe.views) < 2 or recipe.views[0].count != 1:
        raise UsageError(
            "MSN needs one target view and at least one kind of anchor: views are (target, random anchors, focal "
            "anchors, ...)"
        )
    if not 0 <= recipe.patch_drop < 1:
        raise UsageError(
            f"patch_drop={recipe.patch_drop:g} is no share of patches to leave out: it must be at least 0 and below 1"
        )
    if not 0 <= recipe.label_smoothing < 1:
        raise UsageError(f"label_smoothing={recipe.label_smoothing:g} must be at least 0 and below 1")
    if min(recipe.sharpening) <= 0 or recipe.temperature <= 0:
        raise UsageError("temperature and sharpening must be above 0")
