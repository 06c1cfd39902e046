"""What a read weights file is: its family by layout, and the one trunk in it, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..backbones import ROTARY, Architecture, Family, Trunk, families, recognisable
from ..backbones._layout import has_trunk
from ..backbones._search import (
    FoundTrunk,
    all_names,
    chosen_by,
    keys_of,
    names_in_file,
    nearest_layout,
    trunks_in,
    unwrapped,
)
from ..errors import CheckpointError, FewvitError, UsageError, printable
from .spec import BUNDLE_SCHEMA

_EMBEDDING = "patch_embed.proj.weight"


@dataclass(frozen=True)
class Understood:
    """A weights file, understood."""

    family: str
    trunk: Trunk
    architecture: Architecture
    place: str = ""  # where the trunk stands, if not where the family's official files have it
    shown: bool = True  # whether names in the file show whose it is, where several save files of its layout
    layout: str = ""  # the family by its layout alone; empty: none knows it


def understood(tree: Mapping[str, Any], file: Path, family: str | None, checkpoint_key: str | None) -> Understood:
    """The trunk of a tree that was read from `file`, as the family's own layout has it or found under any prefix.

    Raises UsageError where several trunks are there and none is chosen, CheckpointError where none is whole.
    """
    plain = unwrapped(tree)
    known = [name for name, kind in families().items() if kind.recognises(plain)]
    layout = known[0] if known else ""
    fitting = [checked_family(family)] if family else known
    failure: FewvitError | None = None
    if fitting:
        try:
            return replace(_finished(tree, _official(fitting[0], plain, file, checkpoint_key)), layout=layout)
        except (CheckpointError, UsageError) as error:
            failure = error
            if layout not in ("", fitting[0]) and _reads(layout, plain, file):
                raise CheckpointError(
                    f"{error.what}; by its layout it is {layout}'s",
                    file=file,
                    fix=f"Leave --family away, or give --family {layout}.",
                ) from error
    usual = families()[fitting[0]].checkpoint_keys[:1] if fitting and not family else ()
    found = _chosen(trunks_in(plain), file, checkpoint_key, *usual)
    if found is not None:
        return replace(_finished(tree, _of_found(found, file, family)), layout=layout)
    near = nearest_layout(plain)
    if failure is not None:
        if near and isinstance(failure, CheckpointError) and failure.what.startswith("no "):
            who = (
                f"{failure.what.partition(':')[0]}: " if family else ""
            )  # nobody but the layout called it one of these
            raise _in_other_words(failure, f"{who}{near}") from failure
        raise failure
    raise _unknown(tree, file, near)


def _reads(name: str, tree: Mapping[str, Any], file: Path) -> bool:
    """Whether a family takes the tree as one of its own files."""
    try:
        _official(name, tree, file, None)
    except (CheckpointError, UsageError):
        return False
    return True


def _in_other_words(error: FewvitError, what: str) -> FewvitError:
    """The same error in other words."""
    return type(error)(what, file=error.file, fix=error.fix)


def checked_family(name: str) -> str:
    """A family's name as given, with hyphens too. Raises UnknownName."""
    from ..plugins import find

    find("backbones", name)
    return name.replace("-", "_")


def checked_key(kind: type[Family], checkpoint_key: str | None) -> str | None:
    """The key, if files of the family have networks of that name. Raises UsageError."""
    if checkpoint_key and kind.checkpoint_keys and checkpoint_key not in kind.checkpoint_keys:
        raise UsageError(
            f"--checkpoint-key {checkpoint_key}: a {kind.__name__} file holds {' and '.join(kind.checkpoint_keys)}"
        )
    return checkpoint_key


def recognise(tree: Mapping[str, Any], file: Path, family: str | None = None) -> str:
    """The family whose layout the file has; `family` settles it by hand. Raises CheckpointError when none fits."""
    if family is not None:
        return checked_family(family)
    fitting = [name for name, kind in families().items() if kind.recognises(tree)]
    if not fitting:
        raise _unknown(tree, file, nearest_layout(unwrapped(tree)))
    return fitting[0]


def trunk_of(
    kind: type[Family], tree: Mapping[str, Any], file: Path, checkpoint_key: str | None, *, of_timm: bool = False
) -> Trunk:
    """The family's trunk in `tree`; a network that is not there is a CheckpointError.

    `of_timm`: it is a model of timm, no ViT of ours, and stands where the family's own files have it.
    """
    name = next((name for name, one in families().items() if one is kind), None)
    if kind.registry or name is None or of_timm:
        return _own_trunk(kind, tree, file, checkpoint_key)
    return understood(tree, file, name, checkpoint_key).trunk


def prove_fit(architecture: Architecture, tensors: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError unless every tensor of the trunk has its place and its shape; no memory is taken."""
    import torch

    from ..checkpoints.filling import check_fit
    from .untrained import module_of

    if architecture.timm:
        return
    with torch.device("meta"):  # but for periods, shapes are the same for any number of heads
        module = module_of(architecture if architecture.positions == ROTARY else replace(architecture, heads=1))
    check_fit(module, dict(tensors), file)


def _own_trunk(kind: type[Family], tree: Mapping[str, Any], file: Path, checkpoint_key: str | None) -> Trunk:
    try:
        return kind.trunk(tree, checkpoint_key)
    except KeyError as error:
        raise CheckpointError(str(error.args[0]), file=file, fix="Choose another with --checkpoint-key.") from error
    except ValueError as error:
        raise CheckpointError(str(error), file=file, fix="Save it anew with all tensors of the network.") from error


def _official(name: str, tree: Mapping[str, Any], file: Path, checkpoint_key: str | None) -> Understood:
    """As the family's official files have it."""
    kind = families()[name]
    trunk = _own_trunk(kind, tree, file, checked_key(kind, checkpoint_key))
    embeddings = [one for one in trunk.tensors if f".{one}".endswith(f".{_EMBEDDING}")]
    if len(embeddings) > 1:
        raise CheckpointError(f"no {name} trunk: {len(embeddings)} ViTs are in one", file=file)
    if embeddings == [_EMBEDDING] and not has_trunk(trunk.tensors):
        raise CheckpointError(f"no {name} trunk: incomplete", file=file)
    return Understood(name, trunk, _architecture(name, trunk, file))


def _architecture(name: str, trunk: Trunk, file: Path) -> Architecture:
    try:
        return families()[name].infer(trunk.tensors)
    except KeyError as error:
        raise CheckpointError(
            f"no {name} trunk: incomplete, {error.args[0]} is missing",
            file=file,
            fix="Save it anew, or fetch it again from where it came.",
        ) from error
    except (ValueError, IndexError, ArithmeticError) as error:  # shapes of too few sides, or of none
        raise CheckpointError(f"no {name} trunk: {error}", file=file) from error


def _chosen(
    found: list[FoundTrunk], file: Path, checkpoint_key: str | None, usual: str | None = None
) -> FoundTrunk | None:
    """The trunk that the key chooses, or the only one; without a key, of several that of the family's usual network."""
    fitting = found if checkpoint_key is None else chosen_by(found, checkpoint_key)
    if len(fitting) > 1 and checkpoint_key is None and usual is not None:
        fitting = chosen_by(found, usual)
    if len(fitting) == 1:
        return fitting[0]
    if len(found) < 2:
        return None
    words = [f"--checkpoint-key {key}" for key in keys_of(found)]
    asked = f"--checkpoint-key {checkpoint_key} chooses none of" if checkpoint_key else "holds"
    raise UsageError(
        f"{asked} {len(found)} whole ViTs: {', '.join(printable(one.place or 'the bare names') for one in found)}",
        file=file,
        fix=f"Choose one: {' or '.join(map(printable, words))}.",
    )


def _of_found(found: FoundTrunk, file: Path, family: str | None) -> Understood:
    """A trunk that stands elsewhere than in the family's official files."""
    name = checked_family(family) if family else recognise(found.tensors, file)
    kind = families()[name]
    inner = _own_trunk(kind, found.tensors, file, None)
    mapping = {new: found.origins.get(old, old) for new, old in inner.mapping.items()}
    trunk = Trunk(inner.tensors, mapping, [found.origins.get(old, old) for old in inner.dropped] + list(found.around))
    layout = f" in {found.layout}'s names" if found.layout else ""
    return Understood(name, trunk, _architecture(name, trunk, file), f"{found.place}{layout}".strip())


def _finished(tree: Mapping[str, Any], what: Understood) -> Understood:
    """The same with the mapping's names as the file has them, and whether one of all names shows whose it is."""
    names = names_in_file(tree)
    mapping = {
        new: names.get(id(what.trunk.tensors[new]), old) if " + " not in old else old
        for new, old in what.trunk.mapping.items()
    }
    shown = any(families()[what.family].shows_origin(name) for name in all_names(tree))
    return replace(what, trunk=replace(what.trunk, mapping=mapping), shown=shown)


def _unknown(tree: Mapping[str, Any], file: Path, near: str) -> CheckpointError:
    """The error for a file in which nothing is a ViT without a head."""
    if is_bundle(file):
        return CheckpointError(
            "this is a classifier bundle, not a backbone",
            file=file,
            fix=f"Use it with `fewvit predict {printable(file)} SRC`.",
        )
    shown = ", ".join(str(key) for key in list(tree)[:4])
    return CheckpointError(
        f"not a layout that is known (it starts with {shown})" + (f": {near}" if near else ""),
        file=file,
        fix="For a file of timm's layout give --backbone timm:NAME --weights FILE; to force a family use "
        f"--family {'|'.join(recognisable())}.",
    )


def is_bundle(file: Path) -> bool:
    """Whether a file is what `fewvit fit` writes."""
    import safetensors

    try:
        with safetensors.safe_open(file, "numpy") as bundle:
            return BUNDLE_SCHEMA in (bundle.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False
