"""Paired comparison against enumeration, and what few items can show."""

import itertools

import pytest

from sgg_core.significance import LEVEL, paired_difference, sign_test, smallest_difference


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (6, 0), (7, 1), (3, 3), (2, 9)])
def test_the_sign_test_counts_all_outcomes_at_least_as_uneven(wins, losses):
    outcomes = list(itertools.product((0, 1), repeat=wins + losses))
    uneven = [one for one in outcomes if abs(2 * sum(one) - len(one)) >= abs(wins - losses)]
    assert sign_test(wins, losses) == pytest.approx(len(uneven) / len(outcomes))


@pytest.mark.parametrize("items", [6, 30, 500])
def test_the_smallest_difference_can_be_shown_and_one_item_less_cannot(items):
    fewest = round(smallest_difference(items) * items)
    right, wrong = [True] * items, [False] * fewest + [True] * (items - fewest)
    assert paired_difference(right, wrong).p_value < LEVEL
    assert paired_difference(right, [*wrong[1:], True]).p_value >= LEVEL


def test_five_items_show_nothing():
    assert smallest_difference(5) is None
    assert not paired_difference([True] * 5, [False] * 5).shown


def test_the_interval_holds_the_difference_and_turns_with_the_order():
    first = [True] * 70 + [False] * 30
    second = [True] * 50 + [False] * 40 + [True] * 10
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (there.wins, there.losses, there.difference) == (20, 10, pytest.approx(0.1))
    assert there.low < 0.1 < there.high
    assert (back.difference, back.p_value) == (pytest.approx(-0.1), there.p_value)
    assert (back.low, back.high) == (pytest.approx(-there.high, abs=0.02), pytest.approx(-there.low, abs=0.02))


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="2 and 1 items"):
        paired_difference([True, True], [True])
