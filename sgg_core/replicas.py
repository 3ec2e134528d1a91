"""Replicas of a training: they differ in seed, learning rate and fold, and the adapter of the best one is delivered.

Each is a run of its own (sgg_core.lineup). As many as memory holds are trained at once: they share their passes
(sgg_core.packed), and begin each step together, so that each checkpoint is of one moment, and what goes on from it
makes the same passes again. Steps are counted through all replicas, in the order in which they are taken. One that
diverges is left out.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.cross_validation import FoldOutcome, cross_validation
from sgg_core.errors import TrainingDivergedError
from sgg_core.estimate import Workload, memory_need, reference_seconds
from sgg_core.figures import Evaluation
from sgg_core.files import whole_directory
from sgg_core.lineup import Lineup, Replica, names_of
from sgg_core.replica_states import ReplicaStates, report_in
from sgg_core.report import TrainingReport
from sgg_core.reporting import (
    AnyMessage,
    CheckpointSaved,
    Control,
    EvaluationMetrics,
    Finished,
    Notice,
    Reporter,
    Started,
    StepMetrics,
    Stopped,
)
from sgg_core.run import Run
from sgg_core.spread import Outcome, best, spread


@dataclass(frozen=True)
class Replicas:
    """A training with several replicas; `at_once` of them share their passes.

    `load` is the work of all of them. `one` makes a replica's run, on a base model, telling a Reporter. `checkpoints`
    receives those of all replicas together. `finish` completes the best one's directory, given the report that tells of
    all. `before` puts in words what folds' runs are compared with.
    """

    lineup: Lineup
    load: Workload
    one: Callable[[Replica, LoadedBase, Reporter], AbstractContextManager[Run]]
    before: str
    at_once: int
    reporter: Reporter
    checkpoints: Path | None
    finish: Callable[[Path, TrainingReport], None]

    def train(self, base: LoadedBase, output: Path, resume_from: Path | None) -> Finished | Stopped:
        """Train, and give the best one's adapter. `base` has a rendezvous unless they train one after another.

        Raises TrainingDivergedError where all of them have diverged.
        """
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-replicas-", dir=output.parent) as scratch:
            states = ReplicaStates(Path(scratch))
            if resume_from is not None:
                states.read(resume_from)
            while left := self.lineup.left(states.all_ended):
                group = ReplicaGroup(self, states, left[: self.at_once])
                group.train(base, Path(scratch))
                if not group.ended:
                    assert group.wish != "continue"
                    directory = None if states.written is None else str(states.written)
                    return Stopped(reason=group.wish, step=states.steps, directory=directory)
                if self.lineup.folds_failed(states.folds):
                    raise TrainingDivergedError(
                        "At every learning rate, the training of at least one fold diverged.",
                        "Lower the learning rate.",
                    )
            report = self._report(states)
            self.finish(states.kept, report)
            with whole_directory(output) as place:
                shutil.copytree(states.kept, place, dirs_exist_ok=True)
        for found in (report.cross_validation, report.replicas):
            if found is not None:
                self.reporter.report(Notice(message=found.verdict))
        return Finished(
            step=states.steps,
            trained_tokens=states.trained_tokens,
            stopped_early=report.stopped_early,
            directory=str(output),
        )

    def _report(self, states: ReplicaStates) -> TrainingReport:
        """The report of the kept one, which tells of all."""
        runs = [states.ended[number] for number in sorted(states.ended)]
        report = report_in(states.kept)
        labelled = report.kind == "classification"
        told: dict[str, Any] = {"replicas": spread(runs, labelled=labelled)} if len(runs) > 1 else {}
        if states.folds:
            told["cross_validation"] = cross_validation(self.lineup.by_rate(states.folds), self.before)
        return report.model_copy(update=told)


class ReplicaGroup:
    """Replicas that are trained at once. Who comes to a step waits until nobody is at an earlier one."""

    def __init__(self, whole: Replicas, states: ReplicaStates, numbers: Sequence[int]) -> None:
        self.whole, self.states = whole, states
        self.members = [Member(self, number) for number in numbers]
        self.wish: Control = "continue"  # once it is something else, it is that for all
        self.told = states.steps  # the number of the last step that was told
        self._begun = False
        self._failed: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether all have ended by themselves."""
        return all(member.number in self.states.all_ended for member in self.members)

    def train(self, base: LoadedBase, scratch: Path) -> None:
        """Train all to their ends, or until they are stopped. Raises the first error of one; the others stop then."""
        jobs = [partial(self._train_one, member, scratch) for member in self.members]
        if len(jobs) == 1:
            jobs[0](base)
        else:
            assert base.rendezvous is not None
            base.rendezvous.bring(jobs)
        if self._failed is not None:
            raise self._failed
        if not self.ended:
            self._write()

    def _train_one(self, member: Member, scratch: Path, base: LoadedBase) -> None:
        output = scratch / f"output-{member.number}"
        checkpoints = None if self.whole.checkpoints is None else scratch / f"checkpoints-{member.number}"
        resume_from = self.states.directory_of(member.number)
        member.base = base
        try:
            try:
                with self.whole.one(member.replica, base, member) as run:
                    member.run, run.reach = run, member.reach
                    if member.replica.fold is not None:
                        judged = run.judge(checkpoints, resume_from)
                        if isinstance(judged, Evaluation):
                            self._judged(member, run, judged)
                    elif isinstance(run.go(output, checkpoints, resume_from, with_documents=False), Finished):
                        self.states.end(member.number, output)
            except TrainingDivergedError as error:
                self._leave_out(member, error)
        except Exception as error:
            self._failed = self._failed or error
        member.live = False
        self.let_go()

    def _leave_out(self, member: Member, error: TrainingDivergedError) -> None:
        """Go on without one that has diverged. Raises its error if there is no other one left."""
        lineup, states = self.whole.lineup, self.states
        if member.replica.fold is not None:
            states.judge(member.number, member.outcome_of_fold())
        else:
            states.leave_out(member.number, member.outcome_of_divergence())
        if not lineup.left(states.all_ended) and best(list(states.ended.values())) is None:
            raise error
        member.report(Notice(message=f"{error} This run is left out."))

    def _judged(self, member: Member, run: Run, after: Evaluation) -> None:
        """Remember what a fold's run has come to."""
        told = {"before": run.progress.baseline, "after": after}
        self.states.judge(member.number, member.outcome_of_fold().model_copy(update=told))
        member.report(Notice(message=f"Loss {after.loss:.3f}, accuracy {after.accuracy:.3f} on the fold left out."))

    def let_go(self) -> None:
        """If all that live wait, let those go on that are least far. If one has failed, all, who end then."""
        live = [member for member in self.members if member.live]
        if not live or not all(member.waits for member in live):
            return
        first = min(member.position for member in live)
        try:
            if self._failed is None and all(self.states.step_of(each.number) == each.step for each in live):
                self._write()
            if self._failed is None and any(member.position == first and member.takes_steps for member in live):
                self.ask()
        except Exception as error:
            self._failed = error
        for member in live:
            member.waits = member.position > first and self._failed is None

    def check(self) -> None:
        """Raise the error of one that has failed."""
        if self._failed is not None:
            raise self._failed

    def ask(self) -> Control:
        """Ask whether to go on, unless that is settled."""
        if self.wish == "continue":
            self.wish = self.whole.reporter.control()
        return self.wish

    def begin(self, message: Started) -> None:
        """Tell once for all that training begins, from the message of one, and of how much work all of it is."""
        if self._begun:
            return
        self._begun = True
        self.whole.reporter.report(Notice(message=f"{self.names(self.members)}{self._of_how_many()}."))
        load, total = self.whole.load, self.whole.lineup.total_steps
        memory = memory_need(load).model_copy(update={"replicas": len(self.members)})
        rates = tuple(dict.fromkeys(rate for member in self.members if (rate := member.replica.rate) is not None))
        rates = rates or message.learning_rates
        begun = {"first_step": self.told + 1, "total_steps": total, "learning_rates": rates}
        self.whole.reporter.report(
            message.model_copy(update=begun | {"memory": memory, "reference": reference_seconds(load)})
        )

    def tell_step(self, message: StepMetrics) -> int:
        """Tell of a step, as the next one of all; gives its number. Time that steps take together is divided."""
        self.told += 1
        sharing = sum(member.live and member.takes_steps for member in self.members)
        told = {"step": self.told, "total_steps": self.whole.lineup.total_steps, "seconds": message.seconds / sharing}
        self.whole.reporter.report(message.model_copy(update=told))
        return self.told

    def names(self, members: Sequence[Member]) -> str:
        """By what they differ from others."""
        return names_of(self.whole.lineup.spec.optimization, [member.replica for member in members])

    def _of_how_many(self) -> str:
        wanted = self.whole.lineup.spec.optimization
        count = wanted.tried if self.members[0].replica.fold is not None else wanted.whole
        return f", of {count}" if count > 1 else ""

    def _write(self) -> None:
        if self.whole.checkpoints is not None:
            saved = self.states.write(self.whole.checkpoints)
            if saved is not None and self.members[0].replica.fold is not None:
                kept = {name: value for name, value in saved.metrics.items() if "valid" not in name}
                saved = saved.model_copy(update={"metrics": kept})  # these are not of the validation file
            if saved is not None:
                self.whole.reporter.report(saved)


class Member:
    """A replica in its group, and the Reporter of its run."""

    def __init__(self, group: ReplicaGroup, number: int) -> None:
        self.number = number
        self.replica = group.whole.lineup.replica(number, group.states.folds)
        self.spec = self.replica.spec
        self.base: LoadedBase | None = None
        self.live = True
        self.waits = False
        self.position = 0  # as `Run.reach` counts
        self.step = group.states.step_of(number)  # the last one that it has taken
        self.group = group
        self._told = 0  # as which number
        self._learning_rate = self.replica.rate or 0.0  # `auto` is known once it has begun
        self.run: Run | None = None

    @property
    def _tokens(self) -> int:
        """Trained on, before an interruption, too."""
        return 0 if self.run is None else self.run.progress.trained_tokens

    @property
    def takes_steps(self) -> bool:
        """Whether it has not come to its end."""
        return self.position <= self.replica.steps

    def reach(self, position: int) -> Control:
        """Wait for those that are not as far, and tell whether to go on."""
        self.position, self.waits = position, True
        self.group.let_go()
        if self.waits:
            assert self.base is not None and self.base.rendezvous is not None
            self.base.rendezvous.rest(lambda: not self.waits)
        self.group.check()
        return self.group.wish

    def control(self) -> Control:
        """Ask what is asked between steps."""
        return self.group.ask()

    def report(self, message: AnyMessage) -> None:
        """Tell it as a message of the whole."""
        tell = self.group.whole.reporter.report
        if isinstance(message, Started):
            (self._learning_rate,) = message.learning_rates
            self.group.begin(message)
        elif isinstance(message, StepMetrics):
            self.step = message.step
            self._told = self.group.tell_step(message.model_copy(update={"replica": self.number}))
        elif isinstance(message, EvaluationMetrics):
            if self.replica.fold is not None:
                return  # not of the validation file; told once, of all that it left out
            tell(message.model_copy(update={"step": self._told}))
        elif isinstance(message, CheckpointSaved):
            self.group.states.save(self.number, message)
        elif isinstance(message, Notice):
            tell(message.model_copy(update={"message": f"{self.group.names([self])}: {message.message}"}))

    def outcome_of_fold(self) -> FoldOutcome:
        """What there is to say of a fold's run that has no figures."""
        assert self.replica.fold is not None
        return FoldOutcome(
            fold=self.replica.fold,
            learning_rate=self._learning_rate,
            steps=self.step,
            trained_tokens=self._tokens,
        )

    def outcome_of_divergence(self) -> Outcome:
        """What there is to say of it if it ends here."""
        return Outcome(
            seed=self.spec.seed,
            learning_rate=self._learning_rate,
            steps=self.step,
            trained_tokens=self._tokens,
            train_loss=None,
            valid_loss=None,
            valid_accuracy=None,
            diverged=True,
        )
