"""How long examples may be where nobody said it: chats as the base model sees, texts to their usual length."""

import json
from dataclasses import replace
from functools import partial

import pytest

from sgg_core import trainer
from sgg_core.errors import DataError
from sgg_core.reporting import SilentReporter, StepMetrics
from sgg_core.spec import TrainingSpec
from sgg_core.survey import survey
from sgg_core.token_limit import more_room, token_limit

train = partial(trainer.train, with_documents=False)  # nobody reads them here

LONG = "Be kind. " * 70  # of one byte a token


def chats(count, system=LONG):
    turns = [{"role": "system", "content": system}, {"role": "user", "content": "ab"}]
    return [{"messages": [*turns, {"role": "assistant", "content": f"c{number}"}]} for number in range(count)]


def limit_of(directory):
    return json.loads((directory / "sgg.json").read_text())["spec"]["task"]["max_tokens"]


def seeing(base, tokens):
    """The base model as a catalogue has it that knows another context."""
    return replace(base, entry=base.entry.model_copy(update={"context_tokens": tokens}))


class Stopping(SilentReporter):
    """Stops the run after its third step."""

    def control(self):
        return "drain" if sum(isinstance(each, StepMetrics) for each in self.messages) >= 3 else "continue"


@pytest.mark.parametrize(
    ("context", "kind", "limit"),
    [
        (8192, "chat", 8192),
        (2048, "completion", 2048),
        (131_072, "chat", 8192),
        (8192, "classification", 512),
        (256, "classification", 256),
    ],
)
def test_auto_follows_the_kind_and_the_base_model_and_a_number_stays(causal, context, kind, limit):
    entry = seeing(causal, context).entry
    assert token_limit("auto", entry, kind) == limit
    assert token_limit(700, entry, kind) == 700


def test_the_remedy_is_one_that_helps(causal):
    assert more_room(seeing(causal, 1024).entry, 512) == "raise hyperparameters.task.max_tokens, which is 512"
    assert "'tiny-causal' sees 1,024 tokens" in more_room(seeing(causal, 1024).entry, 1024)
    assert "8,192" in more_room(seeing(causal, 131_072).entry, 8192)


def test_a_long_system_prompt_is_trained_on_and_the_adapter_tells_its_limit(causal, file_of, spec_for, tmp_path):
    training, longer = file_of(chats(4)), file_of(chats(2, LONG + "Be brief."), "valid.jsonl")
    spec = spec_for(causal, optimization={"max_steps": 1})
    assert spec.task.max_tokens == "auto"
    train(spec, causal, training, validation=longer, output=tmp_path / "out", reporter=SilentReporter())
    assert limit_of(tmp_path / "out") == 1024


def test_what_the_base_model_does_not_see_is_refused_by_line_and_limit(causal, file_of, spec_for, tmp_path):
    data = file_of([*chats(2), *chats(1, 2 * LONG)], "long.jsonl")
    with pytest.raises(DataError) as caught:
        train(spec_for(causal), causal, data, output=tmp_path / "out", reporter=SilentReporter())
    (problem,) = caught.value.problems
    assert problem.line == 3 and "tokens; at most 1,024 fit" in problem.reason
    assert problem.remedy == "Shorten it, or choose a base model that sees more: 'tiny-causal' sees 1,024 tokens."


def test_texts_are_cut_where_they_always_were(base, file_of, spec_for, tmp_path, told):
    rows = [{"text": f"{number} " + "x" * 700 * (number == 1), "label": "ab"[number % 2]} for number in range(4)]
    reporter = SilentReporter()
    spec = spec_for(base, optimization={"max_steps": 1})
    train(spec, base, file_of(rows), output=tmp_path / "out", reporter=reporter)
    (notice,) = [each["message"] for each in told(reporter, "notice") if "cut" in each["message"]]
    assert notice.endswith("raise hyperparameters.task.max_tokens, which is 512.")
    assert limit_of(tmp_path / "out") == 512


def test_a_retention_file_has_the_limit_of_its_own_kind(causal, training, file_of, spec_for, tmp_path):
    retention = file_of(chats(2), "other.jsonl")
    spec = spec_for(causal, optimization={"max_steps": 1})
    options = {"retention": retention, "reporter": SilentReporter()}
    train(spec, causal, training, output=tmp_path / "out", **options)
    asked = spec_for(causal, optimization={"max_steps": 1}, task={"max_tokens": 512})
    with pytest.raises(DataError, match=r"raise hyperparameters\.task\.max_tokens"):
        train(asked, causal, training, output=tmp_path / "other", **options)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(("before", "limit"), [("auto", 700), (650, 650)])
def test_a_run_that_resumes_keeps_the_limit_that_it_began_with(
    causal, file_of, spec_for, tmp_path, seeds, before, limit
):
    data, spec = file_of(chats(4, "Be kind.")), spec_for(causal, optimization={"seeds": seeds})
    begun = spec_for(causal, optimization={"seeds": seeds}, task={"max_tokens": before})
    options = {"output": tmp_path / "out", "checkpoints": tmp_path / "saved"}
    train(begun, seeing(causal, 700), data, reporter=Stopping(), **options)
    newest = max((tmp_path / "saved").iterdir())
    train(spec, causal, data, reporter=SilentReporter(), resume_from=newest, **options)
    assert limit_of(tmp_path / "out") == limit


@pytest.mark.parametrize(("task", "problems"), [({}, 0), ({"max_tokens": 512}, 4)])
def test_a_survey_refuses_what_the_training_would(causal, task, problems):
    spec = TrainingSpec.model_validate({"base_model": "tiny-causal", "task": task})
    content = "\n".join(map(json.dumps, chats(4))).encode()
    found = survey(spec, causal, {"training": "t.jsonl"}, lambda role: content, "cpu").files["training"]
    assert len(found.problems) == problems
    assert all("which is 512" in problem.remedy for problem in found.problems)
