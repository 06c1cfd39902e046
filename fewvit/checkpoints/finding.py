"""Weights found on this machine, or fetched once their licence is accepted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UsageError
from .digests import pinned_digest, verify_file
from .downloads import WEIGHTS_DIR, Notify, Progress, by_hand, fetch
from .http import offline as is_offline
from .huggingface import fetch_from_hub, hub_file, in_hub_cache
from .licences import require_license


def find_weights(file_name: str, cache_dir: Path) -> Path | None:
    """The file in a folder of `$FEWVIT_WEIGHTS_DIR` (a list like PATH), else in `cache_dir/weights`, else None."""
    if Path(file_name).name != file_name:
        raise UsageError(f"{file_name!r} is a path, not the name of a weights file")
    listed = [Path(folder).expanduser() for folder in os.environ.get(WEIGHTS_DIR, "").split(os.pathsep) if folder]
    return next(
        (folder / file_name for folder in [*listed, cache_dir / "weights"] if (folder / file_name).is_file()), None
    )


def obtain(
    file_name: str,
    url: str,
    *,
    license: str,
    cache_dir: Path,
    offline: bool,
    accept: Sequence[str],
    sha256: str | None = None,
    md5_prefix: str | None = None,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
    ask: Callable[[str], bool] | None = None,
) -> Path:
    """The verified file: found here, or downloaded to `cache_dir/weights` once its licence is accepted.

    An address of the Hugging Face hub is asked as its users ask it, with their token, and what `huggingface_hub` has
    downloaded before is used. Raises Unobtainable offline, LicenseRequired, CheckpointError when the bytes are not the
    published ones or have changed.
    """
    path, hosted = find_weights(file_name, cache_dir), hub_file(url)
    if path is None and hosted is not None and (kept := in_hub_cache(hosted, sha256)) is not None:
        return kept
    if path is None:
        path = cache_dir / "weights" / file_name
        sha256 = sha256 or pinned_digest(path)  # of a file that was here before
        if is_offline(offline):
            raise by_hand(f"{file_name} is not here and fewvit is offline; it would come from {url}", path, sha256)
        require_license(license, file_name, cache_dir=cache_dir, accept=accept, ask=ask)
        if hosted is not None:
            fetch_from_hub(hosted, path, sha256=sha256, progress=progress, notify=notify)
        else:
            fetch(url, path, sha256=sha256, md5_prefix=md5_prefix, progress=progress, notify=notify)
    verify_file(path, sha256, pin=True, md5_prefix=md5_prefix)
    return path
