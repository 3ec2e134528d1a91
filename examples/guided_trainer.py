"""Guidance with transformers' Trainer and peft: GuidedTrainer in Trainer's place.

The base model is a tiny one with random weights, so that this runs anywhere in seconds; use your own in its place.
"""

import tempfile

from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from sgg_core.guidance.hf_trainer import GuidedTrainer
from sgg_core.spec import GuidanceSpec
from sgg_core.tiny import tiny_base

base = tiny_base("causal")
model = get_peft_model(base.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
texts = ["the sky is blue", "the grass is green", "the snow is white", "the coal is black"] * 4
rows = [{"input_ids": ids, "labels": ids} for ids in base.tokenizer(texts).input_ids]

with tempfile.TemporaryDirectory() as directory:
    trainer = GuidedTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=directory, max_steps=40, per_device_train_batch_size=8, learning_rate=0.02, warmup_steps=4,
            logging_steps=10, report_to=[], save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(base.tokenizer),
        guidance=GuidanceSpec(radius=0.05),
    )  # fmt: skip
    trainer.train()

found = trainer.outcome
print(
    f"last batch: loss {found.loss:.2f}, |g| {found.gradient_norm:.2f}, projected {found.projected.gradient_norm:.2f}"
)
