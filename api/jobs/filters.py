"""Reading OpenAI's way to write a filter into a query string: `metadata[key]=value`, or `metadata=null`."""

from __future__ import annotations

import re

from starlette.datastructures import QueryParams

from api.errors import InvalidRequestError
from api.validation import RequestProblem

MOST_PAIRS = 16
"""As many as a job's metadata may have."""

NULLS = ("null", "")
"""How OpenAI's reference writes null, and how their client for Node does."""

_PAIR = re.compile(r"metadata\[(?P<key>.+)\]", re.DOTALL)


def metadata_filter(query: QueryParams) -> dict[str, str] | None:
    """Give the pairs to filter by; None where jobs without metadata are asked for.

    Raises InvalidRequestError for other uses of `metadata`.
    """
    pairs: dict[str, str] = {}
    items = [(name, value) for name, value in query.multi_items() if name.startswith("metadata")]
    if items and all(name == "metadata" and value in NULLS for name, value in items):
        return None
    for name, value in items:
        match = _PAIR.fullmatch(name)
        if match is None or pairs.get(match["key"], value) != value:
            way = "Write metadata[key]=value, with each key once, or metadata=null alone."
            message = f"{name!r} is not a valid filter. {way}"
            raise InvalidRequestError([RequestProblem("metadata", "invalid_value", message)])
        pairs[match["key"]] = value
        if len(pairs) > MOST_PAIRS:
            message = f"A list can be filtered by {MOST_PAIRS} pairs, as many as a job can have. Leave the others out."
            raise InvalidRequestError([RequestProblem("metadata", "invalid_value", message)])
    return pairs
