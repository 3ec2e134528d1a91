"""`sgg bench peers`: one job's time and jobs an hour, against other ways to train the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import WrongUseError
from cli.numbers import numbers
from cli.output import JsonFlag, complain, print_json_line, say


def peers(
    model: Annotated[str, typer.Option("--model", "-m", help="Base model.")] = "all-minilm-l6-v2",
    train: Annotated[
        Path, typer.Option(help="Training file; for a causal language model completions or chats.")
    ] = Path("examples/support_tickets.train.jsonl"),
    shots: Annotated[int, typer.Option(min=2, help="Examples of each label that are used.")] = 8,
    jobs: Annotated[str, typer.Option(help="Numbers of jobs in a pack, comma-separated.")] = "4",
    processes: Annotated[int, typer.Option(min=0, help="Processes at once, with a job each; 0: without these.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each job.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Each way has its turn in every round.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads, shared by processes at once.")] = None,
    setfit: Annotated[bool, typer.Option(help="Also SetFit by its defaults, where it is installed.")] = True,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Time of a job against transformers' Trainer with peft, SetFit, a pack, and a process for each job."""
    if not train.is_file():
        raise WrongUseError(f"There is no file {train}.", "Name a training file with --train.")

    counts = numbers(jobs, "--jobs 4,8")

    import torch

    from sgg_core.bench import speed
    from sgg_core.bench.speed_figures import draw_peers
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    if threads is not None:
        torch.set_num_threads(threads)
    entry = Catalogue.load(StoreSettings().catalogue_dir).get(model)
    data = speed.few_shot(train, shots)
    found = speed.compare(
        speed.Setting(entry, data, steps, batch_size, counts, processes, setfit), rounds, complain if as_json else say
    )
    if plot is not None:
        draw_peers(found, plot)
    if as_json:
        for line in found:
            print_json_line(line)
        return
    typer.echo(f"{found[0]['machine']} At most {found[0]['limit']} GFLOP/s.\n\n{speed.as_table(found)}")
