"""A pack whose memory does not suffice for all at once: every job gets its gradients all the same, and keeps its turn.

Memory is that of the graphs: what autograd keeps for backward passes is counted, and refused above a limit.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from sgg_core import trainer
from sgg_core.backbone import backward, hidden_states
from sgg_core.lora_layers import adapted_names, lora
from sgg_core.packed.meeting import Pack, fitting, size
from sgg_core.packed.train import PackedJob
from sgg_core.reporting import Finished, SilentReporter, StepMetrics
from sgg_core.spec import LoraSpec

train = partial(trainer.train, with_documents=False)  # nobody reads them here

SHAPES = ((4, 7), (6, 3), (2, 9), (4, 8), (2, 5))  # rows and tokens of the jobs' passes
WHOLE = 18 * 9  # positions of all of them in one pass


class Kept:
    """A tensor that is kept for a backward pass; forgotten with its graph."""

    def __init__(self, memory, tensor):
        self.memory, self.tensor = memory, tensor.detach()  # an output would keep its own graph
        memory.bytes += tensor.nbytes

    def __del__(self):
        self.memory.bytes -= self.tensor.nbytes


class Memory:
    """What the graphs of a pack's passes may keep: `limit` bytes, and `in_backward` when gradients are taken."""

    def __init__(self, pack, limit=float("inf"), in_backward=float("inf")):
        self.bytes = self.refused = self.peak = 0
        self.limit, self.in_backward = limit, in_backward
        self.frozen = {weight.data_ptr() for weight in pack.base.model.parameters()}
        self.forward, pack.network.forward = pack.network.forward, self.pass_through

    def pass_through(self, members):
        with torch.autograd.graph.saved_tensors_hooks(self.keep, self.give_back):
            return self.forward(members)

    def keep(self, tensor):
        if tensor.data_ptr() in self.frozen:
            return tensor
        self.check(self.bytes + tensor.nbytes > self.limit)
        self.peak = max(self.peak, self.bytes + tensor.nbytes)
        return Kept(self, tensor)

    def give_back(self, kept):
        self.check(self.bytes > self.in_backward)
        return kept.tensor if isinstance(kept, Kept) else kept

    def check(self, too_much):
        if too_much:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")


def trained(base, number, steps=3, passes=1, told=None, shape=None):
    """Gradients of some steps, each at other weights, with `passes` forward passes before each backward pass."""
    rows, tokens = shape or SHAPES[number]
    make = torch.Generator().manual_seed(number)
    with lora(base, LoraSpec(rank=1 + number % 3), number) as adapted:
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        found = []
        for step in range(steps):
            with torch.no_grad():
                for weight in weights:
                    weight.add_(torch.randn(weight.shape, generator=make) * 0.1)
                    weight.grad = None
                base.adapter.gradient = None
            asked = [torch.randint(256, (rows, tokens), generator=make) for _ in range(passes)]
            states = [hidden_states(base, ids, torch.ones_like(ids)) for ids in asked]
            backward(base, torch.stack([each.square().sum() * each[0, 0, 0] for each in states]).sum())
            found.append([torch.cat([part.reshape(-1) for part in base.adapter.gradients()])])
            if told is not None:
                told.append((number, step))
        return found


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        largest = max(part.abs().max() for part in other)
        assert largest > 0
        assert all((a - b).abs().max() <= 1e-10 * largest for a, b in zip(one, other, strict=True))


def new_pack(base):
    """One whose modules no other pack has, since their memory is watched."""
    base.stacked = None
    pack = Pack(base, adapted_names(base, LoraSpec()))
    base.stacked = None
    return pack


@pytest.fixture
def pack(sharp):
    return new_pack(sharp("encoder"))


@pytest.fixture
def needed(sharp):
    """Bytes that the graph of one pass for all jobs keeps."""
    base = sharp("encoder")
    pack = new_pack(base)
    memory = Memory(pack)
    pack.run([lambda own, n=n: trained(own, n, steps=1) for n in range(len(SHAPES))])
    assert pack.forwards == 1
    return memory.peak


def run(pack, **how):
    return pack.run([lambda own, n=n: trained(own, n, **how) for n in range(len(SHAPES))])


def test_a_forward_pass_that_is_too_large_is_made_for_some_who_get_their_gradients_before_the_others(pack, needed):
    memory = Memory(pack, limit=0.6 * needed)
    told = []
    packed = run(pack, told=told)
    assert memory.refused == 1 and pack.most == WHOLE // 2  # only the very first pass was tried in vain
    assert memory.peak <= 0.6 * needed and memory.bytes == 0
    for number, found in enumerate(packed):
        assert_same(found, trained(pack.base, number))
    assert len(told) == len(set(told)) == 3 * len(SHAPES)
    taken = Counter()
    for number, _ in told:  # nobody goes ahead of the others
        taken[number] += 1
        assert taken[number] - min(taken[n] for n in range(len(SHAPES))) <= 2


def test_a_backward_pass_that_is_too_large_is_made_again_for_some_at_a_time(pack, needed):
    memory = Memory(pack, in_backward=0.6 * needed)
    packed = run(pack)
    assert memory.refused == 1 and pack.most == WHOLE // 2 and memory.bytes == 0
    for number, found in enumerate(packed):
        assert_same(found, trained(pack.base, number))


@pytest.mark.parametrize("limits", [{"limit": 0.5}, {"in_backward": 0.3}, {"limit": 0.9, "in_backward": 0.25}])
def test_jobs_with_several_passes_before_a_gradient_are_served_as_well(pack, needed, limits):
    """Of one such job all passes have to be kept, so that they may take more than a part of the pack's memory."""
    memory = Memory(pack, **{name: 2 * share * needed for name, share in limits.items()})
    packed = pack.run([lambda own, n=n: trained(own, n, passes=1 + n % 2) for n in range(len(SHAPES))])
    assert memory.refused and memory.bytes == 0
    for number, found in enumerate(packed):
        assert_same(found, trained(pack.base, number, passes=1 + number % 2))


@pytest.mark.parametrize("limits", [{"limit": 1.2}, {"in_backward": 1.2}])
def test_a_job_that_needs_too_much_by_itself_fails_and_no_other_loses_a_step(pack, needed, limits):
    memory = Memory(pack, **{name: share * needed for name, share in limits.items()})
    jobs = [lambda own, n=n: trained(own, n) for n in range(len(SHAPES))]
    jobs.insert(2, lambda own: trained(own, 9, shape=(32, 12)))
    packed = pack.run(jobs)
    assert isinstance(packed.pop(2), torch.OutOfMemoryError) and memory.bytes == 0
    for number, found in enumerate(packed):
        assert_same(found, trained(pack.base, number))


def test_a_job_that_alone_asks_for_too_much_beside_anothers_graph_waits_until_that_is_used_up(sharp):
    base, (host, guest) = sharp("encoder"), (0, 3)
    peaks = []
    for number in (host, guest):
        pack = new_pack(base)
        memory = Memory(pack)
        pack.run([lambda own, n=number: trained(own, n, steps=1)])
        peaks.append(memory.peak)
    pack = new_pack(base)
    limit = 1.05 * max(peaks)
    assert limit < sum(peaks)
    memory = Memory(pack, limit=limit)
    coming = iter([(), [lambda own: trained(own, guest)]])  # when the host has states, and no gradient yet
    packed = pack.run([lambda own: trained(own, host)], lambda: next(coming, ()))
    assert memory.refused == 1 and memory.bytes == 0
    for number, found in zip((host, guest), packed, strict=True):
        assert_same(found, trained(base, number))


@pytest.mark.parametrize("limits", [{"limit": 0.4}, {"in_backward": 0.4}])
def test_whole_trainings_in_little_memory_are_those_made_one_by_one(causal, spec_for, training, tmp_path, limits):
    specs = [
        spec_for(causal, seed=n, lora={"rank": 1 + n}, guidance={"every": 1 + n % 2}, optimization={"max_steps": 4})
        for n in range(4)
    ]
    jobs = [PackedJob(spec, training, tmp_path / f"packed-{n}", SilentReporter()) for n, spec in enumerate(specs)]
    lone, pack = (new_pack(causal) for _ in range(2))
    needed = Memory(lone)
    lone.run([PackedJob(specs[0], training, tmp_path / "lone", SilentReporter()).train])
    memory = Memory(pack, **{name: 4 * share * needed.peak for name, share in limits.items()})
    ended = pack.run([job.train for job in jobs])
    assert [type(each) for each in ended] == [Finished] * 4
    assert 1 <= memory.refused <= 3  # not each step anew
    for job in jobs:
        train(job.spec, causal, training, output=tmp_path / "alone", reporter=SilentReporter())
        steps = [message.step for message in job.reporter.messages if isinstance(message, StepMetrics)]
        assert steps == [1, 2, 3, 4]
        together, alone = (load_file(path / "adapter_model.safetensors") for path in (job.output, tmp_path / "alone"))
        for name, weights in alone.items():  # AdamW makes the rounding of small gradients large
            assert (together[name] - weights).norm() <= 1e-3 * weights.norm()


def test_as_many_of_the_first_ones_fit_as_their_padded_batch_has_positions():
    assert size([]) == 0 and size(SHAPES) == WHOLE
    assert [fitting(SHAPES, room) for room in (0, 27, 28, 69, 70, 107, 108, WHOLE)] == [0, 0, 1, 1, 2, 2, 3, 5]
