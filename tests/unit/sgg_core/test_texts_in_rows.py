"""Several texts in one row of an encoder, in float64 against each text alone."""

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.backbone import hidden_states, layer_states
from sgg_core.base_loading import prepared
from sgg_core.guidance.passes import TaskBatch
from sgg_core.lora_layers import lora
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import LoraSpec
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.texts_in_rows import AFTER_PADDING, FROM_ZERO, Texts, first_position, laid_out

SHAPE = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 64, "max_position_embeddings": 64}
TEXTS = ([5, 6, 7], [8, 9, 10], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [7], [9, 8, 7])
SHARING = {
    "AlbertModel": transformers.AlbertConfig(**SHAPE, embedding_size=16),
    "BertModel": transformers.BertConfig(**SHAPE),
    "CamembertModel": transformers.CamembertConfig(**SHAPE),
    "DistilBertModel": transformers.DistilBertConfig(
        vocab_size=260, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    ),
    "ElectraModel": transformers.ElectraConfig(**SHAPE, embedding_size=16),
    "RobertaModel": transformers.RobertaConfig(**SHAPE),
    "XLMRobertaModel": transformers.XLMRobertaConfig(**SHAPE, pad_token_id=3),
}
ALONE = {
    "relative distances": transformers.MPNetConfig(**SHAPE),
    "windows": transformers.ModernBertConfig(
        **SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "what comes later is unseen": transformers.BertConfig(**SHAPE, is_decoder=True),
}


def base_of(encoder, config):
    """A base model in float64 with large weights, so that what a token sees changes its state well beyond rounding."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).double()
    for weight in model.parameters():
        weight.data.normal_(std=0.5)
    return prepared(encoder.entry, model, encoder.tokenizer, "", None, torch.device("cpu"))


def in_rows(texts, first):
    """One row of these texts, as `hidden_states` takes it."""
    positions = laid_out([range(first, first + len(text)) for text in texts], torch.device("cpu"))
    return laid_out(texts, torch.device("cpu")), Texts((tuple(map(len, texts)),)), positions


def test_every_architecture_that_may_share_rows_is_tried():
    assert set(SHARING) == FROM_ZERO | AFTER_PADDING


@pytest.mark.parametrize("name", SHARING)
def test_each_text_has_the_states_and_gradients_that_it_has_alone(encoder, name):
    base = base_of(encoder, SHARING[name])
    assert type(base.model).__name__ == name
    ids, texts, positions = in_rows(TEXTS, first_position(base.model))
    with lora(base, LoraSpec(rank=2), 0) as adapted:
        trained = [p for p in adapted.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.data.normal_(std=0.3)
        found = hidden_states(base, ids, texts, positions)[0]
        alone = torch.cat([base.model(input_ids=torch.tensor([text])).last_hidden_state[0] for text in TEXTS])
        width = max(map(len, TEXTS))
        padded = torch.tensor([text + [base.model.config.pad_token_id] * (width - len(text)) for text in TEXTS])
        mask = (torch.arange(width) < torch.tensor(list(map(len, TEXTS)))[:, None]).long()
        as_before = base.model(input_ids=padded, attention_mask=mask).last_hidden_state[mask.bool()]
        towards = torch.randn(alone.shape, dtype=torch.float64)
        gradients = [torch.autograd.grad((states * towards).sum(), trained) for states in (found, alone)]
    torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(as_before, alone, rtol=1e-10, atol=1e-10)
    largest = max(part.abs().max() for part in gradients[1])
    assert largest > 0
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() <= 1e-10 * largest


@pytest.mark.parametrize("reason", ALONE)
def test_where_a_texts_place_matters_otherwise_texts_are_rows_of_their_own(encoder, reason):
    base = base_of(encoder, ALONE[reason])
    assert first_position(base.model) is None
    task = PooledHead(base, ("a", "b"), 64, seed=0)
    items = task.encode([ClassificationExample(text, "a") for text in ("xy", "a longer text", "z")])
    assert task.positions(items) == [3 * 13]
    with torch.no_grad():
        together, alone = task.features(items), torch.cat([task.features([item]) for item in items])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_several_rows_and_what_is_left_of_them(sharp):
    base = sharp("encoder")
    ids, texts, positions = in_rows(TEXTS, 0)
    rows = torch.zeros(2, 22, dtype=torch.long)
    places = torch.zeros(2, 22, dtype=torch.long)
    rows[0, :20], places[0, :20] = ids[0], positions[0]
    rows[1, :3], places[1, :3] = ids[0, :3], positions[0, :3]
    found = hidden_states(base, rows, Texts((*texts.lengths, (3,))), places)
    states = layer_states(base, ids, texts, positions)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0, :20], states[-1][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1, :3], states[-1][0, :3], rtol=1e-10, atol=1e-10)
    assert len(states) == 3


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 3))
def test_blocks_cover_all_tokens_in_their_order(lengths, more):
    width = max(map(sum, lengths)) + more
    expected = []
    for row in lengths:
        expected += [*row, *([0] * (width - sum(row)))]
    blocks = Texts(tuple(map(tuple, lengths))).blocks(width)
    assert [length for count, length in blocks for _ in range(count)] == expected


@pytest.mark.parametrize("kind", ["gradient", "product"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_batch_computes_the_same_in_rows_and_padded(sharp, kind, dropout):
    """First and second derivatives; with dropout, which falls on other tokens, each way is the same twice."""
    base = sharp("encoder")
    rows = PooledHead(base, ("good", "bad"), 512, seed=0)
    padded = PooledHead(base, ("good", "bad"), 512, seed=0)
    padded.first_position = None
    texts = ("Rain", "A sunny day.", "x", "It was cold, and then it was warm.", "Rain")
    items = rows.encode([ClassificationExample(text, ("good", "bad")[n % 2]) for n, text in enumerate(texts)])
    assert sum(rows.positions(items)) == sum(len(item.ids) for item in items) < sum(padded.positions(items))
    with lora(base, LoraSpec(rank=2, dropout=dropout), 0) as adapted:
        adapted.train(dropout > 0)  # the base model has dropout of its own, too
        trained = [p for p in adapted.parameters() if p.requires_grad]
        make = torch.Generator().manual_seed(1)
        for parameter in trained:
            parameter.data.copy_(torch.randn(parameter.shape, generator=make) * 0.02)
        vector = [torch.ones_like(parameter) for parameter in trained]

        def computed(task):
            batch = TaskBatch(task, items, trained, seed=4)
            return batch.gradient().gradient if kind == "gradient" else batch.product(vector)

        found, again, expected = computed(rows), computed(rows), computed(padded)
    base.model.eval()
    largest = max(part.abs().max() for part in expected)
    assert largest > 0
    for one, two, other in zip(found, again, expected, strict=True):
        assert torch.equal(one, two)
        assert dropout or (one - other).abs().max() <= 1e-5 * largest  # pooling is in float32


def test_a_model_that_stands_for_another_gets_padded_rows(encoder):
    standing_in = replace(encoder, model=torch.nn.Module())
    standing_in.model.config = encoder.model.config
    assert PooledHead(standing_in, ("a",), 64, seed=0).first_position is None
