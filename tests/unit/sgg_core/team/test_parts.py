"""How a batch is dealt out."""

from hypothesis import given
from hypothesis import strategies as st

from sgg_core.encoding import Encoded
from sgg_core.team.parts import dealt

lengths = st.lists(st.integers(1, 40), max_size=30)


@given(lengths, st.integers(1, 8))
def test_every_item_is_somebodys_once_and_all_get_alike_many(sizes, count):
    items = [Encoded((0,) * size) for size in sizes]
    parts = [dealt(items, place, count) for place in range(count)]
    assert sorted(index for part in parts for index in part) == list(range(len(items)))
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(lengths, st.integers(1, 8))
def test_nobody_has_more_tokens_than_another_by_more_than_the_longest_item(sizes, count):
    items = [Encoded((0,) * size) for size in sizes]
    tokens = [sum(sizes[index] for index in dealt(items, place, count)) for place in range(count)]
    assert max(tokens) - min(tokens) <= max(sizes, default=0)
