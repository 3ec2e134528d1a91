"""SetFit 1.2 in a process of its own: reads a JSON assignment from standard input, prints one with probabilities.

It imports nothing of ours, so that it runs on any interpreter that has `setfit` (extra `bench`, or a venv beside).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Train on `texts` and `labels` (indices) with the encoder in `directory`, and score `test`."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, models
    from setfit import SetFitModel, Trainer, TrainingArguments

    given: dict[str, Any] = json.load(sys.stdin)
    words = models.Transformer(given["directory"])
    body = SentenceTransformer(
        modules=[words, models.Pooling(words.get_word_embedding_dimension()), models.Normalize()]
    )
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=1000))
    arguments = TrainingArguments(
        output_dir=given["scratch"], batch_size=16, num_epochs=1, seed=given["seed"], report_to="none",
        show_progress_bar=False, save_strategy="no",
    )  # fmt: skip
    data = Dataset.from_dict({"text": given["texts"], "label": given["labels"]})
    begun = time.perf_counter()
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    trainer.train()
    seconds = time.perf_counter() - begun
    scores = model.predict_proba(given["test"], as_numpy=True, show_progress_bar=False).tolist()
    print(json.dumps({"scores": scores, "train_seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
