"""`sgg jobs submit`: a job from options or from a file; data files that are here are uploaded first."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.client import Client
from cli.completion import complete_files, complete_models
from cli.dry_run import print_dry_run
from cli.errors import ApiError, WrongUseError
from cli.hyperparameters import (
    DEFAULT_METHOD,
    MethodOption,
    SetOption,
    SpecOption,
    build_spec,
    parse_settings,
    to_request,
)
from cli.job_file import JobFile, read_job_file, refuse_beside_spec
from cli.metadata import MetadataOption, parse_metadata
from cli.output import JsonFlag, print_json, say
from cli.uploads import Uploads, uploads_for_a_job
from cli.watch import watch_job

DRY_RUN_SECONDS = 120.0  # a worker may have to load the base model first


def submit(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Name of a base model (`sgg models served`).", autocompletion=complete_models
        ),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option("--train", help="Training file: id of an uploaded file, or path.", autocompletion=complete_files),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Validation file: id or path.", autocompletion=complete_files)
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Source file for gradient alignment: id or path. Repeatable.")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(help="Examples of another task, to measure how much of it the model forgets: id or path."),
    ] = None,
    method: MethodOption = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Weights to start from: name of a model or checkpoint, id of a file, or path of an adapter."
        ),
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="A word in the fine-tuned model's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and order.  [default: the server's]")] = None,
    settings: SetOption = None,
    metadata: MetadataOption = None,
    priority: Annotated[
        int | None,
        typer.Option(min=-10, max=10, help="Higher begins first; above 0 needs an administrator's key.  [default: 0]"),
    ] = None,
    spec: SpecOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the job right away.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make no job; only show what is wrong with it, and what it would cost.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Submit a job, from options or from a file; data files given as paths are uploaded first.

    A file that the server has already is not uploaded again. A dry run, or a refused job, leaves no upload behind.
    """
    if watch and dry_run:
        raise WrongUseError("A dry run makes no job to watch.", "Leave out --watch or --dry-run.")
    if spec is not None:
        refuse_beside_spec(
            model, training, validation, source, retention, method, start, suffix, seed, settings, metadata, priority
        )
        file = read_job_file(spec)
        with _client(dry_run) as client:
            with uploads_for_a_job(client, keep=not dry_run) as uploads:
                made = _create_from_file(client, uploads, file, dry_run)
            _tell(client, made, watch=watch, as_json=as_json)
        return
    if model is None or training is None:
        raise WrongUseError("A job needs --model and --train.", "Give both, or --spec with a file.")
    method = method or DEFAULT_METHOD
    chosen, carried = parse_settings(settings or ()), parse_metadata(metadata or ())
    build_spec(model, method, seed or 0, chosen)
    _check_sources(method, source)
    with _client(dry_run) as client:
        choice: dict[str, Any] = {"hyperparameters": to_request(chosen)} | ({"priority": priority} if priority else {})
        with uploads_for_a_job(client, keep=not dry_run) as uploads:
            if start is not None:
                choice["start_from"] = uploads.start(start, Path(start))
            if source:
                choice["sources"] = [uploads.file_id(one, Path(one)) for one in source]
            if retention is not None:
                choice["retention_file"] = uploads.file_id(retention, Path(retention))
            request = {
                "model": model,
                "training_file": uploads.file_id(training, Path(training)),
                "validation_file": uploads.file_id(validation, Path(validation)) if validation else None,
                "suffix": suffix,
                "seed": seed,
                "metadata": carried or None,
                "method": {"type": method, method: choice},
            }
            made = _create(client, request, dry_run)
        _tell(client, made, watch=watch, as_json=as_json)


def _client(dry_run: bool) -> Client:
    return Client.from_environment(timeout=DRY_RUN_SECONDS) if dry_run else Client.from_environment()


def _tell(client: Client, job: dict[str, Any], *, watch: bool, as_json: bool) -> None:
    if job["object"] == "fine_tuning.job.dry_run":
        print_dry_run(job, as_json=as_json)
        return
    if not as_json:
        say(f"Submitted {job['id']}.")
    if watch:
        raise typer.Exit(watch_job(client, job["id"], as_json=as_json))
    if as_json:
        print_json(job)
    else:
        say(f"Watch it with: sgg jobs watch {job['id']}")


def _create_from_file(client: Client, uploads: Uploads, file: JobFile, dry_run: bool) -> dict[str, Any]:
    """Upload what the file names by path, and create its job. Raises CliError that names lines."""
    request = dict(file.request)
    for name in ("training_file", "validation_file"):
        if request.get(name):
            request[name] = uploads.file_id(request[name], file.path_of(request[name]))
    if request.get("method"):
        choice = dict(file.settings)
        if choice.get("sources"):
            choice["sources"] = [uploads.file_id(one, file.path_of(one)) for one in choice["sources"]]
        if choice.get("retention_file"):
            choice["retention_file"] = uploads.file_id(choice["retention_file"], file.path_of(choice["retention_file"]))
        if choice.get("start_from"):
            choice["start_from"] = uploads.start(choice["start_from"], file.path_of(choice["start_from"]))
        request["method"] = request["method"] | {file.method: choice}
    try:
        return _create(client, request, dry_run)
    except ApiError as error:
        raise file.explained(error) from error


def _create(client: Client, request: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    given = {name: value for name, value in request.items() if value is not None}
    if dry_run:
        return client.post("/fine_tuning/jobs?dry_run=true", given)
    return client.post("/fine_tuning/jobs", given, idempotency_key=str(uuid.uuid4()))


def _check_sources(method: str, source: list[str] | None) -> None:
    if source and method != "sgg":
        raise WrongUseError("--source needs --method sgg.", "Plain LoRA does not look at source files.")
