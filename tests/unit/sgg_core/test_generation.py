"""Written texts: those of a naive second implementation, settled while they grow, the same for the same seed."""

from __future__ import annotations

import itertools

import pytest
import torch

from sgg_core.generation import chosen, end_tokens, settled, write
from sgg_core.trials import ContextLengthError, Sampling

PROMPT = [10, 20, 30, 40]


def written(base, **sampling):
    return list(write(base, PROMPT, Sampling(**({"max_tokens": 12, "temperature": 0.0} | sampling))))


def test_the_likeliest_tokens_are_those_of_a_model_that_reads_everything_again_for_each(causal):
    ids = list(PROMPT)
    for _ in range(12):
        with torch.no_grad():
            token = int(causal.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in end_tokens(causal):
            break
        ids.append(token)
    last = written(causal)[-1]
    assert last.text == causal.tokenizer.decode(ids[len(PROMPT) :], skip_special_tokens=True)
    assert (last.prompt_tokens, last.completion_tokens) == (len(PROMPT), len(ids) - len(PROMPT))


def test_a_text_only_grows_and_says_at_the_end_why_it_is_all(causal):
    parts = written(causal, temperature=1.0, seed=4)
    assert all(after.text.startswith(before.text) for before, after in itertools.pairwise(parts))
    assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].finish_reason == ("length" if parts[-1].completion_tokens == 12 else "stop")


def test_a_seed_repeats_a_text_and_another_one_does_not(causal):
    texts = [written(causal, temperature=1.5, seed=seed)[-1].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_text_ends_before_its_stop_text_and_never_shows_a_part_of_it(causal):
    whole = written(causal, temperature=1.5, seed=1)[-1].text
    stop = whole[2:4]
    parts = written(causal, temperature=1.5, seed=1, stop=("never there", stop))
    assert parts[-1].text == whole[: whole.index(stop)] and parts[-1].finish_reason == "stop"
    assert all(len(part.text) <= len(parts[-1].text) for part in parts)


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("abc", (), "abc"),
        ("abc\ufffd", (), "abc"),
        ("abc", ("cd",), "ab"),
        ("abcd", ("cde", "bcdf"), "a"),
        ("abc", ("x",), "abc"),
    ],
)
def test_what_may_still_change_is_held_back(text, stops, shown):
    assert settled(text, stops) == shown


def test_the_context_bounds_prompt_and_answer_together(causal):
    room = causal.entry.context_tokens
    fitting = list(write(causal, [10] * (room - 2), Sampling(max_tokens=50, temperature=0.0)))
    assert fitting[-1].completion_tokens <= 2
    with pytest.raises(ContextLengthError, match="Shorten the prompt"):
        next(write(causal, [10] * room, Sampling(max_tokens=1)))


def test_top_p_draws_from_the_fewest_likeliest_tokens_that_reach_it():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    for top_p, allowed in ((0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.81, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        sampling = Sampling(max_tokens=1, top_p=top_p)
        assert {chosen(scores, sampling, generator) for _ in range(200)} == allowed


def test_temperature_sharpens_and_flattens():
    scores = torch.tensor([0.7, 0.3]).log()
    generator = torch.Generator().manual_seed(0)
    for temperature, expected in ((0.5, 0.49 / 0.58), (1.0, 0.7), (2.0, 0.7**0.5 / (0.7**0.5 + 0.3**0.5))):
        drawn = [chosen(scores, Sampling(max_tokens=1, temperature=temperature), generator) for _ in range(4000)]
        assert drawn.count(0) / 4000 == pytest.approx(expected, abs=0.03)
