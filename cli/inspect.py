"""fewvit inspect: the groups of its commands."""

from __future__ import annotations

from . import inspect_heads, inspect_sets, inspect_weights
from .shared import single

app = single()


@app.callback()
def inspect() -> None:
    """Pictures of what a backbone sees: attention, components of patches, norms, neighbours, maps of a set."""


for verbs in (inspect_heads, inspect_sets, inspect_weights):  # a line of commands each
    app.registered_commands += verbs.app.registered_commands
