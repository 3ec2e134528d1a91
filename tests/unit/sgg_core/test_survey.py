"""What a dry run says of texts that are cut."""

import json

import pytest

from sgg_core.spec import TrainingSpec
from sgg_core.survey import survey


@pytest.mark.parametrize(("max_tokens", "remedy"), [(64, "raise hyperparameters"), (2048, "sees 1,024 tokens")])
def test_what_cuts_a_text_is_what_the_remedy_names(encoder, max_tokens, remedy):
    rows = [{"text": f"{n} " + "x" * 3000 * (n == 1), "label": "ab"[n % 2]} for n in range(4)]
    content = "\n".join(map(json.dumps, rows)).encode()
    spec = TrainingSpec.model_validate({"base_model": "tiny-encoder", "task": {"max_tokens": max_tokens}})
    found = survey(spec, encoder, {"training": "t.jsonl"}, lambda role: content, "cpu").files["training"]
    (warning,) = [each for each in found.warnings if "cut at their end" in each.reason]
    assert warning.line == 2 and remedy in warning.remedy
    assert ("task.max_tokens" in warning.remedy) == (max_tokens == 64)
