"""Tiny base models on disk, teams of two processes, and data of unequal lengths."""

from contextlib import ExitStack

import pytest

from sgg_core.base_loading import load_base
from sgg_core.reporting import SilentReporter
from sgg_core.team.leader import with_team
from sgg_core.tiny import save_tiny_base


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Tiny base models on disk, from where helpers can load them, by kind."""
    directory = tmp_path_factory.mktemp("bases")
    return {kind: load_base(save_tiny_base(directory / kind, kind)) for kind in ("causal", "encoder")}


@pytest.fixture(scope="module")
def pair(alone, spec_for):
    """The same base models with one helper each; tests share it for as long as they want the same one."""
    with ExitStack() as stack:
        found = {}

        def of(kind):
            if kind not in found or not all(helper.alive for helper in found[kind].team.helpers):
                found.clear()
                stack.close()  # a process is in one team at a time
                spec = spec_for(alone[kind], lora={"rank": 2}, resources={"gpus": 2})
                found[kind] = stack.enter_context(with_team(alone[kind], spec, SilentReporter()))
            return found[kind]

        yield of


@pytest.fixture(scope="module")
def texts(file_of):
    rows = [("good", "fine"), ("bad", "poor and rainy"), ("good", "sunny " * 5), ("bad", "awful"), ("bad", "cold wet")]
    return file_of([{"text": text, "label": label} for label, text in rows], "texts.jsonl")


@pytest.fixture(scope="module")
def chats(file_of):
    """Of very different lengths: a mean of means would be far from the mean over all trained tokens."""
    turns = [("say ho", "ho"), ("say hum", "hum " * 9), ("say it", "it"), ("say oh", "oh " * 4), ("say a", "a")]
    rows = [[{"role": "user", "content": ask}, {"role": "assistant", "content": say}] for ask, say in turns]
    return file_of([{"messages": messages} for messages in rows], "chats.jsonl")
