"""ImageNet-V2: new test images, collected as ImageNet's were."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ..errors import DataError, are, counted, some
from ._about import About, Part
from ._files import listed, of_tree
from ._imagenet import synsets

_VARIANTS = (
    "imagenetv2-matched-frequency-format-val",
    "imagenetv2-threshold0.7-format-val",
    "imagenetv2-top-images-format-val",
)


class ImageNetV2:
    """Folders are called 0 to 999 by the class's place in ImageNet's order, or by wnids.

    Sorted as text, 10 stands before 2, and accuracy is that of guessing; here the number in the name is what counts.
    Source: Recht et al. 2019.
    """

    about = About(
        title="ImageNet-V2",
        home="https://github.com/modestyachts/ImageNetV2",
        licence="see the home; the images are Flickr's users'",
        layout=(
            "DIR/0/ to DIR/999/, or DIR/n01440764/ and so on: ten images each; DIR is the folder of one variant "
            f"({', '.join(_VARIANTS)}), or holds one",
        ),
        parts={"test": Part(10_000, 1000)},
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images, classes being wnids. Raises DataError as `PublicSet.open`."""
        inside = [name for name in _VARIANTS if os.path.isdir(os.path.join(folder, name))]
        if len(inside) > 1:
            raise DataError(
                f"holds {len(inside)} variants: {', '.join(inside)}",
                file=folder,
                fix=f"Give one of them: imagenet-v2:{os.path.join(folder, inside[0])}.",
            )
        root = os.path.join(folder, *inside)
        tree = listed(root, listing)
        wnid_of = _classes(root, tree.folders)
        loose = [name for name in tree.ids if "/" not in name]
        if loose:
            raise DataError(f"{counted(len(loose), 'image')} in no class folder: {some(loose)}", file=root)
        folders = [name.partition("/")[0] for name in tree.ids]
        empty = sorted(set(tree.folders) - set(folders))
        if empty:
            raise DataError(f"{counted(len(empty), 'class has', 'classes have')} no image: {some(empty)}", file=root)
        return of_tree("imagenet-v2", root, tree, [wnid_of[name] for name in folders], listing)


def _classes(root: str, folders: list[str]) -> dict[str, str]:
    """Folder -> wnid. Raises DataError unless the folders are just 0 to 999, or just the 1000 wnids."""
    order = synsets()
    if set(folders) == set(order):
        return {name: name for name in folders}
    if set(folders) == {str(number) for number in range(len(order))}:
        return {name: order[int(name)] for name in folders}
    numbers = [str(number) for number in range(len(order))]
    odd = sorted(set(folders) - set(order) - set(numbers))
    if not odd and (lacking := [one for one in numbers if one not in folders]) and set(folders) <= set(numbers):
        raise DataError(
            f"{counted(len(lacking), 'folder')} of 0 to 999 {are(len(lacking))} missing: {some(lacking)}",
            file=root,
            fix="Unpack the archive anew: accuracy on fewer classes is another number.",
        )
    raise DataError(
        f"its {counted(len(folders), 'folder')} are neither just 0 to 999 nor just ImageNet's 1000 wnids"
        + (f": {some(odd)}" if odd else ""),
        file=root,
        fix="Unpack the archive anew; what a folder of another name holds is not guessed.",
    )
