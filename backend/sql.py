"""PostgreSQL: the connection, its errors in our words, and every statement that the program sends.

Statements are named constants, so that a test can read the plan of each hot one; the functions around
them give and take plain values. Transactions belong to the callers: a stage's unit of work is one
`with database.begin() as tx:`.

What the rows promise:
- a number that was stored keeps its row until its parent is gone (state stored, removed, dead, lost);
- `shard.epoch` is the authority over lives of Redis, `shard.cursor_*` over what has been drained;
- database ids stay inside this package.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import psycopg2
import sqlalchemy
from sqlalchemy import Connection, TextClause, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from backend.errors import EngineDown, Failed, SchemaMismatch, Unavailable
from backend.events import moment
from backend.model import Application, Chat, EntryId, Message, Parent
from backend.settings import redacted

SCHEMA = "0001"  # the newest migration; a test holds it against the scripts
CONNECT_SECONDS = 3
PAGE = 1_000
LINES_AT_ONCE = 500  # sent to COPY

HOT: dict[str, TextClause] = {}


def hot(name: str, sql: str) -> TextClause:
    """A statement that runs for each request or batch: a test checks that an index serves it."""
    HOT[name] = text(sql)
    return HOT[name]


class MessageRow(NamedTuple):
    """A message about to be stored. `version` is its first: its creation in microseconds since 1970."""

    chat_id: int
    number: int
    text: str
    folded: str
    version: int

    @property
    def at(self) -> datetime:
        """When it was created."""
        return moment(self.version)


class ChatRow(NamedTuple):
    """Chats `first` to `last` of an application, about to be stored."""

    application_id: int
    first: int
    last: int
    at: datetime


class ImportedApplication(NamedTuple):
    """An application about to be stored as it was elsewhere; `name` is None for a tombstone."""

    token: str
    name: str | None
    created_at: datetime
    updated_at: datetime


class ImportedChat(NamedTuple):
    """A chat about to be stored as it was elsewhere."""

    application_id: int
    number: int
    removed: bool
    created_at: datetime
    updated_at: datetime


class ImportedMessage(NamedTuple):
    """A message about to be stored as it was elsewhere; `text` is None for a tombstone."""

    chat_id: int
    number: int
    text: str | None
    folded: str
    created_at: datetime
    updated_at: datetime


class StoredMessage(NamedTuple):
    """A message's row with what must stay inside: ids and state."""

    chat_id: int
    state: str
    message: Message


class StoredChat(NamedTuple):
    """A chat's row: the count columns as of the last sync, `removed` always exact."""

    id: int
    number: int
    removed: int
    state: str
    created_at: datetime
    updated_at: datetime


class StoredApplication(NamedTuple):
    """An application's row; `removed` counts its chats that are gone."""

    id: int
    token: str
    name: str
    removed: int
    created_at: datetime
    updated_at: datetime
    version: int


class LockedShard(NamedTuple):
    """A shard's row, locked until the transaction ends."""

    epoch: int
    cursor: EntryId
    installation: str
    publishing: bool


class DeadLetter(NamedTuple):
    """An event that could not be stored. `key` names it towards operators."""

    key: str
    reason: str
    token: str | None
    chat: int | None
    number: int | None
    event: bytes


@dataclass(frozen=True, slots=True)
class Installation:
    """What is fixed when a database is first migrated."""

    id: str
    shards: int


class Database:
    """One PostgreSQL database. Thread-safe.

    Every use raises EngineDown when PostgreSQL does not answer, SchemaMismatch when it has not been
    migrated to the schema that this program knows.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._installation: Installation | None = None
        try:
            self.engine = create_engine(
                dialect_url(url),
                pool_pre_ping=True,  # a server that was restarted costs no failed request
                pool_size=10,
                max_overflow=20,
                connect_args={"connect_timeout": CONNECT_SECONDS},
            )
        except (SQLAlchemyError, ValueError) as error:
            raise Failed(
                f"the database URL {redacted(url)} can't be used: {type(error).__name__}",
                "it looks like postgresql://USER:PASSWORD@HOST/DATABASE (INSTACHAT_DATABASE_URL)",
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for reading; each statement sees what is committed when it starts."""
        with self._in_our_words(), self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction, committed at the end, durably, whatever the server's default."""
        with self._in_our_words(), self.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection for reading at length: all statements see one and the same moment."""
        with self._in_our_words(), self.engine.connect() as connection:
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            yield connection

    @property
    def installation(self) -> Installation:
        """The database's identity and its number of shards; read once."""
        if self._installation is None:
            with self.connect() as connection:
                row = connection.execute(text("SELECT id, shards FROM installation")).one()
            self._installation = Installation(str(row.id), row.shards)
        return self._installation

    def schema(self) -> str | None:
        """The schema the database has; None when it has none."""
        with self.connect() as connection:
            if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found

    def check_schema(self) -> None:
        """Raise SchemaMismatch unless the database has the schema that this program knows."""
        found = self.schema()
        if found == SCHEMA:
            return
        if found is None:
            raise SchemaMismatch(
                f"the database {redacted(self.url)} has no tables yet", "run `instachat migrate`"
            )
        if found < SCHEMA:
            raise SchemaMismatch(
                f"the database has schema {found}, this program needs {SCHEMA}",
                "run `instachat migrate`",
            )
        raise SchemaMismatch(
            f"the database has schema {found}, which is newer than {SCHEMA}, all that this program "
            "knows",
            "run a newer instachat",
        )

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, psycopg2.Error) as error:  # the latter from COPY, which is not wrapped
            code = sqlstate(error)
            if code == "42P01":
                raise SchemaMismatch(
                    "the database lacks a table of this program", "run `instachat migrate`"
                ) from error
            if code and code.startswith(("40", "55P03", "57014")):
                raise Unavailable(
                    "PostgreSQL was busy with the same rows; nothing was changed", "try again"
                ) from error
            if code is None or code.startswith(("08", "53", "57", "25006")):
                raise self._down(getattr(error, "orig", error)) from error
            raise
        except sqlalchemy.exc.TimeoutError as error:
            raise Unavailable("all connections to PostgreSQL are busy", "try again") from error

    def _down(self, error: BaseException | None) -> EngineDown:
        reason = str(error).strip().splitlines()[0] if error and str(error).strip() else "no answer"
        url = redacted(self.url)
        return EngineDown(
            f"PostgreSQL at {url} can't be used: {reason}",
            f"check it with `psql '{url}' -c 'SELECT 1'`; the setting is INSTACHAT_DATABASE_URL",
        )


def dialect_url(url: str) -> str:
    """The URL with the driver named: SQLAlchemy 2.1 would take psycopg 3 for `postgresql://`."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg2://{rest}" if separator and scheme.startswith("postgres") else url


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's error code; None if the connection broke before it could give one."""
    original = getattr(error, "orig", error)
    return getattr(original, "pgcode", None)


# -- shards ---------------------------------------------------------------------------------------

_LOCK_SHARD = """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, i.id, i.publishing
    FROM shard s, installation i WHERE s.number = :shard FOR UPDATE OF s"""
LOCK_SHARD = hot("lock_shard", _LOCK_SHARD)
LOCK_SHARD_NOW = hot("lock_shard_now", _LOCK_SHARD + " NOWAIT")
SHARD = hot("shard", "SELECT epoch, cursor_epoch, cursor_sequence FROM shard WHERE number = :shard")


def lock_shard(tx: Connection, shard: int, *, wait_seconds: float = 0) -> LockedShard | None:
    """Lock a shard's row for the transaction; None if another holds it for longer than that."""
    try:
        if wait_seconds:
            tx.exec_driver_sql(f"SET LOCAL lock_timeout = {int(wait_seconds * 1000)}")
            row = tx.execute(LOCK_SHARD, {"shard": shard}).one()
        else:
            row = tx.execute(LOCK_SHARD_NOW, {"shard": shard}).one()
    except DBAPIError as error:
        if sqlstate(error) != "55P03":
            raise
        tx.rollback()
        return None
    cursor = EntryId(row.cursor_epoch, row.cursor_sequence)
    return LockedShard(row.epoch, cursor, str(row.id), row.publishing)


def shard_state(connection: Connection, shard: int) -> tuple[int, EntryId]:
    """A shard's epoch and cursor, as committed."""
    row = connection.execute(SHARD, {"shard": shard}).one()
    return row.epoch, EntryId(row.cursor_epoch, row.cursor_sequence)


def shard_states(connection: Connection) -> dict[int, tuple[int, EntryId]]:
    """The epoch and the cursor of every shard, as committed."""
    rows = connection.execute(
        text("SELECT number, epoch, cursor_epoch, cursor_sequence FROM shard")
    )
    return {number: (epoch, EntryId(*cursor)) for number, epoch, *cursor in rows}


def set_epoch(tx: Connection, shard: int, epoch: int) -> None:
    """Begin a new life of a shard; the caller holds its lock."""
    tx.execute(
        text("UPDATE shard SET epoch = :epoch WHERE number = :shard"),
        {"shard": shard, "epoch": epoch},
    )


def advance(tx: Connection, shard: int, cursor: EntryId, dropped: int) -> None:
    """Move a shard's cursor; the caller holds its lock."""
    tx.execute(
        text(
            "UPDATE shard SET cursor_epoch = :epoch, cursor_sequence = :sequence,"
            " dropped = dropped + :dropped, drained_at = now() WHERE number = :shard"
        ),
        {
            "shard": shard,
            "epoch": cursor.epoch,
            "sequence": cursor.sequence,
            "dropped": dropped,
        },
    )


def name_transaction(tx: Connection, name: str) -> None:
    """Give the transaction a name that `end_stuck` and operators find in pg_stat_activity."""
    tx.execute(text("SELECT set_config('application_name', :name, true)"), {"name": name})


def end_stuck(connection: Connection, name: str, seconds: float) -> int:
    """End transactions of that name that are open for longer; returns how many.

    No time-out of PostgreSQL's frees a lock whose holder was stopped inside COPY.
    """
    return len(
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = :name AND datname = current_database()"
                " AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
            ),
            {"name": name, "seconds": seconds},
        ).all()
    )


# -- applications ---------------------------------------------------------------------------------

_APPLICATION = """
    SELECT id, token, name, chats_removed AS removed, created_at, updated_at, version
    FROM application"""
APPLICATION = hot("application", _APPLICATION + " WHERE token = :token AND removed_at IS NULL")
APPLICATIONS = hot(
    "applications",
    _APPLICATION + " WHERE id > :after AND removed_at IS NULL ORDER BY id LIMIT :limit",
)


def insert_application(tx: Connection, token: str, name: str) -> StoredApplication:
    """Store a new application."""
    row = tx.execute(
        text(
            "INSERT INTO application (token, name, version)"
            " VALUES (:token, :name, (extract(epoch FROM now()) * 1000000)::bigint)"
            " RETURNING id, token, name, chats_removed, created_at, updated_at, version"
        ),
        {"token": token, "name": name},
    ).one()
    return StoredApplication(*row)


def application(connection: Connection, token: str) -> StoredApplication | None:
    """An application that is not removed."""
    row = connection.execute(APPLICATION, {"token": token}).one_or_none()
    return None if row is None else StoredApplication(*row)


def applications(connection: Connection, after: int, limit: int) -> list[StoredApplication]:
    """A page of applications in the order of their creation; `after` is the last one's id."""
    rows = connection.execute(APPLICATIONS, {"after": after, "limit": limit})
    return [StoredApplication(*row) for row in rows]


def rename_application(
    tx: Connection, token: str, name: str, version: int
) -> StoredApplication | None:
    """Rename an application that still has that version; None if it hasn't."""
    row = tx.execute(
        text(
            "UPDATE application SET name = :name, updated_at = now(),"
            " version = greatest(version + 1, (extract(epoch FROM now()) * 1000000)::bigint)"
            " WHERE token = :token AND version = :version AND removed_at IS NULL"
            " RETURNING id, token, name, chats_removed, created_at, updated_at, version"
        ),
        {"token": token, "name": name, "version": version},
    ).one_or_none()
    return None if row is None else StoredApplication(*row)


class Standing(NamedTuple):
    """What SQL knows of a parent: its shard's epoch, and if it is there, its children's highest number."""

    epoch: int
    cursor: EntryId
    known: bool
    removed: bool
    highest: int


APPLICATION_STANDING = hot(
    "application_standing",
    """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, a.id IS NOT NULL,
           a.removed_at IS NOT NULL,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0)
    FROM shard s LEFT JOIN application a ON a.token = :token WHERE s.number = :shard""",
)
CHAT_STANDING = hot(
    "chat_standing",
    """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, c.id IS NOT NULL,
           c.removed_at IS NOT NULL OR a.removed_at IS NOT NULL OR c.state <> 'stored',
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)
    FROM shard s LEFT JOIN application a ON a.token = :token
    LEFT JOIN chat c ON c.application_id = a.id AND c.number = :chat WHERE s.number = :shard""",
)


def standing(connection: Connection, shard: int, parent: Parent) -> Standing:
    """What SQL knows of a parent, in one statement: one snapshot."""
    statement = APPLICATION_STANDING if parent.chat is None else CHAT_STANDING
    values = {"shard": shard, "token": parent.token, "chat": parent.chat}
    epoch, cursor_epoch, cursor_sequence, known, removed, highest = connection.execute(
        statement, values if parent.chat is not None else {k: values[k] for k in ("shard", "token")}
    ).one()
    return Standing(epoch, EntryId(cursor_epoch, cursor_sequence), known, bool(removed), highest)


# -- chats ----------------------------------------------------------------------------------------

_CHAT = """
    SELECT c.id, c.number, c.messages_removed, c.state, c.created_at, c.updated_at
    FROM chat c JOIN application a ON a.id = c.application_id
    WHERE a.token = :token AND a.removed_at IS NULL"""
CHAT = hot("chat", _CHAT + " AND c.number = :chat")
CHATS = hot(
    "chats",
    _CHAT + " AND c.number > :after AND c.state = 'stored' ORDER BY c.number LIMIT :limit",
)
CHAT_IDS = hot(
    "chat_ids",
    """
    SELECT a.token, c.number, c.id, c.state = 'stored' AND a.removed_at IS NULL
    FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
    JOIN application a ON a.token = wanted.token
    JOIN chat c ON c.application_id = a.id AND c.number = wanted.number""",
)
APPLICATION_IDS = hot(
    "application_ids",
    "SELECT token, id, removed_at IS NULL FROM application"
    " WHERE token = ANY(cast(:tokens AS text[]))",
)


def chat(connection: Connection, token: str, number: int) -> StoredChat | None:
    """A chat's row, in whatever state it is."""
    row = connection.execute(CHAT, {"token": token, "chat": number}).one_or_none()
    return None if row is None else StoredChat(*row)


def chats(connection: Connection, token: str, after: int, limit: int) -> list[StoredChat]:
    """A page of an application's chats, by number."""
    rows = connection.execute(CHATS, {"token": token, "after": after, "limit": limit})
    return [StoredChat(*row) for row in rows]


def application_ids(tx: Connection, tokens: Iterable[str]) -> dict[str, tuple[int, bool]]:
    """For each known token the application's id, and whether it is alive."""
    rows = tx.execute(APPLICATION_IDS, {"tokens": list(tokens)})
    return {token: (id_, alive) for token, id_, alive in rows}


def chat_ids(
    tx: Connection, chats: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, bool]]:
    """For each known (token, number) the chat's id, and whether it and its application are alive."""
    rows = tx.execute(
        CHAT_IDS, {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
    )
    return {(token, number): (id_, alive) for token, number, id_, alive in rows}


def insert_chats(tx: Connection, rows: Sequence[ChatRow]) -> list[tuple[int, int]]:
    """Store chats. Returns the (application id, number) that are taken by *another* chat.

    One that is there already with the same creation time is the same chat, and skipped.
    """
    values = {
        "applications": [r.application_id for r in rows],
        "firsts": [r.first for r in rows],
        "lasts": [r.last for r in rows],
        "times": [r.at for r in rows],
    }
    wanted = """unnest(cast(:applications AS bigint[]), cast(:firsts AS bigint[]),
        cast(:lasts AS bigint[]), cast(:times AS timestamptz[])) AS w(application, first, last, at)
        CROSS JOIN LATERAL generate_series(w.first, w.last) AS g(number)"""
    stored = tx.execute(
        text(
            "INSERT INTO chat (application_id, number, created_at, updated_at)"
            f" SELECT w.application, g.number, w.at, w.at FROM {wanted} ON CONFLICT DO NOTHING"
        ),
        values,
    ).rowcount
    if stored == sum(r.last - r.first + 1 for r in rows):
        return []
    taken = tx.execute(
        text(
            f"SELECT c.application_id, c.number FROM {wanted}"
            " JOIN chat c ON c.application_id = w.application AND c.number = g.number"
            " WHERE c.created_at <> w.at"
        ),
        values,
    )
    return [(application_id, number) for application_id, number in taken]


HAS_MESSAGES = hot(
    "has_messages",
    "SELECT EXISTS (SELECT FROM message WHERE chat_id = :id AND state = 'stored')",
)
HAS_CHATS = hot(
    "has_chats",
    "SELECT EXISTS (SELECT FROM chat WHERE application_id = :id AND state = 'stored')",
)


def bury_application(tx: Connection, id_: int) -> bool:
    """Leave a tombstone for an application; False, changing nothing, if it has chats."""
    if tx.scalar(HAS_CHATS, {"id": id_}):
        return False
    tx.execute(
        text("UPDATE application SET removed_at = now(), updated_at = now() WHERE id = :id"),
        {"id": id_},
    )
    return True


def bury_chat(tx: Connection, id_: int) -> bool:
    """Leave a tombstone for a chat, counted at its application; False if it has messages."""
    if tx.scalar(HAS_MESSAGES, {"id": id_}):
        return False
    tx.execute(
        text(
            "WITH gone AS (UPDATE chat SET state = 'removed', removed_at = now(),"
            " updated_at = now() WHERE id = :id RETURNING application_id)"
            " UPDATE application SET chats_removed = chats_removed + 1"
            " WHERE id = (SELECT application_id FROM gone)"
        ),
        {"id": id_},
    )
    return True


# -- messages -------------------------------------------------------------------------------------

_MESSAGE = """
    SELECT m.chat_id, m.state, m.number, m.text, m.created_at, m.updated_at, m.version
    FROM application a JOIN chat c ON c.application_id = a.id JOIN message m ON m.chat_id = c.id
    WHERE a.token = :token AND a.removed_at IS NULL AND c.number = :chat AND c.state = 'stored'"""
MESSAGE = hot("message", _MESSAGE + " AND m.number = :number")
MESSAGES = hot(
    "messages",
    """
    SELECT number, text, created_at, updated_at, version FROM message
    WHERE chat_id = :chat_id AND number > :after AND state = 'stored'
    ORDER BY number LIMIT :limit""",
)
# strpos, not LIKE: the keyword is a text, not a pattern. COLLATE "C": bytes, whatever the database's.
SEARCH = hot(
    "search",
    """
    SELECT number, text, created_at, updated_at, version FROM message
    WHERE chat_id = :chat_id AND number > :after AND state = 'stored'
      AND strpos(folded COLLATE "C", :keyword) > 0
    ORDER BY number LIMIT :limit""",
)
MESSAGE_TIMES = hot(
    "message_times",
    """
    SELECT m.chat_id, m.number, m.created_at
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
    JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number""",
)
_VERSION = "greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
EDIT = hot(
    "edit",
    "UPDATE message SET text = :text, folded = :folded, updated_at = now(),"
    f" version = {_VERSION}"
    " WHERE chat_id = :chat_id AND number = :number AND version = :version AND state = 'stored'"
    " RETURNING number, text, created_at, updated_at, version",
)
REMOVE = hot(
    "remove",
    "UPDATE message SET text = '', folded = '', state = 'removed', removed_at = now(),"
    f" updated_at = now(), version = {_VERSION}"
    " WHERE chat_id = :chat_id AND number = :number AND version = :version AND state = 'stored'"
    " RETURNING version",
)


def message(
    connection: Connection, token: str, chat_number: int, number: int
) -> StoredMessage | None:
    """A message's row, in whatever state it is; None also when its chat or application is gone."""
    row = connection.execute(
        MESSAGE, {"token": token, "chat": chat_number, "number": number}
    ).one_or_none()
    return None if row is None else StoredMessage(row[0], row[1], Message(*row[2:]))


DEAD_NUMBERS = hot(
    "dead_numbers",
    """
    SELECT m.number
    FROM application a JOIN chat c ON c.application_id = a.id JOIN message m ON m.chat_id = c.id
    WHERE a.token = :token AND c.number = :chat AND m.number BETWEEN :first AND :last
      AND m.state = 'dead' ORDER BY m.number""",
)


def dead_numbers(
    connection: Connection, token: str, chat_number: int, first: int, last: int
) -> list[int]:
    """Which of these numbers of a chat hold a rejected creation."""
    values = {"token": token, "chat": chat_number, "first": first, "last": last}
    return list(connection.scalars(DEAD_NUMBERS, values))


def messages(connection: Connection, chat_id: int, after: int, limit: int) -> list[Message]:
    """A page of a chat's messages, by number."""
    rows = connection.execute(MESSAGES, {"chat_id": chat_id, "after": after, "limit": limit})
    return [Message(*row) for row in rows]


def search(
    connection: Connection, chat_id: int, keyword: str, after: int, limit: int
) -> list[Message]:
    """A chat's messages whose folded text contains the folded keyword, by number."""
    rows = connection.execute(
        SEARCH, {"chat_id": chat_id, "keyword": keyword, "after": after, "limit": limit}
    )
    return [Message(*row) for row in rows]


def edit_message(
    tx: Connection, chat_id: int, number: int, version: int, new_text: str, folded: str
) -> Message | None:
    """Give a message that still has that version another text; None if it hasn't."""
    row = tx.execute(
        EDIT,
        {
            "chat_id": chat_id,
            "number": number,
            "version": version,
            "text": new_text,
            "folded": folded,
        },
    ).one_or_none()
    return None if row is None else Message(*row)


def remove_message(tx: Connection, chat_id: int, number: int, version: int) -> int | None:
    """Leave a tombstone for a message that still has that version, counted at its chat.

    Returns the tombstone's version; None, changing nothing, if it hasn't that version.
    """
    # The parent's row lock first: removals and dead letters of one chat count one after another.
    tx.execute(text("SELECT FROM chat WHERE id = :id FOR UPDATE"), {"id": chat_id})
    removed: int | None = tx.scalar(
        REMOVE, {"chat_id": chat_id, "number": number, "version": version}
    )
    if removed is not None:
        count_removed(tx, chat_id, 1)
    return removed


def count_removed(tx: Connection, chat_id: int, count: int) -> None:
    """Count numbers of a chat that hold no message any more, in the transaction that ends them."""
    tx.execute(
        text("UPDATE chat SET messages_removed = messages_removed + :count WHERE id = :id"),
        {"id": chat_id, "count": count},
    )


def copy_messages(tx: Connection, rows: Iterable[MessageRow]) -> None:
    """Store new messages by COPY, all or none; raises as PostgreSQL does on any bad row.

    The rows are taken while PostgreSQL stores those before them.
    """

    def lines() -> Iterator[str]:
        known, times = -1, ""  # of the row before: all messages of a request have the same
        for chat_id, number, text_, folded, version in rows:
            if version != known:
                known, at = version, _copy_time(version)
                times = f"{version}\t{at}\t{at}"
            texts = f"{_copy_escaped(text_)}\t{_copy_escaped(folded)}"
            yield f"{chat_id}\t{number}\t{times}\t{texts}\n"

    _copy(tx, "message (chat_id, number, version, created_at, updated_at, text, folded)", lines())


def insert_message(tx: Connection, row: MessageRow, state: str = "stored") -> None:
    """Store one new message."""
    tx.execute(
        text(
            "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded,"
            " state) VALUES (:chat_id, :number, :version, :at, :at, :text, :folded,"
            " cast(:state AS row_state))"
        ),
        {**row._asdict(), "at": row.at, "state": state},
    )


def message_times(
    tx: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], datetime]:
    """The creation times of those (chat id, number) that have a row."""
    rows = tx.execute(
        MESSAGE_TIMES, {"chats": [c for c, _ in keys], "numbers": [n for _, n in keys]}
    )
    return {(chat_id, number): at for chat_id, number, at in rows}


# -- outbox and dead letters ----------------------------------------------------------------------


def add_to_outbox(tx: Connection, changes: Sequence[tuple[int, int, int]]) -> None:
    """Name changed messages, as (chat id, number, version), for the publisher: one row a transaction."""
    tx.execute(
        text("INSERT INTO outbox (messages) VALUES (cast(:messages AS jsonb))"),
        {"messages": json.dumps(changes)},
    )


def publishing(tx: Connection) -> bool:
    """Whether changes are to be named in the outbox; the flag is the database's, not a process's."""
    return bool(tx.scalar(text("SELECT publishing FROM installation")))


def add_dead_letters(tx: Connection, letters: Sequence[DeadLetter]) -> None:
    """Keep events that could not be stored; one that is kept already stays as it is."""
    tx.execute(
        text(
            "INSERT INTO dead_letter (key, kind, reason, token, chat, number, event)"
            " VALUES (:key, 'drain', :reason, :token, :chat, :number, :event)"
            " ON CONFLICT (key) DO NOTHING"
        ),
        [letter._asdict() for letter in letters],
    )


def count_dead_letters(connection: Connection) -> int:
    """How many dead letters there are."""
    return int(connection.scalar(text("SELECT count(*) FROM dead_letter")) or 0)


# -- importing ------------------------------------------------------------------------------------


TAKEN = "23505"  # the SQLSTATE of a unique index that has this key already


class AsStored(NamedTuple):
    """What an import compares a line with. `value` is an application's name or the SHA-256 of a message's
    text, None for a tombstone; `id` and the children's `highest` number are those of a parent.
    """

    removed: bool
    value: str | bytes | None
    created_at: datetime
    updated_at: datetime
    id: int = 0
    highest: int = 0


APPLICATIONS_AS_STORED = hot(
    "applications_as_stored",
    """
    SELECT a.token, NULL, a.removed_at IS NOT NULL, CASE WHEN a.removed_at IS NULL THEN a.name END,
           a.created_at, a.updated_at, a.id,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0)
    FROM application a WHERE a.token = ANY(cast(:tokens AS text[]))""",
)
CHATS_AS_STORED = hot(
    "chats_as_stored",
    """
    SELECT a.token, c.number, c.state <> 'stored' OR a.removed_at IS NOT NULL, NULL,
           c.created_at, c.updated_at, c.id,
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)
    FROM unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
    JOIN application a ON a.token = wanted.token
    JOIN chat c ON c.application_id = a.id AND c.number = wanted.number""",
)
MESSAGES_AS_STORED = hot(
    "messages_as_stored",
    """
    SELECT m.chat_id, m.number, m.state <> 'stored',
           CASE WHEN m.state = 'stored' THEN sha256(convert_to(m.text, 'UTF8')) END,
           m.created_at, m.updated_at
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS wanted(chat_id, number)
    JOIN message m ON m.chat_id = wanted.chat_id AND m.number = wanted.number""",
)


def parents_as_stored(connection: Connection, parents: Iterable[Parent]) -> dict[Parent, AsStored]:
    """Those of these applications and chats that are there, tombstones included."""
    applications = [token for token, chat in parents if chat is None]
    chats = [(token, chat) for token, chat in parents if chat is not None]
    rows: list[Any] = []
    if applications:
        rows += connection.execute(APPLICATIONS_AS_STORED, {"tokens": applications})
    if chats:
        values = {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
        rows += connection.execute(CHATS_AS_STORED, values)
    return {Parent(token, chat): AsStored(*rest) for token, chat, *rest in rows}


def messages_as_stored(
    connection: Connection, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], AsStored]:
    """Those of these (chat id, number) that are there, tombstones included."""
    values = {"chats": [c for c, _ in keys], "numbers": [n for _, n in keys]}
    rows = connection.execute(MESSAGES_AS_STORED, values) if keys else ()
    return {
        (chat_id, number): AsStored(removed, digest and bytes(digest), *times)
        for chat_id, number, removed, digest, *times in rows
    }


def insert_imported_applications(tx: Connection, rows: Sequence[ImportedApplication]) -> None:
    """Store applications as they were elsewhere, all or none."""
    tx.execute(
        text(
            """
            INSERT INTO application (token, name, version, created_at, updated_at, removed_at)
            SELECT token, coalesce(name, ''), version, created, updated,
                   CASE WHEN name IS NULL THEN updated END
            FROM unnest(cast(:tokens AS text[]), cast(:names AS text[]), cast(:versions AS bigint[]),
                        cast(:created AS timestamptz[]), cast(:updated AS timestamptz[]))
                AS w(token, name, version, created, updated)"""
        ),
        {
            "tokens": [r.token for r in rows],
            "names": [r.name for r in rows],
            "versions": [micros(r.updated_at) for r in rows],
            "created": [r.created_at for r in rows],
            "updated": [r.updated_at for r in rows],
        },
    )


def insert_imported_chats(tx: Connection, rows: Sequence[ImportedChat]) -> None:
    """Store chats as they were elsewhere, all or none; tombstones are counted at their parents."""
    tx.execute(
        text(
            """
            WITH added AS (
                INSERT INTO chat (application_id, number, created_at, updated_at, state, removed_at)
                SELECT application, number, created, updated,
                       (CASE WHEN gone THEN 'removed' ELSE 'stored' END)::row_state,
                       CASE WHEN gone THEN updated END
                FROM unnest(cast(:applications AS bigint[]), cast(:numbers AS bigint[]),
                            cast(:created AS timestamptz[]), cast(:updated AS timestamptz[]),
                            cast(:gone AS boolean[]))
                    AS w(application, number, created, updated, gone)
                RETURNING application_id, state)
            UPDATE application a SET chats_removed = a.chats_removed + g.count
            FROM (SELECT application_id, count(*) FROM added WHERE state = 'removed'
                  GROUP BY application_id) g
            WHERE a.id = g.application_id"""
        ),
        {
            "applications": [r.application_id for r in rows],
            "numbers": [r.number for r in rows],
            "created": [r.created_at for r in rows],
            "updated": [r.updated_at for r in rows],
            "gone": [r.removed for r in rows],
        },
    )


def copy_imported_messages(tx: Connection, rows: Sequence[ImportedMessage]) -> None:
    """Store messages as they were elsewhere, all or none; tombstones are counted at their chats."""

    def lines() -> Iterator[str]:
        for chat_id, number, text_, folded, created_at, updated_at in rows:
            created, updated = created_at.isoformat(), updated_at.isoformat()
            head = f"{chat_id}\t{number}\t{micros(updated_at)}\t{created}\t{updated}\t"
            if text_ is None:
                yield f"{head}{updated}\tremoved\t\t\n"
            else:
                yield f"{head}\\N\tstored\t{_copy_escaped(text_)}\t{_copy_escaped(folded)}\n"

    _copy(
        tx,
        "message (chat_id, number, version, created_at, updated_at, removed_at, state, text, folded)",
        lines(),
    )
    removed = Counter(row.chat_id for row in rows if row.text is None)
    if removed:
        tx.execute(
            text(
                "UPDATE chat c SET messages_removed = messages_removed + w.count"
                " FROM unnest(cast(:ids AS bigint[]), cast(:counts AS bigint[])) AS w(id, count)"
                " WHERE c.id = w.id"
            ),
            {"ids": list(removed.keys()), "counts": list(removed.values())},
        )


# -- exporting ------------------------------------------------------------------------------------

_RFC3339 = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_EXPORTED = "(cast(:token AS text) IS NULL OR a.token = :token)"
# In the order of the lines. What has no place in a sort key keeps the order of what it is read from, as
# a nested loop does: a sort of all messages would take a disk. The export checks it.
EXPORTED_APPLICATIONS = text(
    f"""
    SELECT a.token, CASE WHEN a.removed_at IS NULL THEN a.name END,
           (SELECT count(*) FROM chat c WHERE c.application_id = a.id AND c.state = 'stored'),
           {_RFC3339.format("a.created_at")}, {_RFC3339.format("a.updated_at")}
    FROM application a WHERE {_EXPORTED} ORDER BY a.token"""
)
EXPORTED_CHATS = text(
    f"""
    SELECT a.token, c.id, c.number, CASE WHEN c.state = 'stored' THEN
           (SELECT count(*) FROM message m WHERE m.chat_id = c.id AND m.state = 'stored') END,
           {_RFC3339.format("c.created_at")}, {_RFC3339.format("c.updated_at")}
    FROM application a JOIN chat c ON c.application_id = a.id
    WHERE a.removed_at IS NULL AND {_EXPORTED} ORDER BY a.token, c.number"""
)
EXPORTED_MESSAGES = text(
    f"""
    SELECT m.chat_id, m.number, CASE WHEN m.state = 'stored' THEN m.text END,
           {_RFC3339.format("m.created_at")}, {_RFC3339.format("m.updated_at")}
    FROM (SELECT c.id FROM application a JOIN chat c ON c.application_id = a.id
          WHERE a.removed_at IS NULL AND c.state = 'stored' AND {_EXPORTED}
          ORDER BY a.token, c.number) c
    CROSS JOIN LATERAL (SELECT * FROM message WHERE chat_id = c.id ORDER BY number) m"""
)


def stream(connection: Connection, statement: TextClause, token: str | None) -> Iterator[Any]:
    """An exported statement's rows, read a page at a time."""
    options = {"yield_per": PAGE}
    yield from connection.execute(statement, {"token": token}, execution_options=options)


def count_exported(connection: Connection, token: str | None) -> int:
    """How many lines the exported statements give together."""
    return sum(
        connection.scalar(
            text(f"SELECT count(*) FROM ({statement.text}) AS rows"), {"token": token}
        )
        or 0
        for statement in (EXPORTED_APPLICATIONS, EXPORTED_CHATS, EXPORTED_MESSAGES)
    )


# -- small change ---------------------------------------------------------------------------------


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    delta = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def to_application(row: StoredApplication, chats_count: int) -> Application:
    """The row as its users see it."""
    return Application(
        row.token,
        row.name,
        chats_count,
        row.created_at,
        row.updated_at,
        row.version,
    )


def to_chat(row: StoredChat, messages_count: int) -> Chat:
    """The row as its users see it."""
    return Chat(row.number, messages_count, row.created_at, row.updated_at)


def _copy_time(micros: int) -> str:
    """A time as COPY reads it."""
    second, rest = divmod(micros, 1_000_000)
    return f"{_copy_second(second)}.{rest:06}+00"


@lru_cache(maxsize=64)  # what one batch holds was accepted within a few seconds
def _copy_second(second: int) -> str:
    return moment(second * 1_000_000).replace(tzinfo=None).isoformat()


def _copy_escaped(value: str) -> str:
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    if "\r" in value:
        value = value.replace("\r", "\\r")
    return value


def _copy(tx: Connection, into: str, lines: Iterable[str]) -> None:
    cursor = _cursor(tx)
    try:
        cursor.copy_expert(f"COPY {into} FROM STDIN", _Lines(lines))
    finally:
        cursor.close()


class _Lines:
    """Lines as the file that COPY reads, so that they are made while PostgreSQL stores those before."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def read(self, _: int) -> bytes:
        # A lone surrogate passes: PostgreSQL refuses it as it does all that is not UTF-8.
        return "".join(islice(self._lines, LINES_AT_ONCE)).encode("utf-8", "surrogatepass")


def _cursor(tx: Connection) -> Any:
    connection = tx.connection.driver_connection
    assert isinstance(connection, psycopg2.extensions.connection)
    return connection.cursor()
