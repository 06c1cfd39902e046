"""VTAB-1k: nineteen sets with a thousand labelled images each, in the community's list files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..datasets import Dataset, Listing
from ..errors import DataError, counted, some
from ._about import About, Part
from ._files import NotThereError, is_count, of_list, rows_of

# group -> set -> (test images, classes), as the papers that use these lists give them
GROUPS = {
    "natural": {
        "caltech101": (6_084, 102),
        "cifar": (10_000, 100),
        "dtd": (1_880, 47),
        "oxford_flowers102": (6_149, 102),
        "oxford_iiit_pet": (3_669, 37),
        "sun397": (21_750, 397),
        "svhn": (26_032, 10),
    },
    "specialized": {
        "diabetic_retinopathy": (42_670, 5),
        "eurosat": (5_400, 10),
        "patch_camelyon": (32_768, 2),
        "resisc45": (6_300, 45),
    },
    "structured": {
        "clevr_count": (15_000, 8),
        "clevr_dist": (15_000, 6),
        "dmlab": (22_735, 6),
        "dsprites_loc": (73_728, 16),
        "dsprites_ori": (73_728, 16),
        "kitti": (711, 4),
        "smallnorb_azi": (12_150, 18),
        "smallnorb_ele": (12_150, 9),
    },
}
SIZES = {"train800": 800, "val200": 200, "train800val200": 1000}  # images of the lists to learn from


def _parts(test: int) -> dict[str, Part]:
    """A set's parts; a thousand images need not be of every class."""
    return {**{name: Part(images) for name, images in SIZES.items()}, "test": Part(test)}


class Vtab:
    """A set is a folder of its own below DIR, its classes the numbers in its lists: `vtab:DIR/cifar@train800`.

    Classes are those of all its lists together, since a class may have no image among the thousand.
    Source: Zhai et al. 2019; the lists are those of NOAH and others after it.
    """

    about = About(
        title="VTAB-1k",
        home="https://github.com/google-research/task_adaptation",
        licence="each of the nineteen sets has its own",
        layout=(
            "DIR/SET/train800.txt, val200.txt, train800val200.txt and test.txt, a line being `path label`, the path "
            "from DIR/SET/",
            f"SET: {', '.join(name for sets in GROUPS.values() for name in sets)}",
        ),
        parts={**{name: Part(images) for name, images in SIZES.items()}, "test": Part()},
        pair=("train800val200", "test"),
        below={name: _parts(size[0]) for sets in GROUPS.values() for name, size in sets.items()},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a list. Raises DataError as `PublicSet.open`."""
        path = os.path.join(folder, f"{part}.txt")
        if not os.path.isfile(path):
            inside = sorted(name for name in Vtab.about.below if os.path.isfile(os.path.join(folder, name, "test.txt")))
            raise NotThereError(
                f"no {part}.txt in it" + (f", but in {some(inside, 3)}" if inside else ""),
                file=folder,
                fix=f"Name one set: vtab:{os.path.join(folder, (inside or ['cifar'])[0])}@{part}.",
            )
        rows = rows_of(path, _row)
        dataset = of_list(f"vtab/{os.path.basename(os.path.abspath(folder))}", folder, rows, listing, path)
        return _counting_all(dataset, folder)


def _row(line: str) -> tuple[str, str] | None:
    path, _, label = line.rpartition(" ")
    return (path.strip(), str(int(label))) if path and is_count(label) else None


def _refuse_learnt(listed: Mapping[str, set[str]], folder: str) -> None:
    """Raise DataError for images of `test` that are in a list to learn from; the list of all 1000 is asked first."""
    for part in reversed(SIZES):
        shared = sorted(listed.get(part, set()) & listed.get("test", set()))
        if shared:
            raise DataError(
                f"test shares {counted(len(shared), 'image')} with {part}: {some(shared)}",
                file=os.path.join(folder, "test.txt"),
                fix="Take the lists of one source.",
            )


def _counting_all(dataset: Dataset, folder: str) -> Dataset:
    """The images with the classes of every list of the set, in the order of their numbers.

    Raises DataError where images are both learnt from and tested on.
    """
    found = set(dataset.classes)
    listed: dict[str, set[str]] = {}
    for part in (*SIZES, "test"):
        path = os.path.join(folder, f"{part}.txt")
        if os.path.isfile(path):
            rows = rows_of(path, _row)
            found |= {label for _, label in rows}
            listed[part] = {os.path.normpath(name) for name, _ in rows}
    _refuse_learnt(listed, folder)
    classes = sorted(found, key=int)
    place = {name: number for number, name in enumerate(classes)}
    table = np.array([place[name] for name in dataset.classes], np.int64)
    return replace(dataset, labels=table[dataset.labels], classes=classes)
