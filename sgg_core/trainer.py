"""Training an adapter: one run, or several replicas of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sgg_core.adapter import add_to_report, answered_before
from sgg_core.adapter_file import MANIFEST
from sgg_core.backbone import LoadedBase
from sgg_core.errors import OutOfMemoryError, Problem, SpecError
from sgg_core.examples import ExampleSet, check_sources, check_training, check_validation
from sgg_core.folds import only
from sgg_core.lineup import Lineup, Replica, check_steps
from sgg_core.lora_layers import adapted_names, lora
from sgg_core.memory import REMEDY, lacks_memory
from sgg_core.packed.meeting import Pack
from sgg_core.packed.network import give_back, keeps_rows
from sgg_core.proof import prepare
from sgg_core.replica_states import begun_with
from sgg_core.replicas import Replicas
from sgg_core.reporting import Finished, Notice, Reporter, Stopped
from sgg_core.run import Run
from sgg_core.run_files import RunFiles
from sgg_core.spec import TrainingSpec
from sgg_core.start import read_start
from sgg_core.suspicions import leaks, remarks
from sgg_core.team.leader import with_team
from sgg_core.token_limit import with_token_limit
from sgg_core.whole_workload import read_files, replicas_at_once, whole_workload


def train(
    spec: TrainingSpec,
    base: LoadedBase,
    training: ExampleSet,
    *,
    output: Path | str,
    reporter: Reporter,
    validation: ExampleSet | None = None,
    sources: Sequence[ExampleSet] = (),
    checkpoints: Path | str | None = None,
    resume_from: Path | str | None = None,
    start_from: Path | str | None = None,
    retention: ExampleSet | None = None,
    memory_bytes: int | None = None,
    breath: Callable[[], None] | None = None,
    with_documents: bool = True,
) -> Finished | Stopped:
    """Train an adapter for `base` and write it to `output`, or stop at a checkpoint when the reporter asks for it.

    `checkpoints` receives step-* directories; `resume_from` is one of them. `start_from` is an adapter of another run,
    whose weights are the first ones of this run (see sgg_core.start). `retention` is asked before and after the
    training, and never trained on. Of several replicas as many are trained at once as are expected to fit into
    `memory_bytes`, the base model included, or all. `breath` is called between the passes of what may take long without
    a word to the reporter, such as an evaluation on a large file, and ends the run where it raises. Without
    documents `output` lacks what is for people alone, model card, page and pictures, which take about a second. `base`
    is unchanged afterwards and can be used again.
    Raises subclasses of SggError; `output` appears whole or not at all. It replaces an older adapter, and nothing else.
    """
    output = Path(output)
    checkpoints, resume_from, start_from = (
        None if path is None else Path(path) for path in (checkpoints, resume_from, start_from)
    )
    _check_output(output, checkpoints)
    if spec.base_model != base.entry.name:
        raise SpecError(
            f"The spec is for the base model {spec.base_model!r}, and the one given is {base.entry.name!r}.",
            "Load the base model that the spec names.",
        )
    check_training(training)
    if validation is not None:
        check_validation(training, validation)
    elif spec.evaluation.chooses:
        raise SpecError("evaluation.keep 'best' and evaluation.patience need a validation file.", "Add one.")
    elif len(spec.optimization.learning_rates) > 1 and not spec.optimization.folds:
        raise SpecError(
            "Several learning rates need a validation file, or folds, to choose by.",
            "Add a file, set optimization.folds, or name one rate.",
        )
    check_sources(training, sources)
    if sources and not spec.guided:
        raise SpecError(
            "Source files are used only with guidance, and this run trains without it.",
            "Leave them out, or use the method sgg with a guidance.variant other than off.",
        )
    check_steps(spec, base.entry.kind, *training.sizes)
    if base.directory is not None:
        prepare()
    start = None if start_from is None else read_start(start_from)
    leaked: Sequence[Problem] = ()
    if validation is not None:
        leaked = leaks(training.examples, training.lines, validation.examples, validation.lines)
    files = RunFiles(training, validation, tuple(sources), retention, len(leaked), spec.task.max_tokens)
    if spec.task.max_tokens == "auto":
        begun = None if resume_from is None else begun_with(resume_from)
        spec = with_token_limit(spec, base.entry, training.kind, begun)

    @contextmanager
    def one(replica: Replica, base: LoadedBase, reporter: Reporter) -> Iterator[Run]:
        own = files
        if (part := replica.part) is not None:
            own = RunFiles(only(training, part.kept), only(training, part.left_out), files.sources)
        base.breath = breath
        try:
            with lora(base, replica.spec.lora, replica.spec.seed) as adapted:
                yield Run(replica.spec, base, adapted, own, start, reporter)
        finally:
            base.breath = None

    with with_team(base, spec, reporter) as base, _memory_told():
        if base.rendezvous is None:
            give_back(base)
        lineup = Lineup(spec, base.entry.kind, training)
        if resume_from is None:
            _tell_suspicions(files, leaked, reporter)
        if spec.optimization.replicas == 1:
            with one(lineup.replica(0, {}), base, reporter) as run:
                return run.go(output, checkpoints, resume_from, with_documents=with_documents)
        load = whole_workload(lineup, base, read_files(spec, base, files), base.device.type)
        at_once = replicas_at_once(spec, base, load, memory_bytes)
        targets = adapted_names(base, spec.lora)
        makes_pack = at_once > 1 and base.rendezvous is None
        if makes_pack and not keeps_rows(base, targets):
            at_once, makes_pack = 1, False
        several = Replicas(
            lineup=lineup,
            load=load,
            one=one,
            before=answered_before(base.entry.kind, None if start is None else start.name)[1],
            at_once=at_once,
            reporter=reporter,
            checkpoints=checkpoints,
            finish=lambda place, told: add_to_report(place, told, base.entry, with_documents=with_documents),
        )
        if not makes_pack:
            return several.train(base, output, resume_from)
        try:
            return Pack(base, targets).run_one(lambda own: several.train(own, output, resume_from))
        finally:
            give_back(base)


def _check_output(output: Path, checkpoints: Path | None) -> None:
    """Raise SpecError if the adapter cannot replace what is there, or would replace more than an older one."""
    if output.is_symlink() or output.is_file():
        raise SpecError(
            f"{output} is a link or a file, which a directory cannot replace.",
            "Choose a new directory.",
        )
    if checkpoints is not None and checkpoints.resolve().is_relative_to(output.resolve()):
        raise SpecError(
            f"The checkpoints' directory {checkpoints} lies in {output}, which the adapter replaces as a whole.",
            "Choose a directory for checkpoints outside of it.",
        )
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).exists():
        raise SpecError(
            f"The directory {output} is not empty and holds no adapter that a new one could replace.",
            "Choose a new directory.",
        )


def _tell_suspicions(files: RunFiles, leaked: Sequence[Problem], reporter: Reporter) -> None:
    """Say what a person should look at in the files; nothing is refused for it."""
    told = remarks(files.training.filename, files.training.warnings)
    if files.validation is not None:
        told += remarks(files.validation.filename, (*leaked, *files.validation.warnings))
    for source in files.sources:
        told += remarks(source.filename, source.warnings)
    for remark in told:
        reporter.report(Notice(level="warn", message=remark))


@contextmanager
def _memory_told() -> Iterator[None]:
    """A block that raises OutOfMemoryError where an allocation failed."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemoryError("The device did not have enough memory for a training step.", REMEDY) from error
