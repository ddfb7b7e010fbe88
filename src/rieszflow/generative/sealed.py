"""JSON that holds a checksum of itself: lines of metrics and scores."""

from __future__ import annotations

import hashlib
import json

from rieszflow._infra.files import Json
from rieszflow._infra.text import one_line
from rieszflow.errors import RunError

__all__ = ["sealed", "unsealed"]


def sealed(content: Json) -> Json:
    """With a checksum as its last entry."""
    return {**content, "checksum": hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()}


def unsealed(where: str, text: str) -> Json:
    """What `sealed` returned, read from JSON, without the checksum.

    Raises:
        RunError: no JSON, or the checksum does not fit.
    """
    try:
        content: Json = json.loads(text)
        checksum = content.pop("checksum")
        fits = sealed(content)["checksum"] == checksum
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{where}: damaged ({type(error).__name__}: {one_line(error, 100)})") from None
    if not fits:
        raise RunError(f"{where}: damaged or edited: its checksum does not fit its contents")
    return content
