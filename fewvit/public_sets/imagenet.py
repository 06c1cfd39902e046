"""ImageNet-1k, the ILSVRC 2012 competition's training and validation images."""

from __future__ import annotations

import os

from ..datasets import Dataset, Listing
from ..errors import DataError, counted
from ._about import About, Part
from ._files import first_there, listed, of_tree
from ._imagenet import refuse_other_classes, synsets, validation_images
from ._label_lists import labels_by, list_for

_TRAIN = ("train", "ILSVRC2012_img_train", os.path.join("ILSVRC", "Data", "CLS-LOC", "train"))


class ImageNet:
    """Training images in folders called by wnids; validation images too, or in one folder with any published list."""

    about = About(
        title="ImageNet-1k",
        home="https://image-net.org/download.php",
        licence="ImageNet's terms of access: non-commercial research and education; an account is needed",
        layout=(
            "DIR/train/n01440764/*.JPEG: a folder for each wnid",
            "DIR/val/n01440764/*.JPEG, or DIR/val/ILSVRC2012_val_00000001.JPEG and so on, with a list beside them or "
            "in DIR: LOC_val_solution.csv, val.txt (file and wnid, or file and index), "
            "imagenet_2012_validation_synset_labels.txt, or ILSVRC2012_validation_ground_truth.txt with meta.mat",
            "Kaggle's DIR/ILSVRC/Data/CLS-LOC/ with DIR/LOC_val_solution.csv is read as it is",
        ),
        parts={"train": Part(1_281_167, 1000), "val": Part(50_000, 1000)},
        pair=("train", "val"),
    )

    @staticmethod
    def open(folder: str, part: str, listing: Listing) -> Dataset:
        """The images of a part, classes being wnids. Raises DataError as `PublicSet.open`."""
        if part == "train":
            root = first_there(folder, _TRAIN, "training images")
            tree = listed(root, listing)
        else:
            root, tree = validation_images(folder, listing)
        notes = []
        if part == "val" and not any("/" in name for name in tree.ids):
            path = list_for(root, folder)
            labels = labels_by(path, tree.ids, root)
            notes.append(f"labels from {path}")
        else:
            loose = [name for name in tree.ids if "/" not in name]
            if loose:
                raise DataError(f"images beside the class folders: {loose[0]} and so on", file=root)
            labels = [name.partition("/")[0] for name in tree.ids]
            refuse_other_classes([*tree.folders, *labels], root, synsets(), "ImageNet-1k")
        if len(set(labels)) < len(synsets()):
            notes.append(f"images of {counted(len(set(labels)), 'class', 'classes')} of 1000")
        return of_tree("imagenet", root, tree, labels, listing, notes=notes)
