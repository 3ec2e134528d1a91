"""`sgg bench cluster`: how many workers a day's jobs need, by simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import WrongUseError
from cli.output import JsonFlag, print_json_line

if TYPE_CHECKING:
    from sgg_core.bench.cluster import Pace


def cluster(
    speeds: Annotated[
        Path | None, typer.Option(help="What `sgg bench throughput --json` or `sgg bench peers --json` printed.")
    ] = None,
    job_seconds: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of a job alone; scales what --speeds and --packs say.")
    ] = None,
    packs: Annotated[str | None, typer.Option(help="JOBS=SECONDS of packs, comma-separated, beside 1=SECONDS.")] = None,
    jobs_a_day: Annotated[
        float, typer.Option(min=1, help="Jobs that arrive in a day, as a Poisson process.")
    ] = 100_000,
    swing: Annotated[float, typer.Option(min=0, max=1, help="Rate at noon: 1 + SWING times the mean.")] = 0.5,
    days: Annotated[float, typer.Option(min=0.001, help="How long jobs arrive.")] = 1.0,
    start_up: Annotated[float, typer.Option(min=0, help="Seconds until workers take their first job.")] = 10.0,
    target_wait: Annotated[
        float, typer.Option(min=0.001, help="95 % of the jobs begin within so many seconds.")
    ] = 30.0,
    most_workers: Annotated[int, typer.Option(min=1, help="The most workers to try.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Workers that are needed, so that jobs do not wait long: utilisation and waiting times, simulated."""
    from sgg_core.bench import cluster as simulated

    pace = _pace(speeds, packs, job_seconds)
    arriving = simulated.arrivals(jobs_a_day, swing, days, seed)
    lines = simulated.plan_cluster(arriving, pace, start_up, target_wait, most_workers)
    if plot is not None:
        from sgg_core.bench.speed_figures import draw_cluster

        draw_cluster(lines, target_wait, plot)
    if as_json:
        for line in lines:
            print_json_line(line)
        return
    typer.echo(simulated.as_table(lines))


def _pace(speeds: Path | None, packs: str | None, job_seconds: float | None) -> Pace:
    """What is known of packs, for jobs of which one alone takes `job_seconds`."""
    from sgg_core.bench.cluster import Pace, pace_of

    if speeds is not None:
        try:
            pace = pace_of([json.loads(line) for line in speeds.read_text().splitlines() if line.startswith("{")])
        except (OSError, ValueError, KeyError, TypeError) as error:
            told = f"{type(error).__name__}: {error}"
            remedy = "Give the file that `sgg bench throughput --json` or `sgg bench peers --json` wrote."
            raise WrongUseError(f"--speeds {speeds} cannot be read ({told}).", remedy) from error
        return pace if job_seconds is None else pace.scaled(job_seconds)
    if job_seconds is None:
        raise WrongUseError("Nothing is known of a job's time.", "Give --speeds or --job-seconds.")
    try:
        known = {
            int(jobs): float(seconds) for jobs, _, seconds in (p.partition("=") for p in (packs or "").split(",") if p)
        }
    except ValueError as error:
        raise WrongUseError(f"--packs {packs!r} cannot be read.", "Write --packs 4=20,8=38.") from error
    return Pace({1: job_seconds} | known)
