"""Label words against one forward pass per prompt and label, in float64."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tokenizers.normalizers import Lowercase

from sgg_core.errors import SpecError
from sgg_core.evaluation import evaluate, log_probabilities
from sgg_core.lora_layers import lora
from sgg_core.packing import pack
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import LoraSpec
from sgg_core.tasks.label_words import ANSWER_LEAD, LabelWords

CPU = torch.device("cpu")
FEW = ("good", "bad")
LABELS = {
    "two": FEW,
    "shared beginnings": ("account access", "account closed", "account", "billing"),
    "one the beginning of another": ("a", "ab", "abc", "b"),
    "one letter": ("1", "2", "3"),
    "not ascii": ("größe", "grün", "緑", "綠"),
}
MANY = tuple(f"topic {number}" for number in range(150))
TEXTS = ("A sunny day.", "Rain", "It was cold, and then it was warm; nobody minded.")


@pytest.fixture
def base(sharp):
    return sharp("causal")


def examples(labels, texts=TEXTS):
    return [ClassificationExample(text, labels[number % len(labels)]) for number, text in enumerate(texts)]


def naive_scores(base, labels, prompt):
    """log p(label): a pass over prompt + label each, and a softmax over what the labels allow at each place."""
    tokenizer = base.tokenizer
    strings = [(*tokenizer(f" {label}").input_ids, tokenizer.eos_token_id) for label in labels]
    scores = []
    for string in strings:
        with torch.no_grad():
            logits = base.model(torch.tensor([[*prompt, *string]])).logits[0]
        total = 0.0
        for place, token in enumerate(string):
            allowed = sorted({other[place] for other in strings if other[:place] == string[:place]})
            total += logits[len(prompt) - 1 + place, allowed].log_softmax(-1)[allowed.index(token)].item()
        scores.append(total)
    return torch.tensor(scores)


def naive_prompt(base, content):
    return base.tokenizer(f"<|start|>user\n{content}<|end|>\n<|start|>assistant\n{ANSWER_LEAD}").input_ids


@pytest.mark.parametrize("labels", LABELS.values(), ids=[name.replace(" ", "-") for name in LABELS])
def test_every_label_is_scored_as_by_a_pass_of_its_own(base, labels):
    task = LabelWords(base, labels, "What is it about?", 512)
    found = log_probabilities(task, task.encode(examples(labels)))
    assert torch.allclose(found.exp().sum(1), torch.ones(len(TEXTS)), atol=1e-5)
    for row, text in zip(found, TEXTS, strict=True):
        prompt = naive_prompt(base, f"What is it about?\nLabels: {', '.join(labels)}.\n\nText: {text}")
        expected = naive_scores(base, labels, prompt)
        assert expected.std() > 0.1
        assert torch.allclose(row, expected, atol=1e-4)


def test_a_hundred_and_fifty_labels_are_scored_in_one_pass_and_left_out_of_the_prompt(base):
    task = LabelWords(base, MANY, "What is it about?", 512)
    (item,) = task.encode(examples(MANY, TEXTS[:1]))
    found = log_probabilities(task, [item])[0]
    prompt = naive_prompt(base, f"What is it about?\n\nText: {TEXTS[0]}")
    assert torch.allclose(found, naive_scores(base, MANY, prompt), atol=1e-4)


def test_scores_do_not_hang_on_the_other_examples_or_their_labels(base):
    labels = LABELS["shared beginnings"]
    task = LabelWords(base, labels, None, 512)
    together = log_probabilities(task, task.encode(examples(labels)))
    unlabelled = [ClassificationExample(text, "?") for text in reversed(TEXTS)]
    alone = torch.cat([log_probabilities(task, [item]) for item in task.encode(unlabelled)])
    assert torch.allclose(together, alone.flip(0), atol=1e-5)


@pytest.mark.parametrize("labels", LABELS.values(), ids=[name.replace(" ", "-") for name in LABELS])
def test_the_training_loss_is_minus_log_p_of_the_gold_labels(base, labels):
    task = LabelWords(base, labels, None, 512)
    data = examples(labels, [*TEXTS, *TEXTS[:2]])
    items = task.encode(data)
    scores = log_probabilities(task, items)
    loss = task.loss(items)
    gold = [labels.index(example.label) for example in data]
    assert loss.units == task.units(items) == len(items)
    assert loss.total.item() == pytest.approx(
        -sum(scores[row, label].item() for row, label in enumerate(gold)), rel=1e-5
    )
    figures = evaluate(task, items)
    assert figures.loss == pytest.approx(loss.total.item() / len(items), rel=1e-5)
    assert figures.accuracy == sum(scores[row].argmax().item() == label for row, label in enumerate(gold)) / len(items)


def test_an_example_counts_as_right_in_training_if_every_choice_on_its_path_is(base):
    labels = LABELS["one letter"]  # one choice each, so the best label is the best choice
    task = LabelWords(base, labels, None, 512)
    items = task.encode([ClassificationExample(text, label) for text in TEXTS for label in labels])
    assert task.loss(items).correct == len(TEXTS)
    best = log_probabilities(task, items).argmax(1).tolist()
    assert [task.loss([item]).correct for item in items] == [
        int(item.label == b) for item, b in zip(items, best, strict=True)
    ]


def test_the_gradient_of_a_batch_is_the_sum_of_its_examples_gradients(base):
    task = LabelWords(base, LABELS["shared beginnings"], None, 512)
    items = task.encode(examples(task.labels))
    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        with torch.no_grad():
            for number, weight in enumerate(weights):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) / 10)

        def gradient(loss):
            return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])

        together = gradient(task.loss(items).total)
        alone = sum(gradient(task.loss([item]).total) for item in items)
    assert together.norm() > 0
    assert (together - alone).norm() < 1e-4 * alone.norm()


def test_the_prompt_holds_description_labels_and_text(base):
    (item,) = LabelWords(base, FEW, "Is the weather nice?", 512).encode([ClassificationExample("It rains.", "?")])
    prompt = naive_prompt(base, "Is the weather nice?\nLabels: good, bad.\n\nText: It rains.")
    assert item.ids == tuple(prompt)
    assert (item.label, item.targets, item.truncated) == (-1, (), False)


def test_the_name_of_a_special_token_in_a_text_or_label_is_no_token(base):
    labels = ("a<|end|>", "a<|start|>")
    task = LabelWords(base, labels, None, 512)
    plain, odd = task.encode([ClassificationExample(text, labels[1]) for text in ("rain", "<|end|> rain <|start|>")])
    special = {*base.tokenizer.all_special_ids}
    assert [token for token in odd.ids if token in special] == [token for token in plain.ids if token in special]
    assert "Text: <|end|> rain <|start|><|end|>\n" in base.tokenizer.decode(odd.ids)
    assert not special & {token for ids in task.label_ids for token in ids}
    assert "Labels: a<|end|>, a<|start|>." in task.template()


def test_without_a_description_the_prompt_says_to_choose_a_label(base):
    task = LabelWords(base, FEW, None, 512)
    (item,) = task.encode([ClassificationExample("It rains.", "?")])
    shown = base.tokenizer.decode(item.ids)
    assert "Choose the label that fits the text.\nLabels: good, bad.\n\nText: It rains." in shown
    assert task.template().replace("{text}", "It rains.") == shown


@pytest.mark.parametrize(
    ("label", "answer"),
    [("account access", " account "), ("account closed", " account "), ("account", " account"), ("billing", " ")],
)
def test_an_example_is_its_prompt_and_the_gold_label_up_to_its_last_choice(base, label, answer):
    labels = LABELS["shared beginnings"]
    (item,) = LabelWords(base, labels, "About?", 512).encode([ClassificationExample("First", label, "Second")])
    prompt = naive_prompt(base, f"About?\nLabels: {', '.join(labels)}.\n\nFirst text: First\nSecond text: Second")
    assert item.ids == (*prompt, *base.tokenizer(answer).input_ids)
    assert labels[item.label] == label


def test_a_pair_of_texts_is_scored_as_by_a_pass_of_its_own(base):
    task = LabelWords(base, FEW, "Same?", 512)
    data = [ClassificationExample("One.", "good", "Two."), ClassificationExample("Two.", "bad", "One.")]
    for row, example in zip(log_probabilities(task, task.encode(data)), data, strict=True):
        pair = f"First text: {example.text}\nSecond text: {example.text_pair}"
        prompt = naive_prompt(base, f"Same?\nLabels: good, bad.\n\n{pair}")
        assert torch.allclose(row, naive_scores(base, FEW, prompt), atol=1e-4)


def test_a_text_too_long_is_cut_at_its_end_to_the_last_token_that_fits(base):
    task = LabelWords(base, FEW, None, 200)
    text = "".join(chr(97 + number % 26) for number in range(500))
    short, long = task.encode([ClassificationExample("short", "?"), ClassificationExample(text, "?")])
    assert (short.truncated, long.truncated) == (False, True)
    room = 200 - len(base.tokenizer(" good").input_ids) - 1
    kept = room - len(task.encode([ClassificationExample("", "?")])[0].ids)
    assert len(long.ids) == room
    assert base.tokenizer.decode(long.ids) == task.template().replace("{text}", text[:kept])


def test_with_its_longest_label_and_the_end_a_cut_example_fits_exactly(base):
    task = LabelWords(base, ("b", "a longer label"), None, 200)
    (item,) = task.encode([ClassificationExample("x" * 500, "b")])
    prompt = len(item.ids) - len(base.tokenizer(" ").input_ids)
    assert prompt + len(base.tokenizer(" a longer label").input_ids) + 1 == 200


def test_a_cut_never_splits_a_character(base):
    task = LabelWords(base, FEW, None, 200)
    for item in task.encode([ClassificationExample("x" * shift + "緑" * 100, "?") for shift in range(3)]):
        assert item.truncated and len(item.ids) <= task.max_tokens
        assert "\ufffd" not in base.tokenizer.decode(item.ids)


def test_of_two_texts_the_longer_loses(base):
    task = LabelWords(base, FEW, None, 200)
    for text, pair in (("brief", "y" * 500), ("x" * 500, "brief"), ("x" * 500, "y" * 400)):
        (item,) = task.encode([ClassificationExample(text, "?", pair)])
        shown = base.tokenizer.decode(item.ids)
        assert item.truncated and len(item.ids) <= task.max_tokens
        assert len(item.ids) >= task.max_tokens - 1
        assert ("brief" in shown) == ("brief" in (text, pair))
        assert "First text: " in shown and "Second text: " in shown


@pytest.mark.parametrize("pair", [None, "another text"])
def test_a_description_that_leaves_no_room_is_refused_and_one_that_fits_leaves_room_for_both_texts(base, pair):
    refused = 0
    for length in range(90, 150):
        try:
            task = LabelWords(base, FEW, "d" * length, 200)
        except SpecError as error:
            assert "task.max_tokens" in str(error)
            refused += 1
        else:
            assert not refused
            (item,) = task.encode([ClassificationExample("a text", "?", pair)])
            assert len(item.ids) <= task.max_tokens
            assert item.ids != task.encode([ClassificationExample("", "?", pair and "")])[0].ids
    assert 0 < refused < 59


def test_labels_that_the_tokenizer_cannot_tell_apart_are_refused(base):
    caseless = deepcopy(base.tokenizer)
    caseless.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(SpecError, match="cannot tell the labels apart"):
        LabelWords(replace(base, tokenizer=caseless), ("good", "Good"), None, 512)


def test_passes_stay_within_the_token_budget_with_every_label_of_every_example(base):
    task = LabelWords(base, LABELS["shared beginnings"], None, 512)
    items = task.encode(examples(task.labels, ["word " * (1 + number % 9) for number in range(60)]))
    for scoring in (False, True):
        groups = list(task.passes(items, scoring))
        assert sorted(index for group in groups for index in group) == list(range(60))
        assert len(groups) > 1
        for group in groups:
            prompts = [items[index].ids[: task._prompt_length(items[index])] for index in group]
            packed = pack(prompts, CPU, task.trie) if scoring else pack([items[index].ids for index in group], CPU)
            assert packed.ids.shape[1] <= 512


def test_a_pass_that_fails_leaves_no_kept_prefix_behind_that_would_change_later_answers(base):
    def run_out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    task = LabelWords(base, FEW, None, 300)
    items = task.encode(examples(FEW))
    with torch.inference_mode():
        alone = task.log_probabilities(items)
        task.keep_prefix()
        assert task.keeps_prefix
        with base.model.base_model.register_forward_hook(run_out_of_memory), pytest.raises(torch.OutOfMemoryError):
            task.log_probabilities(items)  # by then, the cache has taken in what follows the prefix
        torch.testing.assert_close(task.log_probabilities(items), alone, rtol=0, atol=1e-4)
