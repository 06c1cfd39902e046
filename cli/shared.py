"""Options that several commands take, spelled once.

A command's parameter of one of these types is replaced by its fields. One file because an option is looked for in one
place, with the words that all commands use for it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from fewvit.backbones import families, recognisable
from fewvit.errors import UsageError
from fewvit.models.told import Told
from fewvit.untrusted.texts import toml_of

from .outputs import Kind, check_outputs, require_ending
from .panels import ADVANCED, BACKBONE, OUTPUT, READ, Grouped, placed

if TYPE_CHECKING:
    from fewvit.evaluate.plots import Plots
    from fewvit.extraction.principal import Reduction

Command = TypeVar("Command", bound=Callable[..., object])
Number = TypeVar("Number", int, float)

QUICK = "dino_vits16"  # the backbone where none is named


def _or(names: Sequence[str]) -> str:
    """The names as a choice in words."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


_PROTOCOLS = [protocol.name for family in families().values() for protocol in family.protocols]


def _config(context: typer.Context, path: str | None) -> str | None:
    """Values of a TOML file as this command's defaults; what the command line says wins."""
    if path is None:
        return None
    values, _ = toml_of(Path(path))
    known = {parameter.name: parameter for parameter in context.command.params}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = [key for key in values if key not in known]
    if unknown:
        from fewvit.errors import UnknownName

        raise UnknownName("option", unknown[0], sorted(filter(None, known)), fix=f"It stands in {path}.")
    for key, value in values.items():
        if any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value])):
            raise UsageError(
                f"{key} is a table or a list of lists, where one value or a list of them is taken", file=path
            )
    # a list is what a repeatable option takes, and what commas stand for elsewhere
    context.default_map = {
        key: ",".join(map(str, value))
        if isinstance(value, list) and not getattr(known[key], "multiple", False)
        else value
        for key, value in values.items()
    }
    return path


Index = Annotated[Path, typer.Option("--index", metavar="IDX", help="Folder of the index.")]


Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="After the result, tell on stderr what may make it differ from the published number; JSON has it too.",
    ),
]


@dataclass(frozen=True)
class Model:
    """Which backbone."""

    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            "-m",
            metavar="NAME|FILE|…",
            help=f"Variant, weights file, timm:NAME or hf:ORG/NAME; several with commas. Default: {QUICK}.",
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE|random",
            help="Weights of a named variant; `random` leaves it untrained and says so in every row.",
        ),
    ] = None


@dataclass(frozen=True)
class MaybeModel(Model):
    """Which backbone, for what does without one too."""

    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            "-m",
            metavar="NAME|FILE|…",
            help="Variant, weights file, timm:NAME or hf:ORG/NAME. Default: none, and nothing goes by features.",
        ),
    ] = None


@dataclass(frozen=True)
class Layout:
    """How a weights file is understood."""

    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-key", metavar="KEY", help="Network of the file: teacher, student, target_encoder, encoder."
        ),
    ] = None
    family: Annotated[
        str | None,
        typer.Option(
            "--family", metavar="NAME", help=f"Take a bare file for {_or(recognisable())}, whatever its layout says."
        ),
    ] = None
    heads: Annotated[
        str | None,
        typer.Option("--heads", metavar="N", help="Attention heads of a bare file; its tensors do not tell them."),
    ] = None
    grid: Annotated[
        str | None,
        typer.Option("--grid", metavar="HxW", help="Rows and columns of a bare file's position table."),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Of the pixels, 0 to 1, that a bare file was trained on."),
    ] = None
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="Their standard deviation, of pixels from 0 to 1.")
    ] = None

    @property
    def told(self) -> Told:
        """What is said of a bare file. Raises UsageError."""
        return Told.of(self.heads, self.grid, self.mean, self.std)


@dataclass(frozen=True)
class Access:
    """How weights may be got."""

    accept_license: Annotated[
        list[str] | None,
        typer.Option("--accept-license", metavar="ID", help="Accept a licence, such as cc-by-nc-4.0, for a download."),
    ] = None
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False


@dataclass(frozen=True)
class Place:
    """Where things are kept."""

    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir",
            metavar="DIR",
            envvar="FEWVIT_CACHE_DIR",
            help="Features, weights and licences are kept here.",
        ),
    ] = None


_Protocol = Annotated[
    str | None,
    typer.Option("--protocol", metavar="NAME", help=f"{_or(_PROTOCOLS)}; default: the backbone's own."),
]
_ImgSize = Annotated[
    str | None,
    typer.Option("--img-size", metavar="N|HxW", help="Input pixels; the resize before the crop scales with it."),
]
_Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        metavar="fast|pil",
        help="fast applies EXIF and puts white under alpha; pil gives the official pixels bit for bit.",
    ),
]
_Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")]


@dataclass(frozen=True)
class Features:
    """What is read out of the backbone."""

    protocol: _Protocol = None
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            metavar="cls|mean|…",
            help="Which tokens become the feature: cls, mean, gem (generalised mean, exponent 4), cls+mean, cls+gem, "
            "cls+dist, cls2 (a second class token), attn (the model's own attention pool); each: rows of their own, "
            "with --layers each.",
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="N|block6,…|each",
            help="Class tokens of the last N blocks, or of blocks by their number from 1; `each`: one row per block.",
        ),
    ] = None
    img_size: _ImgSize = None
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="fp32|bf16|fp16|auto",
            help="fp32 is the papers'; auto is bf16 where the device has it.",
        ),
    ] = "fp32"
    decode: _Decode = "fast"
    device: _Device = "auto"


@dataclass(frozen=True)
class Views:
    """Of which views of an image the features are averaged."""

    scales: Annotated[
        str | None,
        typer.Option(
            "--scales", metavar="S,…", help="Mean over copies, such as 1,0.707,0.5: sides to the nearest whole patch."
        ),
    ] = None
    flip: Annotated[bool, typer.Option("--flip", help="Mean over the image and its mirror image: twice the work.")] = (
        False
    )

    @property
    def reading(self) -> dict[str, Any] | None:
        """The fields of the transform that say so; None where nothing is asked for."""
        asked: dict[str, Any] = {"flip": True} if self.flip else {}
        if self.scales is not None:
            asked["scales"] = tuple(numbers(self.scales, "--scales", float))
        return asked or None


@dataclass(frozen=True)
class Seen:
    """How images are read and where, for what reads out no feature: figures of tokens and of attention."""

    protocol: _Protocol = None
    img_size: _ImgSize = None
    decode: _Decode = "fast"
    device: _Device = "auto"

    @property
    def features(self) -> Features:
        """The same as options of features."""
        return Features(self.protocol, img_size=self.img_size, decode=self.decode, device=self.device)


@dataclass(frozen=True)
class Pair:
    """Two sets: one to learn from, one to evaluate on."""

    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Folder with train/ and val/ or test/; or `digits`.")
    ] = None
    train: Annotated[
        str | None, typer.Option("--train", metavar="SRC", help="Images or features (.npz) to learn from.")
    ] = None
    test: Annotated[
        str | None, typer.Option("--test", metavar="SRC", help="Images or features (.npz) to judge by.")
    ] = None


@dataclass(frozen=True)
class Listed:
    """How sources are listed."""

    follow_links: Annotated[bool, typer.Option("--follow-links", help="Also follow links that leave the source.")] = (
        False
    )
    allow_empty_class: Annotated[
        bool, typer.Option("--allow-empty-class", help="Keep class folders without an image.")
    ] = False
    path_column: Annotated[
        str | None, typer.Option("--path-column", metavar="NAME", help="Column of a table that holds paths or images.")
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option("--label-column", metavar="NAME", help="Column of a table, or key in shards' .json, of labels."),
    ] = None
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Refuse larger image files by their size.")] = (
        256 << 20
    )


@dataclass(frozen=True)
class Work:
    """How the work is done; no choice here changes a feature."""

    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", min=1, help="Images per forward pass. Default: 8 on a CPU, 256 on a GPU."),
    ] = None
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding threads; default: one per core, at most 16.")
    ] = None
    max_bad: Annotated[
        str | None,
        typer.Option(
            "--max-bad",
            metavar="N|P%",
            help="How many undecodable images of a source to leave out. Default: none; extract and index: 1%.",
        ),
    ] = None
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Refuse larger images by their header.")] = (
        64_000_000
    )
    seed: Annotated[int, typer.Option("--seed", help="Seed of random weights and subsets.")] = 0
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep features.")] = False
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every file again, even if size and time stamps have not changed.")
    ] = False


@dataclass(frozen=True)
class Reduced:
    """What is made of features before anything is fitted on them."""

    pca: Annotated[
        int | None,
        typer.Option(
            "--pca", metavar="N", min=1, help="Take the first N principal axes of the train features; test only moves."
        ),
    ] = None
    whiten: Annotated[
        bool,
        typer.Option(
            "--whiten", help="Divide each principal coordinate by its standard deviation; without --pca all of them."
        ),
    ] = False

    @property
    def reduction(self) -> Reduction:
        """The same, as the library has it."""
        from fewvit.extraction.principal import Reduction

        return Reduction(self.pca, self.whiten)


@dataclass(frozen=True)
class Drawn:
    """What is drawn of the predictions."""

    plot_reliability: Annotated[
        Path | None,
        typer.Option(
            "--plot-reliability",
            metavar="FILE.png|.svg",
            help="Draw accuracy over confidence, a reliability diagram (extra `plots`).",
        ),
    ] = None
    plot_confusion: Annotated[
        Path | None,
        typer.Option(
            "--plot-confusion",
            metavar="FILE.png|.svg",
            help="Draw the confusion matrix; of many classes those in most mistakes (extra `plots`).",
        ),
    ] = None

    def plots(self) -> Plots:
        """The pictures, once it is known that they can be written."""
        from fewvit.evaluate.plots import Plots

        plots = Plots(self.plot_reliability, self.plot_confusion)
        plots.check()
        return plots


@dataclass(frozen=True)
class Classifiers:
    """What is fitted on the features."""

    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier", metavar="NAME,…", help="Classifiers; `fewvit lowshot --classifier list` tells them all."
        ),
    ] = None
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of a classifier, as k=5 or knn.k=5; repeatable."),
    ] = None


@dataclass(frozen=True)
class Output:
    """What is shown and kept."""

    out: Path | None = None  # its help depends on what the command writes
    format: Annotated[str, typer.Option("--format", metavar="table|json|csv", help="What stdout gets.")] = "table"
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="FILE.toml", is_eager=True, callback=_config, help="Defaults of these options."
        ),
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more on stderr.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing but errors on stderr.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


def command(app: typer.Typer, called: str | None = None, *, out: Kind | None = None) -> Callable[[Command], Command]:
    """Register a function whose parameters may be of the types above: each is spread into its options and rebuilt.

    Help shows what is the command's own before what many share. `out` is what its --out writes; without it there is
    none. No output may replace an input: that is checked here.
    """

    def register(function: Command) -> Command:
        hints = get_type_hints(function, vars(sys.modules[function.__module__]), include_extras=True)
        groups: dict[str, type] = {}
        own: list[inspect.Parameter] = []
        shared: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if dataclasses.is_dataclass(hints[name]):
                groups[name] = hints[name]
                (shared if issubclass(hints[name], _SHARED) else own).extend(_fields(hints[name], out))
            else:
                annotation = placed(name, hints[name], None)
                own.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
        parameters = own + shared

        @functools.wraps(function)
        def spread(**values: object) -> object:
            check_outputs(values, out)
            assembled = {
                name: group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group) if f.name in values})
                for name, group in groups.items()
            }
            return function(**assembled, **values)

        setattr(spread, "__signature__", inspect.Signature(parameters))  # noqa: B010  typer reads it
        spread.__annotations__ = {p.name: p.annotation for p in parameters}
        del spread.__wrapped__
        app.command(called, cls=Grouped)(spread)
        return function

    return register


_SHARED = (Model, Layout, Access, Place, Features, Views, Seen, Listed, Work, Output)
# under which heading of --help a type's options stand; those of others are the command's own
_HEADINGS = {
    Pair: READ,
    Model: BACKBONE,
    **dict.fromkeys((Features, Views, Seen), BACKBONE),
    Output: OUTPUT,
    **dict.fromkeys((Layout, Access, Place, Listed, Work), ADVANCED),
}


def named(text: object) -> Path:
    """The place of an output. Raises UsageError for none, which would be the folder one is in."""
    if not text:
        raise UsageError("--out is empty", fix="Give it a name, or leave it away.")
    return Path(str(text))  # a number, out of a file of --config


def _named_as(kind: Kind) -> Callable[[object], Path]:
    """`named`, and UsageError for an ending that the kind does not have."""

    def place(text: object) -> Path:
        path = named(text)
        require_ending(str(text), kind)
        return path

    return place


def _fields(group: type, out: Kind | None) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    heading = next((heading for kind, heading in _HEADINGS.items() if issubclass(group, kind)), None)
    if group is Output and out is not None:
        hints["out"] = Annotated[
            Path | None, typer.Option("--out", "-o", metavar=out.metavar, help=out.help, parser=_named_as(out))
        ]
    return [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default,
            annotation=placed(f.name, hints[f.name], heading),
        )
        for f in dataclasses.fields(group)
        if not (group is Output and f.name == "out" and out is None)
    ]


def single() -> typer.Typer:
    """The app of a module that holds one command."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def given(context: typer.Context, names: Container[str]) -> list[str]:
    """Which of these parameters stand on the command line, as its flags.

    A --config only changes what the others default to.
    """
    flags = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            no = context.params[parameter.name] is False and parameter.secondary_opts
            flags.append((parameter.secondary_opts if no else parameter.opts)[0])
    return flags


def numbers(text: str | None, flag: str, kind: Callable[[str], Number]) -> list[Number]:
    """The numbers of a list with commas. Raises UsageError."""
    if text is None:
        return []
    try:
        found = [kind(word) for word in text.replace(" ", ",").split(",") if word]
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is not a list of numbers such as 10,20,100") from error
    for one in found:
        if not math.isfinite(one):
            raise UsageError(f"{flag} {one}: not finite")
    return found
