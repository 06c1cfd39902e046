"""Which public data sets the images of a backbone's pretraining came from, as far as that is known.

A data set is known by its name alone, so the answer is about the public set of that name, as a whole: that single
pictures of the web stand in both cannot be ruled out. `no` is said only where the corpus is a published list of images.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_IMAGENET = (
    *("imagenet", "imagenet1k", "ilsvrc2012", "ilsvrc", "in1k", "imagenetreal", "imagenet100", "imagenet10"),
    *("tinyimagenet", "tinyimagenet200", "imagenette", "imagenette2", "imagewoof", "imagewoof2", "imagenetdog15"),
    *("miniimagenet", "tieredimagenet"),
)
# public sets that were not made from the images of any corpus below whose list is published
_APART = (
    *("digits", "mnist", "fashionmnist", "kmnist", "emnist", "omniglot", "svhn", "cifar10", "cifar100", "gtsrb"),
    *("eurosat", "resisc45", "patchcamelyon", "pcam", "clevr", "dsprites", "smallnorb", "dmlab", "kitti", "fer2013"),
    *("imagenetv2", "imagenetsketch", "imagenetr", "imageneta", "objectnet", "fgvcaircraft", "aircraft", "birdsnap"),
    *("stanfordcars", "cars", "dtd", "food101", "sop", "caltech101", "flowers102", "oxfordflowers", "oxfordpets"),
    *("oxfordiiitpet", "pets", "cub200", "cub2002011", "cub", "sun397", "country211", "places365", "rp2k"),
)
KNOWN = frozenset({*_IMAGENET, *_APART, "imagenet21k", "imagenet22k", "gldv2", "googlelandmarksv2"})


@dataclass(frozen=True)
class Corpus:
    """The images that a backbone was pretrained on."""

    title: str
    holds: frozenset[str]  # data sets of KNOWN whose images, or a part of them, are in it
    is_published: bool  # which images are in it can be looked up, so of the other data sets of KNOWN none is


# Sources: the papers' sections on data. LVD-142M is not published: ImageNet-22k and Google Landmarks v2 are in it as
# they are, and images like those of some twenty test sets were gathered for it (Oquab et al. 2023, table 15).
CORPORA = {
    "imagenet-1k": Corpus("ImageNet-1k", frozenset(_IMAGENET), True),
    "imagenet-21k": Corpus("ImageNet-21k", frozenset({*_IMAGENET, "imagenet21k", "imagenet22k"}), True),
    "tiny-imagenet": Corpus("Tiny-ImageNet", frozenset(_IMAGENET), True),  # images of ImageNet-1k, made small
    "google-landmarks-v2": Corpus("Google Landmarks v2", frozenset({"gldv2", "googlelandmarksv2"}), True),
    # of the web, images that no list names: what is in them is not known
    "laion-600m": Corpus("LAION-600M", frozenset(), False),
    "mc-2b": Corpus("MetaCLIP's two billion images of the web", frozenset(), False),
    "lvd-142m": Corpus(
        "LVD-142M", frozenset({*_IMAGENET, "imagenet21k", "imagenet22k", "gldv2", "googlelandmarksv2"}), False
    ),
}


def seen(corpus: str, dataset: str) -> str:
    """`yes`, `no` or `unknown`: whether images of the data set of this name were in the corpus of that name.

    An empty name of a corpus is one that nothing is known of.
    """
    name = re.sub(r"[^a-z0-9]", "", dataset.lower())
    if corpus not in CORPORA or name not in KNOWN:
        return "unknown"
    if name in CORPORA[corpus].holds:
        return "yes"
    return "no" if CORPORA[corpus].is_published else "unknown"
