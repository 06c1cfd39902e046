"""fewvit inspect attention / rollout / pca / norms / …"""

from __future__ import annotations

from . import inspect_heads, inspect_sets
from .shared import single

app = single()


@app.callback()
def inspect() -> None:
    """Pictures of what a backbone sees: attention, components of its patches, norms of its tokens."""


for verbs in (inspect_heads, inspect_sets):  # a line of commands each
    app.registered_commands += verbs.app.registered_commands
