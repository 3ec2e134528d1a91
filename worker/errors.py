"""Everything the worker raises on purpose. One root, named classes, picklable."""

from __future__ import annotations


class WorkerError(Exception):
    """Root of the worker's errors."""


class TrainerDiedError(WorkerError):
    """The trainer child ended without saying how its training went.

    `exit_code` is negative for a signal, as in subprocess; `last_words` is the end of what it wrote to stderr.
    """

    def __init__(self, exit_code: int, out_of_memory: bool, last_words: str) -> None:
        super().__init__(exit_code, out_of_memory, last_words)
        self.exit_code = exit_code
        self.out_of_memory = out_of_memory
        self.last_words = last_words

    def __str__(self) -> str:
        ended = f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}"
        said = f"; its last output: {self.last_words}" if self.last_words else ""
        return f"the trainer process ended with {ended}{said}"


class TrainingFailedError(WorkerError):
    """The trainer said why it could not finish: the code, message and fault of an error of sgg_core."""

    def __init__(self, code: str, message: str, users_fault: bool) -> None:
        super().__init__(code, message, users_fault)
        self.code = code
        self.message = message
        self.users_fault = users_fault

    def __str__(self) -> str:
        return self.message


class ChangedFileError(WorkerError):
    """The bytes of the data file of this name are not those that were uploaded."""

    def __str__(self) -> str:
        return f"The stored bytes of {self.args[0]} have changed."


class CrowdedError(WorkerError):
    """Memory did not suffice for the job and other jobs or base models beside it: it may do for the job alone."""

    def __str__(self) -> str:
        return f"memory was short beside other jobs or base models, so the job is tried again alone: {self.args[0]}"


class DisturbedError(WorkerError):
    """The training failed unexpectedly while others shared its passes, so that the fault may be anybody's."""

    def __str__(self) -> str:
        return f"it failed unexpectedly beside other jobs, so it is tried again alone: {self.args[0]}"


class UnsharedError(WorkerError):
    """The job came to share passes on a base model that mixes the rows of a batch, while another one trains there."""

    def __str__(self) -> str:
        return "jobs on this base model are trained one after another, so this one waits for its turn"


class FencedError(WorkerError):
    """The database did not answer for so long that the lease may end soon: the worker stopped its trainer by itself."""


class StalledError(WorkerError):
    """The trainer made no progress for longer than a step can take."""


class OutOfTimeError(WorkerError):
    """The job has trained for as long as the server lets one."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"The job has used the {self.seconds:,.0f} seconds of training that this server allows one job."


class StopTimeoutError(WorkerError):
    """The trainer was told to stop and did not within the time it had, so it was killed."""


class PartsEndedError(WorkerError):
    """Threads of the worker ended that have to run as long as it does."""


class TrainerNotInstalledError(WorkerError):
    """The packages that train are missing from this environment."""
