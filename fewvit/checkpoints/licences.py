"""Consent to the licences of weights: which were accepted, and the question that comes before a download."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..backbones._licences import Licence, licence_of
from ..errors import LicenseRequired, from_os_error
from ..files import write_json
from ..untrusted.texts import json_of

_USE = {"yes": "commercial use allowed", "no": "no commercial use", "unknown": "commercial use unknown"}


def require_license(
    license: str, file_name: str, *, cache_dir: Path, accept: Sequence[str], ask: Callable[[str], bool] | None
) -> None:
    """Raise LicenseRequired unless the licence needs no consent or has it.

    Consent comes from `accept`, from an earlier yes, or from `ask` now; a yes is kept.
    """
    licence = licence_of(license)
    if licence.is_free or not license.strip():
        return
    store = cache_dir / "licenses.json"
    accepted = _accepted_licenses(store)
    if licence.key in accepted:
        return
    terms = f"{file_name} is licensed {license} ({meaning(licence)})"
    if licence.key not in {given.strip().lower() for given in accept} and not (ask and ask(f"{terms}. Do you accept?")):
        raise LicenseRequired(
            f"{terms}; nothing was downloaded",
            fix=f"If these terms suit you, accept them once with --accept-license {licence.key}",
        )
    write_json(store, {**accepted, licence.key: time.strftime("%Y-%m-%d", time.gmtime())})


def meaning(licence: Licence) -> str:
    """What a licence asks for and allows, and where its text is, in a few words."""
    use = _USE[licence.commercial]
    said = [licence.terms or "terms of its own", *([] if "commercial" in licence.terms else [use]), licence.text]
    return "; ".join(part for part in said if part)


def _accepted_licenses(store: Path) -> dict[str, str]:
    """The licences accepted before and their dates; a damaged record counts as none, so that the question comes."""
    try:
        stored = json_of(store.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    except OSError as error:
        raise from_os_error(error, "reading the accepted licences") from error
    return {str(name): str(day) for name, day in stored.items()} if isinstance(stored, dict) else {}
