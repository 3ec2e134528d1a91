"""Paired comparison against enumeration, and what few items can show."""

import itertools
import math
import random
import time

import pytest

from sgg_core.significance import (
    LEVEL,
    MOST_DRAWN,
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


@pytest.mark.parametrize(("wins", "losses"), [(520, 480), (800, 1_200), (1_500, 1_500), (1_030, 950)])
def test_the_sign_test_sums_as_exactly_as_whole_numbers_do(wins, losses):
    tosses = wins + losses
    tail = sum(math.comb(tosses, k) for k in range(min(wins, losses) + 1))
    assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * tail / 2**tosses), rel=1e-9)


def resampled(values, weights, draws=2_000):
    """The interval of the sum of values over that of weights, by drawing single items again."""
    generator, items = random.Random(1), list(zip(values, weights, strict=True))
    found = []
    for _ in range(draws):
        drawn = generator.choices(items, k=len(items))
        found.append(sum(value for value, _ in drawn) / sum(weight for _, weight in drawn))
    found.sort()
    return found[int(0.025 * draws)], found[int(0.975 * draws) - 1]


@pytest.mark.parametrize(("wins", "losses", "ties"), [(30, 10, 160), (3, 60, 37), (1, 0, 40), (25, 0, 0), (0, 0, 25)])
def test_the_interval_of_an_accuracy_is_that_of_single_items_drawn_again(wins, losses, ties):
    first = [True] * wins + [False] * losses + [True] * ties
    second = [False] * wins + [True] * losses + [True] * ties
    low, high = resampled([1] * wins + [-1] * losses + [0] * ties, [1] * len(first))
    found = paired_difference(first, second)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_the_interval_of_many_losses_is_that_of_single_items_drawn_again():
    generator = random.Random(2)
    tokens = [generator.randint(3, 60) for _ in range(MOST_DRAWN + 100)]
    second = [generator.gammavariate(2, 1) * count for count in tokens]
    first = [loss * generator.lognormvariate(-0.05, 0.3) for loss in second]
    low, high = resampled([one - other for one, other in zip(first, second, strict=True)], tokens)
    found = paired_loss_difference(first, second, tokens)
    margin = 0.1 * (high - low)
    assert (found.low, found.high) == (pytest.approx(low, abs=margin), pytest.approx(high, abs=margin))


@pytest.mark.parametrize("wins", range(266, 285))
def test_the_sign_flip_test_of_many_differences_is_near_the_exact_one_even_where_it_moves_in_coarse_steps(wins):
    losses = MOST_DRAWN + 1 - wins
    exact = sign_test(wins, losses)
    assert sign_flip_test([0.3] * wins + [-0.3] * losses) == pytest.approx(exact, abs=0.006 if exact < 0.06 else 0.02)


def test_the_largest_validation_files_are_compared_in_a_moment():
    items = 50_000
    generator = random.Random(3)
    first, second = ([generator.random() < share for _ in range(items)] for share in (0.5, 0.501))
    losses = [generator.random() for _ in range(items)]
    others = [loss + generator.gauss(0, 0.1) for loss in losses]
    start = time.monotonic()
    found = paired_difference(first, second)
    of_losses = paired_loss_difference(losses, others, [10] * items)
    assert time.monotonic() - start < 5
    assert found.low < found.difference < found.high and of_losses.low < of_losses.difference < of_losses.high
