"""Everything the core raises on purpose. One root, named classes, picklable, no HTTP and no exit codes inside."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import ClassVar

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the OSErrors that mean: free some space."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where, why, and what to do about it.

    `line` counts from 1 in the file as the user sees it; None means the whole file. `field` names a column or key.
    """

    line: int | None
    field: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = "file" if self.line is None else f"line {self.line}"
        if self.field is not None:
            place += f", field {self.field!r}"
        return f"{place}: {self.reason} {self.remedy}"


class SggError(Exception):
    """Root of the core's errors. `code` is stable and machine-readable; `users_fault` says who has to act."""

    code: ClassVar[str] = "internal_error"
    users_fault: ClassVar[bool] = True

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class DataError(SggError):
    """A data file cannot be used. Carries every problem of the file (the first 1,000), not only the first."""

    code = "invalid_training_file"

    def __init__(self, filename: str, problems: tuple[Problem, ...]) -> None:
        self.filename = filename
        self.problems = problems
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{filename} has {count}:\n{shown}{more}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.filename, self.problems)


class ValidationFileError(DataError):
    """The file that cannot be used is the validation file."""

    code = "invalid_validation_file"


class SourceFileError(DataError):
    """The file that cannot be used is a source file."""

    code = "invalid_source_file"


class RetentionFileError(DataError):
    """The file that cannot be used is the retention file."""

    code = "invalid_retention_file"

    @classmethod
    def about(cls, filename: str, reason: str, remedy: str) -> RetentionFileError:
        """The error of a file that is wrong as a whole."""
        return cls(filename, (Problem(None, None, reason, remedy),))


class SpecError(SggError):
    """A training spec is invalid, or does not fit the data or the base model."""

    code = "invalid_hyperparameters"


class SettingError(SggError):
    """A variable of the environment has a value that means nothing."""

    users_fault = False


class StartingPointError(SggError):
    """The adapter that a run is to start from cannot be read, or does not fit the run."""

    code = "invalid_starting_point"


class UnknownBaseModelError(SggError):
    """The named base model is not in the catalogue."""

    code = "model_not_found"


class CatalogueError(SggError):
    """The catalogue of base models is damaged, or an entry cannot be added or removed."""

    code = "invalid_catalogue"


class BaseModelUnavailableError(SggError):
    """The base model is in the catalogue, but its files cannot be loaded here."""

    code = "base_model_unavailable"
    users_fault = False


class TrainingDivergedError(SggError):
    """The loss or a gradient became NaN or infinite."""

    code = "training_diverged"


class OutOfMemoryError(SggError):
    """The device's memory did not suffice for one training step."""

    code = "out_of_memory"


class HelperLostError(SggError):
    """A process that computed a part of every batch has ended, or does not answer."""

    code = "helper_lost"
    users_fault = False


class DiskFullError(SggError):
    """No space was left while writing a checkpoint or the adapter."""

    code = "disk_full"
    users_fault = False


class CheckpointError(SggError):
    """A checkpoint or adapter directory is damaged or belongs to another job."""

    code = "invalid_checkpoint"
    users_fault = False


class VerificationError(SggError):
    """A finished adapter does not answer the same once its files are loaded again, here or through peft."""

    code = "verification_failed"
    users_fault = False
