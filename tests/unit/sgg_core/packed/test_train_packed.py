"""Packed jobs against the same jobs one by one: the whole loss curve, the adapter, and how each of them ends."""

import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from sgg_core import lora_layers, trainer
from sgg_core.base_loading import load_base
from sgg_core.errors import SpecError, TrainingDivergedError
from sgg_core.guidance.passes import TaskBatch
from sgg_core.packed.meeting import Pack
from sgg_core.packed.train import PackedJob, check_together, train_packed
from sgg_core.reporting import Finished, SilentReporter, StepMetrics, Stopped
from tests.mixtures import save_tiny_mixture

train = partial(trainer.train, with_documents=False)  # nobody reads them here

TOLERANCE = 1e-5  # of losses
# AdamW divides by the gradient's size, and so makes the rounding of small gradients large, on some processors more than
# on others; in float64 what it makes of it is small
ADAPTER_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-10}


@pytest.fixture
def few(file_of):
    """Files that differ in their texts and lengths."""

    def build(number):
        words = {"good": ("fine", "sunny", "great", "warm"), "bad": ("poor", "rainy", "awful", "cold")}
        rows = [
            {"text": " ".join([word] * (1 + place * number % 5)) + " x" * number, "label": label}
            for label, some in words.items()
            for place, word in enumerate(some)
        ]
        return file_of(rows, f"few{number}.jsonl")

    return build


@pytest.fixture
def chats(file_of):
    """Files of answers to learn by heart."""

    def build(number):
        turns = [[("user", f"say {word}"), ("assistant", word * number)] for word in ("ho", "hum", "hey", "oh")]
        return file_of(
            [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns], "chat.jsonl"
        )

    return build


def mixed(base, spec_for, few, chats, file_of):
    """Eight jobs that differ in all that they may, each with its training file: a causal language model learns label
    words, completions and chats, an encoder by contrast and by cross-entropy."""
    encoder = base.entry.kind == "encoder"
    completions = [{"prompt": f"{word} is", "completion": f" {word * 2}!"} for word in ("sun", "rain", "wind", "ice")]
    specs = [
        spec_for(base, seed=1, guidance={"every": 1}),
        spec_for(
            base,
            seed=2,
            lora={"rank": 3, "alpha": 4.0},
            optimization={"learning_rate": 0.003, "max_steps": 9},
            guidance={"every": 2, "reference": "anchor"},
        ),
        spec_for(base, seed=3, method="supervised", optimization={"batch_size": 3}),
        spec_for(
            base,
            seed=4,
            guidance={"every": 1, "reference": "base_kl"},
            task={"objective": "cross_entropy"} if encoder else {},
        ),
        spec_for(base, seed=5, guidance={"variant": "momentum", "alignment": 0.5}),
        spec_for(
            base,
            seed=6,
            guidance={"every": 1, "clip_z": None},
            optimization={"learning_rate": 0.5, "max_steps": 20, "warmup_fraction": 0.5, "clip_norm": 0.05},
            evaluation={"every_steps": 1, "patience": 1, "keep": "best"},
        ),
        spec_for(base, seed=7, guidance={"every": 1}, task={"objective": "cross_entropy"} if encoder else {}),
        spec_for(base, seed=8, guidance={"every": 1, "direction": 0.9}, optimization={"weight_decay": 0.1}),
    ]
    files = [few(number + 1) for number in range(len(specs))]
    if not encoder:
        files[6:] = file_of(completions, "completions.jsonl"), chats(2)
    return list(zip(specs, files, strict=True))


def packed_job(spec, number, training, tmp_path, **more):
    return PackedJob(spec, training, tmp_path / f"packed-{number}", SilentReporter(), **more)


def losses(reporter):
    return [message.train_loss for message in reporter.messages if isinstance(message, StepMetrics)]


def assert_as_alone(base, job, tmp_path):
    """Train the job's twin alone, and compare curve, adapter, and what was said."""
    reporter, output = SilentReporter(), tmp_path / f"alone-{job.output.name}"
    train(
        job.spec,
        base,
        job.training,
        output=output,
        reporter=reporter,
        validation=job.validation,
        sources=job.sources,
        checkpoints=None if job.checkpoints is None else tmp_path / f"checkpoints-of-{output.name}",
    )
    assert losses(job.reporter) == pytest.approx(losses(reporter), rel=TOLERANCE, abs=1e-7)
    assert [message.type for message in job.reporter.messages] == [message.type for message in reporter.messages]
    assert_same_adapter(base, job.output, output)


def assert_same_adapter(base, *outputs):
    """Compare what two runs have written, as one vector."""
    together, alone = (load_file(path / "adapter_model.safetensors") for path in outputs)
    assert set(together) == set(alone)
    apart = torch.stack([(together[name] - alone[name]).norm() for name in alone]).norm()
    tolerance = ADAPTER_TOLERANCE[base.model.dtype]
    assert apart <= tolerance * torch.stack([weight.norm() for weight in alone.values()]).norm()


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def precise(base, request, in_precision):
    """Both tiny base models in both precisions."""
    with in_precision(base, request.param):
        yield base


def test_packed_jobs_are_the_runs_made_one_by_one(precise, spec_for, few, chats, file_of, validation, source, tmp_path):
    base = precise
    jobs = [
        packed_job(
            spec,
            number,
            training,
            tmp_path,
            validation=validation if training.kind == "classification" else None,
            sources=(source,) if number == 4 else (),
            checkpoints=tmp_path / f"checkpoints-{number}",
        )
        for number, (spec, training) in enumerate(mixed(base, spec_for, few, chats, file_of))
    ]
    assert len(jobs) == 8
    names = set(base.model.state_dict())
    for ended in train_packed(base, jobs):
        assert isinstance(ended, Finished), ended
    assert set(base.model.state_dict()) == names and base.rendezvous is None
    assert len(losses(jobs[5].reporter)) < 20, "its patience was over"
    for job in jobs:
        assert_as_alone(base, job, tmp_path)


@pytest.mark.parametrize("first", ["packed", "alone"])
def test_a_job_goes_on_alone_from_a_packs_checkpoint_and_in_a_pack_from_its_own(
    precise, spec_for, few, tmp_path, first
):
    base, spec, saved = precise, spec_for(precise, seed=1, guidance={"every": 1}), tmp_path / "saved"

    def run(packed, reporter, output, **more):
        job = PackedJob(spec, few(1), output, reporter, **more)
        if not packed:
            return train(spec, base, job.training, output=output, reporter=reporter, **more)
        neighbours = [packed_job(spec_for(base, seed=n), f"{output.name}-{n}", few(n), tmp_path) for n in (2, 3)]
        return train_packed(base, [neighbours[0], job, neighbours[1]])[1]

    whole, before, after = SilentReporter(), StopsAt(3), SilentReporter()
    run(False, whole, tmp_path / "whole")
    stopped = run(first == "packed", before, tmp_path / "never", checkpoints=saved)
    assert isinstance(stopped, Stopped) and stopped.step == 3
    ended = run(first == "alone", after, tmp_path / "rest", resume_from=saved / "step-00000003")
    assert isinstance(ended, Finished)
    assert losses(before) + losses(after) == pytest.approx(losses(whole), rel=TOLERANCE)
    assert_same_adapter(base, tmp_path / "rest", tmp_path / "whole")


def test_equal_jobs_take_the_passes_of_one(base, spec_for, training, tmp_path, monkeypatch):
    """Each batch of training examples goes through the network once for all jobs."""
    spec = spec_for(base, guidance={"every": 2})
    taken = []
    gradient = TaskBatch.gradient
    monkeypatch.setattr(TaskBatch, "gradient", lambda batch: taken.append(batch) or gradient(batch))
    alone = packed_job(spec, "one", training, tmp_path)
    train(spec, base, training, output=alone.output, reporter=alone.reporter)
    gradients_of_one = len(taken)
    pack = Pack(base, lora_layers.adapted_names(base, spec.lora))
    jobs = [packed_job(spec, number, training, tmp_path) for number in range(4)]
    assert [ended.type for ended in pack.run([job.train for job in jobs])] == ["finished"] * 4
    assert len(taken) == 5 * gradients_of_one
    assert pack.forwards == gradients_of_one
    for job in jobs:
        assert losses(job.reporter) == pytest.approx(losses(alone.reporter), rel=TOLERANCE)


class StopsAt(SilentReporter):
    """Cancels after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def control(self):
        return "cancel" if len(losses(self)) == self.steps else "continue"


def test_a_job_that_diverges_or_is_stopped_leaves_alone(base, spec_for, few, tmp_path):
    rates = {"learning_rate": 1.0, "learning_rate_multiplier": 100.0, "clip_norm": None, "warmup_fraction": 0.0}
    rates |= {"weight_decay": 1.0, "max_steps": 60, "epochs": 60}
    wild = spec_for(base, lora={"alpha": 1024}, optimization=rates)
    jobs = [
        packed_job(spec_for(base, seed=1), 0, few(1), tmp_path),
        packed_job(wild, 1, few(2), tmp_path),
        PackedJob(spec_for(base, seed=2), few(3), tmp_path / "stopped", StopsAt(2), checkpoints=tmp_path / "saved"),
    ]
    finished, diverged, stopped = train_packed(base, jobs)
    assert isinstance(diverged, TrainingDivergedError) and not jobs[1].output.exists()
    assert isinstance(stopped, Stopped) and stopped.step == 2
    assert isinstance(finished, Finished)
    assert_as_alone(base, jobs[0], tmp_path)
    again = replace(jobs[2], reporter=SilentReporter(), resume_from=tmp_path / "saved" / "step-00000002")
    (ended,) = train_packed(base, [again])
    assert isinstance(ended, Finished) and len(losses(again.reporter)) == 4


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"lora": {"dropout": 0.1}}, "lora.dropout"),
        ({"guidance": {"variant": "exact"}}, "'exact'"),
        ({"resources": {"deterministic": True}}, "resources.deterministic"),
        ({"lora": {"targets": ["q_proj"]}}, "lora.targets"),
        ({"resources": {"gpus": 2}}, "resources.gpus"),
        ({"base_model": "another"}, "base_model"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_training(causal, spec_for, training, tmp_path, groups, said):
    specs = [spec_for(causal), spec_for(causal, **groups)]
    jobs = [packed_job(spec, number, training, tmp_path) for number, spec in enumerate(specs)]
    with pytest.raises(SpecError, match=f"Job 2 cannot be trained in a pack: .*{said}"):
        train_packed(causal, jobs)
    assert jobs[0].reporter.messages == []


def test_a_mixture_of_experts_is_refused_before_training(spec_for, training, tmp_path):
    base = load_base(save_tiny_mixture(tmp_path / "mixture"))
    jobs = [packed_job(spec_for(base, seed=seed), seed, training, tmp_path) for seed in range(2)]
    with pytest.raises(SpecError, match=r"mixes the rows of a batch.*one after another"):
        train_packed(base, jobs)
    assert jobs[0].reporter.messages == []


def test_plain_lora_may_name_a_variant_that_it_ignores(causal, spec_for):
    check_together(causal, [spec_for(causal, method="supervised", guidance={"variant": "exact"})])
    assert train_packed(causal, []) == []


def test_what_packs_keep_for_the_next_one_is_freed_when_a_job_trains_alone(base, spec_for, training, tmp_path):
    spec = spec_for(base, optimization={"max_steps": 1})

    def left():
        return [weakref.ref(spare.resting) for spare in base.spare if spare.resting is not None]

    def alone(name, **optimization):
        own = spec_for(base, optimization={"max_steps": 1, **optimization})
        train(own, base, training, output=tmp_path / name, reporter=SilentReporter())

    train_packed(base, [packed_job(spec, number, training, tmp_path) for number in range(2)])
    kept = left()
    assert len(kept) >= 2, "the next pack begins sooner"
    alone("single")
    gc.collect()
    assert [each() for each in kept] == [None] * len(kept)
    alone("several", seeds=2)
    assert base.spare and left() == []
