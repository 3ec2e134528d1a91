"""The trie of label strings against plain loops over the strings."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.label_trie import LabelTrie

END = 0
label_sets = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple), min_size=1, unique=True)


def strings_of(trie):
    """The token string of every computed node, from the parents."""
    strings = []
    for token, parent in zip(trie.tokens, trie.parents, strict=True):
        strings.append((*(strings[parent] if parent >= 0 else ()), token))
    return strings


def next_tokens(labels, prefix):
    return sorted({(*label, END)[len(prefix)] for label in labels if (*label, END)[: len(prefix)] == prefix})


def log_softmax_of(token, among, prefix):
    """A made-up language model: the score of a token depends on all before it."""
    scores = {other: random.Random(str((prefix, other))).gauss(0, 2) for other in among}
    return scores[token] - math.log(sum(math.exp(score) for score in scores.values()))


def whole_string_score(labels, label):
    string = (*label, END)
    return sum(
        log_softmax_of(string[size], next_tokens(labels, string[:size]), string[:size]) for size in range(len(string))
    )


def trie_score(trie, label):
    prefixes = [(), *strings_of(trie)]
    total = 0.0
    for branch, child in trie.paths[label]:
        node, children = trie.branches[branch]
        total += log_softmax_of(children[child], children, prefixes[node])
    return total


@given(label_sets)
def test_a_path_through_the_trie_scores_the_whole_string_with_its_end(labels):
    trie = LabelTrie(labels, END)
    scores = [trie_score(trie, index) for index in range(len(labels))]
    assert scores == pytest.approx([whole_string_score(labels, label) for label in labels])
    assert math.fsum(math.exp(score) for score in scores) == pytest.approx(1.0)


@given(label_sets)
def test_parents_come_first_and_depths_count_from_the_prompt(labels):
    trie = LabelTrie(labels, END)
    assert all(parent < index for index, parent in enumerate(trie.parents))
    assert trie.depths == [len(string) for string in strings_of(trie)]
    assert len(set(strings_of(trie))) == len(trie.tokens)


@given(label_sets)
def test_only_what_a_choice_needs_is_computed(labels):
    trie = LabelTrie(labels, END)
    choices = {
        (*label, END)[:size]
        for label in labels
        for size in range(len(label) + 1)
        if len(next_tokens(labels, (*label, END)[:size])) > 1
    }
    needed = {choice[:size] for choice in choices for size in range(1, len(choice) + 1)}
    assert set(strings_of(trie)) == needed
    assert len(trie.branches) == len(choices)


@given(label_sets)
def test_a_node_sees_itself_and_its_ancestors(labels):
    trie = LabelTrie(labels, END)
    strings = strings_of(trie)
    seen = trie.ancestors()
    for i, string in enumerate(strings):
        for j, other in enumerate(strings):
            assert bool(seen[i, j]) == (string[: len(other)] == other)


def test_a_label_that_is_the_beginning_of_another_is_told_apart_by_its_end():
    trie = LabelTrie([(1,), (1, 2)], END)
    assert trie.branches == [(1, [END, 2])]
    assert trie.paths == [[(0, 0)], [(0, 1)]]


def test_one_label_is_certain():
    trie = LabelTrie([(1, 2)], END)
    assert (trie.tokens, trie.branches, trie.paths) == ([], [], [[]])


def test_labels_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="same tokens"):
        LabelTrie([(1, 2), (1, 2)], END)
    with pytest.raises(ValueError, match="end token"):
        LabelTrie([(1, END), (2,)], END)
