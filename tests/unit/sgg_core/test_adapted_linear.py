"""The quick LoRA layer against plain formulas in float64, and against peft's own layers."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from sgg_core.adapted_linear import AdaptedLinear, as_peft_computes
from sgg_core.backbone import hidden_states
from sgg_core.lora_layers import lora
from sgg_core.spec import LoraSpec


def operands(jobs):
    """x, W, c, A and B in float64, those of LoRA with a gradient."""
    torch.manual_seed(3)
    lead = () if jobs is None else (jobs,)
    x, a, b = (torch.randn(*lead, *shape, dtype=torch.float64) for shape in ((4, 5), (2, 5), (3, 2)))
    weight, bias = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    return [t.requires_grad_() for t in (x, a, b)], weight, bias


@pytest.mark.parametrize("jobs", [None, 3])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_the_sum_of_both_products(jobs, with_bias):
    (x, a, b), weight, bias = operands(jobs)
    found = AdaptedLinear.apply(x, weight, bias if with_bias else None, a, b, 0.5)
    expected = functional.linear(x, weight, bias if with_bias else None) + 0.5 * (x @ a.mT @ b.mT)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("jobs", [None, 3])
def test_first_and_second_derivatives_are_those_of_finite_differences(jobs):
    (x, a, b), weight, bias = operands(jobs)

    def of(x, a, b):
        return AdaptedLinear.apply(x, weight, bias, a, b, 0.5)

    assert torch.autograd.gradcheck(of, (x, a, b))
    assert torch.autograd.gradgradcheck(of, (x, a, b))


@pytest.mark.parametrize("jobs", [None, 3])
@pytest.mark.parametrize("with_bias", [True, False])
def test_in_half_precision_a_small_update_is_not_lost(jobs, with_bias):
    """Half of the last digit of most results is more than the whole update, and so it is for the gradient of x."""
    generator = torch.Generator().manual_seed(4)
    lead = () if jobs is None else (jobs,)

    def drawn(*shape, size=1.0):
        return (size * torch.randn(*shape, generator=generator)).bfloat16()

    x, weight = drawn(*lead, 64, 128), drawn(256, 128, size=0.1)
    bias = drawn(256, size=4.0) if with_bias else None
    a, b = drawn(*lead, 4, 128, size=0.1), drawn(*lead, 256, 4, size=3e-4)
    slope = drawn(*lead, 64, 256)

    def seen(b):
        rows = x.detach().clone().requires_grad_()
        found = AdaptedLinear.apply(rows, weight, bias, a, b, 2.0)
        found.backward(slope)
        return found.detach().double(), rows.grad.double()

    updates = [2.0 * (x.double() @ a.double().mT @ b.double().mT), 2.0 * (slope.double() @ b.double() @ a.double())]
    for update, with_it, without in zip(updates, seen(b), seen(torch.zeros_like(b)), strict=True):
        assert (update.abs() < with_it.abs() * 2**-9).double().mean() > 0.5
        kept = ((with_it - without) * update).sum() / update.square().sum()
        assert 0.9 < kept < 1.1


@pytest.mark.parametrize("rank", [1, 4])
def test_states_and_gradients_are_those_of_peft(causal, rank):
    ids = torch.arange(24).reshape(2, 12) % 200
    mask = torch.ones_like(ids)
    seen = {}
    with lora(causal, LoraSpec(rank=rank), seed=1) as adapted:
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(number))
        quick = [module for module in adapted.modules() if "forward" in vars(module)]
        assert len(quick) == len(parameters) // 2
        for way, setting in (("ours", nullcontext()), ("peft", as_peft_computes(adapted))):
            with setting:
                assert [module for module in adapted.modules() if "forward" in vars(module)] == (
                    quick if way == "ours" else []
                )
                states = hidden_states(causal, ids, mask)
                seen[way] = [states, *torch.autograd.grad(states.cumsum(1).square().mean(), parameters)]
        assert [module for module in adapted.modules() if "forward" in vars(module)] == quick
    for ours, theirs in zip(seen["ours"], seen["peft"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_off_or_under_dropout_is_pefts_own(causal):
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        bare = hidden_states(causal, ids, torch.ones_like(ids))
        with lora(causal, LoraSpec(dropout=0.5), seed=1) as adapted:
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.fill_(0.1)
            adapted.train()
            with adapted.disable_adapter():
                assert torch.equal(hidden_states(causal, ids, torch.ones_like(ids)), bare)
            draws = [hidden_states(causal, ids, torch.ones_like(ids)) for _ in range(2)]
            assert not torch.equal(*draws)
    causal.model.eval()
