"""fewvit demo"""

from __future__ import annotations

from .inputs import reader
from .shared import Features, Model, Output, Work, command, single
from .show import Screen

app = single()
_BACKBONE, _PIXELS = "dino_vitt16", "64"  # the smallest ViT of the official code


@command(app)
def demo(work: Work, output: Output) -> None:
    """A guided tour on built-in images: offline, in under a minute."""
    screen = Screen(output)
    source = reader(Model(backbone=_BACKBONE, weights="random", offline=True), Features(img_size=_PIXELS), work, screen)

    from fewvit.evaluate.tour import tour
    from fewvit.results import Result

    rows, facts = tour(source, screen.say)
    screen.result(Result("demo", rows, facts))
    screen.say("Next: fewvit knn --backbone dino_vitb16 --data FOLDER   (train/ and val/ with one folder per class)")
