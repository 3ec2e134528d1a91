"""`sgg train`: train an adapter in this process, without any service."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.bundle import refuse_existing, refuse_unwritable
from cli.data_files import DataFiles
from cli.errors import CliError, WrongUseError
from cli.hyperparameters import (
    DEFAULT_METHOD,
    MethodOption,
    SetOption,
    SpecOption,
    build_spec,
    parse_settings,
    settings_from,
)
from cli.job_file import FILE_ID, JobFile, read_job_file, refuse_beside_spec, spec_of
from cli.output import JsonFlag, print_json_line, say
from cli.progress import Figures, Pace, ProgressView, absorb, open_view
from sgg_core.imports import without_collector

if TYPE_CHECKING:
    from sgg_core.catalogue import BaseModelEntry
    from sgg_core.examples import ExampleSet
    from sgg_core.reporting import AnyMessage, Control, Finished, Reporter, Stopped
    from sgg_core.spec import TrainingSpec

INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The parsed files of a run."""

    training: ExampleSet
    validation: ExampleSet | None
    sources: tuple[ExampleSet, ...]
    retention: ExampleSet | None


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be trained, from options or from a file."""

    spec: TrainingSpec
    training: Path
    validation: Path | None
    sources: tuple[Path, ...]
    start: Path | None
    retention: Path | None


def train(
    out: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name of a base model (`sgg models list`).")
    ] = None,
    training: Annotated[Path | None, typer.Option("--train", help="Training file, .jsonl or .csv.")] = None,
    validation: Annotated[Path | None, typer.Option(help="Validation file.")] = None,
    source: Annotated[list[Path] | None, typer.Option(help="Source file for gradient alignment. Repeatable.")] = None,
    retention: Annotated[
        Path | None, typer.Option(help="Examples of another task, to measure how much of it the model forgets.")
    ] = None,
    method: MethodOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights and order.  [default: 0]")] = None,
    settings: SetOption = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Start from these weights: an SGG or PEFT adapter folder, a checkpoint, a file."),
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Directory for checkpoints; training resumes from the newest one in it.")
    ] = None,
    job: SpecOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Train an adapter in this process, without a server; Ctrl-C stops before the next step."""
    refuse_existing(out)
    if checkpoints is not None:
        refuse_unwritable(checkpoints, "--checkpoints")
    if job is not None:
        refuse_beside_spec(model, training, validation, source, retention, method, seed, settings, start)
        order = _order_from_file(read_job_file(job))
    elif model is None or training is None:
        raise WrongUseError("A training needs --model and --train.", "Give both, or --spec with a file.")
    else:
        chosen = settings_from(parse_settings(settings or ()), start)
        spec = build_spec(model, method or DEFAULT_METHOD, seed or 0, chosen)
        order = Order(spec, training, validation, tuple(source or ()), start, retention)
    inputs = _read(order)
    entry = _base_model(order.spec, inputs)
    _import_training()
    if as_json:
        reporter = JsonReporter()
        outcome = _run(order.spec, entry, inputs, reporter, out, checkpoints, order.start)
        reporter.report(outcome)
    else:
        with open_view() as view:
            outcome = _run(order.spec, entry, inputs, ViewReporter(view), out, checkpoints, order.start)
    if outcome.type == "stopped":
        raise CliError(f"Stopped after step {outcome.step}.", _way_on(outcome, checkpoints), exit_code=INTERRUPTED)
    if not as_json:
        say(f"{out} holds the adapter. Try it with: sgg predict {out} --text '...'")


def _way_on(outcome: Stopped, checkpoints: Path | None) -> str:
    """How to go on after Ctrl-C."""
    if outcome.directory:
        return f"Run the same command again to resume from {outcome.directory}."
    way = "" if checkpoints else " Next time, give --checkpoints DIR to be able to resume."
    return f"No checkpoint was kept.{way}"


class InterruptibleReporter:
    """Ends the run before its next step once Ctrl-C was pressed; pressed again, it kills the process as usual."""

    def __init__(self) -> None:
        self._control: Control = "continue"
        signal.signal(signal.SIGINT, self._stop)

    def control(self) -> Control:
        """Answer `cancel` after Ctrl-C."""
        return self._control

    def _stop(self, number: int, frame: Any) -> None:
        self._control = "cancel"
        signal.signal(signal.SIGINT, signal.default_int_handler)


class JsonReporter(InterruptibleReporter):
    """Prints every message as a JSON line."""

    def report(self, message: AnyMessage) -> None:
        """Print the message."""
        print_json_line(message.model_dump(mode="json"))


class ViewReporter(InterruptibleReporter):
    """Shows figures and notices on a progress view."""

    def __init__(self, view: ProgressView) -> None:
        super().__init__()
        self._view = view
        self._figures, self._pace = Figures(), Pace()

    def report(self, message: AnyMessage) -> None:
        """Show the message."""
        if message.type == "notice":
            self._view.note(message.message)
        elif message.type in ("started", "step", "evaluation"):
            data = message.model_dump()
            if message.type == "started":
                data["step"] = done = message.first_step - 1
                if done > self._figures.step:  # of an earlier call, not of the folds before all examples
                    self._view.note(f"Training goes on after step {done} of {message.total_steps}.")
            figures = absorb(self._figures, data)
            self._figures = dataclasses.replace(figures, seconds_left=self._pace.seconds_left(figures))
            self._view.show("training", self._figures)


def _order_from_file(file: JobFile) -> Order:
    """Take from a job's file what a training needs; what only a service knows, such as a suffix, is left aside."""
    from sgg_core.adapter_file import facts_of

    names = {name: file.request.get(name) for name in ("training_file", "validation_file")}
    sources, start = file.settings.get("sources") or (), file.settings.get("start_from")
    kept = file.settings.get("retention_file")
    ids = [name for name in (*names.values(), *sources, kept) if name and FILE_ID.fullmatch(name)]
    if ids:
        raise CliError(f"{file.path} names {ids[0]}, which only a server has.", "Name files by their paths.")
    spec = spec_of(file)
    begin = file.path_of(start) if start else None
    if begin is not None:
        spec = spec_of(file, facts_of(begin).lora())
    validation = file.path_of(names["validation_file"]) if names["validation_file"] else None
    training = file.path_of(str(names["training_file"]))
    retention = file.path_of(kept) if kept else None
    return Order(spec, training, validation, tuple(file.path_of(one) for one in sources), begin, retention)


def _read(order: Order) -> Inputs:
    """Parse and check all files before the base model is loaded."""
    from sgg_core.examples import check_retention, check_sources, check_training, check_validation

    files = DataFiles()
    training = files.read(order.training)
    validation = files.read(order.validation) if order.validation else None
    read = [files.read(source) for source in order.sources]
    sources = tuple(source for source in read if source is not None)
    retention = files.read(order.retention) if order.retention else None
    if training is not None:
        files.check(check_training, training)
        if validation is not None:
            files.check(check_validation, training, validation)
        files.check(check_sources, training, sources)
    if retention is not None:
        files.check(check_retention, retention)
    files.refuse()
    assert training is not None
    return Inputs(training, validation, sources, retention)


def _base_model(spec: TrainingSpec, inputs: Inputs) -> BaseModelEntry:
    from sgg_core.catalogue import Catalogue, check_task
    from sgg_store.settings import StoreSettings

    entry = Catalogue.load(StoreSettings().catalogue_dir).get(spec.base_model)
    check_task(entry, inputs.training.kind)
    return entry


def _import_training() -> None:
    """Load torch and its company once: a process that has done nothing yet is what the adapter's proof forks from."""
    unused = "torch" not in sys.modules and threading.active_count() == 1
    with without_collector():
        import sgg_core.trainer  # noqa: F401  # imported for the loading alone
        from sgg_core.proof import branch_off
    if unused:
        branch_off()


def _run(
    spec: TrainingSpec,
    entry: BaseModelEntry,
    inputs: Inputs,
    reporter: Reporter,
    out: Path,
    checkpoints: Path | None,
    start: Path | None,
) -> Finished | Stopped:
    from sgg_core.base_loading import load_base
    from sgg_core.trainer import train as train_adapter

    return train_adapter(
        spec,
        load_base(entry),
        inputs.training,
        output=out,
        validation=inputs.validation,
        sources=inputs.sources,
        retention=inputs.retention,
        checkpoints=checkpoints,
        resume_from=newest_checkpoint(checkpoints),
        start_from=start,
        reporter=reporter,
    )


def newest_checkpoint(checkpoints: Path | None) -> Path | None:
    """The one that a training in this folder goes on from."""
    if checkpoints is None:
        return None
    return max(checkpoints.glob("step-*"), default=None)
