"""Replicas of a training: they differ in seed and learning rate alone, and the adapter of the best one is delivered.

Each is a run of its own. As many as memory holds are trained at once: they share their passes (sgg_core.packed), and
begin each step together, so that each checkpoint is of one moment, and what goes on from it makes the same passes
again. Steps are counted through all replicas, in the order in which they are taken. One that diverges is left out.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sgg_core.backbone import LoadedBase
from sgg_core.errors import TrainingDivergedError
from sgg_core.files import whole_directory
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
from sgg_core.spec import TrainingSpec
from sgg_core.spread import Outcome, best, spread


class TrainOne(Protocol):
    """Trains one replica, on a base model, into a directory."""

    def __call__(
        self,
        spec: TrainingSpec,
        base: LoadedBase,
        reporter: Reporter,
        output: Path,
        checkpoints: Path | None,
        resume_from: Path | None,
        reach: Callable[[int], Control],
    ) -> Finished | Stopped:
        """`reach` is that of sgg_core.run."""


@dataclass(frozen=True)
class Replicas:
    """A training with several replicas, of `steps` steps at most each; `at_once` of them share their passes.

    `checkpoints` receives those of all replicas together. `finish` completes the best one's directory, given the report
    that tells of all.
    """

    spec: TrainingSpec
    steps: int
    one: TrainOne
    at_once: int
    reporter: Reporter
    checkpoints: Path | None
    finish: Callable[[Path, TrainingReport], None]

    def train(self, base: LoadedBase, output: Path, resume_from: Path | None) -> Finished | Stopped:
        """Train, and give the best one's adapter. `base` has a rendezvous unless they train one after another.

        Raises TrainingDivergedError where all of them have diverged.
        """
        count = self.spec.optimization.replicas
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-replicas-", dir=output.parent) as scratch:
            states = ReplicaStates(Path(scratch))
            if resume_from is not None:
                states.read(resume_from)
            while left := [number for number in range(count) if number not in states.ended]:
                group = Group(self, states, left[: self.at_once])
                group.train(base, Path(scratch))
                if not group.ended:
                    assert group.wish != "continue"
                    directory = None if states.written is None else str(states.written)
                    return Stopped(reason=group.wish, step=states.steps, directory=directory)
            runs = [states.ended[number] for number in range(count)]
            found = spread(runs)
            report = report_in(states.kept).model_copy(update={"replicas": found})
            self.finish(states.kept, report)
            with whole_directory(output) as place:
                shutil.copytree(states.kept, place, dirs_exist_ok=True)
        self.reporter.report(Notice(message=found.verdict))
        return Finished(
            step=sum(run.steps for run in runs),
            trained_tokens=sum(run.trained_tokens for run in runs),
            stopped_early=report.stopped_early,
            directory=str(output),
        )


class Group:
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
        return all(member.number in self.states.ended for member in self.members)

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
        member.base = base
        try:
            resume_from = self.states.directory_of(member.number)
            try:
                ended = self.whole.one(member.spec, base, member, output, checkpoints, resume_from, member.reach)
            except TrainingDivergedError as error:
                self._leave_out(member, error)
            else:
                if isinstance(ended, Finished):
                    self.states.end(member.number, output)
        except Exception as error:
            self._failed = self._failed or error
        member.live = False
        self.let_go()

    def _leave_out(self, member: Member, error: TrainingDivergedError) -> None:
        """Go on without one that has diverged. Raises its error if there is no other one left."""
        self.states.leave_out(member.number, member.outcome_of_divergence())
        ended = self.states.ended
        if len(ended) == self.whole.spec.optimization.replicas and best(list(ended.values())) is None:
            raise error
        member.report(Notice(message=f"{error} It is left out."))

    def let_go(self) -> None:
        """If all that live wait, let those go on that are least far. If one has failed, all, who end then."""
        live = [member for member in self.members if member.live]
        if not live or not all(member.waits for member in live):
            return
        first = min(member.position for member in live)
        try:
            if self._failed is None and all(self.states.step_of(each.number) == each.step for each in live):
                self._write()
            if self._failed is None and first <= self.whole.steps:
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
        """Tell once for all that training begins."""
        if self._begun:
            return
        self._begun = True
        count = self.whole.spec.optimization.replicas
        self.whole.reporter.report(Notice(message=f"{names_of(self.members)}, of {count}."))
        memory = message.memory
        if memory is not None:
            memory = memory.model_copy(update={"replicas": len(self.members)})
        total = count * self.whole.steps
        rates = tuple(dict.fromkeys(member.rate for member in self.members if member.rate is not None))
        rates = rates or message.learning_rates
        begun = {"first_step": self.told + 1, "total_steps": total, "memory": memory, "learning_rates": rates}
        self.whole.reporter.report(message.model_copy(update=begun))

    def tell_step(self, message: StepMetrics) -> int:
        """Tell of a step, as the next one of all; gives its number. Time that steps take together is divided."""
        self.told += 1
        total = self.whole.spec.optimization.replicas * self.whole.steps
        sharing = sum(member.live and member.position <= self.whole.steps for member in self.members)
        told = {"step": self.told, "total_steps": total, "seconds": message.seconds / sharing}
        self.whole.reporter.report(message.model_copy(update=told))
        return self.told

    def _write(self) -> None:
        if self.whole.checkpoints is not None:
            saved = self.states.write(self.whole.checkpoints)
            if saved is not None:
                self.whole.reporter.report(saved)


class Member:
    """A replica in its group, and the Reporter of its run."""

    def __init__(self, group: Group, number: int) -> None:
        self.number = number
        self.spec = group.whole.spec.replica(number)
        self.base: LoadedBase | None = None
        self.live = True
        self.waits = False
        self.position = 0  # as `Run.reach` counts
        self.step = group.states.step_of(number)  # the last one that it has taken
        self.group = group
        self._told = 0  # as which number
        self._learning_rate = self.rate or 0.0  # `auto` is known once it has begun
        self._tokens = 0

    @property
    def rate(self) -> float | None:
        """Its peak learning rate, where the spec names it."""
        wanted = self.spec.optimization
        return wanted.learning_rate * wanted.multiplier if isinstance(wanted.learning_rate, float) else None

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
            self._tokens += message.tokens
            self._told = self.group.tell_step(message)
        elif isinstance(message, EvaluationMetrics):
            tell(message.model_copy(update={"step": self._told}))
        elif isinstance(message, CheckpointSaved):
            self.group.states.save(self.number, message)
        elif isinstance(message, Notice):
            tell(message.model_copy(update={"message": f"{names_of([self])}: {message.message}"}))

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


def names_of(members: Sequence[Member]) -> str:
    """By what they differ: "Seeds 1, 2 at once", or "Learning rate 0.001 with seed 1"."""
    several = "s" if len(members) > 1 else ""
    together = " at once" if several else ""
    whole = members[0].group.whole.spec.optimization
    seeds = [str(member.spec.seed) for member in members]
    rates = [f"{member.rate:g}" for member in members if member.rate is not None]
    if len(whole.learning_rates) == 1:
        return f"Seed{several} {', '.join(seeds)}{together}"
    if whole.seeds == 1:
        return f"Learning rate{several} {', '.join(rates)}{together}"
    pairs = [f"{rate} with seed {seed}" for rate, seed in zip(rates, seeds, strict=True)]
    return f"Learning rate{several} {', '.join(pairs)}{together}"
