"""What recordings need of a pass; that they give the same is seen on a GPU (test_on_gpu.py)."""

from types import SimpleNamespace

import pytest
import torch

from sgg_core.backbone import hidden_states
from sgg_core.lora_layers import adapted_names, lora
from sgg_core.packed import recorded
from sgg_core.packed.network import StackedNetwork, stacked_network
from sgg_core.packed.recorded import LATELY, MOST, Recordings, evened, recordable
from sgg_core.packed.stacked import Layout, as_leaves
from sgg_core.spec import LoraSpec
from sgg_core.texts_in_rows import Texts


def inputs(rows, width):
    mask = torch.ones(width, width, dtype=torch.bool).tril().expand(rows, 1, width, width)
    return torch.arange(rows * width).view(rows, width), mask, torch.arange(width).repeat(rows, 1), None


@pytest.mark.parametrize(
    ("blocks", "wanted"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 12), (13, 16), (25, 32), (33, 48)]
)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_pass_is_filled_up_to_one_of_a_few_numbers_of_blocks(blocks, wanted, rows):
    given, matrix = inputs(blocks * rows, 5), torch.ones(blocks, 7)
    (ids, mask, positions, types), whole = evened(given, matrix, pad=9)
    assert len(whole) == wanted and whole[blocks:].count_nonzero() == 0
    assert len(ids) == len(mask) == len(positions) == wanted * rows and types is None
    for found, before in ((ids, given[0]), (mask, given[1]), (positions, given[2]), (whole, matrix)):
        assert torch.equal(found[: len(before)], before)
    assert (mask.sum(-1) > 0).all(), "a row that sees nothing has no softmax"


def test_further_blocks_change_no_states_and_no_gradients(sharp):
    base = sharp("causal")
    network = StackedNetwork(base, adapted_names(base, LoraSpec()))
    with lora(base, LoraSpec(rank=2), 0):
        layout = Layout(base.adapter)
        matrix = 0.1 * torch.randn(5, len(layout.of_b), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        found = []
        for given, whole in ((inputs(5, 6), matrix), evened(inputs(5, 6), matrix, 0)):
            leaves = as_leaves(whole.clone(), layout)
            states = network._run(given, layout, leaves)[:5]
            slopes = torch.autograd.grad(states.cumsum(1).square().mean(), leaves)
            found.append((states, [slope[:5] for slope in slopes], [slope[5:] for slope in slopes]))
    (states, slopes, _), (other_states, other_slopes, beyond) = found
    assert torch.allclose(states, other_states, rtol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(slopes, other_slopes, strict=True))
    assert all(slope.count_nonzero() == 0 for slope in beyond)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what happens where passes cannot be recorded")
def test_a_recording_that_cannot_be_made_is_told_once_and_not_tried_again(causal, caplog):
    network = StackedNetwork(causal, adapted_names(causal, LoraSpec()))
    with lora(causal, LoraSpec(), 0):
        layout = Layout(causal.adapter)
    matrix, recordings = torch.zeros(2, len(layout.of_b)), Recordings(network._run)
    assert [recordings.of(inputs(2, 6), layout, matrix) for _ in range(4)] == [None] * 4
    assert [record.levelname for record in caplog.records] == ["WARNING"] and recordings.count == 0
    assert "no longer recorded" in caplog.text


def test_shapes_that_come_in_turns_are_not_recorded_again_and_again(monkeypatch):
    """More of them than are kept: some are recorded, the others never, until those are out of use."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))  # there may be no GPU
    made = []

    class Recorded:
        def __init__(self, run, inputs, layout, matrix, pool):
            made.append(inputs[0].shape[1])

    monkeypatch.setattr(recorded, "Recording", Recorded)
    recordings = Recordings(None)

    def ask(width):
        ids, mask = torch.zeros(1, width), torch.zeros(1, 1, width, width)
        return recordings.of((ids, mask, None, None), SimpleNamespace(rank=8), torch.zeros(1, 10)) is not None

    widths = range(1, MOST + 2)
    found = [[ask(width) for width in widths] for _ in range(10)]
    assert made == list(widths[:MOST])
    assert found[1:] == [[True] * MOST + [False]] * 9
    for _ in range(LATELY + 1):
        kept = ask(MOST + 1)
    assert kept and made == list(widths) and recordings.count == MOST


def test_only_a_mask_that_says_all_can_be_recorded():
    assert recordable(inputs(2, 4))
    ids, _, positions, types = inputs(2, 4)
    assert not recordable((ids, torch.ones_like(ids), positions, types))
    assert not recordable((ids, Texts(((4,), (2, 2))), positions, types))


def test_the_next_pack_has_the_modules_of_the_last_one(causal):
    names = adapted_names(causal, LoraSpec())
    network = stacked_network(causal, names)
    assert stacked_network(causal, names) is network
    other = stacked_network(causal, names[:1])
    assert other is not network and set(other.layers) < set(network.layers)
    ids = torch.arange(6)[None]
    assert torch.isfinite(hidden_states(causal, ids, torch.ones_like(ids))).all(), "the base model itself is untouched"
    causal.stacked = None
