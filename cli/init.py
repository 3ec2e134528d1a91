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
    ("Can we pay by bank transfer instead of by card?", "billing"),
    ("The discount that I was promised is missing from the bill.", "billing"),
    ("I cancelled in March, and you still took the money in April.", "billing"),
    ("Our tax number has to be on every receipt.", "billing"),
    ("The app closes as soon as I open the settings.", "bug report"),
    ("After the update the sensor shows minus 40 degrees.", "bug report"),
    ("The export ends in the middle of the third row.", "bug report"),
    ("Every second click on Save does nothing.", "bug report"),
    ("Dates from last year appear a day too early.", "bug report"),
    ("The login page stays white on my phone.", "bug report"),
    ("Since yesterday the chart has no labels any more.", "bug report"),
    ("Uploading a photo ends with error 500.", "bug report"),
    ("My parcel has been in the same town for a week.", "shipping"),
    ("Can you deliver to a packing station?", "shipping"),
    ("The tracking number belongs to somebody else's order.", "shipping"),
    ("How much would sending it to Norway cost?", "shipping"),
    ("The box arrived open, and one cable is missing.", "shipping"),
    ("Please hold my order back until I am home again.", "shipping"),
    ("The courier left it with a neighbour whom I do not know.", "shipping"),
    ("Is it possible to change the address after ordering?", "shipping"),
)
VALIDATION = (
    ("There is a sum on my statement that I cannot explain.", "billing"),
    ("The yearly price is not the one on your page.", "billing"),
    ("Where do I find last year's receipts?", "billing"),
    ("My refund has not reached my account yet.", "billing"),
    ("Do students pay less?", "billing"),
    ("You billed seven seats, but there are only six of us.", "billing"),
    ("The direct debit failed; how do I pay now?", "billing"),
    ("Please split the bill between two departments.", "billing"),
    ("Why does the total include a fee for setting up?", "billing"),
    ("I want to change the card that you charge.", "billing"),
    ("The search finds nothing although the entry is there.", "bug report"),
    ("It freezes whenever two of us are logged in.", "bug report"),
    ("The password link in your mail leads to an empty page.", "bug report"),
    ("Sorting by name puts all umlauts at the end.", "bug report"),
    ("Notifications arrive three times each.", "bug report"),
    ("The timer jumps back to zero when the screen locks.", "bug report"),
    ("Printing a table cuts off the last column.", "bug report"),
    ("Undo brings back the wrong paragraph.", "bug report"),
    ("My avatar is upside down since I replaced it.", "bug report"),
    ("The report counts deleted tasks, too.", "bug report"),
    ("Nobody rang, and the note says I was not at home.", "shipping"),
    ("When will the lamp that I ordered on Monday be here?", "shipping"),
    ("Two of the four chairs have not come.", "shipping"),
    ("Customs wants a paper that was not in the parcel.", "shipping"),
    ("Could it be sent by express before the weekend?", "shipping"),
    ("The driver could not find our entrance.", "shipping"),
    ("How do I send the wrong size back to you?", "shipping"),
    ("It says delivered, but there is nothing at the door.", "shipping"),
    ("Do you also send to islands?", "shipping"),
    ("May my brother pick the order up at the depot?", "shipping"),
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
      lora:
        rank: 8
      guidance:
        radius: 0.02
"""
README = """\
# {title}

`data/train.jsonl` holds the examples: one JSON object a line with `text` and `label`. Put yours in their place: at
least two labels, better 8 or more examples of each. `data/valid.jsonl` is what the result is judged by: the more
examples, the smaller the differences that it can show. No example may be in both.

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
        "job.yaml": JOB.format(model=_quoted(model), suffix=_quoted(name[:64])),
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


def _quoted(text: str) -> str:
    """A text for YAML, which does not know JSON's pairs of escapes for one character."""
    return json.dumps(text, ensure_ascii=False)


def _rows(examples: tuple[tuple[str, str], ...]) -> str:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in examples)
