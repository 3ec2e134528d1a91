"""The similarity join against comparing every pair."""

import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sgg_core.similarity import MIN_WORDS, THRESHOLD, Pair, near_duplicates

sentences = st.lists(st.sampled_from(["the", "a", "dog", "cat", "sat", "ran", "mat", "on"]), max_size=14).map(" ".join)


def naive_similarity(one, other):
    counted = [Counter(re.findall(r"\w+", text.casefold())) for text in (one, other)]
    union = (counted[0] | counted[1]).total()
    return (counted[0] & counted[1]).total() / union if union else 0.0


def naive(texts, known):
    long_enough = [len(text.split()) >= MIN_WORDS for text in texts]
    found = []
    for later in range(known, len(texts)):
        for earlier in range(known or later):
            similarity = naive_similarity(texts[later], texts[earlier])
            if long_enough[later] and long_enough[earlier] and similarity >= THRESHOLD:
                found.append(Pair(later, earlier, similarity))
                break
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(sentences, max_size=12), st.integers(0, 6))
def test_the_join_finds_what_comparing_every_pair_finds(texts, known):
    known = min(known, len(texts))
    assert list(near_duplicates(texts, known)) == naive(texts, known)


def test_case_punctuation_and_one_changed_word_do_not_hide_a_text():
    [pair] = near_duplicates(
        ["My order 17 has not arrived yet, please help me!", "my order 18 has NOT arrived yet; please help me"]
    )
    assert (pair.later, pair.earlier) == (1, 0) and 0.8 <= pair.similarity < 1


def test_short_texts_are_left_alone():
    assert not list(near_duplicates(["cancel my order", "cancel my order"]))


def test_the_work_is_bounded():
    alike = [f"this very sentence stands here for the time number {number}" for number in range(3_000)]
    found = list(near_duplicates(alike, max_looks=10_000))
    assert 0 < len(found) < 200


def test_the_words_of_the_texts_that_are_compared_are_bounded_as_well():
    shared = " ".join(f"shared{number}" for number in range(80))
    long = [f"{shared} {' '.join(f'own{text}x{number}' for number in range(20))}" for text in range(40)]
    texts = [*long, long[-1]]
    assert [pair.later for pair in near_duplicates(texts)] == [40]
    assert not list(near_duplicates(texts, max_compared=40_000))
    assert [pair.later for pair in near_duplicates(texts, max_compared=200_000)] == [40]
