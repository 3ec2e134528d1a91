"""Every code of a failed job: what it means, and what to do, which the job carries as its remedy.

The documentation's troubleshooting page is made of this table, and a test holds it to what workers and budgets can say.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A code of a failed job. `remedy` is told with the job."""

    cause: str
    remedy: str


FILE_REMEDY = (
    "Correct the file or the setting that the message names, and submit the job again. A corrected file gets a new id "
    "when you upload it."
)
SERVICE_REMEDY = "Tell the administrator the job's id; when the cause is removed, submit the job again."

FAILURES: dict[str, JobFailure] = {
    "invalid_training_file": JobFailure(
        "The training file cannot be used with this base model: the message names lines.", FILE_REMEDY
    ),
    "invalid_validation_file": JobFailure(
        "The validation file cannot be used with this base model, or does not fit the training file.", FILE_REMEDY
    ),
    "invalid_source_file": JobFailure(
        "A source file cannot be used with this base model, or does not fit the training file.", FILE_REMEDY
    ),
    "invalid_retention_file": JobFailure(
        "The retention file cannot be used with this base model: the message says why.", FILE_REMEDY
    ),
    "invalid_hyperparameters": JobFailure(
        "The settings do not fit the data or the base model.",
        "Change the hyperparameters that the message names, and submit the job again.",
    ),
    "invalid_starting_point": JobFailure(
        "The adapter to start from is damaged, or does not fit the base model or `lora.targets`.",
        "Start from another adapter or checkpoint, as the message says, and submit again.",
    ),
    "starting_point_not_found": JobFailure(
        "The checkpoint or file to start from was deleted before the job began.",
        "Start from an adapter or checkpoint that is still there, and submit the job again.",
    ),
    "file_not_found": JobFailure(
        "The bytes of a data file are gone, or have changed.",
        "Upload the file again and submit the job with the new id.",
    ),
    "model_not_found": JobFailure(
        "The base model was taken out of the catalogue.",
        "Choose a base model that /v1/models lists, and submit the job again.",
    ),
    "training_diverged": JobFailure(
        "The loss or a gradient became NaN or infinite.",
        "Lower the learning rate or set clip_norm, and submit the job again.",
    ),
    "out_of_memory": JobFailure(
        "There is not enough memory for one step.",
        "Lower batch_size, task.max_tokens or lora.rank, and submit the job again.",
    ),
    "poison_job": JobFailure(
        "The trainer died twice at the same step.",
        "Lower batch_size, task.max_tokens or lora.rank, and submit the job again.",
    ),
    "time_limit_exceeded": JobFailure(
        "The job has used the training time that the server allows, over all its attempts (`SGG_MAX_JOB_SECONDS`).",
        "Start another job from its last checkpoint, or ask for fewer steps or a smaller base model.",
    ),
    "preempted_too_often": JobFailure(
        "The worker was stopped repeatedly before it could save a checkpoint.",
        "Lower checkpoint.every_steps, and submit the job again.",
    ),
    "worker_lost": JobFailure("Five workers in a row stopped responding.", SERVICE_REMEDY),
    "database_unavailable": JobFailure("The database was out of reach in fifty attempts.", SERVICE_REMEDY),
    "storage_unavailable": JobFailure(
        "The storage was full or out of reach in five attempts.",
        "Ask the administrator to free space or restore the storage, and submit the job again.",
    ),
    "base_model_unavailable": JobFailure(
        "The base model's files are missing or damaged on the worker.",
        "Ask the administrator to install the base model's files, and submit the job again.",
    ),
    "invalid_catalogue": JobFailure(
        "The catalogue of base models is damaged on the worker.",
        "Ask the administrator to repair base-models.json, and submit the job again.",
    ),
    "invalid_checkpoint": JobFailure(
        "A file that the run wrote was damaged, or from another run, when it was read again.", SERVICE_REMEDY
    ),
    "verification_failed": JobFailure(
        "The finished adapter gave different answers once it was loaded again, by the trainer or by a fresh process "
        "through peft.",
        SERVICE_REMEDY,
    ),
    "internal_error": JobFailure("A defect of the worker; its log says more.", SERVICE_REMEDY),
}
