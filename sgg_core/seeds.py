"""Several trainings that differ in their seed alone, as many at once as memory holds, and the adapter of the best one.

Each is a run of its own. Those that are trained at once share their passes (sgg_core.packed), and begin each step
together: so each checkpoint is of one moment, and what goes on from it makes the same passes again. Steps are counted
through all seeds, in the order in which they are taken.
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
from sgg_core.files import whole_directory
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
from sgg_core.seed_states import SeedStates, report_in
from sgg_core.spec import TrainingSpec
from sgg_core.spread import spread


class OneSeed(Protocol):
    """Trains with one seed, on a base model, into a directory."""

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
class SeveralSeeds:
    """A training with several seeds, of `steps` steps at most each; `at_once` of them share their passes.

    `checkpoints` receives those of all seeds together. `finish` completes the best one's directory, given the report
    that tells of all.
    """

    spec: TrainingSpec
    steps: int
    one: OneSeed
    at_once: int
    reporter: Reporter
    checkpoints: Path | None
    finish: Callable[[Path, TrainingReport], None]

    def train(self, base: LoadedBase, output: Path, resume_from: Path | None) -> Finished | Stopped:
        """Train, and give the best one's adapter. `base` has a rendezvous unless seeds train one after another."""
        count = self.spec.optimization.seeds
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-seeds-", dir=output.parent) as scratch:
            states = SeedStates(Path(scratch))
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
            report = report_in(states.kept).model_copy(update={"seeds": found})
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
    """Seeds that are trained at once. Who comes to a step waits until nobody is at an earlier one."""

    def __init__(self, whole: SeveralSeeds, states: SeedStates, numbers: Sequence[int]) -> None:
        self.whole, self.states = whole, states
        self.members = [Member(self, number, whole.spec.seed) for number in numbers]
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
        spec = self.whole.spec.model_copy(update={"seed": member.seed})
        output = scratch / f"output-{member.number}"
        checkpoints = None if self.whole.checkpoints is None else scratch / f"checkpoints-{member.number}"
        member.base = base
        try:
            resume_from = self.states.directory_of(member.number)
            ended = self.whole.one(spec, base, member, output, checkpoints, resume_from, member.reach)
            if isinstance(ended, Finished):
                self.states.end(member.number, output)
        except Exception as error:
            self._failed = self._failed or error
        member.live = False
        self.let_go()

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
        seeds, count = [member.seed for member in self.members], self.whole.spec.optimization.seeds
        named = f"Seed {seeds[0]}" if len(seeds) == 1 else f"Seeds {', '.join(map(str, seeds))} at once"
        self.whole.reporter.report(Notice(message=f"{named}, of {count}."))
        memory = message.memory
        if memory is not None:
            memory = memory.model_copy(update={"seeds": len(seeds)})
        total = count * self.whole.steps
        begun = {"first_step": self.told + 1, "total_steps": total, "memory": memory}
        self.whole.reporter.report(message.model_copy(update=begun))

    def tell_step(self, message: StepMetrics) -> int:
        """Tell of a step, as the next one of all; gives its number. Time that steps take together is divided."""
        self.told += 1
        total = self.whole.spec.optimization.seeds * self.whole.steps
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
    """A seed in its group, and the Reporter of its run."""

    def __init__(self, group: Group, number: int, first_seed: int) -> None:
        self.number = number
        self.seed = (first_seed + number) % 2**31
        self.base: LoadedBase | None = None
        self.live = True
        self.waits = False
        self.position = 0  # as `Run.reach` counts
        self.step = group.states.step_of(number)  # the last one that it has taken
        self._group = group
        self._told = 0  # as which number

    def reach(self, position: int) -> Control:
        """Wait for those that are not as far, and tell whether to go on."""
        self.position, self.waits = position, True
        self._group.let_go()
        if self.waits:
            assert self.base is not None and self.base.rendezvous is not None
            self.base.rendezvous.rest(lambda: not self.waits)
        self._group.check()
        return self._group.wish

    def control(self) -> Control:
        """Ask what is asked between steps."""
        return self._group.ask()

    def report(self, message: AnyMessage) -> None:
        """Tell it as a message of the whole."""
        tell = self._group.whole.reporter.report
        if isinstance(message, Started):
            self._group.begin(message)
        elif isinstance(message, StepMetrics):
            self.step = message.step
            self._told = self._group.tell_step(message)
        elif isinstance(message, EvaluationMetrics):
            tell(message.model_copy(update={"step": self._told}))
        elif isinstance(message, CheckpointSaved):
            self._group.states.save(self.number, message)
        elif isinstance(message, Notice):
            tell(message.model_copy(update={"message": f"Seed {self.seed}: {message.message}"}))
