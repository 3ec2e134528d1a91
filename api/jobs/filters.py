"""Reading OpenAI's way to write a filter into a query string: `metadata[key]=value`."""

from __future__ import annotations

import re

from starlette.datastructures import QueryParams

from api.errors import InvalidRequestError
from api.validation import RequestProblem

MOST_PAIRS = 16
"""As many as a job's metadata may have."""

_PAIR = re.compile(r"metadata\[(?P<key>.+)\]", re.DOTALL)


def metadata_filter(query: QueryParams) -> dict[str, str]:
    """Give the pairs to filter by. Raises InvalidRequestError for other uses of `metadata`."""
    pairs: dict[str, str] = {}
    for name, value in query.multi_items():
        if not name.startswith("metadata"):
            continue
        match = _PAIR.fullmatch(name)
        if match is None or pairs.get(match["key"], value) != value:
            message = f"{name!r} is not a valid filter. Write metadata[key]=value, with each key once."
            raise InvalidRequestError([RequestProblem("metadata", "invalid_value", message)])
        pairs[match["key"]] = value
        if len(pairs) > MOST_PAIRS:
            message = f"A list can be filtered by {MOST_PAIRS} pairs, as many as a job can have. Leave the others out."
            raise InvalidRequestError([RequestProblem("metadata", "invalid_value", message)])
    return pairs
