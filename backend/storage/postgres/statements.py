"""What the statements share: their register, their page size, and rows as the driver has them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CursorResult, TextClause, text

PAGE = 1_000

HOT: dict[str, TextClause] = {}


def hot(name: str, sql: str) -> TextClause:
    """A statement that runs for each request or batch: a test checks that an index serves it."""
    HOT[name] = text(sql)
    return HOT[name]


def driver_rows(found: CursorResult[Any]) -> Sequence[Any]:
    """All rows as the driver's own tuples: to make rows of them takes longer than PostgreSQL does."""
    rows = found.cursor.fetchall()
    found.close()
    return rows


NEXT_VERSION = "greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
