"""Uploaded examples, each under a token: their features and a small picture, never their bytes or names."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

KEPT = 512  # examples; at 15 kB each a few megabytes


@dataclass(frozen=True)
class Upload:
    """What is kept of an uploaded image."""

    token: str
    feature: np.ndarray  # (D,) float32
    picture: bytes  # a small JPEG, made anew
    fingerprint: str  # of what made the feature


class Uploads:
    """The last `KEPT` uploads, while the server runs.

    A token is a keyed digest of the image's bytes: an image that comes again has the same one, and nobody can tell
    from an image whether somebody else sent it.
    """

    def __init__(self, kept: int = KEPT):
        self._kept, self._key = kept, secrets.token_bytes(32)
        self._found: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def token(self, data: bytes) -> str:
        """What an image of these bytes is called."""
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()[:24]

    def put(self, upload: Upload) -> None:
        """Keep one; the one that was used longest ago goes where there are too many."""
        with self._lock:
            self._found[upload.token] = upload
            self._found.move_to_end(upload.token)
            while len(self._found) > self._kept:
                self._found.popitem(last=False)

    def get(self, token: str, fingerprint: str) -> Upload | None:
        """The upload of a token; None for one that is gone, or whose feature another backbone made."""
        with self._lock:
            upload = self._found.get(token)
            if upload is None or upload.fingerprint != fingerprint:
                return None
            self._found.move_to_end(token)
            return upload
