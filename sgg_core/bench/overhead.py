"""The cost of an optimizer step: every variant of the guided one, and its peers, against plain LoRA in one run.

All train on the same texts with the same base weights, LoRA rank 8 on all linear layers, and AdamW, in turns within one
process, so that other load on the machine hits all of them. Figures are medians and their ratios. All ways of this
project use cross-entropy: an encoder's default loss depends on the method, and the ratios are to be those of guidance.
transformers' Trainer gets what a user would give it: prompts with the label words as completion, padded to the longest
of the batch.
Peak memory is that of a fresh process that trains one way for a few steps.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_base
from sgg_core.bench.machine import this_machine
from sgg_core.card import table
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import SpecError
from sgg_core.examples import read_examples
from sgg_core.lora_layers import take_off
from sgg_core.reporting import Control, SilentReporter, StepMetrics
from sgg_core.spec import TrainingSpec
from sgg_core.trainer import train

WARM_UP = 2
CYCLE = 4  # steps, of which "every 4" corrects one
LEAST_STEPS = WARM_UP + CYCLE
PLAIN = "plain LoRA"
TRAINER = "transformers Trainer, peft LoRA"
FULL = "full fine-tuning"
# Passes through the network for one step, counted as gradients.
WAYS: dict[str, tuple[float, dict[str, Any]]] = {
    PLAIN: (1.0, {"method": "supervised"}),
    "momentum": (1.0, {"guidance": {"variant": "momentum", "every": 1}}),
    "every 4": (1.25, {"guidance": {"every": 4}}),
    "finite difference": (2.0, {"guidance": {"every": 1}}),
    "exact": (2.0, {"guidance": {"variant": "exact", "every": 1}}),
    "reference split": (2.0, {"guidance": {"reference": "split", "every": 1}}),
    "reference base_kl": (3.0, {"guidance": {"reference": "base_kl", "every": 1}}),
}


@dataclass(frozen=True)
class Setting:
    """What is trained on, and how long a turn is."""

    entry: BaseModelEntry
    data: Path
    steps: int
    batch_size: int


class StepsOnly(SilentReporter):
    """Cancels a run after some steps: the adapter and report that follow the last one can take as long again."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def control(self) -> Control:
        """Whether another step is wanted."""
        return "cancel" if len(self.seconds()) == self.steps else "continue"

    def seconds(self) -> list[float]:
        """What each step has taken."""
        return [message.seconds for message in self._steps()]

    def losses(self) -> list[float]:
        """The training loss of each step."""
        return [message.train_loss for message in self._steps()]

    def tokens(self) -> int:
        """Of all batches, padding not counted."""
        return sum(message.tokens for message in self._steps())

    def _steps(self) -> list[StepMetrics]:
        return [message for message in self.messages if isinstance(message, StepMetrics)]


def compare(setting: Setting, rounds: int, memory: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A line for each way to train: passes, median seconds, peak memory, and their ratios to plain LoRA."""
    base = load_base(setting.entry)
    seconds: dict[str, list[float]] = {name: [] for name in (*WAYS, TRAINER, FULL) if _suits(base, name)}
    for number in range(rounds):
        for name, found in seconds.items():
            found += (newest := turn(base, setting, name))
            tell(f"round {number + 1} of {rounds}, {name}: {median(newest):.2f} s a step")
    peaks = {name: _peak_in_child(setting, name) for name in seconds} if memory else {}
    plain, plain_peak = median(seconds[PLAIN]), peaks.get(PLAIN)
    lines = []
    for name, found in seconds.items():
        line: dict[str, Any] = {"way": name, "passes": WAYS[name][0] if name in WAYS else 1.0}
        line |= {"seconds": round(median(found), 4), "seconds_ratio": round(median(found) / plain, 2)}
        if plain_peak:
            line |= {"peak_gib": round(peaks[name], 2), "peak_ratio": round(peaks[name] / plain_peak, 2)}
        lines.append(line | {"machine": this_machine().in_words()})
    return lines


def as_table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    header = ["way to train", "passes", "seconds a step", "over plain", "peak GiB", "over plain"]
    rows = [
        [line["way"], *(line.get(key, "-") for key in ("passes", "seconds", "seconds_ratio", "peak_gib", "peak_ratio"))]
        for line in lines
    ]
    return table(header, rows)


def turn(base: LoadedBase, setting: Setting, name: str) -> list[float]:
    """Seconds of each step of one way to train, without the first ones."""
    if name == TRAINER:
        return _trainer_steps(base, setting, full=False)
    if name == FULL:
        return _trainer_steps(base, setting, full=True)
    if name not in WAYS:
        raise SpecError(f"There is no way to train called {name!r}.", f"Known: {', '.join((*WAYS, TRAINER, FULL))}.")
    groups = WAYS[name][1]
    # No ramp and no warm-up: every measured step is a guided one.
    spec = TrainingSpec.model_validate(
        {
            "base_model": base.entry.name,
            "task": {"objective": "cross_entropy"},
            "optimization": {
                "batch_size": setting.batch_size,
                "balanced_batches": False,  # the same examples for each way
                "epochs": 1000,
                "max_steps": setting.steps + 1,  # never taken
                "warmup_fraction": 0.0,
            },
            **(groups | {"guidance": {"ramp_fraction": 0.0} | groups.get("guidance", {})}),
        }
    )
    reporter = StepsOnly(setting.steps)
    with tempfile.TemporaryDirectory() as scratch:
        train(spec, base, read_examples(setting.data), output=Path(scratch) / "adapter", reporter=reporter)
    found = reporter.seconds()[WARM_UP:]
    return cycles(found) if name == "every 4" else found


def cycles(seconds: Sequence[float]) -> list[float]:
    """Whole cycles of steps, of which one is corrected, each as the mean of its steps."""
    starts = range(0, len(seconds) - CYCLE + 1, CYCLE)
    return [sum(seconds[start : start + CYCLE]) / CYCLE for start in starts]


def peak_of(setting: Setting, name: str) -> float:
    """Train one way in this process; its peak resident memory in GiB."""
    turn(load_base(setting.entry), setting, name)
    # Not getrusage's, which a child inherits from the process that forked it.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def _peak_in_child(setting: Setting, name: str) -> float:
    command = [sys.executable, "-P", "-m", "cli.main", "bench", "overhead", "--model", setting.entry.name]
    command += ["--only", name, "--train", str(setting.data), "--steps", str(LEAST_STEPS)]
    command += ["--batch-size", str(setting.batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_gib"])


def _suits(base: LoadedBase, name: str) -> bool:
    """transformers' Trainer is given a language model's own loss."""
    return base.entry.kind == "causal" or name in WAYS


def _trainer_steps(base: LoadedBase, setting: Setting, full: bool) -> list[float]:
    """Seconds of each step of transformers' Trainer on the same base weights, which are put back.

    Unlike `trainer_peer`, which repeats a run of ours, this is what its users get: batches and a loss of its own, with
    peft's adapter or with all weights, and a clock at each step.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Takes the time of steps."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Start."""
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Stop."""
            self.seconds.append(time.perf_counter() - self.begun)

    clock, model = Clock(), base.model
    before = [parameter.detach().clone() for parameter in model.parameters()] if full else []
    if full:
        model.requires_grad_(True)
    else:
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base.model, adapter)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch, per_device_train_batch_size=setting.batch_size, max_steps=setting.steps,
                learning_rate=1e-5 if full else 5e-4, report_to=[], save_strategy="no", logging_strategy="no",
                disable_tqdm=True, use_cpu=base.device.type == "cpu",
            ),
            train_dataset=_trainer_rows(base, setting.data),
            data_collator=DataCollatorForSeq2Seq(base.tokenizer),
            callbacks=[clock],
        ).train()  # fmt: skip
    if full:
        with torch.no_grad():
            torch._foreach_copy_(list(base.model.parameters()), before)
        base.model.requires_grad_(False)
    else:
        take_off(base, model)
    base.model.eval()
    return clock.seconds[WARM_UP:]


def _trainer_rows(base: LoadedBase, data: Path) -> list[dict[str, list[int]]]:
    """The same prompts as ours, followed by the label's tokens."""
    from sgg_core.encoding import token_ids
    from sgg_core.tasks.label_words import LabelWords

    examples = read_examples(data)
    task = LabelWords(base, examples.labels, None, 512)
    rows = []
    for example in examples.classification:
        prompt = token_ids(base.tokenizer, (task.template() or "").replace("{text}", example.text))
        answer = [*token_ids(base.tokenizer, f" {example.label}"), base.tokenizer.eos_token_id]
        ids = [*prompt, *answer]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + answer})
    return rows
