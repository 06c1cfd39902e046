"""The licences of weights: whether commercial use is allowed, where the text is, and which need nobody's consent.

One home for all families. What stands here is what the licences' own texts say, in a word: it is no legal advice.
"""

from __future__ import annotations

from dataclasses import dataclass

COMMERCIAL = ("yes", "no", "unknown")


@dataclass(frozen=True)
class Licence:
    """What a licence allows, as far as it is known here."""

    name: str
    commercial: str = "unknown"  # one of COMMERCIAL
    text: str = ""  # where it can be read; empty: unknown
    terms: str = ""  # in a few words; empty: terms of its own
    # whether weights under it are downloaded without a question: a free licence known to everyone
    is_free: bool = False

    @property
    def key(self) -> str:
        """Its name as `--accept-license` takes it."""
        return self.name.lower()


_SPDX = "https://spdx.org/licenses"
_ALL = (
    *(
        Licence(name, "yes", f"{_SPDX}/{name}.html", is_free=True)
        for name in ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0")
    ),
    Licence(
        "CC-BY-NC-4.0",
        "no",
        "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
        "attribution, non-commercial use only",
    ),
    Licence(
        "DINOv3-License",
        "yes",
        "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        "the licence travels with every copy, military use is excluded",
    ),
    Licence(
        "FAIR-Noncommercial-Research-License",
        "no",
        "https://huggingface.co/facebook/EUPE-ViT-T",
        "non-commercial research only",
    ),
    Licence(
        "NVIDIA-Open-Model-License",
        "yes",
        "https://developer.download.nvidia.com/licenses/nvidia-open-model-license-agreement-june-2024.pdf",
    ),
    Licence("Apple-ASCL", "unknown", "https://github.com/apple/ml-aim/blob/main/LICENSE"),
    Licence("Apple-AMLR", "no", "https://github.com/apple/ml-mobileclip", "research only"),
    Licence("Franca-Research-RAIL", "no", "https://github.com/valeoai/Franca", "research only"),
)
_BY_KEY = {licence.key: licence for licence in _ALL}
UNKNOWN = Licence("unknown")


def licence_of(name: str) -> Licence:
    """The licence of that name, capitals or not; one that is not known here is `unknown` in all but its name."""
    key = name.strip().lower()
    if key in ("", "none", "unknown"):
        return UNKNOWN
    return _BY_KEY.get(key, Licence(name.strip()))


def known_licences() -> tuple[str, ...]:
    """The names of all licences that stand here."""
    return tuple(licence.name for licence in _ALL)
