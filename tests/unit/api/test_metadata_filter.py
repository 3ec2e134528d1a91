"""Filters in a query string."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from api.errors import InvalidRequestError
from api.jobs.filters import MOST_PAIRS, metadata_filter


def test_a_list_is_filtered_by_as_many_pairs_as_a_job_can_have() -> None:
    pairs = [(f"metadata[{number}]", "x") for number in range(MOST_PAIRS + 1)]
    assert len(metadata_filter(QueryParams(pairs[:-1] * 2))) == MOST_PAIRS
    with pytest.raises(InvalidRequestError, match="16 pairs"):
        metadata_filter(QueryParams(pairs))


@pytest.mark.parametrize("query", ["metadata=null", "metadata=", "metadata=null&metadata=null&limit=3"])
def test_null_asks_for_jobs_without_metadata(query: str) -> None:
    assert metadata_filter(QueryParams(query)) is None


@pytest.mark.parametrize("query", ["metadata=x", "metadata=null&metadata[a]=b", "metadata[a]=b&metadata="])
def test_null_and_pairs_are_not_asked_for_together(query: str) -> None:
    with pytest.raises(InvalidRequestError, match="metadata=null alone"):
        metadata_filter(QueryParams(query))
