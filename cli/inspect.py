"""fewvit inspect attention / rollout / pca / norms / …"""

from __future__ import annotations

from .shared import single

app = single()


@app.callback()
def inspect() -> None:
    """Pictures of what a backbone sees: attention, components of its patches, norms of its tokens."""
