"""From a file to an adapter with OpenAI's own client."""

import os
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url=os.environ["SGG_BASE_URL"], api_key=os.environ["SGG_API_KEY"])

training = client.files.create(file=Path("examples/support_tickets.train.jsonl"), purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model="smollm2-135m-instruct",
    training_file=training.id,
    suffix="tickets",
    method={"type": "sgg", "sgg": {"hyperparameters": {"max_steps": 4}}},
)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
print(job.status, job.fine_tuned_model)

metrics, adapter = job.result_files
client.files.content(adapter).write_to_file("adapter.tar.gz")
