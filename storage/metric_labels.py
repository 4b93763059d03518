"""
The identity of a metric's labels: their canonical JSON and its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def labels_json(labels: Sequence[tuple[str, str]]) -> str:
    """Return *labels* as canonical JSON: keys in order, no blanks."""
    return _JSON.encode(dict(labels))


def labels_digest(labels: Sequence[tuple[str, str]]) -> bytes:
    """Return the SHA-256 of *labels* as canonical JSON: what makes a metric unique beside its name and kind."""
    return hashlib.sha256(labels_json(labels).encode()).digest()
