"""A job's training examples, the most suspicious label first: what the training found, with the file's texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePath
from typing import Literal

from api.auth import Caller
from api.dependencies import Services
from api.errors import NoReportError
from api.schemas import Out
from sgg_core.evidence import Doubt
from sgg_core.parsing import ProblemLog, read_rows
from sgg_core.report import EXAMPLES
from sgg_store.errors import ObjectNotFoundError, RecordNotFoundError
from sgg_store.files import Files
from sgg_store.jobs import Jobs
from sgg_store.records import FileRecord
from sgg_store.reports import key_of_report

SHOWN_CHARACTERS = 1000
OF_JSON_LINES = (".jsonl", ".ndjson", ".json")


class ExampleOut(Out):
    """One training example."""

    line: int
    text: str | None
    """Its first 1,000 characters, the texts of a pair on two lines; null once the training file is deleted."""
    label: str
    suspicion: float
    """0 to 1: how much speaks against the label, compared with the other examples."""
    predicted_label: str
    """What the other examples speak for."""
    gradient_agreement: float | None
    """Cosine of its gradient with that of the other examples of its label; null for the only one of a label."""
    reason: str


class ExamplesOut(Out):
    """Training examples, the most suspicious first."""

    object: Literal["list"] = "list"
    data: list[ExampleOut]
    has_more: bool
    """Whether there are more than `limit`."""


def examples(services: Services, caller: Caller, job_id: str, *, limit: int) -> ExamplesOut:
    """Give a job's training examples. Raises RecordNotFoundError, or NoReportError where nothing was found out."""
    with services.database.read() as session:
        job = Jobs(session).get(caller.project_id, job_id)
        key = key_of_report(session, job, EXAMPLES)
        try:
            file = Files(session).get(caller.project_id, job.training_file_id)
        except RecordNotFoundError:
            file = None
    if key is None:
        raise NoReportError(f"The job {job_id} is {job.status}. Wait until it has succeeded.")
    try:
        lines = b"".join(services.objects.open(key)).splitlines()
    except ObjectNotFoundError as error:
        raise NoReportError(
            f"The labels of the job {job_id} were not judged. That is done only for classification with up to 2,000 "
            "examples, and was not done by older versions."
        ) from error
    shown = [Doubt.model_validate_json(line) for line in lines[:limit]]
    texts = {} if file is None else _texts(services, file, {doubt.line for doubt in shown})
    data = [ExampleOut(text=texts.get(doubt.line), **doubt.model_dump()) for doubt in shown]
    return ExamplesOut(data=data, has_more=len(lines) > limit)


def wanted_lines(chunks: Iterable[bytes], wanted: Collection[int]) -> bytes:
    """Give a file whose lines are blank where they are not wanted, up to the last that is.

    A file without LF is given whole: its lines end in CR.
    """
    last = max(wanted, default=0)
    kept, number, rest = bytearray(), 0, b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            kept += line + b"\n" if number in wanted else b"\n"
        if number >= last:
            return bytes(kept)
    return bytes(kept + rest)


def _texts(services: Services, file: FileRecord, wanted: Collection[int]) -> dict[int, str]:
    """Give the texts on some lines of a file that was parsed before."""
    left = set(wanted)
    found: dict[int, str] = {}
    try:
        chunks = services.objects.open(file.object_key)
    except ObjectNotFoundError:
        return {}
    by_lines = PurePath(file.filename).suffix.lower() in OF_JSON_LINES  # a record of CSV may take several
    content = wanted_lines(chunks, left) if by_lines else b"".join(chunks)
    for row in read_rows(content, file.filename, ProblemLog()):
        if row.line in left:
            texts = [row.fields.get("text"), row.fields.get("text_pair")]
            found[row.line] = "\n".join(str(text) for text in texts if text)[:SHOWN_CHARACTERS]
            left.discard(row.line)
        if not left:
            break
    return found
