"""Export: everything that is stored, as lines, at one moment.

The export waits until everything that was accepted before it began is stored; then it reads all in one
snapshot, so that the lines are consistent while messages arrive. Lines are made as rows are read: memory does
not grow with their number.

The lines are ordered by token, chat number and message number; a parent's line precedes its children's. The
order does not depend on where or when anything was stored.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Generic, TypeVar

from backend.domain.errors import Failed
from backend.domain.model import checked_token, no_application
from backend.ingest.barrier import Barrier
from backend.ingest.routing import Routing
from backend.storage.postgres import applications, exports
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.exports import ExportedChat
from backend.storage.postgres.messages import ExportedMessage
from backend.transfer.format import format_application, format_chat, format_message

T = TypeVar("T")
# By index, found by name: `attrgetter` would take a fifth of the time of an export.
_TOKEN_OF_CHAT = itemgetter(ExportedChat._fields.index("token"))
_CHAT_OF_MESSAGE = itemgetter(ExportedMessage._fields.index("chat_id"))


class Exporter:
    """Begins exports. Thread-safe."""

    def __init__(self, database: Database, routing: Routing, barrier: Barrier) -> None:
        self._database = database
        self._routing = routing
        self._barrier = barrier

    @contextmanager
    def snapshot(self, token: str | None = None) -> Iterator["ExportSnapshot"]:
        """Everything that is stored now, which includes what was accepted before, or one application of it.

        Raises NotFound if there is no such application; Unavailable if what was accepted is not stored within
        30 seconds; EngineDown when an engine is away.
        """
        # What a token was accepted for in another shard was stored before SQL placed it into this one.
        for shard in (
            self._database.refresh_installation().all_shards
            if token is None
            else [self._routing.learn(checked_token(token)).shard]
        ):
            self._barrier.wait_drained(shard)
        with self._database.snapshot() as connection:
            if token is not None and applications.get_application(connection, token) is None:
                raise no_application()
            yield ExportSnapshot(connection, token)


class ExportSnapshot:
    """One moment of the database. Not thread-safe; valid inside `Exporter.snapshot` only."""

    def __init__(self, connection: Connection, token: str | None) -> None:
        self._connection = connection
        self._token = token

    def count(self) -> int:
        """How many lines there are; takes about a tenth of the time that reading them takes."""
        return exports.count_exported(self._connection, self._token)

    def lines(self) -> Iterator[str]:
        """All lines, each with its line feed. A tombstone has a line, what was under it has none."""
        source = self._connection, self._token
        chats = _GroupedRows(exports.stream_chats(*source), _TOKEN_OF_CHAT)
        messages = _GroupedRows(exports.stream_messages(*source), _CHAT_OF_MESSAGE)
        for application in exports.stream_applications(*source):
            yield format_application(application)
            for chat in chats.rows_of(application.token):
                yield format_chat(chat)
                token, number = chat.token, chat.number
                for message in messages.rows_of(chat.id):
                    yield format_message(token, number, message)
        chats.check_empty()
        messages.check_empty()


class _GroupedRows(Generic[T]):
    """Rows grouped by their parent, in the order of the parents' own rows."""

    def __init__(self, rows: Iterable[T], parent_of: Callable[[T], object]) -> None:
        self._groups = groupby(rows, parent_of)
        self._next = next(self._groups, None)

    def rows_of(self, parent: object) -> Iterator[T]:
        """The rows of the next parent: none if it has none."""
        if self._next is not None and self._next[0] == parent:
            yield from self._next[1]
            self._next = next(self._groups, None)

    def check_empty(self) -> None:
        """Raise Failed if rows are left: then they came in another order, and lines are missing."""
        if self._next is not None:
            raise Failed(
                "PostgreSQL returned rows in an unexpected order; the export is not whole",
                "this is a fault of InstaChat, please report it",
            )
