"""What the loop trains: any network that answers the questions of `Task`. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

from .recipe import Step

if TYPE_CHECKING:
    from torch import Tensor, nn


class ParameterGroup(TypedDict):
    """Parameters that an optimizer treats alike."""

    params: list[Tensor]
    names: list[str]  # of each of them, under which checkpoints hold its moments
    decays: bool  # whether weight decay goes for them
    lr_scale: NotRequired[float | Tensor]  # times the schedule's learning rate; (K,) of a stack of K alike ones
    reduce: NotRequired[str]  # sum: over processes, where others take the mean


class HasPrecision(Protocol):
    """What the loop reads of every recipe; one whose task brings no optimizer of its own is a `Recipe`."""

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16: of matrix products."""


class Task(Protocol):
    """An nn.Module that answers these.

    With an `optimizer(groups)` it has one of its own; otherwise AdamW's. With `unchanging`, names of its state that
    never changes, these are in no checkpoint: it is begun with them again.
    """

    @property
    def recipe(self) -> HasPrecision:
        """What it is trained by."""

    def groups(self) -> list[ParameterGroup]:
        """All trainable parameters."""

    def schedule(self, step: Step) -> dict[str, float]:
        """`lr`, `weight_decay` and whatever else follows a schedule, at this step."""

    def __call__(self, inputs: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss () of a batch, and numbers () for the log."""

    def clip(self) -> Tensor:
        """Clip the gradients as the recipe says; the norm () before."""

    def before_update(self, step: Step) -> None:
        """What is to be done between the gradients and the optimizer's step."""

    def after_update(self, step: Step) -> None:
        """What is to be done after the optimizer's step."""

    # of nn.Module

    def to(self, device: str) -> nn.Module:
        """Move it to a device."""

    def train(self, mode: bool = True) -> nn.Module:
        """Bring it into training mode."""

    def modules(self) -> Iterator[nn.Module]:
        """Itself and all parts of it."""

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Take parameters and buffers."""
