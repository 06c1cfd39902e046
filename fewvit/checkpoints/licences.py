"""The licences of weights: which are free, which were accepted, and the question that comes before a download."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import LicenseRequired, from_os_error
from ..files import write_json
from ..untrusted.texts import json_of

_FREE = frozenset(["", "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"])
_MEANING = {"cc-by-nc-4.0": "attribution, non-commercial use only"}


def require_license(
    license: str, file_name: str, *, cache_dir: Path, accept: Sequence[str], ask: Callable[[str], bool] | None
) -> None:
    """Raise LicenseRequired unless the licence needs no consent or has it.

    Consent comes from `accept`, from an earlier yes, or from `ask` now; a yes is kept.
    """
    name = license.strip().lower()
    if name in _FREE:
        return
    store = cache_dir / "licenses.json"
    accepted = _accepted_licenses(store)
    if name in accepted:
        return
    terms = f"{file_name} is licensed {license} ({_MEANING.get(name, 'terms of its own')})"
    if name not in {given.strip().lower() for given in accept} and not (ask and ask(f"{terms}. Do you accept?")):
        raise LicenseRequired(
            f"{terms}; nothing was downloaded",
            fix=f"If these terms suit you, accept them once with --accept-license {name}",
        )
    write_json(store, {**accepted, name: time.strftime("%Y-%m-%d", time.gmtime())})


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
