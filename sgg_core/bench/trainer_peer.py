"""transformers' Trainer with peft's LoRA as a peer: the training of a plain run of ours, by the means of others.

It sees the same rows in the same batches, begins with the same weights, and has the same optimizer and learning rates,
so that its losses are ours up to rounding and the time alone differs. Its batches are padded to their longest row. A
causal language model has transformers' own loss, over the whole vocabulary: that of completions and chats here, but
not that of label words. An encoder has the same pooled head as here.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core.adapted_linear import as_peft_computes
from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded, padded
from sgg_core.examples import ExampleSet
from sgg_core.lora_layers import lora
from sgg_core.plan import Plan, make_plan
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.choice import encoded, make_task, probe_head
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task

IGNORED = -100  # transformers' label of a token that is not trained


class PooledClassifier(nn.Module):
    """An encoder with a head on its mean-pooled states. Dropout stays off, as in runs of ours."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def train(self, mode: bool = True) -> PooledClassifier:
        """Trainer asks for it before each step."""
        return self

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The mean loss of rows (B, T) with `labels` (B,)."""
        states, mask = self.encoder(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        features = functional.normalize((states.float() * mask).sum(1) / mask.sum(1), dim=-1)
        return {"loss": functional.cross_entropy(self.head(features), labels)}


def train_with_trainer(
    base: LoadedBase, examples: ExampleSet, spec: TrainingSpec, steps: int
) -> tuple[float, list[float]]:
    """Seconds from nothing but the base model to the last step, and the loss of each step. `base` is left as it was."""
    begun = time.perf_counter()
    with lora(base, spec.lora, spec.seed) as adapted:
        task = make_task(spec, base, examples)
        items = encoded(task, examples)
        probe_head(task, items)
        plan = make_plan(spec, base.entry.kind, *examples.sizes)
        labels = [item.label for item in items]
        batches = [
            _batch(task, [items[index] for index in plan.indices(step, spec.seed, labels)])
            for step in range(1, steps + 1)
        ]
        model = PooledClassifier(adapted, task.linear) if isinstance(task, PooledHead) else adapted
        with as_peft_computes(adapted):
            losses = _trained(model, batches, plan, spec, base.device)
        seconds = time.perf_counter() - begun
    base.model.eval()
    return seconds, losses


def _trained(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], plan: Plan, spec: TrainingSpec, device: torch.device
) -> list[float]:
    """Losses of the steps that Trainer takes, one for each batch."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    losses: list[Tensor] = []

    class InOrder(Trainer):  # type: ignore[misc]
        """Takes the batches as they come, and remembers the losses."""

        def get_train_dataloader(self) -> Any:
            return batches

        def compute_loss(self, *given: Any, **more: Any) -> Any:
            loss = super().compute_loss(*given, **more)
            losses.append(loss.detach())
            return loss

    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=spec.optimization.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda taken: plan.learning_rate_at(min(taken + 1, plan.total_steps)) / plan.learning_rate
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = InOrder(
            model=model,
            args=TrainingArguments(
                output_dir=scratch, max_steps=len(batches), max_grad_norm=plan.clip_norm or 0.0, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
                label_names=["labels"], use_cpu=device.type == "cpu", bf16=device.type == "cuda",
            ),
            optimizers=(optimizer, schedule),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [float(loss) for loss in losses]


def _batch(task: Task, items: Sequence[Encoded]) -> dict[str, Tensor]:
    """Rows padded on the right to the longest, as a data collator makes them."""
    device, pad = torch.device("cpu"), task.base.tokenizer.pad_token_id
    rows = [task.shown(item) for item in items]
    tokens = [[token for token, _ in row] for row in rows]
    batch = {
        "input_ids": padded(tokens, pad, device),
        "attention_mask": padded([[1] * len(row) for row in rows], 0, device),
    }
    if not isinstance(task, PooledHead):
        targets = [[token if trained else IGNORED for token, trained in row] for row in rows]
        return batch | {"labels": padded(targets, IGNORED, device)}
    if items[0].types:
        batch["token_type_ids"] = padded([item.types for item in items], 0, device)
    return batch | {"labels": torch.tensor([item.label for item in items])}
