"""`sgg jobs`: submit, list, show, watch, cancel, and download what a job made."""

from __future__ import annotations

import re
import tempfile
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.bundle import refuse_existing, unpack
from cli.client import Client
from cli.errors import CliError
from cli.hyperparameters import MethodOption, SetOption, build_spec, parse_settings, to_request
from cli.output import JsonFlag, moment, print_facts, print_json, print_table, say
from cli.watch import watch_job

app = typer.Typer(help="Fine-tuning jobs: submit, list, show, watch, cancel, download.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="An id such as ftjob-....")]
FILE_ID = re.compile(r"file-[0-9a-f]{24}")


@app.command()
def submit(
    model: Annotated[str, typer.Option("--model", "-m", help="Name of a base model (`sgg models list`).")],
    training: Annotated[str, typer.Option("--train", help="Training file: id of an uploaded file, or path.")],
    validation: Annotated[str | None, typer.Option(help="Validation file: id or path.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Source file for gradient alignment: id or path. Repeatable.")
    ] = None,
    method: MethodOption = "sgg",
    suffix: Annotated[str | None, typer.Option(help="A word in the fine-tuned model's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and order.  [default: the server's]")] = None,
    settings: SetOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the job right away.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Submit a job; files given as paths are uploaded first."""
    chosen = parse_settings(settings or ())
    build_spec(model, method, seed or 0, chosen)
    _check_sources(method, source)
    with Client.from_environment() as client:
        choice: dict[str, Any] = {"hyperparameters": to_request(chosen)}
        if source:
            choice["sources"] = [_file_id(client, one) for one in source]
        request = {
            "model": model,
            "training_file": _file_id(client, training),
            "validation_file": _file_id(client, validation) if validation else None,
            "suffix": suffix,
            "seed": seed,
            "method": {"type": method, method: choice},
        }
        job = _create(client, request)
        if not as_json:
            say(f"Submitted {job['id']}.")
        if watch:
            raise typer.Exit(watch_job(client, job["id"], as_json=as_json))
    if as_json:
        print_json(job)
    else:
        say(f"Watch it with: sgg jobs watch {job['id']}")


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    with Client.from_environment() as client:
        found = list(client.items("/fine_tuning/jobs", limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "STATUS", "BASE MODEL", "CREATED"),  # together 80 columns; `show` tells the rest
        [(job["id"], job["status"], job["model"], moment(job["created_at"])) for job in found],
        empty="There are no jobs yet; `sgg jobs submit` makes one.",
    )


@app.command()
def show(job_id: JobId, as_json: JsonFlag = False) -> None:
    """Show one job."""
    with Client.from_environment() as client:
        job = client.get(f"/fine_tuning/jobs/{job_id}")
    if as_json:
        print_json(job)
        return
    print_facts(_facts(job))


@app.command()
def watch(job_id: JobId, as_json: JsonFlag = False) -> None:
    """Watch a job until it ends, through server restarts; exit code 0 succeeded, 1 failed, 3 cancelled."""
    with Client.from_environment() as client:
        raise typer.Exit(watch_job(client, job_id, as_json=as_json))


@app.command()
def cancel(job_id: JobId, as_json: JsonFlag = False) -> None:
    """Cancel a queued or running job."""
    with Client.from_environment() as client:
        job = client.post(f"/fine_tuning/jobs/{job_id}/cancel")
    if as_json:
        print_json(job)
    elif job["status"] == "cancelled":
        say(f"{job_id} is cancelled.")
    else:
        say(f"{job_id} will stop before its next step. See it end with: sgg jobs watch {job_id}")


@app.command()
def download(
    job_id: JobId,
    out: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    as_json: JsonFlag = False,
) -> None:
    """Download a finished job's adapter, compare every checksum, and unpack it."""
    refuse_existing(out)
    with Client.from_environment() as client:
        job = client.get(f"/fine_tuning/jobs/{job_id}")
        facts = _fetch_adapter(client, job, out)
    if as_json:
        print_json(facts)
        return
    say(f"{facts['directory']} holds the adapter: {facts['files']} files, every checksum verified.")
    say(f"Try it with: sgg predict {facts['directory']} --text '...'")


def _facts(job: dict[str, Any]) -> tuple[tuple[str, object], ...]:
    ours, error = job["sgg"], job["error"] or {}
    steps = f"{ours['step']} of {ours['total_steps'] or '?'}" if ours["step"] else None
    return (
        ("id", job["id"]),
        ("status", job["status"]),
        ("place in queue", ours["queue_position"]),
        ("steps", steps),
        ("base model", job["model"]),
        ("method", job["method"]["type"]),
        ("created", moment(job["created_at"])),
        ("finished", moment(job["finished_at"])),
        ("training file", job["training_file"]),
        ("validation file", job["validation_file"]),
        ("source files", ", ".join(ours["sources"]) or None),
        ("seed", job["seed"]),
        ("attempts", ours["attempts"] or None),
        ("trained tokens", job["trained_tokens"]),
        ("fine-tuned model", job["fine_tuned_model"]),
        ("result files", ", ".join(job["result_files"]) or None),
        ("error", error.get("message")),
        ("remedy", (ours["failure"] or {}).get("remedy")),
    )


def _fetch_adapter(client: Client, job: dict[str, Any], out: Path) -> dict[str, Any]:
    if job["status"] != "succeeded":
        remedy = {
            "failed": "Read why with `sgg jobs show`, and submit a new job.",
            "cancelled": "Submit a new job to train again.",
        }.get(job["status"], f"Wait for its end with: sgg jobs watch {job['id']}")
        raise CliError(f"{job['id']} is {job['status']} and has no adapter to download.", remedy)
    bundle_id = job["result_files"][1]
    file = client.get(f"/files/{bundle_id}")
    expected = (file.get("sgg") or {}).get("sha256")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        bundle = Path(scratch) / "adapter.tar.gz"
        digest = client.download(f"/files/{bundle_id}/content", bundle)
        if digest != expected:
            raise CliError(f"The bundle arrived damaged: its sha256 is {digest}, not {expected}.", "Download it again.")
        count = unpack(bundle, out)
    return {
        "job": job["id"],
        "model": job["fine_tuned_model"],
        "directory": str(out),
        "bundle_sha256": digest,
        "files": count,
    }


def _create(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in request.items() if value is not None}
    return client.post("/fine_tuning/jobs", given, idempotency_key=str(uuid.uuid4()))


def _file_id(client: Client, reference: str) -> str:
    """Return the id of a file that is named by id or by path; a path is uploaded."""
    if FILE_ID.fullmatch(reference):
        return reference
    path = Path(reference)
    if not path.is_file():
        raise CliError(f"{reference} is neither a file here nor an id of an uploaded file.", "Check the path.")
    return str(client.upload(path)["id"])


def _check_sources(method: str, source: list[str] | None) -> None:
    if source and method != "sgg":
        raise CliError("--source needs --method sgg.", "Plain LoRA does not look at source files.", exit_code=2)
