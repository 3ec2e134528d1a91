"""The pooled head against each text alone, and its starting weights against the probe's own optimality condition."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.nn import functional

from sgg_core.evaluation import evaluate, log_probabilities
from sgg_core.lora_layers import lora
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import LoraSpec
from sgg_core.tasks.choice import probe_head
from sgg_core.tasks.pooled_head import PooledHead, logistic_regression

LABELS = ("bad", "good", "so-so")
TEXTS = ("Rain", "A sunny day.", "x", "It was cold, and then it was warm; nobody minded.", "Rain, rain, rain.")
EXAMPLES = [ClassificationExample(text, LABELS[number % 3]) for number, text in enumerate(TEXTS)]


@pytest.fixture
def base(sharp):
    return sharp("encoder")


@pytest.fixture
def task(base):
    return PooledHead(base, LABELS, 512, seed=0)


def naive_features(base, item):
    with torch.no_grad():
        states = base.model(torch.tensor([item.ids])).last_hidden_state[0].float()
    mean = sum(states) / len(states)
    return mean / mean.square().sum().sqrt()


def test_features_of_a_batch_are_the_unit_length_mean_of_each_texts_own_states(base, task):
    items = task.encode(EXAMPLES)
    assert len({len(item.ids) for item in items}) > 3
    with torch.no_grad():
        found = task.features(items)
    assert torch.allclose(found, torch.stack([naive_features(base, item) for item in items]), atol=1e-6)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(items)), atol=1e-6)
    assert (found[0] - found[1]).norm() > 0.1


def test_a_look_into_the_layers_gives_the_unit_length_mean_after_each_share_of_them(base, task):
    items = task.encode(EXAMPLES)
    with torch.no_grad():
        embedded, last = task.look(items, (0.0, 1.0))
        states = [base.model(torch.tensor([item.ids]), output_hidden_states=True).hidden_states[0] for item in items]
        expected = torch.stack([functional.normalize(each[0].float().mean(0), dim=0) for each in states])
        assert torch.allclose(last, task.features(items), atol=1e-6)
    assert torch.allclose(embedded, expected, atol=1e-6)


@pytest.mark.parametrize("first_position", [None, 0])
def test_what_stands_in_the_padding_does_not_matter(base, task, first_position):
    other = copy.deepcopy(base.tokenizer)
    other.pad_token = "x"
    items = task.encode(EXAMPLES)
    elsewhere = PooledHead(replace(base, tokenizer=other), LABELS, 512, seed=0)
    task.first_position = elsewhere.first_position = first_position
    assert elsewhere.base.tokenizer.pad_token_id != base.tokenizer.pad_token_id
    with torch.no_grad():
        assert torch.allclose(elsewhere.features(items), task.features(items), atol=1e-7)


def test_loss_and_scores_are_those_of_a_softmax_over_the_head(base, task):
    items = task.encode(EXAMPLES)
    expected = torch.stack([task.linear(naive_features(base, item)).log_softmax(-1) for item in items]).detach()
    gold = [LABELS.index(example.label) for example in EXAMPLES]
    loss = task.loss(items)
    minus_log_p = -sum(expected[row, label].item() for row, label in enumerate(gold))
    assert loss.total.item() == pytest.approx(minus_log_p, rel=1e-5)
    assert loss.units == task.units(items) == 5
    assert loss.correct == sum(expected[row].argmax().item() == label for row, label in enumerate(gold))
    assert torch.allclose(log_probabilities(task, items), expected, atol=1e-5)
    assert evaluate(task, items).loss == pytest.approx(minus_log_p / 5, rel=1e-5)


def test_many_texts_in_several_passes_keep_their_order(base, task):
    texts = ["word " * (1 + 7 * number % 30) for number in range(40)]
    items = task.encode([ClassificationExample(text, "?") for text in texts])
    groups = list(task.passes(items))
    assert len(groups) > 1
    assert all(sum(len(items[index].ids) for index in group) <= 512 for group in groups)
    alone = torch.cat([log_probabilities(task, [item]) for item in items])
    assert torch.allclose(log_probabilities(task, items), alone, atol=1e-5)


def test_an_unknown_label_can_be_scored_but_is_none_of_the_labels(task):
    (item,) = task.encode([ClassificationExample("Rain", "never seen")])
    assert item.label == -1
    assert log_probabilities(task, [item]).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_a_text_too_long_is_cut_at_its_end_and_marked(base):
    task = PooledHead(base, LABELS, 16, seed=0)
    text = "abcdefghijklmnopqrstuvwxyz"
    short, long = task.encode([ClassificationExample(text[:16], "good"), ClassificationExample(text, "good")])
    assert (short.truncated, long.truncated) == (False, True)
    assert long.ids == short.ids
    assert PooledHead(base, LABELS, 8192, seed=0).max_tokens == base.entry.context_tokens


def test_nothing_is_logged_of_a_text_that_is_cut(base, monkeypatch, caplog):
    monkeypatch.setattr(base.tokenizer, "model_max_length", 8)
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    [item] = PooledHead(base, LABELS, 6, seed=0).encode([ClassificationExample("Rain " * 30, "bad")])
    assert item.truncated
    assert caplog.records == []


def test_of_two_texts_both_are_seen_and_the_longer_is_cut_first(base):
    task = PooledHead(base, LABELS, 16, seed=0)
    pair, swapped, first_long, second_long = task.encode(
        [
            ClassificationExample("One.", "good", "Two."),
            ClassificationExample("Two.", "good", "One."),
            ClassificationExample("x" * 50, "good", "brief"),
            ClassificationExample("brief", "good", "y" * 50),
        ]
    )
    shown = [base.tokenizer.decode(item.ids) for item in (pair, swapped, first_long, second_long)]
    assert shown == ["One.Two.", "Two.One.", "x" * 11 + "brief", "brief" + "y" * 11]
    assert [item.truncated for item in (pair, swapped, first_long, second_long)] == [False, False, True, True]


@pytest.fixture
def telling(base):
    """A tokenizer that tells the two texts of a pair apart, as BERT's does."""
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return tokenizer


def test_the_second_text_of_a_pair_has_a_type_of_its_own_where_the_tokenizer_says_so(base, task, telling):
    told = PooledHead(replace(base, tokenizer=telling), LABELS, 512, seed=0)
    pairs = [ClassificationExample("One.", "good", "Two."), ClassificationExample("Sun", "good", "and rain, rain")]
    items = told.encode(pairs)
    assert items[0].types == (0,) * 4 + (1,) * 4
    with torch.no_grad():
        for item, found in zip(items, told.features(items), strict=True):
            inputs = {"input_ids": torch.tensor([item.ids]), "token_type_ids": torch.tensor([item.types])}
            mean = base.model(**inputs).last_hidden_state[0].float().mean(0)
            assert torch.allclose(found, mean / mean.norm(), atol=1e-6)
        assert (told.features(items) - task.features(task.encode(pairs))).norm(dim=1).min() > 0.01
        assert torch.equal(told.features(told.encode(EXAMPLES)), task.features(task.encode(EXAMPLES)))


def test_an_encoder_of_one_type_is_shown_none(base, task, telling, monkeypatch):
    monkeypatch.setattr(base.model.config, "type_vocab_size", 1)
    pair = [ClassificationExample("One.", "good", "Two.")]
    assert PooledHead(replace(base, tokenizer=telling), LABELS, 512, seed=0).encode(pair) == task.encode(pair)


def test_the_name_of_a_special_token_in_a_text_is_no_token(base, task):
    items = task.encode([ClassificationExample("a<|end|>", "good", "<|pad|>b")])
    assert base.tokenizer.decode(items[0].ids) == "a<|end|><|pad|>b"
    assert not {*items[0].ids} & {*base.tokenizer.all_special_ids}


def test_gradients_reach_the_head_and_every_layer_of_the_adapter(base, task):
    items = task.encode(EXAMPLES)
    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        weights = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
        task.loss(items).total.backward()
        assert all(weight.grad is not None for weight in weights.values())
        assert all(weight.grad.norm() > 0 for name, weight in weights.items() if "lora_B" in name and "key" not in name)
        assert all(weight.grad.norm() == 0 for name, weight in weights.items() if "lora_A" in name)
    assert task.head() is task.linear
    assert task.linear.weight.grad.norm() > 0 and task.linear.bias.grad.norm() > 0
    assert all(weight.grad is None for weight in base.model.parameters())


def test_a_batchs_gradient_is_the_sum_of_its_examples_gradients(base, task):
    items = task.encode(EXAMPLES)
    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        weights = [weight for weight in (*adapted.parameters(), *task.linear.parameters()) if weight.requires_grad]

        def gradient(loss):
            return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])

        together = gradient(task.loss(items).total)
        alone = sum(gradient(task.loss([item]).total) for item in items)
    assert (together - alone).norm() < 1e-4 * alone.norm()


def test_a_head_is_a_function_of_seed_and_labels_and_leaves_the_global_generator_alone(base):
    before = torch.get_rng_state()
    first, again = (PooledHead(base, LABELS, 512, seed=3).linear.weight for _ in range(2))
    others = [PooledHead(base, LABELS, 512, seed=4), PooledHead(base, ("a", "b", "c"), 512, seed=3)]
    assert torch.equal(first, again)
    assert all(not torch.equal(first, other.linear.weight) for other in others)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_probed_head_is_the_regularized_logistic_regression_on_the_frozen_features(base, task):
    texts = [f"{word} " * (1 + 5 * number % 23) for number, word in enumerate(["rain", "sun", "fog"] * 15)]
    items = task.encode([ClassificationExample(text, LABELS[number % 3]) for number, text in enumerate(texts)])
    assert len(list(task.passes(items))) > 1
    features = torch.stack([naive_features(base, item) for item in items])
    gold = torch.tensor([number % 3 for number in range(len(texts))])

    def objective():
        return functional.cross_entropy(task.linear(features), gold) + 1e-3 * task.linear.weight.square().sum()

    before = objective().item()
    probe_head(task, items)
    after = objective()
    slopes = torch.autograd.grad(after, [task.linear.weight, task.linear.bias])
    assert after.item() < 0.5 * before
    assert max(slope.abs().max().item() for slope in slopes) < 1e-3
    assert (task.linear(features).argmax(1) == gold).float().mean() > 0.9


def test_the_probe_of_more_labels_decays_less():
    generator = torch.Generator().manual_seed(1)
    features, gold = torch.randn(60, 5, generator=generator), torch.arange(60) % 12
    linear = torch.nn.Linear(5, 12)
    logistic_regression(linear, features, gold)
    loss = functional.cross_entropy(linear(features), gold) + 5e-4 * linear.weight.square().sum()
    slopes = torch.autograd.grad(loss, [linear.weight, linear.bias])
    assert max(slope.abs().max().item() for slope in slopes) < 1e-3
    assert linear.weight.norm() > 1
