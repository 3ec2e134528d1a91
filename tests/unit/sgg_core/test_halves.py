"""Products with frozen weights in bfloat16: near those in float32, the same every time, and only where they belong."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from sgg_core import trainer
from sgg_core.adapted_linear import AdaptedLinear
from sgg_core.backbone import hidden_states
from sgg_core.errors import SettingError
from sgg_core.gradients import combined, cosine, scaled, unit
from sgg_core.guidance.passes import TaskBatch, displaced
from sgg_core.halves import Halves, frozen, processor_is_quick, wanted_halves
from sgg_core.lora_layers import lora
from sgg_core.packed.train import PackedJob, train_packed
from sgg_core.proof import last_states
from sgg_core.reporting import SilentReporter
from sgg_core.spec import GuidanceSpec, LoraSpec
from sgg_core.tasks.choice import encoded, make_task

train = partial(trainer.train, with_documents=False)  # nobody reads them here

HALF = 2**-8  # what rounding to bfloat16 may change, relatively


@pytest.fixture
def halved(base):
    """Both tiny base models with halves, on whatever processor."""
    return replace(base, halves=Halves(), resting=None, spare=[], stacked=None)


def losses(reporter):
    return [message.train_loss for message in reporter.messages if message.type == "step"]


@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_product_is_that_of_rounded_factors_and_all_else_is_exact(lead):
    torch.manual_seed(1)
    x, a, b = (torch.randn(*lead, *shape, requires_grad=True) for shape in ((4, 64), (2, 64), (32, 2)))
    weight, bias = torch.randn(32, 64), torch.randn(32)
    found = AdaptedLinear.apply(x, weight.bfloat16(), bias, a, b, 0.5)
    rounded = x.bfloat16().double() @ weight.bfloat16().double().mT + bias.bfloat16().double()
    expected = rounded + 0.5 * (x.double() @ a.double().mT @ b.double().mT)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=HALF, atol=HALF * rounded.abs().max().item())
    slope = torch.randn_like(found)
    of_x, of_a, of_b = torch.autograd.grad(found, (x, a, b), slope)
    through = 0.5 * (slope @ b)
    torch.testing.assert_close(of_a, through.mT @ x)
    torch.testing.assert_close(of_b, 0.5 * slope.mT @ (x @ a.mT))
    back = slope.bfloat16().double() @ weight.bfloat16().double() + (through @ a).double()
    torch.testing.assert_close(of_x.double(), back, rtol=HALF, atol=HALF * back.abs().max().item())


def test_passes_use_them_and_a_proof_does_not(base, halved):
    ids = torch.arange(24).reshape(2, 12) % 200
    mask = torch.ones_like(ids)
    with torch.no_grad():
        with lora(base, LoraSpec(), seed=1) as adapted:
            exact, proven = hidden_states(base, ids, mask), last_states(adapted, range(8), base.device)
        with lora(halved, LoraSpec(), seed=1) as adapted:
            near, proven_too = hidden_states(halved, ids, mask), last_states(adapted, range(8), base.device)
    assert 0 < (near - exact).norm() < 0.05 * exact.norm()
    assert torch.equal(proven, proven_too)


def test_what_is_trained_or_of_another_type_is_left_as_it_is_and_what_has_changed_is_copied_again():
    halves, weight = Halves(), torch.randn(4, 4)
    assert frozen(weight) is weight
    with halves.in_use():
        copy = frozen(weight)
        assert copy.dtype == torch.bfloat16 and frozen(weight) is copy and halves.bytes == 32
        trained, sharp = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, dtype=torch.float64)
        assert frozen(trained) is trained and frozen(sharp) is sharp
        weight.mul_(2)
        assert torch.equal(frozen(weight), 2 * copy)
    assert frozen(weight) is weight


def test_a_run_is_near_one_in_float32_the_same_every_time_and_near_itself_in_a_pack(
    base, halved, training, validation, spec_for, tmp_path, adapter_bytes
):
    spec, told = spec_for(base, guidance={"every": 1}), {}
    for name, own in (("exact", base), ("half", halved), ("again", replace(halved, halves=Halves()))):
        told[name] = SilentReporter()
        train(spec, own, training, validation=validation, output=tmp_path / name, reporter=told[name])
    jobs = [PackedJob(spec, training, tmp_path / f"packed-{n}", SilentReporter(), validation) for n in range(2)]
    assert [ended.type for ended in train_packed(halved, jobs)] == ["finished"] * 2
    assert adapter_bytes(tmp_path / "half") == adapter_bytes(tmp_path / "again")
    assert losses(told["half"]) != losses(told["exact"])
    assert losses(told["half"]) == pytest.approx(losses(told["exact"]), rel=0.05)
    assert losses(jobs[1].reporter) == pytest.approx(losses(told["half"]), rel=0.02)


def test_what_guidance_moves_parameters_by_is_not_rounded_away(base, halved, training, spec_for):
    """A tiny model's steps are spread over few weights. A tenth of the default radius is as small to each as a whole
    one is in a real model: below the rounding of bfloat16, in which the adapter's own products must not be.
    """
    corrections, along = [], None
    for own in (base, halved):
        spec = spec_for(own)
        with lora(own, spec.lora, seed=0) as adapted:
            parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
            with torch.no_grad():
                for number, parameter in enumerate(parameters):
                    parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 5
            task = make_task(spec, own, training)
            batch = TaskBatch(task, encoded(task, training), parameters, seed=0)
            gradient = batch.gradient().gradient
            along = along or scaled(unit(gradient), GuidanceSpec().radius / 10)
            with displaced(parameters, along):
                corrections.append(combined([(1.0, batch.gradient().gradient), (-1.0, gradient)]))
    assert 0.99 < cosine(*corrections) < 1.0 - 1e-9


def test_the_environment_can_do_without(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.delenv("SGG_CPU_PRECISION")
    assert (wanted_halves(cpu) is not None) == processor_is_quick()
    assert wanted_halves(torch.device("cuda")) is None
    monkeypatch.setenv("SGG_CPU_PRECISION", "float32")
    assert wanted_halves(cpu) is None
    monkeypatch.setenv("SGG_CPU_PRECISION", "bfloat16")
    with pytest.raises(SettingError, match="SGG_CPU_PRECISION is 'bfloat16'") as refused:
        wanted_halves(cpu)
    assert not refused.value.users_fault
