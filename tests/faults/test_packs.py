"""Many jobs of several projects, trained together by one worker: what befalls some is no matter to the rest."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sgg_core.base_loading import load_base
from sgg_core.examples import parse_examples
from sgg_core.reporting import SilentReporter
from sgg_core.spec import TrainingSpec
from sgg_core.trainer import train
from sgg_store.job_state import TERMINAL, AttemptState, JobStatus
from sgg_store.retries import Cause
from tests.adapters import adapter_of
from tests.faults.invariants import check_invariants, most_at_once
from tests.faults.running import trainers_made_by
from worker.embedded import start_embedded
from worker.testing import TWO_LABELS, Workbench

PROJECTS = [f"proj-{letter}" for letter in "abcde"]
AT_ONCE = 8
MANY_TOKENS = b'{"prompt": "Tell it all. ", "completion": "%s"}\n' % (b"and so on " * 60) * 4
STEPS = 6
LIKE: dict[str, Any] = {"max_steps": STEPS, "epochs": 100, "batch_size": 4, "learning_rate": 0.002}
SPECS: list[dict[str, Any]] = [
    {"seed": 1, "optimization": LIKE},
    {"seed": 2, "optimization": LIKE, "lora": {"rank": 2}},
    {"seed": 3, "optimization": LIKE, "method": "supervised"},
    {"seed": 4, "optimization": LIKE | {"batch_size": 3}, "guidance": {"every": 1}},
]
WILD: dict[str, Any] = {
    "lora": {"alpha": 1024},
    "optimization": {"learning_rate": 1.0, "learning_rate_multiplier": 100.0, "clip_norm": None, "weight_decay": 1.0}
    | {"warmup_fraction": 0.0, "max_steps": 200, "epochs": 1000},
}
LARGE: dict[str, Any] = {"task": {"max_tokens": 1024}, "optimization": {"max_steps": 2}}
LONG: dict[str, Any] = {"optimization": LIKE | {"max_steps": 3000, "epochs": 1000}}

SCARCE_MEMORY = """
import torch
from transformers import LlamaModel
from worker import fork_server_process

forward = LlamaModel.forward

def scarce(self, input_ids=None, **more):
    if torch.is_grad_enabled() and input_ids.numel() > 500:
        raise torch.OutOfMemoryError("Memory did not suffice for so many tokens.")
    return forward(self, input_ids=input_ids, **more)

LlamaModel.forward = scarce
fork_server_process.main()
"""

BROKEN_PASSES = """
import torch
from transformers import LlamaModel
from worker import fork_server_process

forward = LlamaModel.forward

def broken(self, input_ids=None, **more):
    if torch.is_grad_enabled() and len(input_ids) > 1:
        raise RuntimeError("The library gave up.")
    return forward(self, input_ids=input_ids, **more)

LlamaModel.forward = broken
fork_server_process.main()
"""


@pytest.fixture
def scarce_memory() -> Iterator[None]:
    """Trainers whose memory suffices for a pass of 500 tokens."""
    with trainers_made_by(SCARCE_MEMORY):
        yield


def alone(bench: Workbench, directory: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of each of SPECS, trained by itself."""
    base, training = load_base(bench.base_model), parse_examples(TWO_LABELS, "examples.jsonl")
    for number, groups in enumerate(SPECS):
        spec = TrainingSpec.model_validate({"base_model": bench.base_model.name} | groups)
        train(spec, base, training, output=directory / str(number), reporter=SilentReporter())
    return [load_file(directory / str(number) / "adapter_model.safetensors") for number in range(len(SPECS))]


def cancel_at_random(bench: Workbench, job_ids: Sequence[str], chance: random.Random, seconds: float) -> None:
    """Cancel these jobs, each at a step of its own or before the first, while all others go on to their ends."""
    wanted = {job_id: chance.choice((0, 0, 1, 5, 20)) for job_id in job_ids}
    deadline = time.monotonic() + seconds
    while not all(job.status in TERMINAL for job in bench.jobs()):
        assert time.monotonic() < deadline, [(job.id, job.status, job.step) for job in bench.jobs()]
        for job in bench.jobs():
            if job.id in wanted and job.step >= wanted[job.id]:
                bench.cancel(job.id)
                del wanted[job.id]
        time.sleep(0.1)


@pytest.mark.usefixtures("scarce_memory")
@pytest.mark.parametrize("jobs", [12, pytest.param(100, marks=(pytest.mark.slow, pytest.mark.timeout(2000)))])
def test_of_many_jobs_that_are_trained_together_each_ends_as_it_would_alone(
    make_bench: Callable[..., Workbench], tmp_path: Path, jobs: int
) -> None:
    bench, chance = make_bench(jobs_at_once=AT_ONCE), random.Random(jobs)
    cancelled = jobs // 4
    kinds = ["wild", "large", *["long"] * cancelled, *range(jobs - cancelled - 2)]
    chance.shuffle(kinds)
    job_ids: dict[Any, list[str]] = {kind: [] for kind in ("wild", "large", "long", *range(len(SPECS)))}
    for kind in kinds:
        project = chance.choice(PROJECTS)
        if kind == "large":
            job_ids[kind].append(bench.submit(MANY_TOKENS, project_id=project, **LARGE))
        elif kind in ("wild", "long"):
            job_ids[kind].append(bench.submit(project_id=project, **(WILD if kind == "wild" else LONG)))
        else:
            spec = int(kind) % len(SPECS)
            job_ids[spec].append(bench.submit(project_id=project, **SPECS[spec]))
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    try:
        cancel_at_random(bench, job_ids["long"], chance, seconds=20 * jobs)
    finally:
        worker.stop()
    assert len(bench.jobs()) == jobs and most_at_once(bench.database) > AT_ONCE // 2
    check_invariants(bench.database, bench.objects, {})
    for job_id in job_ids["long"]:
        assert bench.job(job_id).status is JobStatus.CANCELLED
    for kind, code in (("wild", "training_diverged"), ("large", "out_of_memory")):
        (job_id,) = job_ids[kind]
        assert (bench.job(job_id).status, bench.job(job_id).error_code) == (JobStatus.FAILED, code)
    for number, expected in enumerate(alone(bench, tmp_path / "alone")):
        for job_id in job_ids[number]:
            assert bench.job(job_id).status is JobStatus.SUCCEEDED
            assert [(attempt.state, attempt.detail) for attempt in bench.attempts(job_id)] == [
                (AttemptState.SUCCEEDED, None)
            ]
            assert bench.steps(job_id) == list(range(1, STEPS + 1))
            told = [event.data["step"] for event in bench.events(job_id) if event.type == "metrics"]
            assert told == list(range(1, STEPS + 1))
            found = adapter_of(bench, job_id)
            assert found.keys() == expected.keys()
            apart = torch.stack([(found[name] - weights).norm() for name, weights in expected.items()]).norm()
            # AdamW divides by the gradient's size, and so makes the rounding of small gradients large
            assert apart <= 1e-3 * torch.stack([weights.norm() for weights in expected.values()]).norm()


def test_an_unexpected_error_of_a_shared_pass_costs_each_job_an_attempt_and_not_its_end(
    make_bench: Callable[..., Workbench],
) -> None:
    with trainers_made_by(BROKEN_PASSES):
        bench = make_bench(jobs_at_once=2)
        job_ids = [bench.submit(seed=seed, optimization=LIKE | {"max_steps": 60}) for seed in range(2)]
        worker = start_embedded(bench.settings, bench.database, bench.objects)
        try:
            ended = [bench.wait_for_end(job_id) for job_id in job_ids]
        finally:
            worker.stop()
    assert [(job.status, job.error_message) for job in ended] == [(JobStatus.SUCCEEDED, None)] * 2
    for job_id in job_ids:
        first, second = bench.attempts(job_id)
        assert first.cause is Cause.CRASHED and "tried again alone" in (first.detail or "")
        assert second.state is AttemptState.SUCCEEDED
    check_invariants(bench.database, bench.objects, {})
