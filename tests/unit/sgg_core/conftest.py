"""Tiny base models, small data sets and short specs for tests of the core."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sgg_core.examples import ExampleSet, parse_examples
from sgg_core.reporting import SilentReporter
from sgg_core.spec import TrainingSpec

settings.register_profile("any load", deadline=None)  # a busy machine is no failure
settings.load_profile("any load")

WORDS = {"good": ("fine", "sunny", "great", "warm"), "bad": ("poor", "rainy", "awful", "cold")}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order, so that equal runs are equal to the last bit."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def causal(one_thread: None):
    """A warm tiny causal language model that all tests share: each has to leave it as it was."""
    from sgg_core.tiny import tiny_base

    return tiny_base("causal")


@pytest.fixture(scope="session")
def encoder(one_thread: None):
    """A warm tiny encoder that all tests share."""
    from sgg_core.tiny import tiny_base

    return tiny_base("encoder")


@pytest.fixture(scope="session")
def sharp(one_thread: None) -> Callable[[str], Any]:
    """Tiny base models in float64 with large weights: what a token sees changes its state well beyond rounding."""
    import torch

    from sgg_core.tiny import tiny_base

    def build(kind: str) -> Any:
        base = tiny_base(kind, seed=1)
        base.model.double()
        with torch.no_grad():
            for name, weight in base.model.named_parameters():
                if weight.ndim == 2:
                    weight.mul_(20.0 if "embed" in name else 8.0)
        return base

    built = {kind: build(kind) for kind in ("causal", "encoder")}
    return built.__getitem__


@pytest.fixture(scope="session")
def in_precision() -> Callable[[Any, Any], AbstractContextManager[Any]]:
    """A base model in another precision for the length of a block, without what jobs have left on it."""

    @contextmanager
    def moved(base: Any, dtype: Any) -> Iterator[Any]:
        base.model.to(dtype)
        base.resting, base.spare, base.stacked = None, [], None
        try:
            yield base
        finally:
            base.model.float()
            base.resting, base.spare, base.stacked = None, [], None

    return moved


@pytest.fixture(params=["causal", "encoder"])
def base(request: pytest.FixtureRequest):
    """Both tiny base models."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def file_of() -> Callable[..., ExampleSet]:
    """Rows as a parsed data file."""

    def build(rows: Sequence[dict[str, Any]], filename: str = "few.jsonl") -> ExampleSet:
        return parse_examples("\n".join(json.dumps(row) for row in rows).encode(), filename)

    return build


@pytest.fixture(scope="session")
def training(file_of) -> ExampleSet:
    """Eight texts of two labels, of different lengths."""
    rows = [
        {"text": " ".join([word] * (1 + number)), "label": label}
        for number in range(4)
        for label, words in WORDS.items()
        for word in words[number : number + 1]
    ]
    return file_of(rows, "train.jsonl")


@pytest.fixture(scope="session")
def validation(file_of) -> ExampleSet:
    """Six other texts of the same labels."""
    rows = [{"text": f"a {words[n]} day", "label": label} for n in range(3) for label, words in WORDS.items()]
    return file_of(rows, "valid.jsonl")


@pytest.fixture(scope="session")
def source(file_of) -> ExampleSet:
    """A related task with labels of its own."""
    rows = [{"text": f"{word}!", "label": f"very {label}"} for label, words in WORDS.items() for word in words]
    return file_of(rows, "source.jsonl")


@pytest.fixture(scope="session")
def spec_for() -> Callable[..., TrainingSpec]:
    """A spec of six steps on a tiny base model; keyword arguments replace groups' fields."""

    def build(base: Any, **groups: Any) -> TrainingSpec:
        fields: dict[str, Any] = {
            "base_model": base.entry.name,
            "lora": {"rank": 2},
            "optimization": {"max_steps": 6, "epochs": 10, "batch_size": 4, "learning_rate": 0.01},
            "guidance": {"direction": 0.3, "magnitude": 0.7, "ramp_fraction": 0.2},
            "evaluation": {"every_steps": 2, "baselines": []},
            "checkpoint": {"every_steps": 2},
        }
        for name, value in groups.items():
            fields[name] = {**fields.get(name, {}), **value} if isinstance(value, dict) else value
        return TrainingSpec.model_validate(fields)

    return build


@pytest.fixture
def told() -> Callable[..., list[dict[str, Any]]]:
    """A reporter's messages as dicts, without what no two runs share: seconds and directories."""

    def build(reporter: SilentReporter, *types: str) -> list[dict[str, Any]]:
        messages = [message.model_dump(exclude={"seconds", "directory"}) for message in reporter.messages]
        return [message for message in messages if not types or message["type"] in types]

    return build


@pytest.fixture
def adapter_bytes() -> Callable[[Path], dict[str, bytes]]:
    """The weights of an output directory, byte for byte."""

    def read(directory: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(directory.glob("*.safetensors"))}

    return read


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """A block in which writes beyond so many bytes of a file fail, as they do on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
