"""`sgg jobs`: submit, list, show, watch, cancel, pause, resume, delete, get what a job made, and judge it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.bundle import refuse_existing, unpack
from cli.client import Client
from cli.completion import complete_jobs
from cli.errors import CliError
from cli.evidence import compare, examples, report
from cli.metadata import MetadataFilter, parse_metadata
from cli.one_by_one import one_by_one
from cli.output import JsonFlag, moment, print_facts, print_json, print_table, say
from cli.submit import submit
from cli.watch import watch_job
from sgg_store.job_state import JobStatus

app = typer.Typer(
    help="Fine-tuning jobs: submit, list, show, watch, cancel, pause, resume, checkpoints, examples, download, report, "
    "compare, delete.",
    no_args_is_help=True,
)
app.command()(report)
app.command()(examples)
app.command()(compare)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="An id such as ftjob-....", autocompletion=complete_jobs)]


app.command("submit")(submit)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 20,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs in this state.")] = None,
    metadata: MetadataFilter = None,
    as_json: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    filters = {f"metadata[{key}]": [value] for key, value in parse_metadata(metadata or ()).items()}
    if status is not None:
        filters["status"] = [status]
    with Client.from_environment() as client:
        found = list(client.items("/fine_tuning/jobs", limit=limit, filters=filters))
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "STATUS", "BASE MODEL", "CREATED"),  # together 80 columns; `show` tells the rest
        [(job["id"], job["status"], job["model"], moment(job["created_at"])) for job in found],
        empty="No job matches." if filters else "There are no jobs yet; `sgg jobs submit` makes one.",
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
def checkpoints(
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 100,
    as_json: JsonFlag = False,
) -> None:
    """List a job's checkpoints, newest first. By its name, each can be tried, or another job started from it."""
    with Client.from_environment() as client:
        found = list(client.items(f"/fine_tuning/jobs/{job_id}/checkpoints", limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("NAME", "STEP", "TRAINING LOSS", "VALIDATION LOSS"),
        [(each["fine_tuned_model_checkpoint"], each["step_number"], *_losses(each["metrics"])) for each in found],
        empty="The job has no checkpoints.",
    )


@app.command()
def watch(job_id: JobId, as_json: JsonFlag = False) -> None:
    """Watch a job until it ends, through server restarts; exit code 0 succeeded, 1 failed, 3 cancelled, 4 paused."""
    with Client.from_environment() as client:
        raise typer.Exit(watch_job(client, job_id, as_json=as_json))


@app.command()
def cancel(job_id: JobId, as_json: JsonFlag = False) -> None:
    """Cancel a queued, running or paused job; its checkpoints stay."""
    with Client.from_environment() as client:
        job = client.post(f"/fine_tuning/jobs/{job_id}/cancel")
    if as_json:
        print_json(job)
    elif job["status"] == "cancelled":
        say(f"{job_id} is cancelled.")
    else:
        say(f"{job_id} will stop before its next step. See it end with: sgg jobs watch {job_id}")


@app.command()
def pause(job_id: JobId, as_json: JsonFlag = False) -> None:
    """Pause a queued or running job. It keeps its exact state, and other jobs can run meanwhile."""
    with Client.from_environment() as client:
        job = client.post(f"/fine_tuning/jobs/{job_id}/pause")
    if as_json:
        print_json(job)
    elif job["status"] == "paused":
        say(f"{job_id} is paused. Resume it with: sgg jobs resume {job_id}")
    else:
        say(f"{job_id} will pause before its next step. See it stop with: sgg jobs watch {job_id}")


@app.command()
def resume(
    job_id: JobId,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the job right away.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Resume a paused job exactly where it stopped, with the same result as if it had not been paused."""
    with Client.from_environment() as client:
        job = client.post(f"/fine_tuning/jobs/{job_id}/resume")
        if not as_json:
            say(f"{job_id} is {job['status']} again.")
        if watch:
            raise typer.Exit(watch_job(client, job_id, as_json=as_json))
    if as_json:
        print_json(job)
    else:
        say(f"Watch it with: sgg jobs watch {job_id}")


@app.command()
def delete(
    job_ids: Annotated[
        list[str], typer.Argument(metavar="JOB_ID...", help="Ids such as ftjob-....", autocompletion=complete_jobs)
    ],
    as_json: JsonFlag = False,
) -> None:
    """Delete finished jobs with their checkpoints, result files and models; the data files stay."""
    with Client.from_environment() as client:
        one_by_one(
            job_ids,
            lambda job_id: client.delete(f"/fine_tuning/jobs/{job_id}"),
            lambda deleted: say(f"Deleted {deleted['id']}."),
            as_json=as_json,
        )


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
        facts = fetch_adapter(client, job, out)
    if as_json:
        print_json(facts)
        return
    say(f"{facts['directory']} holds the adapter: {facts['files']} files, every checksum verified.")
    say(f"Try it with: sgg predict {facts['directory']} --text '...'")


def _losses(metrics: dict[str, float | None]) -> Iterator[str | None]:
    for name in ("train_loss", "full_valid_loss"):
        loss = metrics.get(name)
        yield None if loss is None else f"{loss:.4f}"


def _place(ours: dict[str, Any]) -> str | None:
    if ours["queue_position"] is None:
        return None
    return f"{ours['queue_position']}{'' if ours['workers'] else ' (no worker is running)'}"


def _facts(job: dict[str, Any]) -> tuple[tuple[str, object], ...]:
    ours, error = job["sgg"], job["error"] or {}
    failure = ours["failure"] or {}
    steps = f"{ours['step']} of {ours['total_steps'] or '?'}" if ours["step"] else None
    return (
        ("id", job["id"]),
        ("status", job["status"]),
        ("place in queue", _place(ours)),
        ("steps", steps),
        ("base model", job["model"]),
        ("method", job["method"]["type"]),
        ("created", moment(job["created_at"])),
        ("finished", moment(job["finished_at"])),
        ("training file", job["training_file"]),
        ("validation file", job["validation_file"]),
        ("source files", ", ".join(ours["sources"]) or None),
        ("started from", job["method"][job["method"]["type"]]["start_from"]),
        ("seed", job["seed"]),
        ("metadata", ", ".join(f"{key}={value}" for key, value in job["metadata"].items()) or None),
        ("attempts", ours["attempts"] or None),
        ("last checkpoint", (ours["last_checkpoint"] or {}).get("name")),
        ("trained tokens", job["trained_tokens"]),
        ("fine-tuned model", job["fine_tuned_model"]),
        ("result files", ", ".join(job["result_files"]) or None),
        ("error", error.get("message")),
        ("code", error.get("code")),
        ("fault", failure.get("fault")),
        ("remedy", failure.get("remedy")),
    )


def fetch_adapter(client: Client, job: dict[str, Any], out: Path) -> dict[str, Any]:
    """Download, check and unpack the adapter of a job as the API tells it. Raises CliError if it has none."""
    if job["status"] != "succeeded":
        remedy = {
            "failed": "Read why with `sgg jobs show`, and submit a new job.",
            "cancelled": "Submit a new job to train again.",
            "paused": f"Resume it with: sgg jobs resume {job['id']}",
        }.get(job["status"], f"Wait for its end with: sgg jobs watch {job['id']}")
        raise CliError(f"{job['id']} is {job['status']} and has no adapter to download.", remedy)
    bundle_id = job["result_files"][1]
    if all(artifact["file_id"] != bundle_id for artifact in job["sgg"]["artifacts"]):
        reason = f"The adapter of {job['id']} is gone: its model was deleted, or its file has expired."
        raise CliError(reason, "Submit a new job to train it again, or use a checkpoint: `sgg jobs checkpoints`.")
    file = client.get(f"/files/{bundle_id}")
    expected = (file.get("sgg") or {}).get("sha256")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            bundle = Path(scratch) / "adapter.tar.gz"
            digest = client.download(f"/files/{bundle_id}/content", bundle)
            if digest != expected:
                reason = f"The bundle arrived damaged: its sha256 is {digest}, not {expected}."
                raise CliError(reason, "Download it again.")
            count = unpack(bundle, out)
    except OSError as error:
        reason = f"Cannot write {out}: {error.strerror or error}."
        raise CliError(reason, "Give a place for --out that can be written.") from error
    return {
        "job": job["id"],
        "model": job["fine_tuned_model"],
        "directory": str(out),
        "bundle_sha256": digest,
        "files": count,
    }
