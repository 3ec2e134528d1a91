"""Ids and names."""

from __future__ import annotations

import re

from sgg_store import ids


def test_new_ids_have_24_digits_and_do_not_repeat() -> None:
    made = [ids.new_id("ftjob-") for _ in range(100)]
    assert all(re.fullmatch(r"ftjob-[0-9a-f]{24}", job_id) for job_id in made)
    assert len(set(made)) == 100


def test_event_ids_sort_as_the_events_do() -> None:
    made = [ids.event_id("ftjob-" + "a" * 24, seq) for seq in (1, 9, 10, 99_999_999)]
    assert made == sorted(made)
    assert made[0] == "ftevent-" + "a" * 24 + "00000001"


def test_model_names_are_one_path_segment_of_five_parts() -> None:
    name = ids.fine_tuned_model_name("Qwen/Qwen3-0.6B", "proj-default", "a/b:c d", "ftjob-0123456789abcdef01234567")
    assert name == "ft:Qwen3-0.6B:default:a-b-c-d:cdef01234567"
    assert (
        ids.fine_tuned_model_name("tiny", "proj-x", None, f"ftjob-{'0' * 12}456789abcdef") == "ft:tiny:x::456789abcdef"
    )
    assert ids.checkpoint_model_name(name, 88) == name + ":ckpt-step-88"
