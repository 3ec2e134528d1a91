"""The training loop: plain LoRA to the bit without guidance, resumable, stoppable, and honest about what it did."""

import hashlib
import json
import random
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch
from safetensors.torch import load_file

from sgg_core import plan, trainer
from sgg_core.adapter_file import canonical
from sgg_core.catalogue import Catalogue
from sgg_core.errors import DataError, SpecError, TrainingDivergedError
from sgg_core.evaluation import log_probabilities
from sgg_core.examples import read_examples
from sgg_core.figures import classification_figures
from sgg_core.lora_layers import lora
from sgg_core.predictor import load_predictor
from sgg_core.reporting import SilentReporter, StepMetrics
from sgg_core.seeding import derived_seed
from sgg_core.tasks.choice import encoded, make_task, probe_head
from sgg_core.tiny import tiny_base

train = partial(trainer.train, with_documents=False)  # nobody reads them here

TWELVE = {"max_steps": 12, "batch_size": 3}


class StoppingReporter(SilentReporter):
    """Answers `wish` once `steps` steps are done."""

    def __init__(self, wish, steps):
        super().__init__()
        self.wish, self.steps = wish, steps

    def control(self):
        done = sum(isinstance(message, StepMetrics) for message in self.messages)
        return self.wish if done >= self.steps else "continue"


def weights(directory):
    """Trained tensors of an adapter directory or a checkpoint by their names in a checkpoint."""
    return {
        name.replace(".default.", "."): tensor
        for path in directory.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def fingerprint(base):
    state = base.model.state_dict()
    content = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(state.items()))
    return hashlib.sha256(content).hexdigest()


def rows_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def report_of(directory, *without):
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return {key: value for key, value in report.items() if key not in without}


def naive_lora(spec, base, training, rate, warmup, clip_norm, correct=None):
    """Plain LoRA with AdamW, written down once more: order, schedule, mean, clipping. Returns the weights by name.

    `correct` may change the gradients of a step before they are clipped, and can take them once more.
    """
    with lora(base, spec.lora, spec.seed) as adapted:
        task = make_task(spec, base, training)
        items = encoded(task, training)
        probe_head(task, items)
        trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        trained |= {} if task.head() is None else dict(task.head().named_parameters())
        optimizer = torch.optim.AdamW(trained.values(), lr=rate, weight_decay=0.0)
        total, size = spec.optimization.max_steps, spec.optimization.batch_size
        batches = []
        for epoch in range(spec.optimization.epochs):
            order = list(range(len(items)))
            random.Random(derived_seed(spec.seed, "order", epoch)).shuffle(order)
            batches += [order[start : start + size] for start in range(0, len(order), size)]

        def differentiate(batch):
            optimizer.zero_grad()
            for group in task.passes([items[index] for index in batch]):
                (task.loss([items[batch[place]] for place in group]).total / len(batch)).backward()

        for step, batch in enumerate(batches[:total], start=1):
            differentiate(batch)
            if correct is not None:
                correct(step, list(trained.values()), partial(differentiate, batch))
            factors = [p.grad.reshape(-1) for name, p in trained.items() if ".lora_" in name]
            head = [p.grad for name, p in trained.items() if ".lora_" not in name]
            norms = [torch.linalg.vector_norm(grad) for grad in (torch.cat(factors), *head)]
            factor = (clip_norm / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
            for parameter in trained.values():
                parameter.grad.mul_(factor)
            late = (total - step + 1) / (total - warmup)
            optimizer.param_groups[0]["lr"] = rate * step / warmup if step <= warmup else rate * late
            optimizer.step()
        return {name.replace(".default.", "."): p.detach().clone() for name, p in trained.items()}


def naive_guided(spec, base, training, magnitude, radius, ramp, **plain):
    """The same with the magnitude regularizer at each step, written down once more, too."""

    def correct(step, parameters, differentiate):
        share = magnitude * min(1.0, max(0.0, (step - plain["warmup"]) / ramp))
        gradient = [parameter.grad.clone() for parameter in parameters]
        places = [parameter.detach().clone() for parameter in parameters]
        length = torch.cat([part.flatten() for part in gradient]).norm()
        with torch.no_grad():
            for parameter, part in zip(parameters, gradient, strict=True):
                parameter += radius * part / length
        differentiate()
        with torch.no_grad():
            for parameter, place, part in zip(parameters, places, gradient, strict=True):
                parameter.copy_(place)
                parameter.grad = part + share * (parameter.grad - part)

    return naive_lora(spec, base, training, **plain, correct=correct)


ZERO = {"direction": 0.0, "magnitude": 0.0, "alignment": 0.0, "clip_z": None}
WITHOUT_GUIDANCE = {
    "supervised": {"method": "supervised"},
    "off": {"guidance": {"variant": "off"}},
    "zero": {"guidance": ZERO},
    "exact zero": {"guidance": ZERO | {"variant": "exact"}},
    "momentum zero": {"guidance": ZERO | {"variant": "momentum"}},
    "never": {"guidance": {"every": 100, "clip_z": None}},
}


def test_a_run_without_guidance_is_plain_lora_bit_for_bit(base, training, spec_for, tmp_path, adapter_bytes):
    for name, groups in WITHOUT_GUIDANCE.items():
        spec = spec_for(
            base, **groups, task={"objective": "cross_entropy"},
            optimization=TWELVE | {"warmup_fraction": 0.25, "clip_norm": 0.3, "balanced_batches": False},
        )  # fmt: skip
        train(spec, base, training, output=tmp_path / name, reporter=SilentReporter())
    outcomes = [adapter_bytes(tmp_path / name) for name in WITHOUT_GUIDANCE]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    expected = naive_lora(spec, base, training, rate=0.01, warmup=3, clip_norm=0.3)
    found = weights(tmp_path / "supervised")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_guided_run_is_plain_lora_with_corrected_gradients(base, training, spec_for, tmp_path):
    guidance = {"magnitude": 0.7, "direction": 0.0, "every": 1, "radius": 0.5, "ramp_fraction": 0.5, "clip_z": None}
    spec = spec_for(
        base, guidance=guidance, task={"objective": "cross_entropy"},
        optimization=TWELVE | {"warmup_fraction": 0.25, "clip_norm": 0.3, "balanced_batches": False},
    )  # fmt: skip
    train(spec, base, training, output=tmp_path / "guided", reporter=SilentReporter())
    found, plain = weights(tmp_path / "guided"), {"rate": 0.01, "warmup": 3, "clip_norm": 0.3}
    expected = naive_guided(spec, base, training, magnitude=0.7, radius=0.5, ramp=6, **plain)
    assert set(found) == set(expected)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-5) for name in expected)
    unguided = naive_lora(spec, base, training, **plain)
    assert not any(torch.allclose(found[name], unguided[name], rtol=1e-3, atol=1e-5) for name in expected)


def test_the_head_of_a_source_is_trained_as_well(encoder, training, source, spec_for, tmp_path):
    spec = spec_for(encoder, guidance={"source_weight": "fixed"}, task={"objective": "cross_entropy"})
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    train(spec, encoder, training, sources=[source], reporter=SilentReporter(), **places)
    early, late = (weights(tmp_path / "c" / f"step-{step:08d}") for step in (2, 6))
    of_source = [name for name in early if name.startswith("source")]
    assert of_source and not any(torch.equal(early[name], late[name]) for name in of_source)


def test_guidance_changes_the_adapter(base, training, spec_for, tmp_path, adapter_bytes):
    for method in ("sgg", "supervised"):
        train(spec_for(base, method=method), base, training, output=tmp_path / method, reporter=SilentReporter())
    assert adapter_bytes(tmp_path / "sgg") != adapter_bytes(tmp_path / "supervised")


VARIANTS = {
    "ema": {},
    "split": {"guidance": {"reference": "split", "clip_z": 0.01}},
    "sources": {"guidance": {"alignment": 0.5, "source_scope": "layer"}},
    "sources that help": {"guidance": {"source_weight": "cross_fitted"}},
    "sources of equal rank": {"guidance": {"source_weight": "equal"}},
    "anchor": {"guidance": {"reference": "anchor"}},
    "base_kl": {"guidance": {"reference": "base_kl"}},
    "base_kl after sources that help": {"guidance": {"reference": "base_kl", "source_weight": "cross_fitted"}},
    "exact": {"guidance": {"variant": "exact"}},
    "momentum": {"guidance": {"variant": "momentum"}},
    "every": {"guidance": {"every": 3}},
    "best": {"evaluation": {"keep": "best", "every_steps": 3}},
    "dropout": {"lora": {"dropout": 0.3}, "optimization": {"weight_decay": 0.1}},
    "supervised": {"method": "supervised"},
    "names": {"task": {"label_names": True}},
    "names, by cross-entropy": {"method": "supervised", "task": {"label_names": True}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_the_uninterrupted_one(
    variant, base, training, validation, source, file_of, spec_for, tmp_path, adapter_bytes, told
):
    groups = VARIANTS[variant]
    spec = spec_for(base, **(groups | {"optimization": TWELVE | groups.get("optimization", {})}))
    other = file_of([{"text": f"{n} x", "label": "even" if n % 2 else "odd"} for n in range(5)], "other.jsonl")
    data = {"validation": validation, "sources": [source, other] if "sources" in variant else []}
    whole, resumed = SilentReporter(), SilentReporter()
    train(spec, base, training, **data, output=tmp_path / "a", reporter=whole, checkpoints=tmp_path / "c")
    checkpoint = tmp_path / "c" / "step-00000008"
    train(
        spec,
        base,
        training,
        **data,
        output=tmp_path / "b",
        reporter=resumed,
        checkpoints=tmp_path / "d",
        resume_from=checkpoint,
    )
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")
    ends = [tmp_path / name / "step-00000012" for name in "cd"]
    assert (ends[0] / "state.safetensors").read_bytes() == (ends[1] / "state.safetensors").read_bytes()
    scalars = [json.loads((end / "state.json").read_text(encoding="utf-8")) for end in ends]
    for name in ("reference_updates", "clip", "agreements", "trust", "optimizer_steps"):
        assert scalars[0][name] == scalars[1][name]
    after = [message for message in told(whole, "step", "evaluation", "checkpoint") if message["step"] > 8]
    assert told(resumed, "step", "evaluation", "checkpoint") == after
    assert told(resumed, "started")[0]["first_step"] == 9
    without_seconds = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in rows_of(tmp_path / name)]
        for name in "ab"
    ]
    assert without_seconds[0] == without_seconds[1]
    assert report_of(tmp_path / "a", "seconds") == report_of(tmp_path / "b", "seconds")


def test_a_run_keeps_the_plan_that_it_began_with_under_a_release_of_other_defaults(
    base, training, source, spec_for, tmp_path, adapter_bytes, monkeypatch
):
    spec = spec_for(base, checkpoint={"every_steps": 4})
    data = {"sources": [source], "reporter": SilentReporter()}
    train(spec, base, training, **data, output=tmp_path / "a", checkpoints=tmp_path / "c")
    steps = report_of(tmp_path / "a", "seconds")["steps"]
    monkeypatch.setattr(plan, "BALANCED_BATCH_SIZE", 4)
    monkeypatch.setitem(plan.STEPS, "causal", 100)
    train(spec, base, training, **data, output=tmp_path / "b", resume_from=tmp_path / "c" / "step-00000004")
    assert report_of(tmp_path / "b", "seconds")["steps"] == steps
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")


@pytest.mark.parametrize(("mixed_until", "later"), [(0.5, 0.0), (0.0, 0.5)])
def test_a_run_keeps_the_kinship_that_it_began_with_wherever_it_goes_on(
    mixed_until, later, encoder, file_of, spec_for, tmp_path, adapter_bytes, monkeypatch
):
    """Its examples are mixed where it begins, and told apart where it goes on, or the other way round."""
    words = ("bad", "good", "plain")
    examples = file_of([{"text": f"text {n // 3} of all", "label": words[n % 3]} for n in range(12)])
    spec = spec_for(encoder, task={"objective": "contrast", "label_names": True}, optimization=TWELVE)
    places = {"reporter": SilentReporter(), "checkpoints": tmp_path / "c"}
    monkeypatch.setattr("sgg_core.tasks.kinship.MIXED", mixed_until)
    train(spec, encoder, examples, output=tmp_path / "a", **places)
    checkpoint = tmp_path / "c" / "step-00000008"
    kinship = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["progress"]["kinship"]
    assert any(0 < share < 1 for row in kinship for share in row) if mixed_until else kinship == []
    monkeypatch.setattr("sgg_core.tasks.kinship.MIXED", later)
    train(spec, encoder, examples, output=tmp_path / "b", reporter=SilentReporter(), resume_from=checkpoint)
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")


@pytest.mark.parametrize("wish", ["cancel", "pause", "drain"])
def test_a_request_to_stop_is_honoured_before_the_next_step_with_a_checkpoint(
    wish, base, training, validation, spec_for, tmp_path, adapter_bytes
):
    spec = spec_for(base, checkpoint={"every_steps": 2})
    reporter = StoppingReporter(wish, 3)
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    stopped = train(spec, base, training, validation=validation, reporter=reporter, **places)
    assert (stopped.type, stopped.reason, stopped.step) == ("stopped", wish, 3)
    assert stopped.directory == str(tmp_path / "c" / "step-00000003")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000002", "step-00000003"]
    assert not (tmp_path / "out").exists()
    last = tmp_path / "c" / "step-00000003"
    train(spec, base, training, validation=validation, reporter=SilentReporter(), resume_from=last, **places)
    alone = tmp_path / "alone"
    train(spec, base, training, validation=validation, reporter=SilentReporter(), output=alone)
    assert adapter_bytes(tmp_path / "out") == adapter_bytes(alone)


def test_a_stop_where_a_checkpoint_is_writes_no_other(causal, training, spec_for, tmp_path, told):
    spec = spec_for(causal, checkpoint={"every_steps": 2})
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    there = str(tmp_path / "c" / "step-00000002")
    first, second = StoppingReporter("drain", 2), StoppingReporter("pause", 0)
    stopped = train(spec, causal, training, reporter=first, **places)
    assert (stopped.step, stopped.directory) == (2, there)
    again = train(spec, causal, training, reporter=second, resume_from=Path(there), **places)
    assert (again.step, again.directory) == (2, there)
    assert [len(told(reporter, "checkpoint")) for reporter in (first, second)] == [1, 0]


def test_a_run_stopped_before_its_first_step_has_no_checkpoint(causal, training, spec_for, tmp_path):
    reporter = StoppingReporter("cancel", 0)
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    stopped = train(spec_for(causal), causal, training, reporter=reporter, **places)
    assert (stopped.step, stopped.directory) == (0, None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def contrary(file_of, validation):
    """A validation file that calls good what training calls bad: the better the fit, the worse its loss."""
    swap = {"good": "bad", "bad": "good"}
    return file_of([{"text": e.text, "label": swap[e.label]} for e in validation.classification], "contrary.jsonl")


def test_a_run_ends_when_patience_does(base, training, contrary, spec_for, tmp_path, told):
    evaluation = {"every_steps": 1, "patience": 2}
    spec = spec_for(base, optimization=TWELVE, evaluation=evaluation, task={"objective": "cross_entropy"})
    reporter = SilentReporter()
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    finished = train(spec, base, training, validation=contrary, reporter=reporter, **places)
    losses = [message["valid_loss"] for message in told(reporter, "evaluation")]
    assert finished.stopped_early and finished.step == len(losses) < 12
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best == len(losses) - 3
    assert all(min(losses[: end - 2]) > min(losses[end - 2 : end]) for end in range(3, len(losses)))
    assert (tmp_path / "c" / f"step-{finished.step:08d}").is_dir()
    report = report_of(tmp_path / "out")
    assert (report["stopped_early"], report["steps"], report["kept_step"]) == (True, finished.step, finished.step)


def test_a_run_that_had_ended_early_ends_again_when_resumed(
    causal, training, contrary, spec_for, tmp_path, adapter_bytes
):
    spec = spec_for(causal, optimization=TWELVE, evaluation={"every_steps": 1, "patience": 1})
    data = {"validation": contrary, "checkpoints": tmp_path / "c", "reporter": SilentReporter()}
    finished = train(spec, causal, training, output=tmp_path / "a", **data)
    last = tmp_path / "c" / f"step-{finished.step:08d}"
    again = train(spec, causal, training, output=tmp_path / "b", resume_from=last, **data)
    assert (again.step, again.stopped_early) == (finished.step, True)
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")


def test_the_best_weights_are_kept_on_request(base, training, contrary, spec_for, tmp_path, told):
    evaluation, guidance = {"every_steps": 2, "keep": "best"}, {"every": 1}
    spec = spec_for(
        base, evaluation=evaluation, guidance=guidance, task={"objective": "cross_entropy"},
        optimization={"balanced_batches": False},
    )  # fmt: skip
    reporter = SilentReporter()
    train(
        spec,
        base,
        training,
        validation=contrary,
        output=tmp_path / "out",
        reporter=reporter,
        checkpoints=tmp_path / "c",
    )
    evaluations = told(reporter, "evaluation")
    best = min(evaluations, key=lambda message: message["valid_loss"])
    assert best["step"] < 6
    report = report_of(tmp_path / "out")
    assert (report["kept_step"], report["steps"]) == (best["step"], 6)
    assert report["final"]["valid_loss"] == pytest.approx(best["valid_loss"])
    then = weights(tmp_path / "c" / f"step-{best['step']:08d}")
    kept = weights(tmp_path / "out")
    assert all(torch.equal(then.get(name, then.get(f"head.{name}")), tensor) for name, tensor in kept.items())
    last = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"keep": "last"})})
    train(last, base, training, validation=contrary, output=tmp_path / "last", reporter=SilentReporter())
    assert report["direction"] == report_of(tmp_path / "last")["direction"]  # of the whole way


def test_a_checkpoint_tells_the_validation_figures_of_its_own_step_only(
    causal, training, validation, spec_for, tmp_path, told
):
    reporter = SilentReporter()
    spec = spec_for(causal, evaluation={"every_steps": 2}, checkpoint={"every_steps": 3})
    places = {"output": tmp_path / "out", "checkpoints": tmp_path / "c"}
    train(spec, causal, training, validation=validation, reporter=reporter, **places)
    losses = {message["step"]: message["valid_loss"] for message in told(reporter, "evaluation")}
    saved = {message["step"]: message["metrics"] for message in told(reporter, "checkpoint")}
    for name in ("valid_loss", "full_valid_loss"):
        assert {step: metrics.get(name) for step, metrics in saved.items()} == {3: None, 6: losses[6]}
    accuracies = [name for name in saved[6] if name.endswith("valid_mean_token_accuracy")]
    assert len(accuracies) == 2 and len({saved[6][name] for name in accuracies}) == 1


@pytest.mark.parametrize("evaluation", [{"keep": "best"}, {"patience": 2}])
def test_choices_by_validation_need_a_validation_file(evaluation, causal, training, spec_for, tmp_path):
    spec = spec_for(causal, evaluation=evaluation)
    with pytest.raises(SpecError, match=r"need a validation file\. Add one\."):
        train(spec, causal, training, output=tmp_path / "out", reporter=SilentReporter())


def test_a_run_that_diverges_says_so_and_what_to_do(base, training, spec_for, tmp_path):
    wild = {"learning_rate": 1.0, "learning_rate_multiplier": 100.0, "clip_norm": None, "warmup_fraction": 0.0}
    wild |= {"weight_decay": 1.0, "max_steps": 60, "epochs": 60}
    spec = spec_for(base, lora={"alpha": 1024}, optimization=wild)
    before = fingerprint(base)
    with pytest.raises(TrainingDivergedError, match=r"Lower the learning rate") as caught:
        train(spec, base, training, output=tmp_path / "out", reporter=SilentReporter())
    assert caught.value.code == "training_diverged"
    assert list(tmp_path.iterdir()) == []
    assert fingerprint(base) == before


def test_the_base_model_is_unchanged_afterwards(base, training, validation, source, spec_for, tmp_path):
    before = fingerprint(base)
    train(
        spec_for(base),
        base,
        training,
        validation=validation,
        sources=[source],
        output=tmp_path / "out",
        reporter=SilentReporter(),
    )
    assert fingerprint(base) == before
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in base.model.parameters())
    assert not any(module.training for module in base.model.modules())
    assert not hasattr(base.model, "peft_config")


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_job_on_a_warm_base_is_the_one_on_a_fresh_base(
    kind, request, training, validation, file_of, spec_for, tmp_path, adapter_bytes
):
    other = file_of([{"text": f"{n} x", "label": "even" if n % 2 else "odd"} for n in range(5)], "other.jsonl")
    warm = request.getfixturevalue(kind)
    first = {"spec": spec_for(warm, lora={"rank": 4, "dropout": 0.1}), "training": other}
    second = {"spec": spec_for(warm), "training": training, "validation": validation}
    train(**first, base=warm, output=tmp_path / "first", reporter=SilentReporter())
    train(**second, base=warm, output=tmp_path / "warm", reporter=SilentReporter())
    train(**second, base=tiny_base(kind), output=tmp_path / "fresh", reporter=SilentReporter())
    assert adapter_bytes(tmp_path / "warm") == adapter_bytes(tmp_path / "fresh")


def test_metrics_have_one_complete_row_a_step_and_are_what_was_reported(
    base, training, validation, source, spec_for, tmp_path
):
    reporter = SilentReporter()
    train(
        spec_for(base),
        base,
        training,
        validation=validation,
        sources=[source],
        output=tmp_path / "out",
        reporter=reporter,
    )
    rows = rows_of(tmp_path / "out")
    assert rows == [m.model_dump(mode="json") for m in reporter.messages if m.type in ("step", "evaluation")]
    steps = [row for row in rows if row["type"] == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["type"] == "evaluation"] == [2, 4, 6]
    assert all(set(row) == set(StepMetrics.model_fields) for row in steps)
    assert [row["epoch"] for row in steps] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    peak = [1.0, 1.0, 0.8, 0.6, 0.4, 0.2]  # one step of warm-up, then down to one step before zero
    assert [row["learning_rate"] for row in steps] == pytest.approx([0.01 * share for share in peak])
    assert [row["reference_cosine"] is None for row in steps] == [True] * 5 + [False]
    for row in steps:
        assert row["seconds"] > 0 and row["gradient_norm"] > 0 and row["train_loss"] > 0 and row["tokens"] > 0
        assert row["train_accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert -1 <= row["source_cosine"] <= 1 and row["source_weight"] >= 0


def test_the_report_can_be_recomputed(base, training, validation, source, spec_for, tmp_path):
    spec = spec_for(base, optimization=TWELVE, checkpoint={"every_steps": 1}, guidance={"source_weight": "fixed"})
    output, checkpoints = tmp_path / "out", tmp_path / "c"
    data = {"validation": validation, "sources": [source]}
    train(spec, base, training, **data, output=output, reporter=SilentReporter(), checkpoints=checkpoints)
    report, rows = report_of(output), rows_of(output)
    steps = [row for row in rows if row["type"] == "step"]
    assert (report["examples"], report["validation_examples"], report["source_examples"]) == (8, 6, 8)
    assert (report["steps"], report["epochs"], report["batch_size"], report["kept_step"]) == (12, 4, 3, 12)
    assert report["trained_tokens"] == sum(row["tokens"] for row in steps)
    assert report["seconds"] == pytest.approx(sum(row["seconds"] for row in steps))
    assert report["final"]["train_loss"] == steps[-1]["train_loss"]

    norms = torch.tensor([row["gradient_norm"] for row in steps], dtype=torch.float64)
    changes = norms[1:].log().diff().tolist()  # the warm-up is the first step
    stability, spread = report["stability"], pstdev(changes)
    assert stability["log_norm_change_std"] == pytest.approx(spread)
    assert stability["abnormal_share"] == fmean(change - fmean(changes) > 2.5 * spread for change in changes)
    assert stability["clipped_share"] == fmean(row["clipped"] for row in steps)
    assert stability["clipped_steps"] == sum(row["clipped"] for row in steps)
    assert stability["gradient_norm_mean"] == pytest.approx(norms.mean().item())

    cosines = [row["source_cosine"] for row in steps]
    expected = {"cosine_mean": fmean(cosines), "conflict_share": fmean(cosine < 0 for cosine in cosines)}
    expected["weight_mean"] = fmean(row["source_weight"] for row in steps)
    expected["projected_cosine_mean"] = fmean(row["projected_source_cosine"] for row in steps)
    layers = report["source"].pop("layer_cosine_means")
    assert report["source"] == pytest.approx(expected)
    assert len(layers) == 2 and all(-1 <= cosine <= 1 for cosine in layers.values())  # the tiny models' two blocks
    reference = [row["reference_cosine"] for row in steps if row["reference_cosine"] is not None]
    assert report["direction"]["reference_cosine_mean"] == pytest.approx(fmean(reference))
    projected = [row["projected_reference_cosine"] for row in steps if row["reference_cosine"] is not None]
    assert report["direction"]["projected_reference_cosine_mean"] == pytest.approx(fmean(projected))
    assert report["direction"]["batch_size"] == 3


@pytest.mark.parametrize("method", ["sgg", "supervised"])
def test_path_efficiency_is_the_distance_over_the_path_of_what_is_trained(method, base, training, spec_for, tmp_path):
    spec = spec_for(base, checkpoint={"every_steps": 1}, method=method)
    train(spec, base, training, output=tmp_path / "out", reporter=SilentReporter(), checkpoints=tmp_path / "c")
    with lora(base, spec.lora, spec.seed) as adapted:
        start = {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}
        task = make_task(spec, base, training)
        probe_head(task, encoded(task, training))
        head = task.head() if method == "supervised" else None  # else it is fitted afterwards
        start |= {} if head is None else {f"head.{name}": p.detach().clone() for name, p in head.named_parameters()}
    places = [start, *(load_file(path / "adapter_model.safetensors") for path in sorted((tmp_path / "c").iterdir()))]
    places = [{canonical(name): tensor for name, tensor in place.items()} for place in places]
    points = [torch.cat([place[canonical(name)].flatten() for name in start]).double() for place in places]
    path = sum(float((after - before).norm()) for before, after in pairwise(points))
    efficiency = report_of(tmp_path / "out")["direction"]["path_efficiency"]
    assert efficiency == pytest.approx(float((points[-1] - points[0]).norm()) / path, rel=1e-4)
    assert 0 < efficiency < 1


def test_figures_before_and_after_are_those_of_the_base_and_of_the_written_adapter(
    base, training, validation, spec_for, tmp_path
):
    spec = spec_for(base)
    train(spec, base, training, validation=validation, output=tmp_path / "out", reporter=SilentReporter())
    task = make_task(spec, base, validation)
    probe_head(task, encoded(task, training))
    before = log_probabilities(task, encoded(task, validation)).exp()
    predictor = load_predictor(tmp_path / "out", catalogue=Catalogue.load(), base=base)
    answers = list(predictor.predict([{"text": example.text} for example in validation.classification]))
    predictor.close()
    after = torch.tensor([[answer["probabilities"][label] for label in training.labels] for answer in answers])
    report = report_of(tmp_path / "out")
    gold = [training.labels.index(example.label) for example in validation.classification]
    for shares, figures in ((before, report["baseline"]), (after, report["evaluation"])):
        expected = classification_figures(gold, shares.argmax(-1).tolist(), training.labels).model_dump(
            exclude={"answers", "losses"}
        )
        expected["loss"] = pytest.approx(-shares[range(len(gold)), gold].log().mean().item(), rel=1e-5)
        assert figures == expected
    final = {"valid_loss": "loss", "valid_accuracy": "accuracy", "valid_macro_f1": "macro_f1"}
    assert all(report["final"][name] == report["evaluation"][key] for name, key in final.items())


def test_texts_that_were_cut_are_counted_in_a_notice(encoder, file_of, validation, spec_for, tmp_path, told):
    rows = [{"text": "word " * (1 + 4 * (n % 2)), "label": "ab"[n % 3 == 0]} for n in range(7)]
    reporter = SilentReporter()
    spec = spec_for(encoder, task={"max_tokens": 16}, optimization={"max_steps": 1})
    data = file_of(rows, "few.jsonl")
    train(spec, encoder, data, output=tmp_path / "out", reporter=reporter)
    (notice,) = [each for each in told(reporter, "notice") if "cut" in each["message"]]
    assert notice["level"] == "warn"
    assert notice["message"].startswith(
        "few.jsonl: 3 of 7 texts were too long and were cut at their end; to use them whole"
    )


def test_a_clipped_gradient_is_told_with_its_step(encoder, training, spec_for, tmp_path, told):
    reporter = SilentReporter()
    spec = spec_for(encoder, task={"label_names": False}, optimization=TWELVE, guidance={"clip_z": 0.01})
    train(spec, encoder, training, output=tmp_path / "out", reporter=reporter)
    clipped = [message["step"] for message in told(reporter, "step") if message["clipped"]]
    assert clipped
    notices = [message["message"] for message in told(reporter, "notice")]
    assert [notice.split(":")[0] for notice in notices] == [f"Step {step}" for step in clipped]


def test_a_completion_that_does_not_fit_is_refused_by_line(causal, file_of, spec_for, tmp_path):
    data = file_of([{"prompt": "p", "completion": "c" * size} for size in (3, 30, 3, 31)], "long.jsonl")
    with pytest.raises(DataError) as caught:
        train(
            spec_for(causal, task={"max_tokens": 16}),
            causal,
            data,
            output=tmp_path / "out",
            reporter=SilentReporter(),
        )
    assert [problem.line for problem in caught.value.problems] == [2, 4]


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_completions_and_chats_are_learned(kind, causal, file_of, spec_for, tmp_path):
    row = {
        "completion": {"prompt": "ab", "completion": "cd"},
        "chat": {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]},
    }[kind]
    data = file_of([row] * 4)
    optimization = {"max_steps": 30, "epochs": 30, "learning_rate": 0.03}
    spec = spec_for(causal, lora={"rank": 8}, optimization=optimization, evaluation={"every_steps": 30})
    train(spec, causal, data, validation=data, output=tmp_path / "out", reporter=SilentReporter())
    report = report_of(tmp_path / "out")
    assert report["kind"] == kind and report["evaluation"]["macro_f1"] is None
    assert report["final"]["valid_loss"] < report["baseline"]["loss"] - 0.3
    assert report["verification"] == {"reloaded": True, "probes": 4, "max_difference": 0.0}


def test_an_answer_ends_with_any_token_by_which_the_model_ends_its_turns(
    causal, file_of, spec_for, tmp_path, monkeypatch
):
    data = file_of([{"prompt": "ab", "completion": "cd"}] * 4)
    train(spec_for(causal), causal, data, output=tmp_path / "out", reporter=SilentReporter())
    predictor = load_predictor(tmp_path / "out", catalogue=Catalogue.load(), base=causal)
    (whole,) = predictor.predict([{"prompt": "ab"}])
    written = causal.tokenizer(whole["completion"], add_special_tokens=False)["input_ids"]
    assert len(written) > 1
    monkeypatch.setattr(causal.model.generation_config, "eos_token_id", [written[0]])
    (cut,) = predictor.predict([{"prompt": "ab"}])
    predictor.close()
    assert len(cut["completion"]) < len(whole["completion"])


@pytest.mark.parametrize("groups", [{"method": "supervised"}, {"guidance": {"variant": "off"}}])
def test_sources_that_would_not_count_are_refused(groups, causal, training, source, spec_for, tmp_path):
    with pytest.raises(SpecError, match="Source files are used only with guidance"):
        spec = spec_for(causal, **groups)
        train(spec, causal, training, sources=[source], output=tmp_path / "out", reporter=SilentReporter())
    assert not (tmp_path / "out").exists()


def test_what_is_suspicious_in_the_files_is_said_before_the_first_step(encoder, file_of, spec_for, tmp_path):
    """Not again by a run that goes on, and of many remarks the first ones."""
    rows = [{"text": f"{word} {n} {n}" * (1 + n), "label": word} for n in range(4) for word in ("good", "bad")]
    training = file_of([*rows, rows[0], {"text": rows[1]["text"], "label": "good"}], "train.jsonl")
    spec = spec_for(encoder, optimization={"max_steps": 2}, checkpoint={"every_steps": 1})
    data = {"validation": file_of(rows, "valid.jsonl")}
    reporter = SilentReporter()
    train(spec, encoder, training, **data, output=tmp_path / "a", checkpoints=tmp_path / "c", reporter=reporter)
    notices = [message.message for message in reporter.messages if message.type == "notice" and message.level == "warn"]
    assert notices == [
        "train.jsonl, line 9: The example is the same as the one on line 1. Remove one of them.",
        "train.jsonl, line 10, field 'label': The same text has the label 'bad' on line 2, and 'good' here. "
        "Keep the label that is right.",
        *(
            f"valid.jsonl, line {line}: The training file holds this example on line {line}. Remove one of them."
            for line in range(1, 6)
        ),
        "valid.jsonl: 3 more like these; `sgg files check` lists them all.",
    ]
    assert report_of(tmp_path / "a")["validation_examples_seen"] == 8
    again = SilentReporter()
    first = tmp_path / "c" / "step-00000001"
    train(spec, encoder, training, **data, output=tmp_path / "b", resume_from=first, reporter=again)
    assert not [message for message in again.messages if message.type == "notice" and message.level == "warn"]


def test_a_run_breathes_between_the_passes_of_an_evaluation(base, training, spec_for, file_of, tmp_path):
    """As often as the validation file takes passes: nobody takes a long evaluation for a trainer that hangs."""
    counts = []
    for texts in (100, 300):
        asked = file_of(
            [{"text": f"a good day {n}", "label": label} for n in range(texts) for label in ("good", "bad")]
        )
        breaths = []
        train(
            spec_for(base), base, training, validation=asked, output=tmp_path / str(texts), reporter=SilentReporter(),
            breath=lambda breaths=breaths: breaths.append(0),
        )  # fmt: skip
        counts.append(len(breaths))
    assert counts[1] > 2 * counts[0]


def test_a_breath_that_raises_ends_the_run_and_leaves_nothing(base, training, validation, spec_for, tmp_path):
    before = fingerprint(base)

    def breath():
        raise InterruptedError("nobody waits for this any more")

    with pytest.raises(InterruptedError, match="nobody waits"):
        train(
            spec_for(base), base, training, validation=validation, output=tmp_path / "adapter",
            checkpoints=tmp_path / "checkpoints", reporter=SilentReporter(), breath=breath,
        )  # fmt: skip
    assert fingerprint(base) == before and base.breath is None
    assert list(tmp_path.iterdir()) == []


def test_only_an_older_adapter_is_replaced(causal, training, spec_for, tmp_path):
    output, notes = tmp_path / "adapter", tmp_path / "notes.txt"
    notes.write_text("mine")
    spec = spec_for(causal, optimization={"max_steps": 1})
    with pytest.raises(SpecError, match=f"{tmp_path} is not empty and holds no adapter"):
        train(spec, causal, training, output=tmp_path, reporter=SilentReporter())
    assert notes.read_text() == "mine"
    for _ in range(2):
        train(spec, causal, training, output=output, reporter=SilentReporter())
    assert (output / "sgg.json").exists()


def test_checkpoints_within_the_output_would_be_deleted_with_it_and_are_refused(
    causal, training, spec_for, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    output, spec = tmp_path / "adapter", spec_for(causal, optimization={"max_steps": 1})
    for place in (output, output / "checkpoints", Path("adapter") / "a" / "b"):
        with pytest.raises(SpecError, match=r"lies in \S*adapter, which the adapter replaces as a whole"):
            train(spec, causal, training, output=output, checkpoints=place, reporter=SilentReporter())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["older", "nothing", None])
def test_an_output_that_is_a_link_or_a_file_is_refused_before_training(causal, training, spec_for, tmp_path, target):
    output, told = tmp_path / "adapter", SilentReporter()
    (tmp_path / "older").mkdir()
    output.write_text("mine") if target is None else output.symlink_to(target)
    with pytest.raises(SpecError, match="is a link or a file"):
        train(spec_for(causal), causal, training, output=output, reporter=told)
    assert told.messages == [] and (output.is_file() if target is None else output.is_symlink())


def test_a_spec_for_another_base_model_is_refused(causal, encoder, training, spec_for, tmp_path):
    with pytest.raises(SpecError, match=f"'{encoder.entry.name}', and the one given is '{causal.entry.name}'"):
        train(spec_for(encoder), causal, training, output=tmp_path / "adapter", reporter=SilentReporter())
    assert not (tmp_path / "adapter").exists()


def test_the_library_takes_paths_as_strings(causal, spec_for, tmp_path):
    data, output, checkpoints = tmp_path / "data.jsonl", tmp_path / "adapter", tmp_path / "checkpoints"
    data.write_text('{"text": "a fine film", "label": "good"}\n{"text": "a dull film", "label": "bad"}\n')
    examples = read_examples(str(data))
    run = partial(train, spec_for(causal, optimization={"max_steps": 2}), causal, examples, reporter=SilentReporter())
    run(output=str(output), checkpoints=str(checkpoints))
    run(output=str(output), resume_from=max(map(str, checkpoints.iterdir())))
    run(output=str(tmp_path / "second"), start_from=str(output))
    predictor = load_predictor(str(tmp_path / "second"), catalogue=Catalogue.load(str(tmp_path)), base=causal)
    assert next(predictor.predict([{"text": "a fine film"}]))["label"] in ("good", "bad")
    predictor.close()
