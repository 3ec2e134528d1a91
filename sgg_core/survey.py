"""A training's files read as the trainer reads them, without training: every problem, every token, the work ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded
from sgg_core.errors import DataError, Problem, SpecError
from sgg_core.examples import STORED_LIMITS, ExampleSet, check_sources, check_training, check_validation, parse_examples
from sgg_core.folds import deal
from sgg_core.lineup import Lineup
from sgg_core.plan import Plan, make_plan
from sgg_core.retention import RetentionSet
from sgg_core.run_files import RunFiles
from sgg_core.spec import TrainingSpec
from sgg_core.suspicions import leaks
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.tasks.task import Task
from sgg_core.token_limit import more_room, token_limit
from sgg_core.trials import Survey, SurveyedFile, TrialError
from sgg_core.whole_workload import whole_workload
from sgg_core.workload import RunData

MOST_WARNINGS = 100  # told of one file
SHOWN_LINES = 10


def survey(
    spec: TrainingSpec, base: LoadedBase, filenames: Mapping[str, str], content: Callable[[str], bytes], device: str
) -> Survey:
    """Survey the files of a run by role: `training`, `validation`, `source0` and so on, `retention`.

    `content` gives their bytes. `device` is the type of what the run will be computed on.

    Raises TrialError where the spec does not go together with the base model or the labels.
    """
    files: dict[str, SurveyedFile] = {}
    tasks: dict[str, tuple[Task, list[Encoded]]] = {}
    read: dict[str, ExampleSet] = {}
    kept: RetentionSet | None = None
    for role, filename in filenames.items():
        problems: tuple[Problem, ...] = ()
        try:
            data = parse_examples(content(role), filename, STORED_LIMITS)
        except DataError as error:
            files[role] = _unreadable(error)
            continue
        warnings = data.warnings
        items: list[Encoded] = []
        training = read.get("training")
        try:
            if role == "retention":
                kept = RetentionSet(base, data, spec.task.max_tokens)
                task, items = kept.task, kept.items
            else:
                task = _task(spec, base, role, data, training, tasks)
                items = encoded(task, data)
            tasks[role] = task, items
        except DataError as error:
            problems = error.problems
        except SpecError as error:
            raise TrialError(error.message, error.remedy) from error
        read[role] = data
        if role == "validation" and training is not None:
            warnings += leaks(training.examples, training.lines, data.examples, data.lines)
        limit = token_limit(spec.task.max_tokens, base.entry, data.kind)
        warnings += _cut(data, items, more_room(base.entry, limit))
        files[role] = SurveyedFile(
            examples=len(data),
            labels=dict(sorted(Counter(example.label for example in data.classification).items())),
            tokens=sum(len(item.ids) for item in items),
            truncated=sum(item.truncated for item in items),
            problems=problems,
            warnings=warnings[:MOST_WARNINGS],
        )
    if tasks.keys() != filenames.keys():
        return Survey(files=files, workload=None, trained_tokens=0)
    target = TaskData(*tasks["training"])
    plan = make_plan(spec, base.entry.kind, *target.sizes)
    sources = [TaskData(*tasks[role]) for role in filenames if role.startswith("source")]
    held_out = tasks["validation"][1] if "validation" in tasks else []
    inputs = RunData(target, sources, held_out, kept, RunFiles(read["training"], read.get("validation")))
    lineup = Lineup(spec, base.entry.kind, read["training"])
    load = whole_workload(lineup, base, inputs, device)
    return Survey(files=files, workload=load, trained_tokens=_trained_tokens(lineup, plan, target))


def _task(
    spec: TrainingSpec,
    base: LoadedBase,
    role: str,
    data: ExampleSet,
    training: ExampleSet | None,
    tasks: Mapping[str, tuple[Task, list[Encoded]]],
) -> Task:
    """The task that reads a file, after the checks that the trainer makes of it."""
    if role == "training":
        check_training(data)
        if spec.optimization.folds:
            deal(data, spec.optimization.folds, spec.seed)
        return make_task(spec, base, data)
    if role == "validation":
        if training is not None:
            check_validation(training, data)
        return tasks["training"][0] if "training" in tasks else make_task(spec, base, data)
    if training is not None:
        check_sources(training, [data])
    return make_task(spec, base, data, describe=False)


def _trained_tokens(lineup: Lineup, plan: Plan, target: TaskData) -> int:
    """Of all replicas together."""
    wanted, kind = lineup.spec.optimization, target.task.base.entry.kind
    folds = [lineup.replica(number, {}) for number in range(wanted.tried)]
    tokens = sum(
        _tokens(
            make_plan(fold.spec, kind, len(fold.part.kept), target.sizes[1]), fold.spec.seed, target, fold.part.kept
        )
        for fold in folds
        if fold.part is not None
    )
    seeds = [(lineup.spec.seed + number) % 2**31 for number in range(wanted.seeds)]
    of_seeds = sum(_tokens(plan, seed, target, range(len(target.items))) for seed in seeds)
    return tokens + of_seeds * (wanted.whole // wanted.seeds)


def _tokens(plan: Plan, seed: int, target: TaskData, places: Sequence[int]) -> int:
    """Of one run on some of the examples."""
    items = [target.items[place] for place in places]
    labels = [item.label for item in items]
    steps = range(1, plan.total_steps + 1)
    return sum(len(items[index].ids) for step in steps for index in plan.indices(step, seed, labels))


def _cut(data: ExampleSet, items: list[Encoded], remedy: str) -> tuple[Problem, ...]:
    cut = [line for line, item in zip(data.lines, items, strict=False) if item.truncated]
    if not cut:
        return ()
    where = ", ".join(map(str, cut[:SHOWN_LINES])) + (", ..." if len(cut) > SHOWN_LINES else "")
    reason = f"{len(cut)} of {len(data)} texts are too long and are cut at their end (lines {where})."
    return (Problem(cut[0], "text", reason, f"Shorten them, or {remedy}."),)


def _unreadable(error: DataError) -> SurveyedFile:
    return SurveyedFile(examples=0, labels={}, tokens=0, truncated=0, problems=error.problems, warnings=())
