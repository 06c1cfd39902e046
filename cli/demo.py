"""fewvit demo"""

from __future__ import annotations

from .inputs import reader
from .outputs import RESULT
from .shared import Access, Features, Layout, Model, Output, Place, Work, command, single
from .show import Screen

app = single()


@command(app, out=RESULT)
def demo(place: Place, output: Output) -> None:
    """A guided tour on built-in images: offline, in about a minute.

    k-NN, low-shot, a bundle, an index of images, and a page, whose path is printed.
    """
    screen = Screen(output)
    from fewvit.backbones import OFFLINE

    source = reader(Model(OFFLINE), Layout(), Access(offline=True), place, Features(), Work(), screen)

    from fewvit.extraction.cache import default_cache_dir
    from fewvit.report.tour import tour
    from fewvit.results import Result

    rows, facts = tour(source, (place.cache_dir or default_cache_dir()) / "demo", screen.notify)
    screen.result_of_trials(Result("demo", rows, facts))
    screen.notify("Next: fewvit knn --backbone dino_vitb16 --data FOLDER   (train/ and val/ with one folder per class)")
