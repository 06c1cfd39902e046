"""What stands beside a weights file: transformers' or timm's `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import Architecture, families
from ..errors import CheckpointError, UsageError
from ..files import whole
from ..untrusted.texts import json_of
from .told import Told

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LARGEST = 16 << 20  # bytes; a configuration has some thousand
_HEADS = ("num_attention_heads", "num_heads", "n_heads")
_SHAPES = {  # field of an architecture -> its names in configurations
    "width": ("hidden_size", "embed_dim", "num_features"),
    "depth": ("num_hidden_layers", "depth"),
    "patch": ("patch_size",),
}


@dataclass(frozen=True)
class Beside:
    """What a model's configuration says."""

    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]

    @property
    def timm(self) -> str:
        """The model of timm that it is of; empty: none."""
        return str(self.config.get("architecture") or "")

    @property
    def family(self) -> str | None:
        """The family whose weights these are under transformers' names, if the type of the model tells."""
        kind = self.config.get("model_type")
        return next((name for name, one in families().items() if kind in one.model_types), None)

    @property
    def license(self) -> str:
        """As timm's configuration has it; empty: not said."""
        return str(self._pretrained.get("license") or "")

    @property
    def statistics_file(self) -> str:
        """The file that says mean and std."""
        return PREPROCESSOR if "image_mean" in self.preprocessor or "image_std" in self.preprocessor else CONFIG

    @property
    def _pretrained(self) -> Mapping[str, Any]:
        value = self.config.get("pretrained_cfg")
        return value if isinstance(value, Mapping) else {}

    def _number(self, names: tuple[str, ...]) -> int | None:
        options = self.config.get("model_args")
        places = (self.config, options if isinstance(options, Mapping) else {})
        found = (place[name] for place in places for name in names if name in place)
        return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)

    def contradiction(self, architecture: Architecture) -> str:
        """How it is of another model than the file's shapes; empty: it is not."""
        for field, names in _SHAPES.items():
            said, own = self._number(names), getattr(architecture, field)
            if said is not None and said != own:
                return f"is of {field} {said}, the file of {own}"
        heads = self._number(_HEADS)
        if heads is not None and (heads < 1 or architecture.width % heads):
            return f"says {heads} heads, which do not divide the width {architecture.width}"
        if heads is not None and "heads" in architecture.settled and heads != architecture.heads:
            return f"says {heads} heads, and {architecture.settled['heads']}"
        return ""

    def told(self, architecture: Architecture) -> Told:
        """What it says of a file of this architecture. Raises UsageError for statistics that are none."""
        mean, std = (
            self.preprocessor.get(f"image_{name}", self._pretrained.get(name, self.config.get(f"image_{name}")))
            for name in ("mean", "std")
        )
        told = Told.of(self._number(_HEADS), self._grid(architecture), mean, std)
        return Told(told.heads, told.grid, told.mean, told.std, self.family)

    def _grid(self, architecture: Architecture) -> tuple[int, int] | None:
        size = self.config.get("image_size", self.config.get("img_size"))
        if isinstance(size, int):
            size = [size, size]
        if "grid" in architecture.settled:
            return None
        if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            return None
        rows, columns = (side // architecture.patch for side in size)
        return (rows, columns) if rows * columns == architecture.cells else None


def beside(file: Path) -> tuple[Beside | None, str]:
    """What stands beside a file, and a note on what could not be read; None: nothing does."""
    try:
        return read_folder(file.parent), ""
    except CheckpointError as error:
        return None, f"{Path(error.file or CONFIG).name} beside it is {error.what} and not used"


def read_folder(folder: Path) -> Beside | None:
    """The configuration in a folder; None where there is none. Raises CheckpointError for what is no JSON."""
    config, preprocessor = _read(folder / CONFIG), _read(folder / PREPROCESSOR)
    return Beside(config or {}, preprocessor or {}) if config is not None or preprocessor is not None else None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        value = json_of(whole(file, _LARGEST).decode("utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise CheckpointError("not JSON", file=file, fix="Save the model anew.") from error
    if not isinstance(value, dict):
        raise CheckpointError("not an object of JSON", file=file, fix="Save the model anew.")
    return value


def is_saved_model(folder: Path) -> bool:
    """Whether a folder is what `save_pretrained` writes, and no run's."""
    return (folder / CONFIG).is_file() and not (folder / "manifest.json").is_file()


def weights_of(folder: Path) -> Path:
    """The one weights file of a saved model. Raises UsageError where it is in several parts, or not there."""
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is not None:
        return found
    parts = next(
        (folder / f"{name}.index.json" for name in _WEIGHTS if (folder / f"{name}.index.json").is_file()), None
    )
    if parts is not None:
        raise UsageError(
            "its weights are in several parts, and fewvit reads one file",
            file=folder,
            fix="Save it anew with save_pretrained(DIR, max_shard_size='100GB').",
        )
    raise UsageError(f"a saved model without {' or '.join(_WEIGHTS)}", file=folder)
