"""Passes that jobs share: each job's states and gradients are those it would have alone, whoever its neighbours are."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.backbone import backward, hidden_states
from sgg_core.lora_layers import lora
from sgg_core.packed.meeting import PASS_POSITIONS, Pack, alike
from sgg_core.packed.network import keeps_rows, twin
from sgg_core.packed.seat import PackClosedError
from sgg_core.spec import LoraSpec
from sgg_core.texts_in_rows import Texts

# rank, alpha, rows, tokens of each pass
JOBS = ((2, 16.0, (4, 7)), (3, 2.0, (6, 3)), (1, 4.0, (2, 9)))


def targets(base):
    from sgg_core.lora_layers import adapted_names

    return adapted_names(base, LoraSpec())


def asked(base, number, rows, tokens, padded=False):
    """The arguments of a pass: texts in rows or padded rows for an encoder, a mask of its own for a causal model."""
    make = torch.Generator().manual_seed(number)
    ids = torch.randint(256, (rows, tokens), generator=make)
    if base.entry.kind == "encoder":
        lengths = torch.randint(1, tokens + 1, (rows, 1), generator=make)
        if padded:
            return ids, (torch.arange(tokens) < lengths).long()
        texts = tuple((n, tokens - n) if n < tokens else (n,) for n in lengths[:, 0].tolist())
        positions = [[*range(n), *range(tokens - n)] for n in lengths[:, 0].tolist()]
        return ids, Texts(texts), torch.tensor(positions)
    seen = torch.randint(2, (rows, 1, tokens, tokens), generator=make).bool() | torch.eye(tokens, dtype=torch.bool)
    return ids, seen.tril(), torch.arange(tokens).repeat(rows, 1)


def gradients(base, number, passes=1, told=None, **more):
    """States, and gradients of the adapter, after `passes` forward passes and one backward pass."""
    rank, alpha, (rows, tokens) = JOBS[number]
    with lora(base, LoraSpec(rank=rank, alpha=alpha), number) as adapted:
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        make = torch.Generator().manual_seed(50 + number)
        with torch.no_grad():
            for parameter in trained:
                parameter.copy_(torch.randn(parameter.shape, generator=make) * 0.1)
        found = [hidden_states(base, *asked(base, 10 * number + n, rows, tokens, **more)) for n in range(passes)]
        if told is not None:
            told.append(number)
        backward(base, torch.stack([states.square().sum() * states[0, 0, 0] for states in found]).sum())
        return [states.detach().clone() for states in found], [
            torch.cat([part.reshape(-1) for part in base.adapter.gradients()])
        ]


def assert_same(found, expected):
    """Two gradients in float64, against the largest part: attention that is certain leaves some of them near zero."""
    largest = max(part.abs().max() for part in expected)
    assert largest > 0
    assert all((one - other).abs().max() <= 1e-10 * largest for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("kind", "padded"), [("encoder", False), ("encoder", True), ("causal", False)])
def test_every_job_has_its_own_states_and_gradients(sharp, kind, padded):
    """In float64, with other ranks, scales, numbers of rows and lengths beside it."""
    base = sharp(kind)
    pack = Pack(base, targets(base))
    packed = pack.run([lambda own, n=n: gradients(own, n, padded=padded) for n in range(len(JOBS))])
    assert pack.forwards == 1
    for number, (states, found) in enumerate(packed):
        alone_states, alone = gradients(base, number, padded=padded)
        assert torch.allclose(states[0], alone_states[0], rtol=1e-10, atol=1e-10)
        assert len(found) == len(alone) > 0
        assert_same(found, alone)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_jobs_whose_lengths_are_far_apart_make_passes_of_their_own(sharp, kind, monkeypatch):
    """As many as it takes to be rid of the padding; gradients are what they are alone."""
    monkeypatch.setitem(PASS_POSITIONS, "cpu", 12)
    base = sharp(kind)
    pack = Pack(base, targets(base))
    packed = pack.run([lambda own, n=n: gradients(own, n) for n in range(len(JOBS))])
    assert pack.forwards == 2  # (2, 9) with (4, 7), and (6, 3)
    for number, (states, found) in enumerate(packed):
        alone_states, alone = gradients(base, number)
        assert torch.allclose(states[0], alone_states[0], rtol=1e-10, atol=1e-10)
        assert_same(found, alone)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60)), max_size=12), st.integers(0, 200))
def test_no_pass_has_more_padding_than_another_pass_would_cost(shapes, positions):
    groups = alike(shapes, positions)
    assert sorted(number for group in groups for number in group) == list(range(len(shapes)))
    for group in groups:
        widest = max(shapes[number][1] for number in group)
        assert sum(shapes[number][0] * (widest - shapes[number][1]) for number in group) <= positions
    for one, other in pairwise(groups):  # and no pass is made without need
        together = [shapes[number] for number in (*one, other[0])]
        assert sum(rows * (together[0][1] - width) for rows, width in together) > positions


def test_jobs_that_need_several_passes_before_their_gradient_share_the_backward_pass(sharp):
    base = sharp("encoder")
    pack = Pack(base, targets(base))
    packed = pack.run([lambda own, n=n: gradients(own, n, passes=n + 1) for n in range(len(JOBS))])
    assert pack.forwards == len(JOBS)
    for number, (_, found) in enumerate(packed):
        _, alone = gradients(base, number, passes=number + 1)
        assert_same(found, alone)


def test_a_base_model_whose_layers_see_all_rows_in_one_heap_is_known_before_it_is_trained(sharp):
    base = twin(sharp("encoder"))
    assert keeps_rows(base, targets(base))
    block = base.model.encoder.layer[0]
    block.intermediate = Heap(block.intermediate)
    assert not keeps_rows(base, targets(base))


class Heap(torch.nn.Module):
    """Gives a layer the tokens of all rows as one list."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, rows):
        return self.layer(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])


def test_a_job_that_fails_between_its_passes_leaves_the_others_alone(sharp):
    base = sharp("encoder")

    def fails(own):
        with lora(own, LoraSpec(), 0):
            hidden_states(own, *asked(own, 3, 2, 5))
            raise ValueError("no loss today")

    ended = Pack(base, targets(base)).run([lambda own: gradients(own, 0), fails, lambda own: gradients(own, 1)])
    assert isinstance(ended[1], ValueError)
    for found, number in ((ended[0], 0), (ended[2], 1)):
        assert_same(found[1], gradients(base, number)[1])


def test_a_job_may_come_while_others_are_trained(sharp):
    base = sharp("encoder")
    pack = Pack(base, targets(base))
    to_come = [[], [lambda own: gradients(own, 2, passes=2)]]
    first, late = pack.run([lambda own: gradients(own, 0, passes=4)], lambda: to_come.pop() if to_come else [])
    assert pack.forwards == 4  # two of them for both
    for (_, found), (number, passes) in ((first, (0, 4)), (late, (2, 2))):
        assert_same(found, gradients(base, number, passes=passes)[1])


def test_a_pass_that_memory_does_not_suffice_for_is_made_in_parts(sharp, monkeypatch):
    base = sharp("encoder")
    pack = Pack(base, targets(base))
    states = pack.network.forward

    def with_little_memory(members):
        if len(members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(members)

    monkeypatch.setattr(pack.network, "forward", with_little_memory)
    packed = pack.run([lambda own, n=n: gradients(own, n) for n in range(len(JOBS))])
    assert pack.forwards == len(JOBS)
    for number, (_, found) in enumerate(packed):
        assert_same(found, gradients(base, number)[1])


def test_a_pass_that_fails_is_told_to_all_who_wait_for_it(sharp):
    base = sharp("encoder")

    def unknown_token(own):
        with lora(own, LoraSpec(), 0):
            hidden_states(own, torch.tensor([[10**6]]), Texts(((1,),)), torch.tensor([[0]]))

    ended = Pack(base, targets(base)).run([unknown_token, lambda own: gradients(own, 1)])
    assert [type(error) for error in ended] == [IndexError, IndexError]


def test_an_interruption_ends_every_job_where_it_waits(sharp):
    base = sharp("encoder")
    left = []

    def waits(own):
        try:
            gradients(own, 0)
        except PackClosedError:
            left.append(own)
            raise

    def interrupted(own):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pack(base, targets(base)).run([waits, interrupted, waits])
    assert len(left) == 1  # the third one had not begun


def test_twins_share_their_weights_and_no_adapter(encoder):
    other = twin(encoder)
    assert other.model is not encoder.model
    shared = dict(encoder.model.named_parameters())
    assert all(parameter is shared[name] for name, parameter in other.model.named_parameters())
    names = set(encoder.model.state_dict())
    with lora(other, LoraSpec(), 0):
        assert set(encoder.model.state_dict()) == names


def test_the_generators_of_random_numbers_are_as_before(sharp):
    base = sharp("encoder")
    before = torch.get_rng_state()
    Pack(base, targets(base)).run([lambda own: torch.manual_seed(1), lambda own: torch.rand(3)])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_long_evaluation_lets_the_others_make_their_passes(sharp):
    """One pass of theirs for each of its own, and its mode, without gradients, stays its own."""
    base = sharp("encoder")
    pack = Pack(base, targets(base))
    told = []

    def evaluates(own):
        for number in range(6):
            with torch.no_grad():
                own.breathe()
                assert not torch.is_grad_enabled()
                told.append(f"evaluation {number}")

    def trains(own):
        for step in range(3):
            assert torch.is_grad_enabled()
            gradients(own, 0)
            told.append(f"step {step}")

    assert pack.run([evaluates, trains]) == [None, None]
    alone = [f"evaluation {number}" for number in range(6)]
    assert [each for each in told if each in alone] == alone
    assert told.index("step 2") < told.index("evaluation 5")  # a step is two passes: states and gradients


def test_jobs_that_all_evaluate_go_on(sharp):
    base = sharp("encoder")

    def evaluates(own):
        for _ in range(3):
            own.breathe()
        return "done"

    assert Pack(base, targets(base)).run([evaluates, evaluates]) == ["done", "done"]
