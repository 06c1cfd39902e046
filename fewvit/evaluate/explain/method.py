"""What was done with the features, beside how it was for the published numbers: k-NN's vote, low-shot's classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...backbones import Protocol, family_of
from ...extraction.protocols import find_protocol
from ..lowshot_options import LowShotOptions
from .check import DIFFERS, OK, UNKNOWN, Check, compared
from .subject import Subject


def knn_checks(subject: Subject) -> Iterator[Check]:
    """Number of neighbours and temperature."""
    protocol = subject.protocol
    ks = sorted({row["k"] for row in subject.rows})
    temperatures = sorted({row["temperature"] for row in subject.rows})
    meaning = "How many neighbours vote: --k."
    if protocol is None:
        yield Check("k", _listed(ks), None, UNKNOWN, meaning)
    else:
        wanted = [protocol.published_k] if protocol.published_k else list(protocol.ks)
        yield Check(
            "k", _listed(ks), _listed(wanted), OK if {*ks} & {*wanted} else DIFFERS, f"{meaning} {_which(subject)}"
        )
    own = protocol.temperature if protocol is not None else None
    yield Check(
        "temperature",
        _listed(temperatures),
        own,
        UNKNOWN if own is None else OK if own in temperatures else DIFFERS,
        "A neighbour's weight is exp(similarity / temperature): --temperature.",
    )


def _which(subject: Subject) -> str:
    """Where the published k come from."""
    if subject.spec is None or "knn" not in subject.spec.published:
        return "Nobody published k-NN of this backbone; these are DINO's."
    if subject.protocol is not None and subject.protocol.published_k:
        return "The published number is at this one."
    return "It is not said at which of these the published number is: the best one here is compared."


def lowshot_checks(
    subject: Subject, options: LowShotOptions, chosen: Mapping[str, Mapping[str, Any]]
) -> Iterator[Check]:
    """Classifier, penalty, number of labelled images and which these are.

    `chosen` are the classifiers' facts in the manifest.
    """
    shots = shots_of(subject)
    methods = sorted({str(row["method"]) for row in subject.rows})
    yield _classifier(subject, methods, shots)
    if "logistic" in methods:
        yield _penalty(subject, options, chosen)
    if numbers := {one: n for one, n in shots.items() if isinstance(one, int)}:
        published = [one for one in numbers if share(one) in published_shots(subject)]
        yield compared(
            "labelled images",
            _listed(list(numbers.values())),
            _listed([one * subject.benchmark.classes for one in numbers]) if published else None,
            f"For {_listed(list(numbers))} per class: --shots, --percent or --subset.",
        )
    yield _lists(subject, options)


def _classifier(subject: Subject, methods: list[str], shots: Mapping[int | str, int]) -> Check:
    """What was fitted, beside what the published numbers of these shots were measured with, where there are any."""
    wanted = sorted({published_method(subject, one) for one in shots if share(one) in published_shots(subject)})
    if not wanted:
        return Check("classifier", _listed(methods), None, UNKNOWN, f"{_nothing(subject)} --classifier.")
    return Check(
        "classifier",
        _listed(methods),
        _listed(wanted),
        OK if {*wanted} <= {*methods} else DIFFERS,
        "What the published numbers of this backbone were measured with: --classifier.",
    )


def _nothing(subject: Subject) -> str:
    """Why nothing published can be compared with."""
    if subject.spec is None:
        return "The backbone is not known, so neither are its published numbers."
    return "No number of this backbone with so many labelled images is published."


def published_shots(subject: Subject) -> dict[str, Any]:
    """The published low-shot numbers of the backbone: shots, as `share` calls them -> number."""
    published = subject.spec.published if subject.spec is not None else {}
    return {
        **{str(shots): number for shots, number in published.get("lowshot", {}).items()},
        **({"1%": published["1%"]} if "1%" in published else {}),
    }


def shots_of(subject: Subject) -> dict[int | str, int]:
    """Each number of shots that was measured, and how many labelled images that is in all."""
    return {row["shots"]: row["n_train"] for row in subject.rows}


def published_method(subject: Subject, shots: int | str) -> str:
    """The classifier of the published number for so many shots."""
    if subject.spec is None:
        return "logistic"
    return family_of(subject.spec.family).lowshot_method(subject.spec.architecture, shots)


def share(shots: int | str) -> str:
    """A number of shots as published tables call it: `1percent`, a list's name, is `1%`."""
    return "1%" if shots == "1percent" else str(shots)


def _penalty(subject: Subject, options: LowShotOptions, chosen: Mapping[str, Mapping[str, Any]]) -> Check:
    found = sorted({facts["lambd"] for name, facts in chosen.items() if name.startswith("logistic,")})
    own = subject.protocol
    expected = {_penalty_of(own, one) for one in shots_of(subject)} if own is not None else {None}
    here = _listed(found)
    meaning = "The penalty of the logistic regression: --lambd, or --protocol whose it is."
    if "chosen" in expected:
        given = options.lambd is not None or "lambd" in options.settings.get("logistic", {})
        by = find_protocol(options.protocol) if options.protocol else own
        rule = not given and by == own
        return Check("λ", f"{here}, {'chosen' if rule else 'given'}", "chosen", OK if rule else DIFFERS, meaning)
    if None in expected:
        return Check("λ", here, None, UNKNOWN, f"{meaning} Nobody published one for this backbone.")
    return compared("λ", here, _listed(sorted(expected, key=float)), meaning)


def _penalty_of(protocol: Protocol, shots: int | str) -> str | None:
    options = protocol.preset_of("logistic", shots).options
    if "lambd" not in options:
        return None
    return "chosen" if options["lambd"] is None else f"{options['lambd']:g}"


def _lists(subject: Subject, options: LowShotOptions) -> Check:
    """Which images are labelled: the published lists, whatever their files are called."""
    lists = subject.benchmark.lists
    asked = {share(one) for one in shots_of(subject)} & published_shots(subject).keys()
    published = _sets([one for one in lists.values() if one[0] in asked]) or None
    meaning = (
        "Which images are labelled decides more than most else with few of them. --subset takes the published lists."
    )
    if not options.subsets:
        drawn = f"drawn with seed {options.seed}"
        return Check("lists", drawn, published, DIFFERS if published else UNKNOWN, meaning)
    known = {path: lists.get(_digest(path)) for path in options.subsets}
    others = [Path(path).name for path, one in known.items() if one is None]
    given = [one for one in lists.values() if one in known.values()]
    return compared("lists", "; ".join(filter(None, [_sets(given), *others])), published, meaning)


def _sets(lists: Sequence[tuple[str, int]]) -> str:
    """`1 per class: sets 1, 2, 3`, for each number of images."""
    sets: dict[str, list[str]] = {}
    for images, number in lists:
        sets.setdefault(images, []).append(str(number))
    return "; ".join(
        f"{images}{'' if images.endswith('%') else ' per class'}: set{'s' if len(numbers) > 1 else ''} "
        f"{', '.join(numbers)}"
        for images, numbers in sets.items()
    )


def _digest(path: str) -> str:
    """What `Benchmark.lists` calls a list."""
    lines = sorted(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _listed(values: list[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
