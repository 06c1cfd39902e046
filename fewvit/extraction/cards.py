"""The facts of one backbone as a card for people: groups of lines, what is empty left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import counted
from .notes import TIMM_HEADS, TOKENS
from .protocols import POOLS

Lines = list[tuple[str, str]]  # what a line is about, and what it says

_MEASURED = {"knn": "k-NN", "linear": "linear probe", "finetune": "fine-tuning", "1%": "1 % of the labels"}
_COMMERCIAL = {"yes": "allowed", "no": "not allowed", "unknown": "unknown"}


def card(facts: Mapping[str, Any]) -> dict[str, Lines]:
    """Title of each group -> its lines; groups without any are left out."""
    groups = {
        f"{facts['backbone']}": [("family", str(facts["family"])), ("note", str(facts["note"]))],
        "model": _model(facts),
        "reading": _reading(facts),
        "weights": _weights(facts),
        "third party": list(_third_party(facts)),
        "published": list(published_lines(facts["published"])),
    }
    shown = {title: [(what, text) for what, text in lines if text] for title, lines in groups.items()}
    return {title: lines for title, lines in shown.items() if lines}


def _model(facts: Mapping[str, Any]) -> Lines:
    a, count = facts["architecture"], facts["parameters"]
    blocks = "" if a.get("stages") else f", {counted(a['depth'], 'block')}" if a["depth"] > 1 else ""
    heads = f", {counted(a['heads'], 'head')}" if a["heads"] and not a.get("stages") else ""
    patch = f", patches of {a['patch']} pixels" if a["patch"] and not a.get("stages") else ""
    stages = f", {counted(len(a['stages']), 'stage')}" if a.get("stages") else ""
    return [
        ("shape", f"width {a['width']}{blocks}{heads}{patch}{stages}"),
        ("built by", f"timm: {a['timm']}" if a["timm"] else ""),
        ("parameters", f"{count / 1e6:.1f} million" if count else "unknown"),
        ("tokens", _tokens(facts)),
        ("positions", "" if a["timm"] or a.get("stages") else str(a["positions"])),
    ]


def _tokens(facts: Mapping[str, Any]) -> str:
    classes, registers = facts["class_tokens"], facts["registers"]
    if classes is None:
        return "unknown"
    said = counted(classes, "class token") if classes else "no class token"
    return said + (f", {counted(registers, 'register')}" if registers else "")


def _reading(facts: Mapping[str, Any]) -> Lines:
    resize, crop = facts["resize"], facts["crop"]
    stretched = " whatever the proportions" if facts["preprocess"].get("stretched") else ""
    cropped = f", crop to {crop}" if resize != crop and not stretched else ""
    return [
        ("protocol", str(facts["protocol"])),
        ("pool", _pool(facts)),
        ("pixels", f"from 0 to 1, {_statistics(facts)}"),
        ("transform", f"{facts['interpolation']} resize to {crop if stretched else resize}{stretched}{cropped}"),
        ("change it by", "--pool, --protocol, --img-size"),
    ]


def _pool(facts: Mapping[str, Any]) -> str:
    said = TOKENS.get(facts["pool"], facts["pool"])
    if not facts["head"] or facts["head"] == facts["pool"]:
        return said
    own = TIMM_HEADS[facts["head"]]
    if facts["official_pool"]:
        return f"{said}, as its authors read it; timm {own}"
    return f"{said}; its own head {own}{' (--pool attn)' if facts['head'] in POOLS else ''}"


def _statistics(facts: Mapping[str, Any]) -> str:
    mean, std = facts["mean"], facts["std"]
    if not any(mean) and all(value == 1 for value in std):
        return "as they are: neither mean nor deviation"
    return f"mean {_numbers(mean)}, std {_numbers(std)}"


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _weights(facts: Mapping[str, Any]) -> Lines:
    gate = f"yes: ask at {facts['gated_page']}, then put the file into $FEWVIT_WEIGHTS_DIR or give --weights FILE"
    return [
        ("file", str(facts["file"])),
        ("url", str(facts["url"])),
        ("sha256", str(facts["sha256"])),
        ("gated", gate if facts["gated"] == "yes" else ""),
        ("licence", str(facts["license"])),
        ("commercial", f"{_COMMERCIAL[facts['commercial']]} by the licence"),
        ("terms", str(facts["license_text"])),
        ("source", str(facts["source"])),
        ("numbers of", "" if facts["published_source"] == facts["source"] else str(facts["published_source"])),
    ]


def _third_party(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers of others than the authors, and whose."""
    for what, numbers in facts["third_party"].items():
        yield what, ", ".join(f"{dataset} {value:g}" for dataset, value in numbers.items()) + " %"
    yield "numbers of", str(facts["third_party_source"])


def published_lines(published: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what was measured, top-1 in percent, of ImageNet but where that says something else)."""
    for name, value in published.items():
        if isinstance(value, Mapping):  # by the number of labelled images
            yield from ((f"{counted(shots, 'image')} per class", f"{number} %") for shots, number in value.items())
        else:
            yield _MEASURED.get(name, name), f"{value} %"
