"""The wrapper around a loop's optimizer: the wrapped one to the bit without guidance, SAM, and the trainer's step."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional

from sgg_core.guidance.optimizer import GuidedOptimizer
from sgg_core.guidance.passes import BatchGradient
from sgg_core.guidance.step import GuidedStep
from sgg_core.spec import GuidanceSpec

INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
ZERO = {"magnitude": 0.0, "direction": 0.0, "clip_z": None}


def network(dropout=0.3):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 2))


def loss_of(model, number, size=8):
    rows = torch.arange(number * size, (number + 1) * size) % 32
    return functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def weights_after(make, steps=10, dropout=0.3):
    """Weights of a network that `make(model)` gave an optimizer, after some steps under one seed."""
    model = network(dropout)
    optimizer = make(model)
    torch.manual_seed(2)
    for number in range(steps):
        if isinstance(optimizer, GuidedOptimizer):
            optimizer.step(lambda number=number: loss_of(model, number))
        else:
            optimizer.zero_grad()
            loss_of(model, number).backward()
            optimizer.step()
    return flat(model.parameters())


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.mark.parametrize("guidance", [ZERO, {"variant": "off"}, ZERO | {"variant": "momentum"}])
def test_without_guidance_it_is_the_wrapped_optimizer_bit_for_bit(guidance):
    wrapped = weights_after(lambda model: GuidedOptimizer(adamw(model), GuidanceSpec(**guidance), total_steps=10))
    assert torch.equal(wrapped, weights_after(adamw))


def test_later_passes_drop_the_same_units_and_leave_the_random_numbers_of_the_loop_alone():
    spec = GuidanceSpec(radius=1e-6, magnitude=1.0, direction=0.0, ramp_fraction=0.0, clip_z=None)

    def wrap(model):
        return GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), spec, total_steps=10, warmup_fraction=0.0)

    plain = weights_after(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.allclose(weights_after(wrap), plain, atol=1e-4)


def test_full_magnitude_is_sam():
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for number in range(10):
        parameters = list(model.parameters())
        g = torch.autograd.grad(loss_of(model, number), parameters)
        start, length = [p.detach().clone() for p in parameters], torch.cat([part.flatten() for part in g]).norm()
        with torch.no_grad():
            for p, part in zip(parameters, g, strict=True):
                p += 0.05 * part / length
        ascended = torch.autograd.grad(loss_of(model, number), parameters)
        with torch.no_grad():
            for p, begun, part in zip(parameters, start, ascended, strict=True):
                p.copy_(begun)
                p.grad = part
        optimizer.step()
    spec = GuidanceSpec(every=1, radius=0.05, magnitude=1.0, direction=0.0, ramp_fraction=0.0, clip_z=None)

    def wrap(model):
        sgd = torch.optim.SGD(model.parameters(), lr=0.5)
        return GuidedOptimizer(sgd, spec, total_steps=10, warmup_fraction=0.0)

    assert torch.allclose(weights_after(wrap, dropout=0.0), flat(model.parameters()), atol=1e-6)


class NaiveBatch:
    """The step's seam, written down once more without any of ours."""

    def __init__(self, model, number):
        self.model, self.number = model, number

    def gradient(self):
        loss = loss_of(self.model, self.number)
        return BatchGradient(float(loss.detach()), None, list(torch.autograd.grad(loss, self.model.parameters())))


def test_it_takes_the_steps_that_the_trainer_takes():
    spec = GuidanceSpec(radius=0.05, ramp_fraction=0.2)
    model = network(dropout=0.0)
    guided, sgd = GuidedStep(list(model.parameters()), spec), torch.optim.SGD(model.parameters(), lr=0.3)
    for number in range(12):
        outcome = guided.take(NaiveBatch(model, number), guided.strength(number + 1, 12, 0.1))
        for parameter, gradient in zip(model.parameters(), outcome.gradient, strict=True):
            parameter.grad = gradient
        sgd.step()

    def wrap(model):
        return GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.3), spec, total_steps=12)

    assert torch.equal(weights_after(wrap, 12, dropout=0.0), flat(model.parameters()))


def test_exact_and_finite_difference_agree_at_a_small_radius():
    steps = {}
    for variant in ("exact", "finite_difference"):
        model = network(dropout=0.5)
        spec = GuidanceSpec(variant=variant, radius=1e-3, magnitude=1.0, ramp_fraction=0.0, clip_z=None)
        sgd = torch.optim.SGD(model.parameters(), lr=0.3)
        torch.manual_seed(3)
        optimizer = GuidedOptimizer(sgd, spec, total_steps=1, warmup_fraction=0.0)
        optimizer.step(lambda model=model: loss_of(model, 0))
        steps[variant] = flat(optimizer.outcome.gradient)
    difference = (steps["exact"] - steps["finite_difference"]).norm()
    assert difference < 1e-3 * steps["exact"].norm()


@pytest.mark.parametrize("reference", ["ema", "anchor"])
def test_a_loop_goes_on_from_its_state_as_if_nothing_had_happened(reference):
    spec = GuidanceSpec(reference=reference, radius=0.05, variant="finite_difference")

    def steps(model, optimizer, numbers):
        for number in numbers:
            torch.manual_seed(number)
            optimizer.step(partial(loss_of, model, number), sources=[partial(loss_of, model, number + 1)])

    whole = network()
    optimizer = GuidedOptimizer(adamw(whole), spec, total_steps=12)
    optimizer.begin(lambda: loss_of(whole, 0, 32))
    steps(whole, optimizer, range(7))
    saved, halfway = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(whole)
    steps(whole, optimizer, range(7, 12))
    again = GuidedOptimizer(adamw(halfway), spec, total_steps=12)
    again.load_state_dict(saved)
    steps(halfway, again, range(7, 12))
    assert torch.equal(flat(halfway.parameters()), flat(whole.parameters()))
    assert again.outcome.reference_cosine == optimizer.outcome.reference_cosine
    assert again.outcome.source_weight == optimizer.outcome.source_weight


def test_schedulers_act_on_the_wrapped_optimizer():
    model = network()
    optimizer = GuidedOptimizer(adamw(model), total_steps=4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, 2)
    rates = []
    for number in range(3):
        rates.append(optimizer.optimizer.param_groups[0]["lr"])
        optimizer.step(lambda number=number: loss_of(model, number))
        scheduler.step()
    assert rates == pytest.approx([0.01, 0.0075, 0.005])


@pytest.mark.parametrize(("reference", "name"), [("split", "halves"), ("base_kl", "divergence")])
def test_halves_and_divergence_are_used_where_the_reference_needs_them(reference, name):
    model = network(dropout=0.0)
    given = {
        "halves": (partial(loss_of, model, 0, 4), partial(loss_of, model, 1, 4)),
        "divergence": lambda: sum(p.square().sum() for p in model.parameters()),
    }
    optimizer = GuidedOptimizer(adamw(model), GuidanceSpec(reference=reference), total_steps=8)
    for _ in range(6):
        optimizer.step(partial(loss_of, model, 0), **{name: given[name]})
    assert optimizer.outcome.reference_cosine is not None
    lacking = GuidedOptimizer(adamw(model), GuidanceSpec(reference=reference), total_steps=8)
    with pytest.raises(ValueError, match=name):
        for _ in range(6):
            lacking.step(partial(loss_of, model, 0))


def test_what_cannot_work_is_said_at_once():
    model = network()
    with pytest.raises(ValueError, match="cross_fitted"):
        GuidedOptimizer(adamw(model), GuidanceSpec(source_weight="cross_fitted"), total_steps=4)
    with pytest.raises(ValueError, match="begin"):
        GuidedOptimizer(adamw(model), GuidanceSpec(reference="anchor"), total_steps=4).step(lambda: loss_of(model, 0))
    with pytest.raises(ValueError, match="float32"):
        GuidedOptimizer(adamw(network().bfloat16()), GuidanceSpec(), total_steps=4)


def backward_of(loss):
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda loss: None, "returned nothing. Let it return the mean loss"),
        (lambda loss: loss.item(), "returned a float"),
        (lambda loss: loss.detach(), "returned a tensor without a graph"),
        (lambda loss: loss.expand(3), r"returned a tensor of shape \(3,\)"),
        (backward_of, r"has called backward\(\)"),
    ],
)
def test_a_function_that_computes_no_loss_is_told_so(returned, told):
    model = network()
    optimizer = GuidedOptimizer(adamw(model), total_steps=4)
    with pytest.raises(ValueError, match=told):
        optimizer.step(lambda: returned(loss_of(model, 0)))
    optimizer.step(lambda: loss_of(model, 0))
    assert optimizer.steps == 1
