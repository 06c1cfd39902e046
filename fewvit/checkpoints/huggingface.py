"""Files of the Hugging Face hub, by `huggingface_hub`: who may download them, where they are, what their digest is.

Its settings hold: `HF_ENDPOINT`, `HF_TOKEN` or the token that `hf auth login` stored, and `HF_HOME`, whose files are
used where they are. Its own download does not bring the bytes: it begins anew after a kill, and compares no digest.
`fetch` goes on, and does.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import NotInRepository, Unobtainable, UsageError
from .digests import verify_file
from .downloads import Notify, Patience, Progress, by_hand, fetch
from .http import check_url, why

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

# ends of the names of errors of its HTTP library (httpx or httpx2, by its version) that may not come again
_PASSING = ("Timeout", "ReadError", "RemoteProtocolError")

_T = TypeVar("_T")


@dataclass(frozen=True)
class HubFile:
    """A file on the main branch of a model's repository."""

    repository: str  # ORG/NAME
    name: str


def hub_file(url: str) -> HubFile | None:
    """The file of the hub that an address names, wherever `HF_ENDPOINT` has the hub; None for an address elsewhere."""
    match = re.fullmatch(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/main/(.+)", url)
    return HubFile(match[1], match[2]) if match else None


def in_hub_cache(file: HubFile, sha256: str | None) -> Path | None:
    """Where `huggingface_hub` keeps the file, if some program has fetched it with it before. No network is asked.

    Raises CheckpointError when the file's digest is not the one that it is kept under, or not `sha256`.
    """
    from huggingface_hub import try_to_load_from_cache

    with _names_checked(file):
        found = try_to_load_from_cache(file.repository, file.name)
    if not isinstance(found, str):
        return None
    verify_file(found, sha256 or _sha256(Path(found).resolve().name), pin=False)
    return Path(found)


def fetch_from_hub(
    file: HubFile,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
    patience: Patience | None = None,
) -> Path:
    """`target`, holding what the hub has; without `sha256` the digest that the hub announces is compared.

    Raises what `fetch` raises, Unobtainable also where the terms of the repository must be accepted first and where
    there is no such file or none for this token; UsageError for a name that no repository can have.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    patience = patience or Patience()
    try:  # the library may ask the hub for more than a token
        headers = _within(patience.pace.over_s, lambda: build_hf_headers(library_name="fewvit"))
    except TimeoutError as error:
        raise by_hand(f"{file.repository}: the hub cannot be reached ({why(error)})", target, sha256) from error
    if not re.fullmatch(r"(Bearer [!-~]+)?", headers.get("authorization", "")):
        raise UsageError(
            "HF_TOKEN holds characters that no token has", fix="Set it to a token of the hub, or unset it."
        )
    with _names_checked(file):
        url = hf_hub_url(file.repository, file.name)
    check_url(url)
    facts = _facts(file, url, target, patience)
    return fetch(
        hf_hub_url(file.repository, file.name, revision=facts.commit_hash),  # main may move meanwhile
        target,
        sha256=sha256 or _sha256(facts.etag),
        expected_bytes=facts.size,
        headers=headers,
        progress=progress,
        notify=notify,
        patience=patience,
    )


def _facts(file: HubFile, url: str, target: Path, patience: Patience) -> HfFileMetadata:
    """What the hub says of the file: its commit, size and digest. A busy hub is asked again."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the second is its HTTP library's, whichever that is

    for fruitless in range(patience.tries):
        try:
            return _within(patience.pace.over_s, lambda: get_hf_file_metadata(url, library_name="fewvit"))
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in (408, 429) and status < 500:
                raise _refusal(error, file, url, target) from error
            reason = f"the hub answered {status}"
        except (HTTPError, OSError) as error:
            reason = f"the hub cannot be reached ({why(error)})"
            if not type(error).__name__.endswith(_PASSING):
                raise by_hand(f"{url}: {reason}", target, None) from error
        time.sleep(patience.wait_s * 2**fruitless)
    raise by_hand(f"{url}: {reason}", target, None)


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """What the call gives. Raises what it raises, and TimeoutError after so many seconds.

    The hub's own limit is for each read: headers that come byte by byte have none.
    """
    answered: Future[_T] = Future()

    def run() -> None:
        try:
            answered.set_result(call())
        except BaseException as error:
            answered.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answered.result(seconds)
    except TimeoutError as error:
        raise error if answered.done() else TimeoutError(f"no answer within {seconds:g} s") from error


def _refusal(error: Exception, file: HubFile, url: str, target: Path) -> Unobtainable:
    """The error of the tree that a refusal of the hub is, with what to do about it."""
    from huggingface_hub import errors

    page = url.partition("/resolve/")[0]
    if isinstance(error, errors.GatedRepoError):
        of_token = error.response.status_code == 403
        why_not = "the account of this token did not, or waits for an answer" if of_token else "no token was given"
        return Unobtainable(
            f"{file.repository} is for those only who accepted its terms; {why_not}",
            fix=f"Accept them at {page}, then set HF_TOKEN to a token of that account, or log in with `hf auth login`; "
            f"or download {file.name} there and give its place: --weights FILE of a name, --backbone FILE.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return Unobtainable(
            f"the hub has no {file.repository}, or does not show it",
            fix=f"See whether {page} is there. A private one needs HF_TOKEN, or `hf auth login`.",
        )
    if isinstance(error, (errors.EntryNotFoundError, errors.RevisionNotFoundError)):
        return NotInRepository(
            f"{file.repository} has no {file.name} on the hub",
            fix=f"What it has is listed at {page}/tree/main; a weights file of another name works as --backbone FILE.",
        )
    status = error.response.status_code  # type: ignore[attr-defined]
    if status == 401:
        fix = "Set HF_TOKEN to a valid one or unset it, or `hf auth login` again."
        return Unobtainable("the hub does not know this token", fix=fix)
    return by_hand(f"{url}: the hub answered {status}", target, None)


@contextmanager
def _names_checked(file: HubFile) -> Iterator[None]:
    """Turns what `huggingface_hub` says of a name that no repository can have into a UsageError."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"{file.repository!r} is no name of a repository on the hub ({why(error)})") from error


def _sha256(etag: str | None) -> str | None:
    """The sha256 that the hub gives as ETag of a large file; small ones have a git hash, which is None here."""
    return etag if re.fullmatch(r"[0-9a-f]{64}", etag or "") else None
