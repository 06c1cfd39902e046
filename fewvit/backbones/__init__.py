"""Backbone families: one file each, holding a table of variants and all that is the family's own.

No torch and no NumPy at import.

A family is what shares a file layout. Its class says how such a file is recognised, which tensors are the trunk and
under which names they go into `fewvit.models.vit.VisionTransformer` (DINO's names, which timm shares); which protocol
it is read by, how its position table is resized, and what a user should know before judging it. Adding a family is
adding a file. One file because a table of variants is read with what its fields mean.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import plugins
from ..errors import UnknownName, UsageError
from ..preprocess import Preprocess
from ._tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

NON_COMMERCIAL = "CC-BY-NC-4.0"
# of licences that copies of the weights elsewhere contradict
NOT_THE_AUTHORS = "at the official source; model cards elsewhere that say Apache-2.0 were not written by the authors"
BUNDLED = Path(__file__).parent.parent / "weights"  # files that come with the package
OFFLINE = "fewvit_tiny"  # the variant whose file is among them
KS = (10, 20, 100, 200)  # DINO's and DINOv2's k-NN
TEMPERATURE = 0.07
ROTARY = "rotary"  # positions that no table holds: see `fewvit.models.rotary`
COMPUTED = "rotary-computed"  # the same where the file does not hold their periods either


@dataclass(frozen=True)
class Architecture:
    """Everything that decides which module is built."""

    width: int  # D, channels of a token
    depth: int  # L, blocks
    heads: int
    patch: int  # P, pixels
    # patch tokens per side in the file's position table; (rows, columns) where it is no square
    grid: int | tuple[int, int] = 14
    # how the table is resized: the name of a family's `PositionRule`; or timm; or rotary or none, and there is no table
    positions: str = "dino"
    registers: int = 0
    feed_forward: str = "mlp"  # or swiglu
    hidden: int = 0  # channels inside the feed-forward layer; 0 means 4 D
    layer_scale: bool = False
    final_norm: str = "norm"  # or fc_norm: a norm over the mean patch token alone (MAE after fine-tuning)
    timm: str = ""  # build this model of timm instead
    # what came later; `to_dict` leaves it out where it is as here, so that earlier fingerprints hold
    eps: float = 1e-6  # of every LayerNorm
    qkv_bias: bool = True
    stages: tuple[tuple[int, int], ...] = ()  # (blocks, channels) of each stage: a ConvNeXt in place of a ViT

    def __post_init__(self) -> None:
        if not isinstance(self.grid, int):  # as JSON has it, too; a square has one spelling, as in the tables
            rows, columns = self.grid
            object.__setattr__(self, "grid", rows if rows == columns else (rows, columns))
        object.__setattr__(self, "stages", tuple((blocks, channels) for blocks, channels in self.stages))

    def to_dict(self) -> dict[str, Any]:
        """Field -> value, for manifests and fingerprints."""
        later = fields(self)[-3:]
        unset = {field.name for field in later if getattr(self, field.name) == field.default}
        return {name: value for name, value in asdict(self).items() if name not in unset}

    @property
    def is_rotary(self) -> bool:
        """Whether its patches turn queries and keys, so that it has no position table."""
        return self.positions in (ROTARY, COMPUTED)

    @property
    def is_vit(self) -> bool:
        """Whether it is a ViT of ours, with a class token and blocks that attend."""
        return not self.timm and not self.stages

    @property
    def settled(self) -> dict[str, str]:
        """Of heads and grid those that nobody can tell otherwise: name -> why."""
        if self.stages:
            return {"heads": "a ConvNeXt has no heads", "grid": "a ConvNeXt has no position table"}
        grid = {"grid": "its positions are rotary, and no table has rows and columns"} if self.is_rotary else {}
        by_periods = {"heads": f"its periods are those of {self.heads} heads"} if self.positions == ROTARY else {}
        return by_periods | grid

    @property
    def layers(self) -> int:
        """Of how many of its last blocks tokens can be read beside each other.

        Only the last of a ConvNeXt: its earlier stages have other widths, and no norm.
        """
        return 1 if self.stages else self.depth

    @property
    def table(self) -> tuple[int, int]:
        """Rows and columns of the position table."""
        return (self.grid, self.grid) if isinstance(self.grid, int) else self.grid

    @property
    def cells(self) -> int:
        """Patches that the position table has."""
        rows, columns = self.table
        return rows * columns

    @property
    def side(self) -> int:
        """Patches per side of the position table. Raises UsageError for one that is no square."""
        if not isinstance(self.grid, int):
            rows, columns = self.grid
            raise UsageError(f"a position table of {rows}x{columns} patches is no square, and this needs one that is")
        return self.grid

    @property
    def parameters(self) -> int | None:
        """How many numbers are learnt in the trunk; None for a model of timm, which knows itself."""
        if self.timm:
            return None
        d, hidden = self.width, self.hidden or 4 * self.width
        if self.stages:
            return _of_convnext(self.stages)
        tokens = 1 + self.registers + (0 if self.is_rotary else 1 + self.cells)
        around = (3 * self.patch**2 + 1) * d + tokens * d + 2 * d  # patches, tokens, norm
        attention = (d + self.qkv_bias) * 3 * d + (d + 1) * d
        first = 2 * hidden if self.feed_forward == "swiglu" else hidden  # both halves of the gate
        feed_forward = (d + 1) * first + (hidden + 1) * d
        scales = 2 * d if self.layer_scale else 0
        return around + self.depth * (attention + feed_forward + 4 * d + scales)

    def check_any_size(self) -> None:
        """Raise UsageError where it cannot read images of any size and proportions."""
        if self.timm:
            raise UsageError(f"{self.timm} reads images of one size, and here each image has its own")
        if self.is_rotary or self.stages:
            return
        rule = position_rule(self.positions)
        if rule.only_squares:
            raise UsageError(f"{rule.only_squares} images of all proportions, which are read here")

    def check_size(self, height: int, width: int) -> None:
        """Raise UsageError, naming the nearest sizes, when an input of this many pixels does not fit."""
        if self.timm:
            return
        for pixels in (height, width):
            if pixels % self.patch or pixels < self.patch:
                low = max(pixels // self.patch, 1) * self.patch
                raise UsageError(
                    f"an image size of {pixels} is not a multiple of the patch size {self.patch}; the nearest are "
                    f"{low} and {low + self.patch}"
                )
        if self.is_rotary or self.stages:
            return
        rows, columns = height // self.patch, width // self.patch
        rule = position_rule(self.positions)
        if rule.only_squares and rows != columns and not rule.serves(self.table, rows, columns):
            raise UsageError(f"{rule.only_squares} {height}x{width}", fix=f"Use --img-size {min(height, width)}.")


def _of_convnext(stages: Sequence[tuple[int, int]]) -> int:
    """How many numbers are learnt in a ConvNeXt of these stages, its last norm included."""
    widths = [channels for _, channels in stages]
    steps = [(4 * 4 * 3 + 1) * widths[0] + 2 * widths[0]]  # the stem and its norm
    steps += [2 * before + (4 * before + 1) * after for before, after in itertools.pairwise(widths)]
    # 7x7 for each channel, norm, widening, narrowing, scale
    blocks = [n * (50 * d + 2 * d + (d + 1) * 4 * d + (4 * d + 1) * d + d) for n, d in stages]
    return sum(steps) + sum(blocks) + 2 * widths[-1]


@dataclass(frozen=True)
class PositionRule:
    """How a table of positions serves images of rows x columns patches.

    One for all families that read it alike.
    """

    # table (1, D, its rows, its columns) float32, rows, columns -> (1, D, rows, columns)
    resized: Callable[[Tensor, int, int], Tensor]
    # whether as many patches of any shape take the table as it is; otherwise only those of its own shape do
    by_count: bool = False
    only_squares: str = ""  # the error for other shapes, the size follows it; empty: it covers them

    def serves(self, table: tuple[int, int], rows: int, columns: int) -> bool:
        """Whether rows x columns patches take a table of these rows and columns as it is."""
        return (rows, columns) == table or (self.by_count and rows * columns == table[0] * table[1])


@dataclass(frozen=True)
class ClassifierPreset:
    """What a protocol gives a classifier."""

    classifier: str  # the plug-in's name
    options: Mapping[str, Any] = field(default_factory=dict)  # of its constructor
    source: str = ""  # where its penalty comes from, in a few words; empty: the protocol has none of its own
    only: tuple[str, ...] = ()  # the numbers of labelled images that it is for, such as 1%; empty: all others


@dataclass(frozen=True)
class Benchmark:
    """The images that published numbers were measured on."""

    name: str
    train: int  # images to learn from
    test: int  # images to be tested on
    classes: int
    # the published lists of labelled images, by the first 16 digits of the sha256 of their sorted lines: how many
    # images per class, and which set of three
    lists: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def is_tested_on(self, n_test: int, n_classes: int) -> bool:
        """Whether so many test images of a training set of so many classes can be its own."""
        return (n_test, n_classes) == (self.test, self.classes)


IMAGENET = Benchmark(
    "ImageNet-1k",
    train=1_281_167,
    test=50_000,
    classes=1000,
    lists={  # MSN's; the one of 1 % is SimCLR's too
        "287ade260cf0d827": ("1", 1),
        "beb79dcfc3f46c96": ("1", 2),
        "3fb2c9bc1efc5298": ("1", 3),
        "6e2e7743b9d178c5": ("2", 1),
        "3b4d6234e2d049da": ("2", 2),
        "a8a12633ee89961f": ("2", 3),
        "c5eef769be5a3f11": ("5", 1),
        "47a1c97ffb6a5402": ("5", 2),
        "91d6b6dce8e9ffd1": ("5", 3),
        "6581e723dbf23ae4": ("1%", 1),
    },
)


@dataclass(frozen=True)
class Protocol:
    """A named, versioned preset: how a paper turns an image into a feature, and what its classifiers are.

    `pool` empty means the model's own: class token where there is one, else mean. Sources: the evaluation scripts of
    the official repositories.
    """

    name: str
    preprocess: Preprocess = field(default_factory=Preprocess)
    pool: str = "cls"
    layers: int = 1
    norm: str = "final"  # of class tokens: final, or none
    ks: tuple[int, ...] = KS
    temperature: float = TEMPERATURE
    # of the resize before low-shot evaluation, where it is not that of everything else
    lowshot_cover: tuple[int, int] | None = None
    # pixels of a side; larger inputs show the whole picture, as `preprocess.sized` says; 0: no size does
    whole_above: int = 0
    classifiers: tuple[ClassifierPreset, ...] = ()  # those that it gives options; others keep their own
    # how its published numbers were measured, where that is nothing that a pipeline follows
    published_k: int = 0  # of its k-NN number; 0: not said which of `ks`
    published_precision: str = "fp32"
    benchmark: Benchmark = IMAGENET

    @property
    def family(self) -> str:
        """The family that brings it: what stands before the slash of its name, or before the hyphen."""
        return self.name.partition("/")[0].partition("-")[0]

    def transform(self, task: str = "") -> Preprocess:
        """The transform for a task: `lowshot`, `finetune`, which looks at images as it does, or anything else."""
        if task in ("lowshot", "finetune") and self.lowshot_cover is not None:
            return replace(self.preprocess, cover=self.lowshot_cover)
        return self.preprocess

    def preset_of(self, classifier: str, shots: int | str) -> ClassifierPreset:
        """What it gives a classifier for so many labelled images per class, or for a list such as 1%.

        Nothing where it has nothing.
        """
        own = [
            one for one in self.classifiers if one.classifier == classifier and (not one.only or str(shots) in one.only)
        ]
        return max(own, key=lambda one: bool(one.only), default=ClassifierPreset(classifier))


@dataclass(frozen=True)
class Publication:
    """The article behind published weights."""

    date: str  # of its first version, YYYY-MM-DD
    bibtex: str


@dataclass(frozen=True)
class Variant:
    """One row of a family's table: a published checkpoint."""

    architecture: Architecture
    url: str = ""  # empty: the architecture has no published weights
    sha256: str = ""  # empty: unknown, the first download's digest is pinned
    md5_prefix: str = ""  # as published beside the file
    published: Mapping[str, Any] = field(default_factory=dict)  # the paper's or repository's numbers, percent
    note: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # where it differs from the protocol's
    license: str = ""  # empty: the family's
    bundled: str = ""  # name of its weights in the package's folder `weights`; empty: they come from `url`
    parts: tuple[str, ...] = ()  # addresses of what follows the file of `url`, where it was cut into parts
    file: str = ""  # the name that its weights file gets here; empty: the one at the end of `url`
    pretrained_on: str = ""  # a name of `_pretraining.CORPORA`; empty: the family's
    protocol: str = ""  # the preset that it takes; empty: the family's
    gated: str = ""  # the page where one asks to be let in before its file can be downloaded; empty: anyone may
    source: str = ""  # of its published numbers, where not the family's
    # of a model that timm builds, which its architecture does not tell
    tokens: Tokens | None = None
    parameters: int = 0  # how many numbers are learnt in its trunk, without a head; 0: not known here

    @property
    def learnt(self) -> int | None:
        """How many numbers are learnt in its trunk; None where that is not known."""
        return self.architecture.parameters or self.parameters or None

    @property
    def file_name(self) -> str:
        """The name of its weights file: in the package, as called here, at the end of its URL, or its model's."""
        last = self.url.rsplit("/", 1)[-1]
        shared = {  # names that all have: what is told apart by the model, or by the repository
            "model.safetensors": lambda: f"{self.architecture.timm}.safetensors",
            "model.pt": lambda: f"{self.url.split('/')[-4]}.pt",
        }
        return self.bundled or self.file or shared.get(last, lambda: last)()


@dataclass(frozen=True)
class Trunk:
    """What a weights file gives: the trunk under the module's names, and what was left aside."""

    tensors: dict[str, Tensor]  # name in the module -> tensor
    mapping: dict[str, str]  # name in the module -> name in the file
    dropped: list[str]  # names in the file that are no part of the trunk (heads, decoder, optimizer)


class Family:
    """What a file in this folder says: one public class that inherits from this one.

    What has no value here, it has to say.

    As it stands here it is the layout of a run whose pretraining method has no file in this folder: a plain ViT under
    the module's names.
    """

    license: ClassVar[str]
    license_note: ClassVar[str] = ""  # what else to know of it, where others state another one
    source: ClassVar[str]  # the official repository
    pretrained_on: ClassVar[str] = ""  # what its variants saw: a name of `_pretraining.CORPORA`; empty: unknown
    protocol: ClassVar[str]  # the preset that a bare file of this family takes
    tuned_protocol: ClassVar[str] = ""  # the preset of its fine-tuned networks, and of fine-tuning; empty: `protocol`
    publication: ClassVar[Publication | None] = None  # of its published weights; None: not one for all
    protocols: ClassVar[tuple[Protocol, ...]] = ()  # the presets that it brings
    variants: ClassVar[Mapping[str, Variant]] = {}
    checkpoint_keys: ClassVar[tuple[str, ...]] = ()  # networks a file may hold, the default first; empty: just one
    # the position rules that it brings, by the names that architectures call them
    positions: ClassVar[Mapping[str, PositionRule]] = {}
    # of transformers' models whose weights are this family's under other names
    model_types: ClassVar[tuple[str, ...]] = ()
    # of transformers' models that are this family's too, in files that are not read here: its own names are told
    known_as: ClassVar[tuple[str, ...]] = ()
    # the registry of these models, named REGISTRY:NAME, where no file of theirs shows which model it is of
    registry: ClassVar[str] = ""
    # whether it takes all models of its registry that no table names
    takes_others: ClassVar[bool] = False
    # options of `finetune --mode full` in which its authors differ from what others take
    full_tuning: ClassVar[Mapping[str, Any]] = {}

    # fields of `Preprocess` in which its images are normalised otherwise than by ImageNet's mean and deviation
    statistics: ClassVar[Mapping[str, Any]] = {}
    class_tokens: ClassVar[int] = 1  # a second one is where other ViTs have a register

    # its variants whose decoder was trained on raw pixels, where others of the family were on normalised ones
    raw_pixels: ClassVar[tuple[str, ...]] = ()

    # who else saves files of this layout whose images are normalised otherwise, as a sentence; empty: nobody
    shared_with: ClassVar[str] = ""

    # whose files have this layout too and are normalised alike, so that its licence and protocol are a guess
    alike: ClassVar[str] = ""
    # a word in the names of its files, and the families whose layout they have: such a file is then its own
    called: ClassVar[str] = ""
    layouts: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def shows_origin(name: str) -> bool:
        """Whether a file's name, or a name in it, shows that its images are normalised as this family's."""
        return True

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether a file that was read to `tree` has this family's layout; at most one family says yes."""
        return False

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk's tensors. Raises KeyError when the asked network is not there."""
        return Trunk(dict(tree), {name: name for name in tree}, [])

    @staticmethod
    def infer(tensors: Mapping[str, Tensor]) -> Architecture:
        """The architecture that the trunk's shapes spell.

        Raises KeyError or ValueError for what is none of this family.
        """
        raise ValueError("its layout does not say which architecture it is of")

    @classmethod
    def protocol_of(cls, architecture: Architecture, *, tuned: bool = False) -> str:
        """The preset that a network is read by; one that was fine-tuned may have a norm of its own, which tells it."""
        tuned = tuned or architecture.final_norm == "fc_norm"
        return (cls.tuned_protocol if tuned else "") or cls.protocol

    @classmethod
    def class_tokens_of(cls, variant: Variant) -> int | None:
        """How many class tokens a row's model has; None where that is not known."""
        if variant.architecture.timm:
            return variant.tokens.classes if variant.tokens is not None else None
        return 0 if variant.architecture.stages else cls.class_tokens

    @classmethod
    def registers_of(cls, variant: Variant) -> int | None:
        """How many registers a row's model has; None where that is not known."""
        if variant.architecture.timm:
            return variant.tokens.registers if variant.tokens is not None else None
        further = cls.class_tokens - 1 if variant.architecture.registers else 0  # a second one stands where they do
        return variant.architecture.registers - further

    @staticmethod
    def advice(task: str, *, pool: str = "", protocol: str = "", methods: Sequence[str] = ()) -> str | None:
        """What to tell a user before frozen backbones of this family are evaluated, or None.

        `task` is `knn`, `lowshot` or `linear`; with this pooling, this protocol's linear probe, or these classifiers.
        """
        return None

    @staticmethod
    def lowshot_method(architecture: Architecture, shots: int | str) -> str:
        """The classifier that the published low-shot number of a variant was measured with."""
        return "logistic"


def families() -> dict[str, type[Family]]:
    """Every family's class by name, in the order of names."""
    return {name: plugins.find("backbones", name) for name in plugins.names("backbones")}


def family_of(name: str) -> type[Family]:
    """The family's class; `Family` itself for what a pretraining method calls its own, without a file here."""
    return families().get(name, Family)


def recognisable() -> list[str]:
    """Names of the families that a bare file can be taken for."""
    return [name for name, family in families().items() if not family.registry]


def family_of_registry(registry: str) -> str:
    """The name of the family whose models another registry builds."""
    return next(name for name, family in families().items() if family.registry == registry and family.takes_others)


@functools.cache  # it is asked before every forward pass
def position_rule(name: str) -> PositionRule:
    """The rule of that name; raises UnknownName."""
    rules = {called: rule for family in families().values() for called, rule in family.positions.items()}
    if name not in rules:
        raise UnknownName("position rule", name, rules)
    return rules[name]


def variants() -> dict[str, str]:
    """Every named variant and the family it belongs to."""
    return {variant: name for name, family in families().items() for variant in family.variants}


def find_variant(name: str) -> tuple[str, Variant]:
    """(family name, variant) of a table row; raises UnknownName with the nearest names."""
    table = variants()
    if name not in table:
        raise UnknownName(
            "backbone", name, table, fix="See `fewvit backbones list`; a file, `timm:NAME` and `hf:ORG/NAME` also do."
        )
    return table[name], families()[table[name]].variants[name]
