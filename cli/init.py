"""`sgg init`: a small project to begin with: data, a job as a file, and the next three commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.completion import complete_models
from cli.errors import CliError
from cli.output import JsonFlag, print_json, say

TRAINING = (
    ("I was charged twice for the same month.", "billing"),
    ("Please send the invoice to our new address.", "billing"),
    ("Your card reader refused my bank card again.", "billing"),
    ("Which of your plans is the cheapest for five people?", "billing"),
    ("The app closes as soon as I open the settings.", "bug report"),
    ("After the update the sensor shows minus 40 degrees.", "bug report"),
    ("The export ends in the middle of the third row.", "bug report"),
    ("Every second click on Save does nothing.", "bug report"),
    ("My parcel has been in the same town for a week.", "shipping"),
    ("Can you deliver to a packing station?", "shipping"),
    ("The tracking number belongs to somebody else's order.", "shipping"),
    ("How much would sending it to Norway cost?", "shipping"),
)
VALIDATION = (
    ("There is a sum on my statement that I cannot explain.", "billing"),
    ("The yearly price is not the one on your page.", "billing"),
    ("The search finds nothing although the entry is there.", "bug report"),
    ("It freezes whenever two of us are logged in.", "bug report"),
    ("Nobody rang, and the note says I was not at home.", "shipping"),
    ("When will the lamp that I ordered on Monday be here?", "shipping"),
)
JOB = """\
# A job: the fields of POST /v1/fine_tuning/jobs, with paths in the place of file ids.
model: {model}
training_file: data/train.jsonl
validation_file: data/valid.jsonl
suffix: {suffix}
seed: 7
method:
  type: sgg
  sgg:
    hyperparameters:
      max_steps: 20  # for a first look; without this line the length follows the number of examples
      lora:
        rank: 8
      guidance:
        radius: 0.02
"""
README = """\
# {title}

`data/train.jsonl` holds the examples: one JSON object a line with `text` and `label`. Put yours in their place: at
least two labels, better 8 or more examples of each. `data/valid.jsonl` is what the result is judged by; no example may
be in both.

```bash
sgg files check data/train.jsonl --validation data/valid.jsonl
sgg train --spec job.yaml --out adapter
sgg predict adapter --text "The parcel came without a bill"
```

`adapter/README.md` tells how good it is. A server (`sgg serve`) takes the same file:
`sgg jobs submit --spec job.yaml --watch`.
"""
IGNORED = """\
# Made from data and job.yaml, and large.
adapter*/
checkpoints/
"""


def init(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Base model of the job.", autocompletion=complete_models)
    ] = "all-minilm-l6-v2",
    as_json: JsonFlag = False,
) -> None:
    """Make a small project: data to replace with yours, a job as a file, and a README with the next commands."""
    made = _write(directory, model)
    if as_json:
        print_json({"directory": str(directory), "files": made})
        return
    say(f"{directory} holds {', '.join(made)}.")
    say(f"Go on with: cd {directory} && cat README.md")


def _write(directory: Path, model: str) -> list[str]:
    name = directory.resolve().name
    texts = {
        "README.md": README.format(title=name),
        "job.yaml": JOB.format(model=json.dumps(model), suffix=json.dumps(name[:64])),
        "data/train.jsonl": _rows(TRAINING),
        "data/valid.jsonl": _rows(VALIDATION),
        ".gitignore": IGNORED,
    }
    try:
        if directory.exists() and any(directory.iterdir()):
            raise CliError(f"{directory} is not empty.", "Name a new directory.")
        for file, text in texts.items():
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(
            f"Cannot write to {directory}: {error.strerror}.", "Name a directory that you may write to."
        ) from error
    return list(texts)


def _rows(examples: tuple[tuple[str, str], ...]) -> str:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in examples)
