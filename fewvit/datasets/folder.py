"""A folder of class folders. Sub-folders of a class belong to it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import DataError, printable
from . import Dataset, Listing
from ._classes import class_folders, refuse_two_parts
from ._listing import OUTSIDE, FileReader, image_tree, kind_of_folder, name_of, refuse_nothing, tables_beside


class Folder:
    """`root/class/…/image.jpg`: the first folder of an id is its class."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether it is a folder with a folder in it, or an empty one, and no image directly in it."""
        return kind_of_folder(source) == "folder"

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The images below the class folders. Raises DataError as `Format.open`."""
        tree = image_tree(source, listing.follow_links)
        refuse_two_parts(source, tree.folders)
        refuse_nothing(source, tree.ids, tree.left_out)
        _refuse_places(source, tree.folders, len(tree.ids))
        labels, classes, notes = class_folders(
            source, tree.ids, tree.folders, listing.allow_empty_class, links=OUTSIDE in tree.left_out
        )
        reader = FileReader(os.path.abspath(source), tree.ids, tree.identities, listing.max_bytes)
        notes += tables_beside(source)
        return Dataset(name_of(source), tree.ids, labels, classes, reader, tree.left_out, notes, tree.examples)


_PLACES = frozenset(map(str, range(1000)))


def _refuse_places(source: str, folders: Sequence[str], images: int) -> None:
    """Raise DataError for ImageNet-V2, whose folders are called by places in ImageNet's order.

    As text 10 stands before 2, so that whoever counts classes by the order of folders gets the accuracy of guessing.
    """
    by_name = "imagenetv2" in source.casefold().replace("-", "").replace("_", "")
    if set(folders) == _PLACES and (by_name or images == 10 * len(_PLACES)):
        raise DataError(
            "its folders 0 to 999 are ImageNet-V2's: the names are places in ImageNet's order, and sorted as text they "
            "are in another",
            file=source,
            fix=f"Give imagenet-v2:{printable(source)}, which calls the classes by their wnids.",
        )
