"""Oxford-IIIT Pet: cats and dogs of 37 breeds. Source: Parkhi et al. 2012."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ._about import About, Part
from ._files import first_there, of_list, rows_of


class OxfordPets:
    """The lists' own split; a breed is the file's name without its number."""

    about = About(
        title="Oxford-IIIT Pet",
        home="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        licence="CC BY-SA 4.0",
        layout=("DIR/images/Abyssinian_1.jpg and so on", "DIR/annotations/trainval.txt and test.txt"),
        parts={"trainval": Part(3_680, 37), "test": Part(3_669, 37)},
        pair=("trainval", "test"),
        lists={"annotations/trainval.txt": "", "annotations/test.txt": ""},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part. Raises DataError as `PublicSet.open`."""
        path = first_there(folder, (os.path.join("annotations", f"{part}.txt"),), "list")
        return of_list("oxford-pets", os.path.join(folder, "images"), rows_of(path, _row), listing, path)


def _row(line: str) -> tuple[str, str] | None:
    """`Abyssinian_100 1 1 1`: image, class, species, breed within the species."""
    words = line.split()
    breed, _, number = words[0].rpartition("_")
    return (f"{words[0]}.jpg", breed) if len(words) == 4 and breed and number.isdigit() else None
