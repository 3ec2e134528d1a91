"""Training on a GPU, where matrix products are in bfloat16: in the same ways as on the CPU, and to like ends."""

import pytest
import torch

from sgg_core.backbone import backward, hidden_states
from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
from sgg_core.lora_layers import adapted_names, lora
from sgg_core.packed.meeting import Pack
from sgg_core.packed.train import PackedJob, train_packed
from sgg_core.predictor import load_predictor
from sgg_core.reporting import Finished, SilentReporter, StepMetrics
from sgg_core.spec import LoraSpec
from sgg_core.tiny import save_tiny_base
from sgg_core.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

GUIDED = {"every": 1, "ramp_fraction": 0.0}
WAYS = {
    "plain": {"method": "supervised"},
    "finite difference": {"guidance": GUIDED},
    "exact": {"guidance": GUIDED | {"variant": "exact"}},
    "momentum": {"guidance": GUIDED | {"variant": "momentum"}},
    "base_kl": {"guidance": GUIDED | {"reference": "base_kl"}},
    "split": {"guidance": GUIDED | {"reference": "split"}},
}


@pytest.fixture(scope="module", params=["causal", "encoder"])
def on_gpu(request, tmp_path_factory):
    """A tiny base model from files, on the GPU, and its like on the CPU."""
    entry = save_tiny_base(tmp_path_factory.mktemp("base"), request.param)
    return load_base(entry, device=torch.device("cuda")), load_base(entry, device=torch.device("cpu"))


def steps_of(reporter):
    return [message for message in reporter.messages if isinstance(message, StepMetrics)]


def run(spec, base, training, output, **more):
    reporter = SilentReporter()
    assert isinstance(train(spec, base, training, output=output, reporter=reporter, **more), Finished)
    return steps_of(reporter)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_learns_as_on_the_cpu(on_gpu, training, validation, spec_for, tmp_path, way):
    spec = spec_for(on_gpu[0], **WAYS[way], task={"objective": "cross_entropy"})
    curves = [
        run(spec, base, training, tmp_path / base.device.type, validation=validation, checkpoints=tmp_path / "c")
        for base in on_gpu
    ]
    first, there = curves[0][0], curves[1][0]
    assert first.train_loss == pytest.approx(there.train_loss, rel=0.02)
    assert first.gradient_norm == pytest.approx(there.gradient_norm, rel=0.1)
    for here, there in zip(*curves, strict=True):
        assert here.train_loss == pytest.approx(there.train_loss, rel=0.1, abs=0.05)
    predictor = load_predictor(tmp_path / "cuda", catalogue=Catalogue((on_gpu[0].entry,)), base=on_gpu[0])
    assert len(list(predictor.predict([{"text": "a fine day"}]))) == 1
    predictor.close()


def test_jobs_in_a_pack_learn_as_alone(on_gpu, training, spec_for, tmp_path):
    base, _ = on_gpu
    specs = [
        spec_for(base, seed=n, lora={"rank": 2 + n % 2}, optimization={"batch_size": 3 + n % 3}, guidance=GUIDED)
        for n in range(6)
    ]
    jobs = [PackedJob(spec, training, tmp_path / f"{n}", SilentReporter()) for n, spec in enumerate(specs)]
    assert all(isinstance(end, Finished) for end in train_packed(base, jobs))
    for n, job in enumerate(jobs):
        alone = run(specs[n], base, training, tmp_path / f"alone-{n}")
        for here, there in zip(steps_of(job.reporter), alone, strict=True):
            assert here.train_loss == pytest.approx(there.train_loss, rel=0.1, abs=0.05)


def test_a_run_goes_on_from_its_checkpoint_to_the_same_end(on_gpu, training, spec_for, tmp_path):
    base, _ = on_gpu
    spec = spec_for(base, guidance=GUIDED)
    whole = run(spec, base, training, tmp_path / "whole", checkpoints=tmp_path / "checkpoints")
    middle = tmp_path / "checkpoints" / "step-00000004"
    rest = run(spec, base, training, tmp_path / "rest", resume_from=middle)
    assert [step.step for step in rest] == [5, 6]
    for here, there in zip(rest, whole[4:], strict=True):
        assert here.train_loss == pytest.approx(there.train_loss, rel=0.01, abs=0.005)


def test_recorded_passes_give_what_others_give(on_gpu):
    """Jobs of other ranks and lengths, with new weights before each of five passes; the third one is recorded."""
    base, _ = on_gpu
    if base.entry.kind == "encoder":
        pytest.skip("only passes whose mask says all are recorded")
    pack = Pack(base, adapted_names(base, LoraSpec()))

    def job(own, number):
        found = []
        with lora(own, LoraSpec(rank=1 + number), number):
            make = torch.Generator().manual_seed(number)
            for _ in range(5):
                size = 5 + 3 * number
                ids = torch.randint(256, (1, size), generator=make).cuda()
                mask = torch.ones(1, 1, size, size, dtype=torch.bool).tril().cuda()
                own.adapter.forget()
                with torch.no_grad():
                    own.adapter.flat.copy_(0.1 * torch.randn(own.adapter.flat.shape, generator=make))
                states = hidden_states(own, ids, mask, torch.arange(size)[None].cuda())
                backward(own, states.cumsum(1).square().mean())
                gradient = torch.cat([part.reshape(-1) for part in own.adapter.gradients()])
                found.append((states.detach().clone(), gradient.clone()))
        return found

    packed = pack.run([lambda own, n=n: job(own, n) for n in range(3)])
    assert pack.network.recordings.count == 1
    for number, found in enumerate(packed):
        for (states, gradient), (alone, expected) in zip(found, job(base, number), strict=True):
            assert (states - alone).norm() < 0.05 * alone.norm()
            assert (gradient - expected).norm() < 0.1 * expected.norm()


def test_a_pass_that_meets_a_recording_in_use_is_made_beside_it(on_gpu):
    base, _ = on_gpu
    if base.entry.kind == "encoder":
        pytest.skip("only passes whose mask says all are recorded")
    pack = Pack(base, adapted_names(base, LoraSpec()))

    def job(own):
        ids = torch.arange(12)[None].cuda()
        given = ids, torch.ones(1, 1, 12, 12, dtype=torch.bool).tril().cuda(), torch.arange(12)[None].cuda()
        found = []
        with lora(own, LoraSpec(), 0):
            for _ in range(6):
                own.adapter.forget()
                first, second = hidden_states(own, *given), hidden_states(own, *given)  # before either's gradient
                backward(own, (first.cumsum(1) * second).square().mean())
                found.append(torch.cat([part.reshape(-1) for part in own.adapter.gradients()]))
        return found

    found = pack.run_one(job)
    assert pack.network.recordings.count == 1
    assert all((gradient - found[0]).norm() < 0.02 * found[0].norm() for gradient in found)
