"""`sgg bench`: accuracy of methods on few-shot tasks of yours, and what training costs in time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.bench_cluster import cluster
from cli.bench_peers import peers
from cli.bench_start import start
from cli.errors import CliError, WrongUseError
from cli.numbers import numbers
from cli.output import JsonFlag, complain, print_json_line, say

if TYPE_CHECKING:
    from sgg_core.bench.cells import Row

app = typer.Typer(help="Measure accuracy and cost on this machine, with peers for comparison.", no_args_is_help=True)
for command in (start, peers, cluster):  # each has a module of its own
    app.command()(command)
DEFAULT_METHODS = "zero_shot,linear_probe,full,bitfit,ia3,prompt,prefix,lora,lora_2x,lora_2_seeds,lora_sam,lora_clip"
DEFAULT_METHODS += ",sgg_magnitude,sgg_direction,sgg,setfit"
DEFAULT_PAIR_METHODS = "target_only,mixing,source_then_target,pcgrad,sgg_gated,sgg_cross_fitted"


@app.command("accuracy")
def accuracy(
    csv: Annotated[Path, typer.Argument(help="File of results, one row for each cell; a killed run goes on from it.")],
    task: Annotated[
        list[Path] | None, typer.Option(help="Folder with train.jsonl and test.jsonl of text and label. Repeatable.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="TARGET:SOURCE, two such folders: a target with a source. Repeatable.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Base model. Repeatable.")] = None,
    methods: Annotated[str, typer.Option(help="Methods, comma-separated; name@RATE sets a learning rate.")] = (
        DEFAULT_METHODS
    ),
    pair_methods: Annotated[str, typer.Option(help="Methods for pairs, comma-separated.")] = DEFAULT_PAIR_METHODS,
    shots: Annotated[str, typer.Option(help="Examples of each label, comma-separated.")] = "8,16",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1; all methods see the same examples.")] = 10,
    test_items: Annotated[int, typer.Option(min=1, help="Test examples of each task.")] = 500,
    alignment: Annotated[bool, typer.Option(help="Also compare gradients with those of held-out examples.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Measure methods on tasks.

    Cells that the CSV already holds are not measured again, except those that could not be run, that were tested on
    another number of items, or that lack the figures of --alignment when these are asked for now.
    """
    from sgg_core.bench.accuracy import Bench, run
    from sgg_core.bench.cells import grid
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    pairs = [_pair(text) for text in pair or ()]
    folders = _by_name([*(task or ()), *(path for both in pairs for path in both)])
    if not folders or not model:
        raise WrongUseError("Nothing to measure.", "Give --task or --pair, and --model.")
    catalogue = Catalogue.load(StoreSettings().catalogue_dir)
    cells = list(
        grid(
            [path.name for path in task or ()],
            [(target.name, source.name) for target, source in pairs],
            model,
            methods.split(","),
            pair_methods.split(","),
            numbers(shots, "--shots 4,8,16"),
            range(seeds),
        )
    )
    bench = Bench(folders, {name: catalogue.get(name) for name in model}, test_items, alignment, threads)

    def tell(row: Row, done: int, total: int, seconds_left: float) -> None:
        if as_json:
            print_json_line(row.model_dump() | {"done": done, "total": total, "seconds_left": round(seconds_left)})
            return
        what = f"{row.task} from {row.source}" if row.source else row.task
        found = row.note if row.accuracy is None else f"{row.accuracy:.3f}"
        where = f"{what}, {row.base_model}, {row.method}, {row.shots} shots, seed {row.seed}"
        say(f"{done} of {total} ({seconds_left / 60:.0f} min left): {where}: {found}")

    run(bench, cells, csv, workers, tell, complain if as_json else say)


@app.command("table")
def table(
    csv: Annotated[Path, typer.Argument(help="File that `sgg bench accuracy` wrote.")],
    baseline: Annotated[str, typer.Option(help="Method that others are compared with, seed by seed.")] = "lora",
    pair_baseline: Annotated[str, typer.Option(help="The same for targets with a source.")] = "target_only",
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, comma-separated.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods and the baselines, comma-separated.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only seeds 0 to N-1.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Directory for plots.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the results as Markdown: means, 95 % intervals, paired differences; draw plots with --plots."""
    from sgg_core.bench.cells import read_rows
    from sgg_core.bench.tables import comparison_table, selected, setting_tables

    rows = read_rows(csv)
    if not rows:
        raise CliError(f"{csv} holds no results.", "Run `sgg bench accuracy` first.")
    chosen = methods.split(",") if methods else []
    rows = selected(rows, tasks.split(",") if tasks else [], chosen, (baseline, pair_baseline), seeds)
    if as_json:
        for row in rows:
            print_json_line(row.model_dump())
    else:
        for part, against in (
            ([row for row in rows if not row.source], baseline),
            ([row for row in rows if row.source], pair_baseline),
        ):
            if any(not chosen or row.method in chosen for row in part):
                typer.echo(f"{comparison_table(part, against)}\n\n{setting_tables(part, against)}\n")
    if plots is not None:
        from sgg_core.bench.figures import write_figures

        write_figures(rows, baseline, plots)


@app.command("overhead")
def overhead(
    model: Annotated[str, typer.Option("--model", "-m", help="Base model.")] = "smollm2-135m-instruct",
    train: Annotated[Path, typer.Option(help="Training file of a classification task.")] = Path(
        "examples/support_tickets.train.jsonl"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Each way to train has its turn in every round.")] = 3,
    steps: Annotated[int, typer.Option(min=6, help="Steps of a turn; the first two are left out.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 8,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory, each in a process of its own.")] = True,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot.")] = None,
    only: Annotated[str | None, typer.Option(hidden=True, help="One way to train; prints peak memory.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Passes, seconds and memory of a step: every variant, Trainer with peft, full fine-tuning, plain LoRA as 1."""
    from sgg_core.bench import overhead as measured
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    entry = Catalogue.load(StoreSettings().catalogue_dir).get(model)
    setting = measured.Setting(entry, train, steps, batch_size)
    if only is not None:
        print_json_line({"peak_gib": measured.peak_of(setting, only)})
        return
    found: list[dict[str, Any]] = measured.compare(setting, rounds, memory, complain if as_json else say)
    if plot is not None:
        from sgg_core.bench.speed_figures import draw_overhead

        draw_overhead(found, (measured.TRAINER, measured.FULL), plot)
    if as_json:
        for line in found:
            print_json_line(line)
        return
    typer.echo(f"{found[0]['machine']}\n\n{measured.as_table(found)}")


@app.command("throughput")
def throughput(
    model: Annotated[str, typer.Option("--model", "-m", help="Base model.")] = "all-minilm-l6-v2",
    train: Annotated[Path, typer.Option(help="Training file that all jobs use, each with a seed of its own.")] = Path(
        "examples/support_tickets.train.jsonl"
    ),
    jobs: Annotated[str, typer.Option(help="Numbers of jobs, comma-separated.")] = "1,4,8,16",
    rounds: Annotated[int, typer.Option(min=1, help="Each number of jobs has its turn in every round.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each job.")] = 20,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure jobs per hour on one base model, trained together in a pack and one after the other."""
    from sgg_core.bench import throughput as measured
    from sgg_core.catalogue import Catalogue
    from sgg_store.settings import StoreSettings

    entry = Catalogue.load(StoreSettings().catalogue_dir).get(model)
    counts, tell = numbers(jobs, "--jobs 1,4,8"), complain if as_json else say
    found = measured.compare(measured.Setting(entry, train, steps), counts, rounds, tell)
    if plot is not None:
        from sgg_core.bench.speed_figures import draw_throughput

        draw_throughput(found, plot)
    if as_json:
        for line in found:
            print_json_line(line)
        return
    typer.echo(f"{found[0]['machine']}\n\n{measured.as_table(found)}")


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Tasks' folders by their names, which is how rows know them."""
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.name, path)
        if other.resolve() != path.resolve():
            raise WrongUseError(
                f"Two tasks are called {path.name!r}: {other} and {path}.",
                "Rows know a task by its folder's name: rename one of them.",
            )
    return found


def _pair(text: str) -> tuple[Path, Path]:
    target, colon, source = text.partition(":")
    if not colon or not target or not source:
        raise WrongUseError(f"--pair {text!r} is no pair.", "Write TARGET:SOURCE, two folders.")
    return Path(target), Path(source)
