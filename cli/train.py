"""`sgg train`: train an adapter in this process, without any service."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.bundle import refuse_existing
from cli.errors import CliError
from cli.hyperparameters import MethodOption, SetOption, build_spec, parse_settings
from cli.output import JsonFlag, print_json_line, say
from cli.progress import Figures, Pace, ProgressView, absorb, open_view

if TYPE_CHECKING:
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


def train(
    model: Annotated[str, typer.Option("--model", "-m", help="Name of a base model (`sgg models list`).")],
    training: Annotated[Path, typer.Option("--train", help="Training file, .jsonl or .csv.")],
    out: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    validation: Annotated[Path | None, typer.Option(help="Validation file.")] = None,
    source: Annotated[list[Path] | None, typer.Option(help="Source file for gradient alignment. Repeatable.")] = None,
    method: MethodOption = "sgg",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and order.")] = 0,
    settings: SetOption = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Keep checkpoints here, and go on from the newest one found.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train an adapter here and now; Ctrl-C stops before the next step."""
    refuse_existing(out)
    spec = build_spec(model, method, seed, parse_settings(settings or ()))
    inputs = _read(training, validation, source or [])
    if as_json:
        reporter = JsonReporter()
        outcome = _run(spec, inputs, reporter, out, checkpoints)
        reporter.report(outcome)
    else:
        with open_view() as view:
            outcome = _run(spec, inputs, ViewReporter(view), out, checkpoints)
    if outcome.type == "stopped":
        kept = f"The same command goes on from {outcome.directory}." if outcome.directory else "No checkpoint was kept."
        raise CliError(f"Stopped after step {outcome.step}.", kept, exit_code=INTERRUPTED)
    if not as_json:
        say(f"{out} holds the adapter. Try it with: sgg predict {out} --text '...'")


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
            figures = absorb(self._figures, message.model_dump())
            self._figures = dataclasses.replace(figures, seconds_left=self._pace.seconds_left(figures))
            self._view.show("training", self._figures)


def _read(training: Path, validation: Path | None, sources: list[Path]) -> Inputs:
    """Parse and check all files before the base model is loaded."""
    from sgg_core.examples import check_sources, check_training, check_validation, read_examples

    train_set = read_examples(training)
    check_training(train_set)
    valid_set = None
    if validation is not None:
        valid_set = read_examples(validation)
        check_validation(train_set, valid_set)
    source_sets = tuple(read_examples(source) for source in sources)
    if source_sets:
        check_sources(train_set, source_sets)
    return Inputs(train_set, valid_set, source_sets)


def _run(
    spec: TrainingSpec, inputs: Inputs, reporter: Reporter, out: Path, checkpoints: Path | None
) -> Finished | Stopped:
    from sgg_core.backbone import load_base
    from sgg_core.catalogue import Catalogue, check_task
    from sgg_core.trainer import train as train_adapter
    from sgg_store.settings import StoreSettings

    entry = Catalogue.load(StoreSettings().data_dir).get(spec.base_model)
    check_task(entry, inputs.training.kind)
    return train_adapter(
        spec,
        load_base(entry),
        inputs.training,
        output=out,
        validation=inputs.validation,
        sources=inputs.sources,
        checkpoints=checkpoints,
        resume_from=_newest_checkpoint(checkpoints),
        reporter=reporter,
    )


def _newest_checkpoint(checkpoints: Path | None) -> Path | None:
    if checkpoints is None:
        return None
    return max(checkpoints.glob("step-????????"), default=None)
