"""Using an adapter directory: loading it, and answering rows with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from sgg_core import encoding
from sgg_core.adapted_linear import quicken
from sgg_core.adapter_file import HEAD
from sgg_core.asked import asked_examples
from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
from sgg_core.errors import CheckpointError, DataError, Problem
from sgg_core.evaluation import probe_values
from sgg_core.generation import write
from sgg_core.lora_layers import take_off
from sgg_core.manifest import Manifest, template_fingerprint, verify_weights
from sgg_core.shapes import (
    ChatExample,
    CompletionExample,
    Example,
)
from sgg_core.tasks.choice import task_for
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task
from sgg_core.trials import Sampling

MOST_WRITTEN = 256  # tokens of an answer


def load_predictor(directory: Path | str, *, catalogue: Catalogue, base: LoadedBase | None = None) -> Predictor:
    """Load an adapter directory for prediction, on `base` or on the catalogue's entry of its base model.

    Raises CheckpointError for damaged weights or another base model than the adapter was trained on.
    """
    from peft import PeftModel

    directory = Path(directory)
    manifest = verify_weights(directory)
    base = base or load_base(catalogue.get(manifest.spec.base_model))
    if base.sha256 != manifest.base_model_sha256:
        raise CheckpointError(
            f"{directory} was trained on another version of {manifest.spec.base_model!r} than the one here.",
            "Use the version of the base model that it was trained on.",
        )
    adapted = PeftModel.from_pretrained(base.model, directory).eval()
    quicken(adapted)
    return Predictor(manifest, base, adapted, task_of(manifest, base, directory))


def task_of(manifest: Manifest, base: LoadedBase, directory: Path) -> Task:
    """The task of an adapter directory, with its head's weights."""
    spec = manifest.spec
    task = task_for(base, manifest.kind, manifest.labels, spec.task.description, spec.task.max_tokens)
    head = task.head()
    if head is not None:
        head.load_state_dict(load_file(directory / HEAD, device=str(base.device)))
    return task


class Predictor:
    """Answers of one adapter. Rows are dicts as in a data file, without the label, completion or last answer."""

    def __init__(self, manifest: Manifest, base: LoadedBase, adapted: Any, task: Task) -> None:
        self.manifest = manifest
        self.base = base
        self.task = task
        self._adapted = adapted

    def warning(self) -> str | None:
        """What to tell whoever asks, if texts are now written in another form than the adapter was trained on."""
        if self.manifest.template_sha256 in (None, template_fingerprint(self.task)):
            return None
        return (
            "The prompt template differs from the one that the adapter was trained with, so answers may be worse. "
            "Use the versions of SGG and of the base model's tokenizer that sgg.json names."
        )

    def close(self) -> None:
        """Take the adapter off the base model, which can then carry another one."""
        take_off(self.base, self._adapted)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], filename: str = "input", lines: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """One answer a row, in order: {"label", "probabilities"}, or {"completion"} for SFT adapters.

        `lines` are the rows' lines in `filename`, from 1 on without gaps unless given. Raises DataError naming the line
        of every row that cannot be used, before the first answer.
        """
        lines = lines or range(1, len(rows) + 1)
        return self.answer(asked_examples(self.manifest.kind, rows, filename, lines), filename, lines)

    def answer(self, examples: Sequence[Example], filename: str, lines: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The same for rows that were read by `asked_examples`."""
        if isinstance(self.task, LabelWords | PooledHead):
            return self._labels(self.task, examples)
        return self._completions(self._prompts(examples, filename, lines), filename, lines)

    def _labels(self, task: LabelWords | PooledHead, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(examples), 32):
            items = task.encode(examples[start : start + 32])
            for row in probe_values(task, items).exp().tolist():
                best = max(range(len(row)), key=row.__getitem__)
                yield {"label": task.labels[best], "probabilities": dict(zip(task.labels, row, strict=True))}

    def _prompts(self, examples: Sequence[Example], filename: str, lines: Sequence[int]) -> list[str]:
        """What the model is shown of completions or chats; raises DataError naming chats that its template refuses."""
        prompts: list[str] = []
        problems: list[Problem] = []
        for line, example in zip(lines, examples, strict=True):
            if isinstance(example, CompletionExample):
                prompts.append(encoding.completion_prompt(self.base.tokenizer, example.prompt))
                continue
            assert isinstance(example, ChatExample)
            turns = [{"role": message.role, "content": message.content} for message in example.messages]
            try:
                prompts.append(encoding.rendered(self.base.tokenizer, turns, for_answer=True))
            except ValueError as error:
                problems.append(
                    Problem(line, "messages", f"{error}.", "Begin with a user message, then alternate the roles.")
                )
        if problems:
            raise DataError(filename, tuple(problems))
        return prompts

    def _completions(self, prompts: Sequence[str], filename: str, lines: Sequence[int]) -> Iterator[dict[str, Any]]:
        """What is written after each; raises DataError naming those that leave no room for it."""
        asked = [encoding.token_ids(self.base.tokenizer, prompt) for prompt in prompts]
        most = self.base.entry.context_tokens
        problems = [
            Problem(
                line,
                None,
                f"The prompt has {len(ids):,} tokens; the base model takes fewer than {most:,}.",
                "Shorten it.",
            )
            for line, ids in zip(lines, asked, strict=True)
            if len(ids) >= most
        ]
        if problems:
            raise DataError(filename, tuple(problems))
        return ({"completion": self._written(ids)} for ids in asked)

    def _written(self, ids: Sequence[int]) -> str:
        *_, last = write(self.base, ids, Sampling(max_tokens=MOST_WRITTEN, temperature=0.0))
        return last.text
