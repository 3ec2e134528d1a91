"""An adapter is asked about few and short examples, so that a job of long texts does not wait for its own proof."""

import pytest

from sgg_core.encoding import Encoded
from sgg_core.evaluation import probes


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([30, 10, 20], [10, 20, 30]),
        ([7] * 12, [7] * 8),
        ([100, 90, 80, 70], [70, 80, 90]),
        ([900, 400, 500], [400, 500]),
        ([900], [900]),
    ],
)
def test_the_shortest_are_taken_at_least_two_and_as_many_as_cost_little(lengths, expected):
    items = [Encoded(ids=tuple(range(length)), label=0) for length in lengths]
    assert [len(item.ids) for item in probes(items)] == expected
