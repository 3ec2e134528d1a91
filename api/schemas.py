"""What all answers share: the base class, and lists."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, computed_field

PageLimit = Annotated[int, Query(ge=1, le=1000, description="How many items to give at most.")]
After = Annotated[str | None, Query(max_length=200, description="Go on after the item with this id.")]


class Out(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Identified(Out):
    """Base of answers that a list can hold."""

    id: str


Item = TypeVar("Item", bound=Identified)


class ListOut(Out, Generic[Item]):
    """One page. Go on with `after=<id of the last item>` while `has_more` is true."""

    # each kind of list would look for its source text again, and it has nothing to read there
    model_config = ConfigDict(use_attribute_docstrings=False)

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


class CursorListOut(ListOut[Item], Generic[Item]):
    """One page that also names its first and its last item."""

    @computed_field  # type: ignore[prop-decorator]  # mypy has no decorated properties yet
    @property
    def first_id(self) -> str | None:
        """Id of the first item, null if there is none."""
        return self.data[0].id if self.data else None

    @computed_field  # type: ignore[prop-decorator]  # the same
    @property
    def last_id(self) -> str | None:
        """Id of the last item, null if there is none."""
        return self.data[-1].id if self.data else None


def json_answer(out: Out) -> Response:
    """Answer with this, written by the thread that made it: FastAPI would start another one to look at it again."""
    return Response(out.model_dump_json(by_alias=True), media_type="application/json")


class DeletedOut(Out):
    """What was deleted."""

    id: str
    object: str
    deleted: Literal[True] = True


class ErrorProblemOut(Out):
    """One of several things that are wrong."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    message: str | None = None
    """Of a request's problem; with `param` and `code`. A file's problem has `line`, `field`, `reason` and `remedy`."""


class SggErrorOut(Out):
    """What OpenAI's errors do not have."""

    problems: list[ErrorProblemOut]


class ErrorDetailsOut(Out):
    """What went wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None
    sgg: SggErrorOut | None = None


class ErrorOut(Out):
    """OpenAI's error envelope."""

    error: ErrorDetailsOut
