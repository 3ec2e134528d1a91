"""The `sgg` command: names the commands, and turns expected errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer
import typer.core

from cli import (
    audit,
    bench,
    clean,
    db,
    doctor,
    files,
    init,
    jobs,
    keys,
    models,
    predict,
    preview,
    projects,
    serve,
    train,
    webhooks,
    worker,
)
from cli.errors import CliError
from cli.output import JSON, print_failure

# click's, of which newer versions of typer have a copy of their own
UsageError: Any = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "UsageError")
WANTS_JSON = f"{__name__}.wants_json"


class SggGroup(typer.core.TyperGroup):
    """Runs a command; errors that somebody can act on are printed without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember whether failures are to be JSON: a command that is told wrongly reads none of its options."""
        ctx.meta[WANTS_JSON] = "--json" in args
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        from pydantic import ValidationError

        from sgg_core.errors import SggError
        from sgg_store.errors import StoreError

        try:
            return super().invoke(ctx)
        except (CliError, SggError, StoreError) as error:
            raise _ended(ctx, error) from error
        except ValidationError as error:
            from cli.settings_problems import problems_of, refusal

            problems = problems_of(error)
            if not problems:
                raise
            raise _ended(ctx, refusal(problems)) from error
        except UsageError as error:
            if not ctx.meta[WANTS_JSON]:
                raise
            command = error.ctx.command_path if error.ctx is not None else ctx.command_path
            told = CliError(error.format_message(), f"See {command} --help.")
            print_failure(told, as_json=True)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError as error:
            # The reader, such as `head`, has gone: end quietly, and keep the interpreter from flushing into the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error


def _ended(context: Any, error: Exception) -> typer.Exit:
    """Tell an expected failure, and give the exit that follows from it."""
    print_failure(error, as_json=context.meta.get(JSON, False))
    return typer.Exit(error.exit_code if isinstance(error, CliError) else 1)


app = typer.Typer(
    name="sgg",
    cls=SggGroup,
    help="Few-shot fine-tuning with structured gradient guidance: a service, its client, and the trainer itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # Rich's own would swallow what stands in square brackets, such as defaults
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("clean")(clean.clean)
app.command("doctor")(doctor.doctor)
files.app.command("preview")(preview.preview)
app.add_typer(files.app, name="files")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(db.app, name="db")
app.add_typer(projects.app, name="projects")
app.add_typer(keys.app, name="keys")
app.command("audit")(audit.audit)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sgg {version('sgg')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Few-shot fine-tuning with structured gradient guidance: a service, its client, and the trainer itself."""


def main() -> None:
    """Run the command line of this process."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # libraries say it to programmers; users can do nothing about it
    app()


if __name__ == "__main__":
    main()
