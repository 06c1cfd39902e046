"""What is exported, as one module: pixels to features, and with a bundle to probabilities and strangeness."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..bundles.bundle import Bundle
from ..errors import UsageError
from ..models.backbone import Backbone
from ..models.engines import settled_positions
from ..models.graph import Graph
from ..preprocess import Preprocess


class Network(nn.Module):
    """A backbone in float32 behind its normalisation, and what a bundle makes of its features."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, preprocess: Preprocess, bundle: Bundle | None):
        """Raises UsageError for a bundle whose classifier no graph can hold."""
        super().__init__()
        self.model, self.readout, self.flip = backbone.model, backbone.readout, preprocess.flip
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocess, name)).view(1, 3, 1, 1))
        self.head = Head(bundle) if bundle is not None else None
        self.eval()
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features (B, D) float32 of pixels (B, 3, H, W) uint8; with a bundle also what `Head` gives."""
        images = pixels.float().div(255).sub(self.mean).div(self.std)
        features = self.model.read(images, self.readout).float()
        if self.flip:  # as `encode_at_scales` has it
            features = (features + self.model.read(images.flip(-1), self.readout).float()) / 2
        return (features,) if self.head is None else (features, *self.head(features))


class Head(nn.Module):
    """What a bundle makes of features: calibrated probabilities (B, C), and strangeness (B,) where it has a score.

    Both float64, as the bundle computes them.
    """

    def __init__(self, bundle: Bundle):
        super().__init__()
        self.temperature = bundle.temperature
        self.classify = Computed(graph_of(bundle))
        self.judge = Computed(bundle.strangeness.score.graph()) if bundle.strangeness is not None else None

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Of features (B, D) float32."""
        shares = self.classify(features).double()
        powers = ((shares / shares.amax(dim=1, keepdim=True)).log() / self.temperature).exp()  # as `calibration.scale`
        probabilities = powers / powers.sum(dim=1, keepdim=True)
        if self.judge is None:
            return (probabilities,)
        rows = features.double()
        length = rows.square().sum(dim=1, keepdim=True).sqrt()
        return probabilities, self.judge(rows / torch.where(length > 0, length, torch.ones_like(length)))


class Computed(nn.Module):
    """A `Graph` whose constants are buffers, so that they are stored with the rest."""

    def __init__(self, graph: Graph):
        super().__init__()
        self._of, self._names = graph.of, list(graph.constants)
        for name, value in graph.constants.items():
            self.register_buffer(f"constant_{name}", torch.as_tensor(value).detach().clone())

    def forward(self, rows: Tensor) -> Tensor:
        """What the graph computes of rows (B, D)."""
        constants: Mapping[str, Tensor] = {name: getattr(self, f"constant_{name}") for name in self._names}
        return self._of(rows, constants)


def graph_of(bundle: Bundle) -> Graph:
    """The classifier's own graph. Raises UsageError where it has none, or says why it can't have one."""
    own = getattr(bundle.estimator, "graph", None)
    if own is None:
        raise UsageError(
            f"{bundle.classifier} does not say how it is written as a graph",
            fix="A classifier says it by a method `graph`; or export the backbone alone, and classify its features.",
        )
    graph: Graph = own()
    return graph


def program_of(network: Network, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The network traced for images of (height, width) pixels, any number at once.

    The position table for this size is a constant in it: bicubic of other programs is not torch's.
    """
    example = torch.zeros((2, 3, *size), dtype=torch.uint8)
    with torch.no_grad(), settled_positions(network.model, size):
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
