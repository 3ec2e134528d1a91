"""Cost of an optimizer step: guided against plain, and plain against transformers' Trainer with peft, in one run.

    python benchmarks/step_cost.py [--base-model NAME] [--rounds 3] [--steps 8] [--json FILE]

All train on examples/support_tickets.train.jsonl with the same base weights, LoRA rank 8 on all linear layers, batch 8
and AdamW, in turns within one process, so that other load on the machine hits all of them. Printed are medians and
their ratios; each turn's first steps are left out as warm-up. Trainer gets what a user would give it: prompts with the
label words as completion, padded to the longest of the batch, loss on the label's tokens.
Peak memory is that of a fresh process that trains with the plain and with the guided step.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "examples" / "support_tickets.train.jsonl"
WARM_UP = 2
BATCH = 8


def spec_for(base_model: str, method: str, steps: int) -> Any:
    from sgg_core.spec import GuidanceSpec, OptimizationSpec, TrainingSpec

    # No ramp: every measured step is a guided one. Zero warm-up for the same reason.
    return TrainingSpec(
        base_model=base_model,
        method=method,
        optimization=OptimizationSpec(batch_size=BATCH, epochs=100, max_steps=steps, warmup_fraction=0.0),
        guidance=GuidanceSpec(ramp_fraction=0.0),
    )


def our_steps(base: Any, method: str, steps: int) -> list[float]:
    """Seconds of each optimizer step of our trainer."""
    from sgg_core.examples import read_examples
    from sgg_core.reporting import SilentReporter, StepMetrics
    from sgg_core.trainer import train

    reporter = SilentReporter()
    with tempfile.TemporaryDirectory() as scratch:
        spec = spec_for(base.entry.name, method, steps)
        train(spec, base, read_examples(DATA), output=Path(scratch) / "adapter", reporter=reporter)
    return [message.seconds for message in reporter.messages if isinstance(message, StepMetrics)][WARM_UP:]


def trainer_steps(base: Any, steps: int) -> list[float]:
    """Seconds of each step of transformers' Trainer on a peft model of the same base weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.begun)

    clock = Clock()
    model = get_peft_model(
        base.model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=5e-4,
                report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
            ),
            train_dataset=trainer_rows(base),
            data_collator=DataCollatorForSeq2Seq(base.tokenizer),
            callbacks=[clock],
        ).train()  # fmt: skip
    model.unload()
    base.model.requires_grad_(False)
    base.model.eval()
    return clock.seconds[WARM_UP:]


def trainer_rows(base: Any) -> list[dict[str, list[int]]]:
    """The same prompts as ours, followed by the label's tokens."""
    from sgg_core.encoding import token_ids
    from sgg_core.examples import read_examples
    from sgg_core.tasks.label_words import LabelWords

    examples = read_examples(DATA)
    task = LabelWords(base, examples.labels, None, 512)
    rows = []
    for example in examples.classification:
        prompt = token_ids(base.tokenizer, (task.template() or "").replace("{text}", example.text))
        answer = [*token_ids(base.tokenizer, f" {example.label}"), base.tokenizer.eos_token_id]
        ids = [*prompt, *answer]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + answer})
    return rows


def peak_memory(base_model: str, method: str) -> float:
    """Peak resident memory in GB of a fresh process that trains for a few steps."""
    command = [sys.executable, __file__, "--base-model", base_model, "--only", method, "--steps", "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_gb"])


def peak_kib() -> int:
    """This process's peak resident memory. Not getrusage's, which a child inherits from the process that forked it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["supervised", "sgg"], help="train once, print this process's peak memory")
    arguments = parser.parse_args()

    import torch

    from sgg_core.backbone import load_base
    from sgg_core.catalogue import Catalogue

    base = load_base(Catalogue.load().get(arguments.base_model))
    if arguments.only:
        our_steps(base, arguments.only, arguments.steps)
        print(json.dumps({"peak_gb": peak_kib() / 2**20}))
        return
    seconds: dict[str, list[float]] = {"plain": [], "guided": [], "trainer": []}
    for number in range(arguments.rounds):
        seconds["plain"] += our_steps(base, "supervised", arguments.steps)
        seconds["guided"] += our_steps(base, "sgg", arguments.steps)
        seconds["trainer"] += trainer_steps(base, arguments.steps)
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "base_model": arguments.base_model,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "median_seconds": {name: round(value, 3) for name, value in medians.items()},
        "guided_over_plain": round(medians["guided"] / medians["plain"], 2),
        "plain_over_trainer": round(medians["plain"] / medians["trainer"], 2),
        "peak_gb": {m: round(peak_memory(arguments.base_model, m), 2) for m in ("supervised", "sgg")},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
