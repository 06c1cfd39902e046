"""A backbone as a model of mteb: a small Python module that gives fewvit's features, and what mteb wants to know of it.

Interface and fields are those of mteb 2.26. Nothing of mteb is imported here.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from .. import __version__
from ..backbones import Publication, Variant, family_of
from ..backbones._pretraining import CORPORA
from ..errors import UsageError, printable
from ..extraction.extract import backbone_of
from ..extraction.pipeline import Pipeline
from ..extraction.recipe import Recipe
from ..files import replacing
from ..models.spec import BackboneSpec

# licences as mteb writes them, by ours in lower case; of others it wants an address
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")
_OF_IMAGENET = ("Imagenet1k", "ImageNet10Clustering", "ImageNetDog15Clustering", "TinyImageNetClustering")
# corpus of a training -> mteb's tasks whose images are of it, or were taken from what it was taken from
SEEN: Mapping[str, tuple[str, ...]] = {
    "imagenet-1k": _OF_IMAGENET,
    "tiny-imagenet": _OF_IMAGENET,
    "google-landmarks-v2": ("GLDv2I2IRetrieval",),
}
_MODULE = Template('''"""$name for mteb: the features of fewvit's $backbone.

Written by `fewvit export mteb-model` of fewvit $version, for mteb 2.26: `mteb.evaluate(META, tasks)` evaluates it.
"""

from __future__ import annotations

from typing import Any

import fewvit
import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

BACKBONE = $arguments  # of fewvit.load_backbone
DECODE = $decode  # what becomes of alpha and 16-bit grey
WEIGHTS = $weights  # sha256 of the file


class FewvitEncoder(AbsEncoder):
    """A frozen backbone of fewvit; its revision is the sha256 of its weights."""

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        device: str | None = None,
        *,
        arguments: dict[str, Any],
        decode: str,
        **kwargs: Any,
    ) -> None:
        self.backbone, self.decode = fewvit.load_backbone(**arguments, device=str(device or "auto")), decode
        found = self.backbone.spec.weights_sha256
        if found != revision:
            raise ValueError(f"{model_name}: the weights have sha256 {found}, not {revision}")

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Features (N, D) float32 of every image of the loader, in its order."""
        columns = set(inputs.dataset.features)
        if "image" not in columns or columns & {"text", "audio", "video"}:
            raise ValueError(f"{task_metadata.name}: this model reads images alone, not {sorted(columns)}")
        return np.concatenate([fewvit.encode_images(self.backbone, b["image"], decode=self.decode) for b in inputs])


META = ModelMeta(
    loader=FewvitEncoder,
    loader_kwargs={"arguments": BACKBONE, "decode": DECODE},
    name=$quoted_name,
    revision=WEIGHTS,
    release_date=$release_date
    languages=["eng-Latn"],  # as mteb writes for every model of images
    n_parameters=$n_parameters,
    n_embedding_parameters=0,
    memory_usage_mb=$memory_usage_mb,
    max_tokens=None,
    embed_dim=$embed_dim,
    license=$license,
    open_weights=$open_weights,
    public_training_code=$public_training_code,
    public_training_data=None,
    framework=["PyTorch"],
    reference=$reference,
    similarity_fn_name=ScoringFunction.COSINE,
    use_instructions=False,
    training_datasets=$training_datasets,
    modalities=["image"],
    model_type=["dense"],
    citation=$citation,
)
''')


@dataclass(frozen=True)
class MtebModel:
    """What the module says of the backbone; None is what fewvit does not know."""

    name: str  # ORG/NAME
    arguments: Mapping[str, Any]  # of `load_backbone`
    n_parameters: int
    embed_dim: int
    license: str | None
    reference: str | None
    code: str | None  # of the training
    publication: Publication | None
    pretrained_on: str  # a name of `_pretraining.CORPORA`; empty: not known
    is_public: bool  # whether the weights are to be had by name

    @property
    def trained_on(self) -> str | None:
        """The data set of the training; None where that is not known."""
        return CORPORA[self.pretrained_on].title if self.pretrained_on else None

    @property
    def seen(self) -> tuple[str, ...] | None:
        """mteb's tasks whose images were in the training; None where that is not known."""
        return SEEN.get(self.pretrained_on)

    @property
    def notes(self) -> list[str]:
        """What a user should know before handing the module in."""
        lines = []
        if not self.is_public:
            lines.append(f"{self.arguments['name']} is here alone: what mteb lists has weights that others can load")
        if self.unknown:
            lines.append(f"fewvit does not know {', '.join(self.unknown)}: fill in before you hand the module in")
        return lines

    @property
    def unknown(self) -> list[str]:
        """Fields that are left None though mteb asks for them."""
        fields = {
            "release_date": self.publication,
            "license": self.license,
            "reference": self.reference,
            "training_datasets": self.seen,
            "citation": self.publication,
        }
        return [name for name, value in fields.items() if value is None]


def mteb_model(recipe: Recipe, pipeline: Pipeline, name: str | None = None) -> MtebModel:
    """What is known of the backbone behind a pipeline; its weights are loaded, so that a file that is none fails here.

    Raises UsageError for random weights, for a feature of each layer, and for a name that mteb does not take.
    """
    spec = pipeline.spec
    if spec.is_random:
        raise UsageError(f"{spec.name} has random weights: there is nothing to evaluate", fix="Leave --weights away.")
    if pipeline.each:
        raise UsageError("--layers each is one feature per block; a model of mteb has one", fix="Give --layers N.")
    backbone = backbone_of(pipeline, engine="eager")  # parameters as they are in the file
    variant, family = _variant(spec, recipe), family_of(spec.family)
    official = variant is not None and not variant.bundled
    public = variant is not None or recipe.backbone.startswith(("timm:", "hf:"))
    source = family.source if official else ""
    license_ = spec.license.lower()
    return MtebModel(
        _checked(name or _default_name(recipe.backbone, spec, source)),
        _arguments(recipe),
        sum(parameter.numel() for parameter in backbone.parameters()),
        backbone.readout.width(spec.architecture.width),
        license_ if license_ in LICENSES else spec.license if spec.license.startswith("https://") else None,
        source or _on_the_hub(recipe.backbone),
        source or None,
        family.publication if official else None,
        (variant.pretrained_on or family.pretrained_on) if variant is not None else "",
        public,
    )


def module_text(model: MtebModel, recipe: Recipe) -> str:
    """The module's source: what `fewvit export mteb-model` writes."""
    publication, seen = model.publication, model.seen
    return _MODULE.substitute(
        name=model.name,
        backbone=_in_docstring(recipe.backbone),
        version=__version__,
        arguments=_literal(dict(model.arguments)),
        decode=_literal(recipe.options.decode),
        weights=_literal(recipe.weights_sha256),
        quoted_name=_literal(model.name),
        release_date=f"{_literal(publication.date)},  # of the article" if publication else "None,",
        n_parameters=f"{model.n_parameters:_}",
        memory_usage_mb=round(4 * model.n_parameters / 2**20),
        embed_dim=model.embed_dim,
        license=_literal(model.license),
        open_weights=model.is_public,
        public_training_code=_literal(model.code),
        reference=_literal(model.reference),
        training_datasets=_literal(set(seen)) if seen is not None else "None",
        citation=f'r"""{publication.bibtex}"""' if publication else "None",
    )


def write_mteb_model(file: Path, recipe: Recipe, pipeline: Pipeline, name: str | None = None) -> MtebModel:
    """Write the module and give what it says.

    Raises as `mteb_model`, and UsageError for a file that Python cannot import.
    """
    if file.suffix != ".py" or not file.stem.isidentifier() or keyword.iskeyword(file.stem):
        raise UsageError(f"--out {file}: a Python module is a name of letters, digits and _, no keyword, and .py")
    model = mteb_model(recipe, pipeline, name)
    text = module_text(model, recipe)
    with replacing(file, "w") as handle:
        handle.write(text)
    return model


def _variant(spec: BackboneSpec, recipe: Recipe) -> Variant | None:
    """The table's row whose published file the weights are: by name, or under the file's own name."""
    row = family_of(spec.family).variants.get(recipe.backbone)
    if row is None or (recipe.weights is not None and Path(recipe.weights).name != row.file_name):
        return None
    return row


def _default_name(backbone: str, spec: BackboneSpec, source: str) -> str:
    """ORG/NAME: the official repository's organisation, the hub's name, or one that says that it comes from here."""
    if backbone.startswith("hf:"):
        return backbone.removeprefix("hf:")
    if backbone.startswith("timm:"):
        return backbone.replace(":", "/")
    return f"{source.rstrip('/').split('/')[-2] if source else 'fewvit'}/{re.sub(r'[^A-Za-z0-9_.-]', '_', spec.name)}"


def _on_the_hub(backbone: str) -> str | None:
    found = re.match(r"(timm:|hf:)(.+)", backbone)
    return f"https://huggingface.co/{'timm/' if found[1] == 'timm:' else ''}{found[2]}" if found else None


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", name):
        raise UsageError(f"--name {name!r}: mteb calls a model ORGANISATION/NAME")
    return name


def _arguments(recipe: Recipe) -> dict[str, Any]:
    """What `load_backbone` is given to make the recipe's features, every choice that protocols make spelled out."""
    options = recipe.options
    height, _, width = str(options.img_size).partition("x")
    found = {
        "name": recipe.backbone,
        "weights": recipe.weights,
        "checkpoint_key": recipe.checkpoint_key,
        "family": recipe.family or (recipe.told or {}).get("family"),
        **{key: value for key, value in (recipe.told or {}).items() if key != "family"},
        "protocol": options.protocol,
        "pool": options.pool,
        "layers": int(str(options.layers)) if str(options.layers).isdecimal() else options.layers,
        "img_size": (int(height), int(width)) if width else int(height),
        "precision": options.precision,
    }
    return {key: value for key, value in found.items() if value is not None}


def _in_docstring(text: str) -> str:
    """A path as it may stand between three quotes."""
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')


def _literal(value: Any) -> str:
    """Python's source of a value, strings in double quotes, sets sorted."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)  # bytes that are no UTF-8
    if isinstance(value, dict):
        return "{\n" + "".join(f"    {_literal(key)}: {_literal(one)},\n" for key, one in value.items()) + "}"
    if isinstance(value, set):
        return "{" + ", ".join(map(_literal, sorted(value))) + "}"
    return repr(value)
