"""`sgg bench start`: how soon a fresh service is up, and how long its jobs wait, cold and warm."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CliError, WrongUseError
from cli.fresh_server import FreshServer, fresh_server, wait_for
from cli.jobs import fetch_adapter
from cli.output import JsonFlag, print_json_line, say

if TYPE_CHECKING:
    from sgg_core.bench.machine import Machine
    from sgg_core.bench.start import Case, JobTimes, Row

POLL_SECONDS = 0.01  # times are as exact as this, and each look costs the server some milliseconds


def start(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Base model, repeatable; the first starts cold.  [default: both built-in ones]"
        ),
    ] = None,
    train: Annotated[Path, typer.Option(help="Training file of all jobs.")] = Path(
        "examples/support_tickets.train.jsonl"
    ),
    servers: Annotated[int, typer.Option(min=1, help="Servers that are started, one after the other.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Warm jobs of each kind and base model on each server.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a job.")] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Directory for start.jsonl with every figure, and start.png.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Seconds until a fresh service is up, and from a job's POST to its first step and its adapter, cold and warm."""
    from sgg_core.bench.machine import this_machine
    from sgg_core.bench.start import as_tables

    if not train.is_file():
        raise WrongUseError(f"There is no file {train}.", "Name a training file with --train.")
    setting = Setting(tuple(model or ("all-minilm-l6-v2", "smollm2-135m-instruct")), train, jobs, steps)
    rows: list[Row] = []
    for row in (row for number in range(servers) for row in measured(setting, number)):
        rows.append(row)
        if as_json:
            print_json_line(row.model_dump())
        else:
            figures = ", ".join(f"{name} {value}" for name, value in row.model_dump(exclude={"server"}).items())
            say(f"server {row.server + 1} of {servers}: {figures}")
    machine = this_machine()
    print_json_line(machine.model_dump()) if as_json else typer.echo(f"\n{machine.in_words()}\n\n{as_tables(rows)}")
    if out is not None:
        _write(out, machine, rows)


@dataclass(frozen=True)
class Setting:
    """What is measured: jobs of `steps` steps on a training file, `jobs` of each kind."""

    models: tuple[str, ...]
    train: Path
    jobs: int
    steps: int


def _write(out: Path, machine: Machine, rows: Sequence[Row]) -> None:
    from sgg_core.bench.figures import write_start_figure

    out.mkdir(parents=True, exist_ok=True)
    (out / "start.jsonl").write_text("".join(line.model_dump_json() + "\n" for line in (machine, *rows)))
    write_start_figure(rows, out / "start.png")


def measured(setting: Setting, number: int) -> Iterator[Row]:
    """Start a server, and give what is measured on it, as it comes."""
    from sgg_core.bench.start import BaseLoad, ServerStart
    from sgg_store.settings import StoreSettings

    first, *others = setting.models
    with fresh_server({"SGG_CATALOGUE_DIR": str(StoreSettings().catalogue_dir)}) as server:
        answers = time.time() - server.began
        wait_for(server.is_ready, POLL_SECONDS)
        ready = time.time() - server.began
        file_id = server.client.upload(setting.train)["id"]

        def job(case: Case, base_model: str) -> JobTimes:
            return _job(server, number, case, base_model, file_id, setting.steps)

        cold = job("cold", first)
        trainer = server.logged("the trainer is ready")[0][0]
        yield ServerStart(server=number, answers=answers, ready=ready, trainer=trainer)
        yield cold
        for _ in range(setting.jobs):
            yield job("warm", first)
        for other in others:
            yield job("another", other)
        for turn in range(setting.jobs * len(setting.models) if others else 0):
            yield job("in turns", setting.models[turn % len(setting.models)])
        for _, line in server.logged("a base model was loaded"):
            yield BaseLoad(server=number, base_model=line["base_model"], seconds=line["seconds"])


def _job(server: FreshServer, number: int, case: Case, base_model: str, file_id: str, steps: int) -> JobTimes:
    from sgg_core.bench.start import JobTimes

    method = {"type": "sgg", "sgg": {"hyperparameters": {"max_steps": steps}}}
    begun = time.perf_counter()
    body = {"model": base_model, "training_file": file_id, "method": method}
    path = f"/fine_tuning/jobs/{server.client.post('/fine_tuning/jobs', body)['id']}"
    answer = time.perf_counter() - begun
    seen: dict[str, float] = {}
    errors: list[str] = []

    def look() -> bool:
        events = server.client.get(f"{path}/events")["data"]
        now = time.perf_counter() - begun
        for event in events:
            kind = "training" if "first_step" in event["data"] else event["type"]
            seen.setdefault(kind, now)
        errors[:] = [event["message"] for event in events if event["level"] == "error"]
        return "metrics" in seen or bool(errors)

    wait_for(look, POLL_SECONDS)
    if errors:
        raise CliError(f"A job on {base_model} failed: {errors[0]}", "Give another --train or --model.")
    wait_for(lambda: server.client.get(path)["finished_at"], 5 * POLL_SECONDS)
    with tempfile.TemporaryDirectory() as directory:
        fetch_adapter(server.client, server.client.get(path), Path(directory) / "adapter")
    return JobTimes(
        server=number,
        case=case,
        base_model=base_model,
        answer=answer,
        training=seen["training"],
        first_step=seen["metrics"],
        adapter=time.perf_counter() - begun,
    )
