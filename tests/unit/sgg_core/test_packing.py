"""Packed examples against the same examples alone, in float64: states, gradients, and how much is packed at once."""

import pytest
import torch

from sgg_core import packing
from sgg_core.backbone import hidden_states
from sgg_core.encoding import Encoded, common_prefix, passes
from sgg_core.label_trie import LabelTrie
from sgg_core.lora_layers import lora
from sgg_core.spec import LoraSpec

CPU = torch.device("cpu")
TREES = {
    "one row": [[5, 6, 7]],
    "nothing in common": [[5, 6, 7], [8, 9], [10, 11, 12, 13]],
    "a common beginning": [[5, 6, 7, 8], [5, 6, 9], [5, 6, 10, 11, 12]],
    "one row is the beginning of another": [[5, 6], [5, 6, 7], [5, 6, 7, 8]],
    "equal rows": [[5, 6, 7], [5, 6, 7], [5, 6, 7]],
    "equal rests": [[5, 6, 7], [5, 8, 7], [5, 6, 7]],
    "rows of one token": [[5], [6], [5]],
    "many rows": [[5] * 20 + [number] * (1 + number % 7) for number in range(30)],
}


@pytest.fixture(params=list(TREES), ids=lambda name: name.replace(" ", "-"))
def rows(request):
    return TREES[request.param]


@pytest.fixture
def base(sharp):
    return sharp("causal")


def states_alone(base, row):
    ids = torch.tensor([row])
    return hidden_states(base, ids, torch.ones_like(ids))[0]


def packed_states(base, rows, trie=None):
    packed = packing.pack(rows, CPU, trie)
    return packed, hidden_states(base, packed.ids, packed.mask, packed.positions)[0]


def test_each_row_gets_the_states_that_it_gets_alone(base, rows):
    packed, states = packed_states(base, rows)
    for number, row in enumerate(rows):
        own = states[[packed.place(number, position) for position in range(len(row))]]
        assert torch.allclose(own, states_alone(base, row), atol=1e-10, rtol=0)


def test_a_common_beginning_is_laid_out_once(rows):
    packed = packing.pack(rows, CPU)
    prefix = common_prefix(rows)
    assert packed.prefix == prefix
    assert packed.ids.shape[1] == prefix + sum(len(row) - prefix for row in rows)
    assert packed.mask.shape == (1, 1, packed.ids.shape[1], packed.ids.shape[1])
    for number, row in enumerate(rows):
        places = [packed.place(number, position) for position in range(len(row))]
        assert packed.ids[0, places].tolist() == row
        assert packed.positions[0, places].tolist() == list(range(len(row)))


def test_a_token_sees_itself_and_what_comes_before_it_in_its_row(rows):
    packed = packing.pack(rows, CPU)
    for number, row in enumerate(rows):
        places = [packed.place(number, position) for position in range(len(row))]
        for position, place in enumerate(places):
            assert packed.mask[0, 0, place].nonzero().flatten().tolist() == places[: position + 1]


def test_the_gradient_of_packed_rows_is_the_sum_of_the_gradients_alone(base, rows):
    def gradients(loss):
        loss.backward()
        found = torch.cat([weight.grad.flatten() for weight in weights])
        for weight in weights:
            weight.grad = None
        return found

    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in weights:
                weight.normal_(std=0.1)
        alone = gradients(sum(states_alone(base, row)[-1].pow(3).sum() for row in rows))
        packed, states = packed_states(base, rows)
        last = [packed.place(number, len(row) - 1) for number, row in enumerate(rows)]
        together = gradients(states[last].pow(3).sum())
    assert alone.norm() > 0
    assert (together - alone).norm() < 1e-5 * alone.norm()  # RMSNorm rounds to float32 whatever the model is in


@pytest.mark.parametrize(
    "labels",
    [
        [[20], [21]],
        [[20, 21, 22], [20, 21, 23], [20, 24]],
        [[20, 21], [20, 21, 22], [20]],
        [[20, 21, 22, 23], [24, 25, 26, 27], [20, 21, 22, 28], [24, 25, 29]],
    ],
)
def test_every_node_of_a_label_trie_gets_the_state_it_gets_after_its_row_alone(base, rows, labels):
    trie = LabelTrie(labels, end=256)
    packed, states = packed_states(base, rows, trie)
    for number, row in enumerate(rows):
        own = states[packed.place(number, len(row) - 1)]
        assert torch.allclose(own, states_alone(base, row)[-1], atol=1e-10, rtol=0)
        for node in range(len(trie.tokens)):
            string = []
            above = node
            while above >= 0:
                string.insert(0, trie.tokens[above])
                above = trie.parents[above]
            expected = states_alone(base, [*row, *string])[-1]
            assert torch.allclose(states[packed.node(number, node)], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shared", [0, 1, 40])
@pytest.mark.parametrize("nodes", [0, 3, 90])
@pytest.mark.parametrize("budget", [50, 128, 512])
def test_packed_passes_hold_every_example_once_and_stay_within_the_budget(shared, nodes, budget):
    labels = [[20 + node, 19] for node in range(nodes)]
    trie = LabelTrie(labels + [[20 + node, 18] for node in range(nodes)], end=256) if nodes else None
    rows = [[5] * shared + [6 + number % 3] * (1 + 7 * number % 31) for number in range(40)]
    items = [Encoded(tuple(row)) for row in rows]
    extra = len(trie.tokens) if trie else 0
    assert extra == nodes
    groups = list(passes(items, budget, common_prefix(rows), extra))
    assert sorted(index for group in groups for index in group) == list(range(40))
    for group in groups:
        size = packing.pack([rows[index] for index in group], CPU, trie).ids.shape[1]
        assert size <= budget or len(group) == 1
