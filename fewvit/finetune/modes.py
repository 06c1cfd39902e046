"""The ways of fine-tuning: what each trains, and its defaults for few labels and for many. No torch.

What a mode leaves alone stays as it was released. `full` follows the published recipe of MAE (He et al. 2022, table 9);
the others have no published numbers for few labels, so their learning rates are grids of which the images held out of
the labelled ones choose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..backbones import Architecture, family_of
from ..errors import UnknownName, UsageError, counted
from ..training.recipe import Recipe
from ..views.view import View

MODES = {
    "lora": "low-rank updates of linear layers (Hu et al. 2021)",
    "last-block": "the last transformer block and the final norm: what MSN's authors do to MAE",
    "full": "everything, by MAE's recipe",
    "bias": "biases of the blocks and the final norm (BitFit, Zaken et al. 2022)",
    "norm": "gains and biases of all norms",
}
_ALONE = {"rank": "lora", "alpha": "lora", "targets": "lora"}  # options of --set that one mode has
# target -> where it is
LAYERS = {"qkv": "attn", "q": "attn", "k": "attn", "v": "attn", "proj": "attn", "fc1": "mlp", "fc2": "mlp"}
FEW = 100  # labels per class; up to it the classifier begins as the frozen logistic regression
_GRIDS = {  # peak learning rates; of `full` for a batch of 256 images, scaled to the batch
    "lora": (1e-4, 3e-4, 1e-3),
    "last-block": (3e-5, 1e-4, 3e-4),
    "full": (2.5e-4, 5e-4, 1e-3),
    "bias": (3e-4, 1e-3, 3e-3),
    "norm": (3e-4, 1e-3, 3e-3),
}


def check_mode(mode: str) -> str:
    """The mode's name as it is spelled here. Raises UnknownName."""
    name = mode.replace("_", "-")
    if name not in MODES:
        raise UnknownName("mode", mode, MODES)
    return name


def check_options(mode: str, changes: Mapping[str, object]) -> None:
    """Raise UsageError for an option of --set that this mode does not have, naming the one that does."""
    for name, value in changes.items():
        if _ALONE.get(name, mode) != mode:
            raise UsageError(
                f"--set {name}={value}: --mode {mode} has no such option; it goes with --mode {_ALONE[name]}"
            )


@dataclass(frozen=True, kw_only=True)
class TuningRecipe(Recipe):
    """Everything that decides how a network is fine-tuned. `--set name=value` changes one."""

    mode: str
    # what the classifier reads: the feature of the backbone's protocol, or the mean patch token under a norm of its own
    # that takes the final norm's place (MAE)
    pool: Literal["protocol", "fc_norm"] = "protocol"
    # what it begins as: the logistic regression on frozen features, or nearly zero (MAE)
    head: Literal["probe", "linear"] = "probe"
    select: bool = True  # hold a part of the labelled images out to choose learning rate and number of epochs
    refit: bool = True  # then train anew on all of them; False: keep the best weights of the search
    # train without parts of the labelled images to calibrate confidences by them; False: no surer than the frozen
    # classifier
    calibrate: bool = True
    patience: int = 10  # epochs without a better held-out accuracy after which a search ends
    rank: int = 8  # of a low-rank update
    alpha: float = 16.0  # its scale, times the rank
    targets: str = "qkv"  # layers with such an update, joined by +: qkv, or q, k, v alone; proj, fc1, fc2
    blocks: int | None = None  # so many of the last blocks may change; None: as the mode says
    layer_decay: float = 1.0  # factor of the learning rate from each layer to the one below
    crop: float = 1.0  # least share of the image's area in a random crop; 1: the whole image as it is evaluated
    flip: float = 0.0  # probability
    # magnitude, up to 10, of two random changes of colour or shape, each with probability 1/2; 0: none
    randaugment: float = 0.0
    erase: float = 0.0  # probability that a rectangle is replaced by noise
    mixup: float = 0.0  # alpha of the Beta distribution that two images are blended by; 0: never
    cutmix: float = 0.0  # the same, of the area that one image takes of another
    label_smoothing: float = 0.0

    @property
    def layers(self) -> tuple[str, ...]:
        """The words of `targets`. Raises UsageError for what is no layer, or named twice."""
        words = tuple(word for word in self.targets.replace(",", "+").split("+") if word)
        if not words or not set(words) <= set(LAYERS):
            raise UsageError(f"--set targets={self.targets}: not layers joined by +, out of {', '.join(LAYERS)}")
        if "qkv" in words and {"q", "k", "v"} & set(words):
            raise UsageError(f"--set targets={self.targets}: qkv is q, k and v already; name either")
        return words

    def first_block(self, depth: int) -> int:
        """Number of the first of `depth` blocks that may change. Raises UsageError for more blocks than there are."""
        first = depth - (depth if self.blocks is None else self.blocks)
        if not 0 <= first < depth:
            raise UsageError(
                f"--set blocks={self.blocks}: the backbone has {counted(depth, 'block')}, so give 1 to {depth}"
            )
        return first

    @property
    def augmented(self) -> bool:
        """Whether an image may look another way in each epoch."""
        return self.crop < 1 or any((self.flip, self.randaugment, self.erase, self.mixup, self.cutmix))


def recipe_for(
    mode: str, architecture: Architecture, view: View, family: str, labels: int, per_class: int
) -> tuple[TuningRecipe, list[float]]:
    """A mode's defaults for so many labelled images, up to `per_class` of each class; learning rates to choose from."""
    few = per_class <= FEW
    recipe = TuningRecipe(
        mode=mode,
        architecture=architecture,
        views=(view,),
        epochs=30 if few else 20,
        batch_size=max(1, min(32 if few else 128, labels // 2)),
        lr=_GRIDS[mode][1],
        lr_batch=None,
        min_lr=1e-6,
        warmup_epochs=2,
        weight_decay=0.01,
        blocks=1 if mode == "last-block" else None,
        label_smoothing=0.1,
        head="probe" if few else "linear",
    )
    if mode == "full":
        recipe = _of_mae(recipe, family)
    elif mode != "last-block":
        recipe = dataclasses.replace(recipe, crop=0.35, flip=0.5)
    return recipe, list(_GRIDS[mode])


def _of_mae(recipe: TuningRecipe, family: str) -> TuningRecipe:
    """MAE's recipe for a ViT of this size.

    On few labels fewer epochs than its 50 to 100 would be too little, so they stay.
    """
    width = recipe.architecture.width
    tuned = dataclasses.replace(
        recipe,
        epochs=50 if width >= 1024 else 100,
        lr_batch=256,
        warmup_epochs=5,
        weight_decay=0.05,
        layer_decay=0.75 if width >= 1024 else 0.65,
        drop_path={768: 0.1, 1024: 0.2, 1280: 0.3}.get(width, 0.1),
        crop=0.08,
        flip=0.5,
        randaugment=9,
        erase=0.25,
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
    )
    return dataclasses.replace(tuned, **family_of(family).full_tuning)
