"""Plain LoRA beside a guided run: what it reaches is what a run of its own reaches, and the adapter stays as it was."""

import json
from dataclasses import replace
from functools import partial

import pytest

from sgg_core import trainer
from sgg_core.plan import make_plan
from sgg_core.reporting import SilentReporter
from sgg_core.tasks.label_names import NAMELESS

train = partial(trainer.train, with_documents=False)  # nobody reads them here, but in one test

BOTH = {"baselines": ["plain_lora"]}


class Stopping(SilentReporter):
    """Ends the run as soon as the plain one has begun."""

    def control(self):
        begun = any("Plain LoRA" in getattr(message, "message", "") for message in self.messages)
        return "pause" if begun else "continue"


class KilledError(Exception):
    """Stands for a kill: nothing of the run is tidied up by what it says or saves."""


class KilledAt(SilentReporter):
    """Ends the run where a message says `words`, as abruptly as can be told."""

    def __init__(self, words):
        super().__init__()
        self.words = words

    def report(self, message):
        super().report(message)
        if self.words in message.model_dump_json():
            raise KilledError


def rival_starts(reporter):
    """How often plain LoRA began at its first step."""
    return sum("comparison: step 1 of" in getattr(message, "message", "") for message in reporter.messages)


def report(directory):
    return json.loads((directory / "report.json").read_text())


def text(kind, word, number):
    asked, answer = f"{word} number {number}:", f" {number} is {word}"
    if kind == "completion":
        return {"prompt": asked, "completion": answer}
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def run(spec, base, training, validation, output, reporter=None, **options):
    return train(
        spec, base, training, validation=validation, output=output, reporter=reporter or SilentReporter(), **options
    )


def test_it_reaches_what_a_run_of_its_own_reaches(base, training, validation, spec_for, tmp_path, adapter_bytes):
    run(spec_for(base, evaluation=BOTH), base, training, validation, tmp_path / "both")
    run(spec_for(base, evaluation={"baselines": []}), base, training, validation, tmp_path / "guided")
    run(spec_for(base, method="supervised", evaluation=BOTH), base, training, validation, tmp_path / "plain")
    (rival,) = [one for one in report(tmp_path / "both")["baselines"] if one["name"] == "plain_lora"]
    assert rival["loss"] == pytest.approx(report(tmp_path / "plain")["final"]["valid_loss"], abs=1e-9)
    assert adapter_bytes(tmp_path / "both") == adapter_bytes(tmp_path / "guided")
    assert [one["name"] for one in report(tmp_path / "plain")["baselines"]] in (["zero_shot"], ["linear_probe"])


@pytest.mark.parametrize("looks", [{}, {"every_steps": 2, "keep": "best"}, {"every_steps": 1, "patience": 2}])
def test_it_knows_no_names_of_labels_and_is_chosen_as_the_guided_run_is(encoder, file_of, spec_for, tmp_path, looks):
    words = {"good": "bad", "bad": "good"}
    training = file_of([{"text": f"{word} {n}", "label": word} for n in range(3) for word in words])
    contrary = file_of([{"text": f"{word} day {n}", "label": words[word]} for n in range(3) for word in words])
    told = SilentReporter()
    run(spec_for(encoder, evaluation=BOTH | looks), encoder, training, contrary, tmp_path / "both", told)
    run(spec_for(encoder, method="supervised", evaluation=looks), encoder, training, contrary, tmp_path / "plain")
    assert NAMELESS not in [getattr(message, "message", "") for message in told.messages]
    rival = report(tmp_path / "both")["baselines"][-1]
    plain = report(tmp_path / "plain")
    assert (rival["name"], rival["loss"]) == ("plain_lora", pytest.approx(plain["final"]["valid_loss"], abs=1e-9))
    assert bool(looks) == (plain["stopped_early"] or plain["kept_step"] < plain["steps"])


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_texts_are_compared_by_loss_with_the_base_model_and_plain_lora(causal, spec_for, file_of, tmp_path, kind):
    training, validation = (file_of([text(kind, word, n) for n in range(8)]) for word in ("good", "fair"))
    run(spec_for(causal, evaluation=BOTH), causal, training, validation, tmp_path / "both", with_documents=True)
    run(spec_for(causal, method="supervised"), causal, training, validation, tmp_path / "plain")
    told = report(tmp_path / "both")
    start, rival = told["baselines"]
    assert (start["name"], start["loss"]) == ("zero_shot", told["baseline"]["loss"])
    assert rival["name"] == "plain_lora"
    assert rival["loss"] == pytest.approx(report(tmp_path / "plain")["final"]["valid_loss"], abs=1e-9)
    for one in told["baselines"]:
        assert one["comparison"]["measure"] == "loss" and "8 validation examples" in one["comparison"]["verdict"]
        difference = told["evaluation"]["loss"] - one["loss"]
        assert one["comparison"]["difference"] == pytest.approx(difference, abs=1e-9)
    rows = [json.loads(row) for row in (tmp_path / "both" / "answers.jsonl").read_text().splitlines()]
    mean = sum(row["loss"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows)
    assert mean == pytest.approx(told["evaluation"]["loss"]) and [row["line"] for row in rows] == list(range(1, 9))
    card = (tmp_path / "both" / "README.md").read_text()
    assert "| baseline on the same examples | its loss | difference, nats a token | 95 % interval |" in card
    assert "plots/differences.png" in card and (tmp_path / "both" / "plots" / "differences.png").exists()
    assert "nats a token, below 0 it is better" in (tmp_path / "both" / "report.html").read_text()
    assert "losses" not in told["evaluation"]  # they stand in answers.jsonl


def test_a_run_stopped_meanwhile_goes_on_with_the_adapter_that_it_had(
    causal, training, validation, spec_for, tmp_path, adapter_bytes
):
    spec, checkpoints = spec_for(causal, evaluation=BOTH), tmp_path / "checkpoints"
    run(spec, causal, training, validation, tmp_path / "whole")
    stopped = run(spec, causal, training, validation, tmp_path / "a", Stopping(), checkpoints=checkpoints)
    assert (stopped.type, stopped.reason, stopped.step) == ("stopped", "pause", 6)
    assert stopped.directory == str(checkpoints / "step-00000006")
    run(spec, causal, training, validation, tmp_path / "a", resume_from=checkpoints / "step-00000006")
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "whole")
    assert report(tmp_path / "a")["baselines"] == report(tmp_path / "whole")["baselines"]


def test_one_that_diverges_takes_nothing_from_the_guided_run(
    base, training, validation, spec_for, tmp_path, adapter_bytes, monkeypatch
):
    run(spec_for(base), base, training, validation, tmp_path / "alone")
    wild = {"learning_rate": 1e30, "clip_norm": None}
    monkeypatch.setattr("sgg_core.plain_rival.make_plan", lambda *given: replace(make_plan(*given), **wild))
    told, checkpoints = SilentReporter(), tmp_path / "checkpoints"
    run(spec_for(base, evaluation=BOTH), base, training, validation, tmp_path / "a", told, checkpoints=checkpoints)
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "alone")
    assert "plain_lora" not in [found["name"] for found in report(tmp_path / "a")["baselines"]]
    assert any("Plain LoRA diverged, so it is not compared with." in getattr(m, "message", "") for m in told.messages)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_what_it_reached_is_in_the_state_and_survives_a_kill(
    base, training, validation, spec_for, tmp_path, adapter_bytes, keep
):
    spec, checkpoints = spec_for(base, evaluation=BOTH | {"keep": keep}), tmp_path / "checkpoints"
    run(spec, base, training, validation, tmp_path / "whole")
    killed = KilledAt("-compared")
    with pytest.raises(KilledError):
        run(spec, base, training, validation, tmp_path / "a", killed, checkpoints=checkpoints)
    again = SilentReporter()
    run(spec, base, training, validation, tmp_path / "a", again, resume_from=max(checkpoints.iterdir()))
    assert (rival_starts(killed), rival_starts(again)) == (1, 0)
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "whole")
    assert report(tmp_path / "a")["baselines"] == report(tmp_path / "whole")["baselines"]


@pytest.mark.parametrize(
    ("memory", "words", "seeds_left"),
    [(0, "Seed 43, of 2", 1), (0, "step-00000012-compared", 0), (None, "step-00000012-compared", 0)],
)
def test_a_kill_between_seeds_costs_no_rival_that_has_run(
    causal, training, validation, spec_for, tmp_path, adapter_bytes, memory, words, seeds_left
):
    spec = spec_for(causal, evaluation=BOTH, optimization={"seeds": 2}, seed=42)
    checkpoints, options = tmp_path / "checkpoints", {"memory_bytes": memory}
    run(spec, causal, training, validation, tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        run(spec, causal, training, validation, tmp_path / "a", KilledAt(words), checkpoints=checkpoints, **options)
    again = SilentReporter()
    run(spec, causal, training, validation, tmp_path / "a", again, resume_from=max(checkpoints.iterdir()), **options)
    assert rival_starts(again) == seeds_left
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "whole")
    for part in ("baselines", "replicas"):
        assert report(tmp_path / "a")[part] == report(tmp_path / "whole")[part]
