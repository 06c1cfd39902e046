"""fewvit export onnx, torch, mteb-model"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import DataError, UsageError, printable

from .inputs import reader, recipe_reader
from .outputs import MTEB_MODEL, Kind
from .shared import Access, Features, Layout, Model, Output, Place, Work, command, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.bundles.bundle import Bundle
    from fewvit.deploy.exporting import Format
    from fewvit.extraction.pipeline import Pipeline

app = single()


def _is_onnx(path: Path) -> bool:
    from fewvit.deploy.onnx_file import is_ours

    with open(path, "rb") as file:
        return is_ours(file.read(256))


def _is_program(path: Path) -> bool:
    return zipfile.is_zipfile(path) and any(
        name.endswith("extra/fewvit.json") for name in zipfile.ZipFile(path).namelist()
    )


ONNX = Kind("an ONNX file of fewvit", "FILE.onnx", "Write the file here.", _is_onnx, endings=(".onnx",))
PROGRAM = Kind("an exported program of fewvit", "FILE.pt2", "Write the file here.", _is_program, endings=(".pt2",))

_Network = Annotated[
    str,
    typer.Argument(metavar="BUNDLE|BACKBONE", help="What `fewvit fit` wrote; or variant, timm:NAME, hf:ORG/NAME, run."),
]
_Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", help="Weights of a named variant, or those of a bundle's backbone."),
]


@app.callback()
def export() -> None:
    """Write what other programs load: ONNX, torch's exported programs, a model of mteb."""


@command(app, out=ONNX)
def onnx(
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    output: Output,
    network: _Network,
    weights: _Weights = None,
) -> None:
    """Backbone, readout and a bundle's classifier as one ONNX file, run and compared before it is there; see --out.

    It takes uint8 RGB pixels of one size and any number of images; classes and thresholds are in its metadata.
    """
    from fewvit.deploy.onnx_file import OnnxFormat

    screen = Screen(output)
    _export(OnnxFormat(), network, weights, layout, access, place, features, output, screen)


@command(app, out=PROGRAM)
def torch(
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    output: Output,
    network: _Network,
    weights: _Weights = None,
) -> None:
    """The network of `export onnx` as a program for `torch.export.load`, run and compared before it is there."""
    from fewvit.deploy.torch_file import TorchFormat

    screen = Screen(output)
    _export(TorchFormat(), network, weights, layout, access, place, features, output, screen)


def _export(
    kind: Format,
    network: str,
    weights: str | None,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    output: Output,
    screen: Screen,
) -> None:
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE.")
    if features.precision != Features().precision:
        raise UsageError(f"--precision {features.precision}: an exported file computes in fp32")
    from fewvit.deploy.exporting import export_file, notes

    kind.require(0)
    pipeline, bundle = _network(network, weights, layout, access, place, features, screen)
    exported = export_file(output.out, kind, pipeline, bundle)
    contract = exported.contract
    row = {
        "backbone": contract.backbone,
        "classifier": contract.decision.classifier if contract.decision is not None else None,
        "classes": len(contract.decision.classes) if contract.decision is not None else None,
        "outputs": " ".join(contract.outputs),
        "largest_difference": float(f"{exported.difference:.2g}"),
        "megabytes": round(exported.n_bytes / 2**20, 1),
        **exported.facts,
    }
    screen.rows("export", [{name: value for name, value in row.items() if value is not None}])
    for line in notes(exported, pipeline):
        screen.notify(line)
    screen.notify(
        f"wrote {printable(output.out)}: its outputs differ from fewvit's by {exported.difference:.1e} at most"
    )


def _network(
    network: str,
    weights: str | None,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    screen: Screen,
) -> tuple[Pipeline, Bundle | None]:
    """How features are made, and the bundle where one was named. Raises UsageError for a bundle of given features."""
    from fewvit.models.layouts import is_bundle

    if network.endswith(".bundle") and not Path(network).exists():
        raise DataError("no such bundle", file=network, fix="`fewvit fit` writes one.")
    if not is_bundle(Path(network)):
        if "," in network:
            raise UsageError(f"one file is of one backbone, and {printable(network)} names several")
        reads = reader(Model(network, weights), layout, access, place, features, Work(), screen)
        [pipeline] = reads.pipelines()
        return pipeline, None
    from fewvit.bundles.file import load_bundle

    asked = [name for name in ("protocol", "pool", "layers", "img_size") if getattr(features, name)]
    if asked:
        flag = f"--{asked[0].replace('_', '-')}"
        raise UsageError(f"{flag}: a bundle says itself how its features are made", fix=f"Leave {flag} away.")
    bundle = load_bundle(network, device="cpu")
    if bundle.recipe is None:
        raise UsageError(
            "this bundle was fitted on a features file, so there is no backbone to be written with it",
            file=network,
            fix="Fit it on images.",
        )
    reads = recipe_reader(bundle.recipe, weights, features, access, place, Work(), screen)
    [pipeline] = reads.pipelines()
    bundle.recipe.require(pipeline, screen.notify)
    return pipeline, bundle


@command(app, "mteb-model", out=MTEB_MODEL)
def mteb_model(
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    output: Output,
    backbone: Annotated[str, typer.Argument(metavar="NAME", help="Variant, timm:NAME, hf:ORG/NAME, file or run.")],
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weights of a named variant.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="ORG/NAME", help="What mteb calls it; default: by where its weights come from."),
    ] = None,
) -> None:
    """A Python module with which mteb evaluates a backbone: fewvit's features and honest metadata; --out gets it."""
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE.py.")
    if "," in backbone:
        raise UsageError(f"one module is of one backbone, and {printable(backbone)} names several")
    source = reader(Model(backbone, weights), layout, access, place, features, Work(), screen)
    from fewvit.export.mteb_model import write_mteb_model

    [pipeline] = source.pipelines()
    recipe = source.backbones.recipe(pipeline)
    model = write_mteb_model(output.out, recipe, pipeline, name)
    row = {
        "name": model.name,
        "n_parameters": model.n_parameters,
        "embed_dim": model.embed_dim,
        "license": model.license,
        "trained_on": model.trained_on,
    }
    screen.rows("export", [row])
    for line in model.notes:
        screen.notify(line)
    screen.notify(f"wrote {printable(output.out)}")
