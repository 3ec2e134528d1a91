"""A team of two processes against one process: gradients, whole loss curves, and resumed runs."""

import math
from functools import partial

import pytest
import torch

from sgg_core import trainer
from sgg_core.errors import HelperLostError
from sgg_core.gradients import combined, norm
from sgg_core.guidance.passes import TaskBatch
from sgg_core.lora_layers import lora
from sgg_core.reporting import SilentReporter, StepMetrics, Stopped
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.tasks.contrast import Contrast
from sgg_core.tasks.pooled_head import PooledHead

train = partial(trainer.train, with_documents=False)  # nobody reads them here

TOLERANCE = 1e-5  # of losses
LORA = {"rank": 2}


CASES = [
    ("causal", "texts", {}),
    ("causal", "chats", {}),
    ("encoder", "texts", {"objective": "cross_entropy"}),
    ("encoder", "texts", {"objective": "contrast"}),
]
cases = pytest.mark.parametrize(
    ("kind", "data", "task"),
    CASES,
    ids=["label words", "chats", "head", "contrast"],
    scope="module",  # tests of one case come together, so that they find their team there
)


def passes_over(base, examples, spec, size, contrast):
    """Gradient, Hessian-vector product and drift of the first `size` examples, at weights that are not the first."""
    with lora(base, spec.lora, 0) as adapted:
        task = make_task(spec, base, examples)
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        parameters += [] if task.head() is None or contrast else list(task.head().parameters())
        draw = torch.Generator().manual_seed(0)
        origin = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
        vector = [torch.randn(parameter.shape, generator=draw) for parameter in parameters]
        if contrast:
            assert isinstance(task, PooledHead)
            others = 0.5 * torch.ones(len(task.labels), len(task.labels))
            task = Contrast(task, others.fill_diagonal_(1.0))
        batch = TaskBatch(task, encoded(task if not contrast else task.pooled, examples)[:size], parameters, 0)
        found = batch.gradient()
        return found, [found.gradient, batch.product(vector), batch.drift(origin)]


@cases
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_pair_computes_what_one_process_does(kind, data, task, size, alone, pair, spec_for, request):
    """With one example the helper's part is empty, with three or five it is the smaller one."""
    examples = request.getfixturevalue(data)
    spec = spec_for(alone[kind], lora=LORA, task=task)
    contrast = task.get("objective") == "contrast"
    one, expected = passes_over(alone[kind], examples, spec, size, contrast)
    two, vectors = passes_over(pair(kind), examples, spec, size, contrast)
    assert (two.loss, two.accuracy) == (pytest.approx(one.loss, rel=1e-6), one.accuracy)
    for ours, theirs in zip(vectors, expected, strict=True):
        assert norm(combined([(1.0, ours), (-1.0, theirs)])) <= TOLERANCE * norm(theirs)


def losses(reporter):
    return [message.train_loss for message in reporter.messages if isinstance(message, StepMetrics)]


class StopsAt(SilentReporter):
    """Pauses after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def control(self):
        return "pause" if len(losses(self)) == self.steps else "continue"


def curve(base, spec, examples, output, steps=math.inf, **more):
    """Losses of a run, which is ended after some steps."""
    reporter = StopsAt(steps)
    train(spec, base, examples, output=output, reporter=reporter, **more)
    return losses(reporter)


@cases
def test_a_pairs_loss_curve_is_that_of_one_process(kind, data, task, alone, pair, spec_for, tmp_path, request):
    """Guided in every step, with batches of three and two of the five examples."""
    examples = request.getfixturevalue(data)
    spec = spec_for(
        alone[kind],
        lora=LORA,
        task=task,
        optimization={"max_steps": 20, "batch_size": 3},
        guidance={"every": 1, "variant": "finite_difference"},
    )
    expected = curve(alone[kind], spec, examples, tmp_path / "one", steps=12)
    assert len(expected) == 12
    assert curve(pair(kind), spec, examples, tmp_path / "two", steps=12) == pytest.approx(expected, rel=TOLERANCE)


def test_sources_seeds_and_the_plain_rival_are_shared_as_well(
    alone, pair, spec_for, texts, validation, source, tmp_path
):
    spec = spec_for(
        alone["encoder"],
        lora=LORA,
        optimization={"seeds": 2, "max_steps": 4},
        guidance={"every": 2, "reference": "base_kl", "source_weight": "fixed", "alignment": 0.5},
        evaluation={"baselines": ["plain_lora"]},
    )
    more = {"validation": validation, "sources": [source], "memory_bytes": 0}  # one seed after another, as in a team
    expected = curve(alone["encoder"], spec, texts, tmp_path / "one", **more)
    assert len(expected) == 8
    assert curve(pair("encoder"), spec, texts, tmp_path / "two", **more) == pytest.approx(expected, rel=TOLERANCE)


def test_a_source_is_judged_alike(alone, pair, spec_for, training, file_of, tmp_path):
    """Which trains a language model on the source, and on halves of the target."""
    rows = [{"text": example.text, "label": example.label} for example in training.examples]
    optimization = {"max_steps": 12, "epochs": 12, "batch_size": 4, "learning_rate": 0.005}
    spec = spec_for(alone["causal"], lora=LORA, optimization=optimization, guidance={"source_weight": "cross_fitted"})
    told = []
    for base in (alone["causal"], pair("causal")):
        reporter = SilentReporter()
        how = {"sources": [file_of(rows, "same.jsonl")], "output": tmp_path / str(len(told)), "reporter": reporter}
        train(spec, base, training, **how, with_documents=False)
        told.append([each.message for each in reporter.messages if each.type == "notice" and "Source" in each.message])
    assert told[0] == told[1] and "after training on half of them" in told[0][0]


@pytest.mark.parametrize("first", [1, 2])
def test_a_paused_run_goes_on_with_another_number_of_processes(first, alone, pair, spec_for, texts, tmp_path):
    bases = {1: alone["encoder"], 2: pair("encoder")}
    specs = {count: spec_for(alone["encoder"], lora=LORA, resources={"gpus": count}) for count in bases}
    whole = curve(bases[1], specs[1], texts, tmp_path / "whole")
    reporter = StopsAt(3)
    saved = {"output": tmp_path / "paused", "checkpoints": tmp_path / "saved"}
    ended = train(specs[first], bases[first], texts, reporter=reporter, **saved)
    assert isinstance(ended, Stopped) and (ended.reason, ended.step) == ("pause", 3)
    other = 3 - first
    rest = curve(bases[other], specs[other], texts, tmp_path / "rest", resume_from=tmp_path / "saved" / "step-00000003")
    assert losses(reporter) + rest == pytest.approx(whole, rel=TOLERANCE)


def test_a_helper_that_fails_says_why(alone, pair, spec_for, texts, tmp_path):
    """Here since the team was made for another adapter than the one that is trained."""
    spec = spec_for(alone["encoder"], lora={"rank": 3})
    with pytest.raises(HelperLostError, match=r"failed: ValueError: The leader trains .* weights where"):
        train(spec, pair("encoder"), texts, output=tmp_path / "never", reporter=SilentReporter())
