"""Pages of lists: keyset pagination, stable while rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from sgg_store.errors import CursorNotFoundError

Item = TypeVar("Item")
Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list in its order, and whether there are more after them."""

    items: list[Item]
    has_more: bool


def read_page(
    session: Session,
    kind: str,
    query: Select[Item],
    keys: tuple[InstrumentedAttribute[Any], ...],
    *,
    only: Sequence[ColumnElement[bool]] = (),
    after: Any = None,
    named: InstrumentedAttribute[Any] | None = None,
    cursor: str | None = None,
    limit: int,
    order: Order,
) -> Page[Item]:
    """Read one page of those of `query` that meet the conditions `only`, ordered by `keys` (unique together).

    The row that the page begins after need not meet these (any more).
    `after` is that row's value of `named`, or of the last key; `cursor` is what the caller called it, if not that.
    Raises CursorNotFoundError if `query` has no such row.
    """
    if after is not None:
        begins_after = (keys[-1] if named is None else named) == after
        position = session.execute(query.where(begins_after).with_only_columns(*keys)).one_or_none()
        if position is None:
            raise CursorNotFoundError(kind, str(after) if cursor is None else cursor)
        row, bound = tuple_(*keys), tuple(position)
        query = query.where(row < bound if order == "desc" else row > bound)
    query = (
        query.where(*only).order_by(*(key.desc() if order == "desc" else key.asc() for key in keys)).limit(limit + 1)
    )
    items = list(session.scalars(query))
    return Page(items[:limit], len(items) > limit)
