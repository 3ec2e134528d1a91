"""Takes secrets out of what is about to be written to a log. Pure."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"authorization|cookie|credential|passw(or)?d|secret|api_?key$|access_?key|private_?key|(^|_)token$", re.IGNORECASE
)
_PATTERNS = (
    # an API key: its id stays, so that one can tell which key it was
    (re.compile(r"\b(sgg_[A-Za-z0-9]+_)[A-Za-z0-9_-]{8,}"), rf"\1{HIDDEN}"),
    # the secret of a webhook endpoint
    (re.compile(r"\b(whsec_)[A-Za-z0-9+/=]{8,}"), rf"\1{HIDDEN}"),
    # a header, as text, as a pair of a dictionary or of a list of ASGI headers
    (
        re.compile(
            r"(authorization['\"]?[\s,:=]+(?:b?['\"])?(?:(?:bearer|basic|token)\s+)?)[^\s'\",;]{4,}", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # one setting of a connection string or a query: password=..., X-Amz-Signature=...
    (
        re.compile(r"\b((?:password|passwd|secret|x-amz-signature|x-amz-security-token)=)[^\s&'\"]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)
# What has no blank or quote may be an address with a password, which may hold any character but these.
_WORD = re.compile(r"[^\s'\"]+")
_BEFORE_PASSWORD = re.compile(r"[a-z0-9+.-]://[^:/@]*:", re.IGNORECASE)


def redacted(value: Any, name: str = "") -> Any:
    """The value without its secrets: one whose `name` says that it is a secret is hidden whole.

    Texts are searched for API keys, Authorization headers and passwords; what is neither text, number nor a
    collection becomes text first, since a log would write it as text, too.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if name and _SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, dict):
        return {redacted(str(key)): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    text = value if isinstance(value, str) else repr(value)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _WORD.sub(_without_password, text) if "://" in text else text


def _without_password(word: re.Match[str]) -> str:
    """The word, with `***` between a user's name and the last `@`. In linear time, since anyone's path is logged."""
    text = word[0]
    end = text.rfind("@")
    found = _BEFORE_PASSWORD.search(text, 0, max(end, 0))
    return text if found is None or found.end() == end else text[: found.end()] + HIDDEN + text[end:]
