"""Paired comparison against enumeration, and what few items can show."""

import itertools

import pytest

from sgg_core.significance import (
    LEVEL,
    paired_difference,
    paired_loss_difference,
    sign_flip_test,
    sign_test,
    smallest_difference,
    wilson_interval,
)


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


@pytest.mark.parametrize("differences", [[0.5], [0.5, -0.2, 0.1], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.3, -0.3]])
def test_the_sign_flip_test_counts_all_signs_that_sum_as_far_from_nothing(differences):
    sums = [
        sum(sign * each for sign, each in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    as_far = [total for total in sums if abs(total) >= abs(sum(differences)) - 1e-12]
    assert sign_flip_test(differences) == pytest.approx(len(as_far) / len(sums))


def test_many_signs_are_drawn_and_tell_the_same():
    mixed = [0.1 * (number % 7) - 0.25 for number in range(40)]
    exact = sign_flip_test(mixed[:14], draws=2**14)
    assert sign_flip_test(mixed[:14], draws=2_000) == pytest.approx(exact, abs=0.04)
    assert sign_flip_test([1.0] * 40) < 0.001


def test_a_difference_in_loss_is_that_of_all_tokens_and_is_shown_by_enough_items():
    tokens = [1, 9] * 10
    first, second = [1.0 * count for count in tokens], [1.5 * count for count in tokens]
    second[0] = 0.5  # one of twenty is won by the other
    found = paired_loss_difference(first, second, tokens)
    assert found.difference == pytest.approx((sum(first) - sum(second)) / sum(tokens))
    assert (found.wins, found.losses, found.items) == (19, 1, 20)
    assert found.low < found.difference < found.high < 0 and found.shown
    few = paired_loss_difference(first[1:6], second[1:6], tokens[1:6])
    assert few.high < 0 and not few.shown


def test_equal_losses_show_nothing():
    found = paired_loss_difference([1.0] * 30, [1.0] * 30, [3] * 30)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_losses_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="1 and 2 items"):
        paired_loss_difference([1.0], [1.0, 2.0], [1])


def test_the_interval_agrees_with_published_values_and_stays_a_share():
    low, high = wilson_interval(0.9, 10)  # Newcombe 1998 lists such pairs to three digits
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert wilson_interval(1.0, 5)[1] == 1.0
    assert wilson_interval(0.0, 5)[0] == pytest.approx(0.0)
