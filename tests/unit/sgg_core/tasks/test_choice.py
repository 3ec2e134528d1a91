"""Which task a file is, and what a run says of texts that did not fit."""

from functools import partial

import pytest

from sgg_core import trainer
from sgg_core.errors import SggError
from sgg_core.reporting import SilentReporter
from sgg_core.shapes import ClassificationExample
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.text import TextTask

train = partial(trainer.train, with_documents=False)  # nobody reads them here

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
COMPLETION = {"prompt": "1 + 1 =", "completion": " 2"}


def test_the_kind_of_base_model_and_file_decides_the_task(causal, encoder, training, file_of, spec_for):
    assert isinstance(make_task(spec_for(causal), causal, training), LabelWords)
    assert isinstance(make_task(spec_for(encoder), encoder, training), PooledHead)
    for row in (CHAT, COMPLETION):
        assert isinstance(make_task(spec_for(causal), causal, file_of([row])), TextTask)


@pytest.mark.parametrize("row", [CHAT, COMPLETION])
def test_an_encoder_cannot_write(encoder, file_of, spec_for, row):
    with pytest.raises(SggError, match="tiny-encoder"):
        make_task(spec_for(encoder), encoder, file_of([row]))


def test_contrast_without_balanced_batches_is_refused(encoder, training, spec_for):
    spec = spec_for(encoder, task={"objective": "contrast"}, optimization={"balanced_batches": False})
    with pytest.raises(SggError, match="balanced_batches"):
        make_task(spec, encoder, training)


def test_a_task_type_that_the_file_is_not_is_refused_and_the_right_one_taken(base, training, spec_for):
    make_task(spec_for(base, task={"type": "classification"}), base, training)
    with pytest.raises(SggError, match=r"task\.type is 'chat'"):
        make_task(spec_for(base, task={"type": "chat"}), base, training)


def test_the_description_is_the_targets_and_a_source_gets_a_neutral_one(causal, training, spec_for):
    spec = spec_for(causal, task={"description": "Is the weather nice?"})
    assert "Is the weather nice?" in make_task(spec, causal, training).template()
    assert "Is the weather nice?" not in make_task(spec, causal, training, describe=False).template()


def test_a_files_examples_are_encoded_in_its_order(base, training, spec_for):
    task = make_task(spec_for(base), base, training)
    items = encoded(task, training)
    assert [task.labels[item.label] for item in items] == [example.label for example in training.examples]
    assert items == [task.encode([example])[0] for example in training.examples]
    assert all(isinstance(example, ClassificationExample) for example in training.examples)


def test_texts_that_were_cut_are_counted_and_told_for_each_file(base, file_of, spec_for, tmp_path):
    long = "word " * 100
    texts = ["short", long, long, "brief", long]
    rows = [{"text": text + str(number), "label": "xy"[number % 2]} for number, text in enumerate(texts)]
    training, validation = file_of(rows, "train.jsonl"), file_of(rows[1:3], "valid.jsonl")
    reporter = SilentReporter()
    spec = spec_for(base, task={"max_tokens": 200}, optimization={"max_steps": 1})
    train(spec, base, training, validation=validation, output=tmp_path / "out", reporter=reporter)
    notices = [message for message in reporter.messages if message.type == "notice" and message.level == "warn"]
    way = "to use them whole, raise hyperparameters.task.max_tokens, which is 200."
    assert [notice.message for notice in notices if "cut" in notice.message] == [
        f"train.jsonl: 3 of 5 texts were too long and were cut at their end; {way}",
        f"valid.jsonl: 2 of 2 texts were too long and were cut at their end; {way}",
    ]


def test_texts_that_fit_are_not_mentioned(base, training, spec_for, tmp_path):
    reporter = SilentReporter()
    spec = spec_for(base, task={"label_names": False}, optimization={"max_steps": 1})
    train(spec, base, training, output=tmp_path / "out", reporter=reporter)
    assert [message for message in reporter.messages if message.type == "notice"] == []
