"""Completions and chats: what enters the loss, against templates written out by hand and by transformers."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from sgg_core.encoding import Encoded, chat_segments
from sgg_core.errors import DataError, ValidationFileError
from sgg_core.evaluation import evaluate
from sgg_core.lora_layers import lora
from sgg_core.packing import pack
from sgg_core.shapes import ChatExample, ChatMessage, CompletionExample
from sgg_core.spec import LoraSpec
from sgg_core.tasks import text as text_module
from sgg_core.tasks.text import TextTask
from sgg_core.tiny import CHAT_TEMPLATE

CPU = torch.device("cpu")
HELLO = (ChatMessage("user", "Hello"), ChatMessage("assistant", "Hi!"))
TURNS = (
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "Where is my parcel?"),
    ChatMessage("assistant", "Which one?", 0),
    ChatMessage("user", "The größe one"),
    ChatMessage("assistant", "On its way."),
    ChatMessage("user", "Thanks"),
    ChatMessage("assistant", "Bye!"),
)
CHATML_WITH_A_DEFAULT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|start|>system\nBe kind.<|end|>\n"
    "{% endif %}<|start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
NO_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
FORGETS_EARLIER_ANSWERS = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if message['role'] != 'assistant' or loop.last %}{{ message['content'] }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
ANOTHER_GENERATION_PROMPT = CHAT_TEMPLATE.replace("<|start|>assistant\n{% endif %}", "<|start|>bot\n{% endif %}")


@pytest.fixture
def base(sharp):
    return sharp("causal")


def with_template(base, template):
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    return replace(base, tokenizer=tokenizer)


def trained_text(base, item):
    """What the loss is over, as text; every target has to be the token that follows its position."""
    for position, token in item.targets:
        assert item.ids[position + 1] == token
    return base.tokenizer.decode([token for _, token in item.targets])


def naive_terms(base, item):
    """-log p of every trained token, by one pass over the whole example alone."""
    with torch.no_grad():
        log_p = base.model(torch.tensor([item.ids])).logits[0].float().log_softmax(-1)
    return -log_p[[position for position, _ in item.targets], [token for _, token in item.targets]]


def test_a_completion_is_trained_from_its_first_token_to_the_end_token_and_its_prompt_is_not(base):
    (item,) = TextTask(base, 512).encode([CompletionExample("2 + 2 =", " 4")])
    assert base.tokenizer.decode(item.ids) == "2 + 2 = 4<|end|>"
    assert trained_text(base, item) == " 4<|end|>"
    assert item.targets[0][0] == len("2 + 2 =") - 1
    assert item.ids[-1] == base.tokenizer.eos_token_id


def test_the_name_of_a_special_token_in_a_completion_is_no_token(base):
    (item,) = TextTask(base, 512).encode([CompletionExample("a<|end|>", "b<|start|>")])
    assert base.tokenizer.decode(item.ids) == "a<|end|>b<|start|><|end|>"
    assert [token for token in item.ids if token in base.tokenizer.all_special_ids] == [base.tokenizer.eos_token_id]


def test_only_assistant_turns_of_weight_one_are_trained_and_their_headers_are_not(base):
    (item,) = TextTask(base, 512).encode([ChatExample(TURNS)])
    assert base.tokenizer.decode(item.ids) == "".join(f"<|start|>{m.role}\n{m.content}<|end|>\n" for m in TURNS)
    ids, trained = [], set()
    for message in TURNS:
        ids += base.tokenizer(f"<|start|>{message.role}\n").input_ids
        answer = base.tokenizer(f"{message.content}<|end|>\n").input_ids
        if message.role == "assistant" and message.weight == 1:
            trained |= set(range(len(ids), len(ids) + len(answer)))
        ids += answer
    assert item.ids == tuple(ids)
    assert item.targets == tuple((place - 1, ids[place]) for place in sorted(trained))
    assert trained_text(base, item) == "On its way.<|end|>\nBye!<|end|>\n"


def test_the_mask_is_the_one_that_transformers_makes_from_a_template_with_generation_tags(base):
    marked = (
        "{% for message in messages %}<|start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] }}<|end|>\n{% endgeneration %}"
        "{% else %}{{ message['content'] }}<|end|>\n{% endif %}{% endfor %}"
    )
    plain = [{"role": message.role, "content": message.content} for message in TURNS]
    theirs = base.tokenizer.apply_chat_template(
        plain, chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    (item,) = TextTask(base, 512).encode([ChatExample(tuple(replace(message, weight=1) for message in TURNS))])
    assert list(item.ids) == theirs["input_ids"]
    ours = {position + 1 for position, _ in item.targets}
    assert ours == {place for place, trained in enumerate(theirs["assistant_masks"]) if trained}


def test_a_template_that_adds_a_system_turn_and_trims_texts_is_followed(base):
    base = with_template(base, CHATML_WITH_A_DEFAULT)
    (item,) = TextTask(base, 512).encode([ChatExample((HELLO[0], ChatMessage("assistant", "  Hi! \n")))])
    shown = "<|start|>system\nBe kind.<|end|>\n<|start|>user\nHello<|end|>\n<|start|>assistant\nHi!<|end|>\n"
    assert base.tokenizer.decode(item.ids) == shown
    assert trained_text(base, item) == "Hi!<|end|>\n"


def test_without_a_template_turns_are_named_in_plain_words(base):
    base = with_template(base, None)
    (item,) = TextTask(base, 512).encode([ChatExample(HELLO)])
    assert base.tokenizer.decode(item.ids) == "User: Hello\nAssistant: Hi!\n"
    assert trained_text(base, item) == " Hi!\n"


def test_what_is_asked_at_prediction_is_what_stood_before_the_answer_in_training(base):
    messages = [{"role": "user", "content": "Hello"}]
    asked = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    (header, header_trained), (answer, answer_trained) = chat_segments(base.tokenizer, HELLO)[-2:]
    assert "".join(text for text, _ in chat_segments(base.tokenizer, HELLO)[:-1]) == asked
    assert (header_trained, answer_trained) == (False, True)
    assert header == "<|start|>assistant\n" and answer == "Hi!<|end|>\n"


@pytest.mark.parametrize(
    ("template", "turns", "reason"),
    [
        (CHAT_TEMPLATE, (HELLO[1], *HELLO), "first turn is the assistant's"),
        (NO_SYSTEM_TURN, TURNS, "System role not supported"),
        (FORGETS_EARLIER_ANSWERS, TURNS, "rewrites earlier turns"),
        (ANOTHER_GENERATION_PROMPT, TURNS, "generation prompt"),
    ],
)
def test_a_chat_that_the_template_cannot_show_or_mask_is_refused_on_its_line(base, file_of, template, turns, reason):
    rows = [[{"role": m.role, "content": m.content} for m in chat] for chat in (turns, HELLO, turns)]
    data = file_of([{"messages": row} for row in rows], "chats.jsonl")
    with pytest.raises(DataError, match=reason) as caught:
        TextTask(with_template(base, template), 512).encode_file(data)
    refused = [problem.line for problem in caught.value.problems]
    assert refused == ([1, 2, 3] if template == ANOTHER_GENERATION_PROMPT else [1, 3])
    assert caught.value.filename == "chats.jsonl"
    assert {problem.field for problem in caught.value.problems} == {"messages"}


def test_examples_that_do_not_fit_are_refused_by_line_and_length_and_the_longest_that_fits_is_not(base, file_of):
    def rows(*lengths):
        return file_of([{"prompt": "p" * (n - 3), "completion": "cc"} for n in lengths], "long.jsonl")

    task = TextTask(base, 64)
    assert [len(item.ids) for item in task.encode_file(rows(10, 64))] == [10, 64]
    with pytest.raises(DataError, match=r"long\.jsonl has 2 problem") as caught:
        task.encode_file(rows(65, 10, 64, 500))
    assert [problem.line for problem in caught.value.problems] == [1, 4]
    assert "65 tokens; at most 64" in caught.value.problems[0].reason
    assert "500 tokens; at most 64" in caught.value.problems[1].reason
    assert "task.max_tokens" in caught.value.problems[0].remedy
    with pytest.raises(ValidationFileError):
        task.encode_file(replace(rows(65), refusal=ValidationFileError))


def test_the_base_models_context_bounds_max_tokens(base):
    task = TextTask(base, 8192)
    assert task.max_tokens == base.entry.context_tokens
    remedy = task.too_long(Encoded(tuple(range(2000))), 1).remedy
    assert "sees 1,024 tokens" in remedy and "task.max_tokens" not in remedy  # raising it would change nothing


def guessed_right(base, tokens):
    """An example in which the model's best guess is right at every trained token."""
    ids = [5]
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return Encoded(tuple(ids), targets=tuple(enumerate(ids[1:])))


@pytest.fixture
def items(base):
    examples = [CompletionExample("A + B =", " C"), CompletionExample("A + D =", " something long"), ChatExample(TURNS)]
    return [guessed_right(base, 10), *TextTask(base, 512).encode(examples)]


def test_the_loss_is_that_of_each_trained_token_with_its_example_alone(base, items):
    task = TextTask(base, 512)
    terms = [naive_terms(base, item) for item in items]
    loss = task.loss(items)
    assert loss.total.item() == pytest.approx(float(sum(term.sum() for term in terms)), rel=1e-5)
    assert loss.units == task.units(items) == sum(len(term) for term in terms)
    figures = evaluate(task, items)
    assert figures.loss == pytest.approx(float(torch.cat(terms).mean()), rel=1e-5)
    assert figures.examples == 4 and figures.macro_f1 is None
    assert figures.losses.totals == pytest.approx([float(term.sum()) for term in terms], rel=1e-5)
    assert figures.losses.tokens == [len(term) for term in terms]


def test_token_accuracy_counts_the_best_guess_at_every_trained_token(base, items):
    right = 0
    for item in items:
        with torch.no_grad():
            guesses = base.model(torch.tensor([item.ids])).logits[0].argmax(-1)
        right += sum(int(guesses[position]) == token for position, token in item.targets)
    task = TextTask(base, 512)
    assert 10 <= right < task.units(items)
    assert task.loss(items).correct == right
    assert evaluate(task, items).accuracy == right / task.units(items)


def test_scores_made_in_chunks_give_the_same_loss_and_gradient_as_all_at_once(base, items, monkeypatch):
    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]

        def measured():
            loss = TextTask(base, 512).loss(items)
            return loss, torch.cat([part.flatten() for part in torch.autograd.grad(loss.total, weights)])

        whole, gradient = measured()
        monkeypatch.setattr(text_module, "POSITIONS_PER_CHUNK", 7)
        chunked, in_chunks = measured()
        packed = pack([item.ids for item in items], CPU)
        places = [packed.place(row, position) for row, item in enumerate(items) for position, _ in item.targets]
        logits = adapted(packed.ids, attention_mask=packed.mask, position_ids=packed.positions).logits[0, places]
        gold = torch.tensor([token for item in items for _, token in item.targets])
        plain = torch.autograd.grad(functional.cross_entropy(logits.float(), gold, reduction="sum"), weights)
    assert chunked.total.item() == pytest.approx(whole.total.item(), rel=1e-5)
    assert (chunked.units, chunked.correct) == (whole.units, whole.correct)
    assert whole.units > 7
    expected = torch.cat([part.flatten() for part in plain])
    assert expected.norm() > 0
    assert (gradient - expected).norm() < 1e-4 * expected.norm()
    assert (in_chunks - expected).norm() < 1e-4 * expected.norm()
