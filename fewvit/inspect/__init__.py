"""Pictures of what a backbone sees, each a `Figure`: panels, the arrays that they were drawn from, and numbers.

    import fewvit.inspect
    backbone = fewvit.load_backbone("dino_vits16", img_size=480)
    fewvit.inspect.attention(backbone, "photos/", sample=3).save("heads.png")

Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and the reference of the documentation, which read and do not run
    from .attention_distance import distance as distance
    from .components import pca as pca
    from .embedding import embed as embed
    from .figure import Figure as Figure
    from .flow import rollout as rollout
    from .galleries import neighbors as neighbors
    from .heads import attention as attention
    from .magnitudes import norms as norms
    from .paper_figure import vit_paper as vit_paper
    from .patch_filters import filters as filters
    from .pictures import Pictures as Pictures
    from .position_table import positions as positions
    from .prototype_images import prototypes as prototypes
    from .qualities import quality as quality
    from .reconstruction import reconstruct as reconstruct

# name -> the module of this package that it stands in; no module bears the name of what is public
_HOMES = {
    "Figure": "figure",
    "Pictures": "pictures",
    "attention": "heads",
    "distance": "attention_distance",
    "embed": "embedding",
    "filters": "patch_filters",
    "neighbors": "galleries",
    "norms": "magnitudes",
    "pca": "components",
    "positions": "position_table",
    "prototypes": "prototype_images",
    "quality": "qualities",
    "reconstruct": "reconstruction",
    "rollout": "flow",
    "vit_paper": "paper_figure",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewvit.inspect' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
