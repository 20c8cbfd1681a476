"""What the statements share: the register of the hot ones, rows by column name, and repeated expressions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import starmap
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ClauseElement,
    ColumnClause,
    ColumnElement,
    Label,
    Table,
    Text,
    bindparam,
    literal_column,
)
from sqlalchemy.engine import CursorResult

S = TypeVar("S", bound=ClauseElement)
T = TypeVar("T")

PAGE = 1_000
HOT: dict[str, ClauseElement] = {}

# Literals, not parameters: the planner then knows the value, and a partial index can serve the condition.
STORED: ColumnClause[str] = literal_column("'stored'")
REMOVED: ColumnClause[str] = literal_column("'removed'")
DEAD: ColumnClause[str] = literal_column("'dead'")
# A first version: the transaction's time in microseconds since 1970.
NOW_MICROS = "(extract(epoch FROM now()) * 1000000)::bigint"
# A later version uses the statement's own time: it must exceed the versions of transactions that waited.
CLOCK_MICROS = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
NEXT_VERSION = f"greatest(version + 1, {CLOCK_MICROS})"


def hot(name: str, statement: S) -> S:
    """Register a statement that runs for each request or batch: a test checks that an index serves it."""
    HOT[name] = statement
    return statement


def bigints(name: str) -> BindParameter[Sequence[int]]:
    """A parameter that is an array of numbers."""
    return bindparam(name, type_=ARRAY(BigInteger))


def texts(name: str) -> BindParameter[Sequence[str]]:
    """A parameter that is an array of texts."""
    return bindparam(name, type_=ARRAY(Text))


def xmin_of(table: Table) -> Label[str]:
    """The transaction that wrote a row, as a text. A row with the same one has not changed."""
    return literal_column(f"{table.name}.xmin", Text).label("xmin")


def row_columns(table: Table, row_type: type[object]) -> list[ColumnElement[Any]]:
    """The columns of a table that the fields of `row_type` name, of which one may be `xmin`."""
    return [xmin_of(table) if name == "xmin" else table.c[name] for name in field_names(row_type)]


def field_names(row_type: type[object]) -> tuple[str, ...]:
    """The fields of a dataclass or of a NamedTuple."""
    if is_dataclass(row_type):
        return tuple(field.name for field in fields(row_type))
    names: tuple[str, ...] = row_type._fields  # type: ignore[attr-defined]
    return names


class RowMapper(Generic[T]):
    """Makes objects of a statement's rows, by column name.

    The statement's columns must have the names of the fields of `row_type`, a dataclass or a NamedTuple; in
    any order. ValueError otherwise. The names are compared once a result, so that a row costs no more than
    one that is mapped by position.
    """

    def __init__(self, row_type: type[T]) -> None:
        self._row_type = row_type
        self._names = field_names(row_type)
        # A NamedTuple's `_make` takes two thirds of the time of its constructor.
        make = getattr(row_type, "_make", None)
        self._make_all: Callable[[Iterable[Any]], Iterator[T]] = (
            partial(starmap, row_type) if make is None else partial(map, make)
        )

    def all(self, result: CursorResult[Any]) -> list[T]:
        """All rows."""
        return list(self._make_all(self._ordered(result)))

    def one_or_none(self, result: CursorResult[Any]) -> T | None:
        """The only row; None if there is none."""
        rows = self.all(result)
        assert len(rows) <= 1
        return rows[0] if rows else None

    def one(self, result: CursorResult[Any]) -> T:
        """The only row."""
        (row,) = self.all(result)
        return row

    def tuples(self, result: CursorResult[Any]) -> Sequence[Any]:
        """All rows as plain tuples in the order of the fields, for results too long to name each row."""
        return list(self._ordered(result))

    def stream(self, result: CursorResult[Any]) -> Iterator[T]:
        """The rows of a statement that is executed with `yield_per`, read a page at a time."""
        pick = self._pick(tuple(result.keys()))
        for page in result.partitions(PAGE):  # without a size, all of them
            yield from self._make_all(page if pick is None else map(pick, page))

    def stream_rows(self, result: CursorResult[Any]) -> Iterator[T]:
        """As `stream`, but SQLAlchemy's own rows, whose columns have the fields' names and order.

        For millions of rows: making an object of each takes as long as formatting it.
        """
        if self._pick(tuple(result.keys())) is not None:
            raise ValueError(f"the columns are not in the order of {self._row_type.__name__}")
        for page in result.partitions(PAGE):
            yield from cast("Sequence[T]", page)

    def stream_tuples(self, result: CursorResult[Any]) -> Iterator[Any]:
        """As `stream`, but plain tuples."""
        pick = self._pick(tuple(result.keys())) or tuple
        for page in result.partitions(PAGE):
            yield from map(pick, page)

    def _ordered(self, result: CursorResult[Any]) -> Iterable[Any]:
        # The driver's own tuples: SQLAlchemy takes longer to make rows of them than PostgreSQL to find them.
        cursor = result.cursor
        pick = self._pick(tuple([column[0] for column in cursor.description]))
        rows = cursor.fetchall()
        result.close()
        return rows if pick is None else map(pick, rows)

    def _pick(self, names: tuple[str, ...]) -> Any:
        """What puts a row's values into the order of the fields; None if they are in that order."""
        if names == self._names:
            return None
        if sorted(names) != sorted(self._names):
            raise ValueError(
                f"{self._row_type.__name__} has the fields {', '.join(self._names)},"
                f" the row {', '.join(names)}"
            )
        return itemgetter(*map(names.index, self._names))
