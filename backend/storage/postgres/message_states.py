"""States: what each message is now, for comparing with what the index holds."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import text

from backend.domain.model import MessageKey
from backend.storage.postgres.database import Connection
from backend.storage.postgres.outbox import add_to_outbox
from backend.storage.postgres.statements import CLOCK_MICROS, PAGE, RowMapper, hot


class MessageState(NamedTuple):
    """A message's version, and whether it can be read (`shown`)."""

    chat_id: int
    number: int
    version: int
    shown: bool


class MessageFacts(NamedTuple):
    """All that SQL knows of a message, in one snapshot.

    `token` and `chat` are None if its chat has no row, `version` if the message has none. `shown`: it can be
    read. `lost`: the number was issued, but its message no longer exists anywhere. `is_pending`: the index
    still has to be told of it, perhaps after the cascade of a removed parent. `dead_letter`: the key of its
    newest one, if the index has rejected it.
    """

    token: str | None
    chat: int | None
    chat_shown: bool
    version: int | None
    shown: bool
    lost: bool
    is_pending: bool
    dead_letter: str | None


class _Key(NamedTuple):
    chat_id: int
    number: int


_STATES = RowMapper(MessageState)
_KEYS = RowMapper(_Key)
# text(), all of these: joins with arrays, and subqueries beside outer joins.
_SELECT_STATES = """
    SELECT m.chat_id, m.number, m.version, m.state = 'stored' AND coalesce(c.shown, false) AS shown
    FROM message m LEFT JOIN (
        SELECT c.id, c.state = 'stored' AND a.removed_at IS NULL AS shown
        FROM chat c JOIN application a ON a.id = c.application_id) c ON c.id = m.chat_id"""
ALL_STATES = text(f"{_SELECT_STATES} ORDER BY m.chat_id, m.number")
STATES_OF_CHATS = hot(
    "states_of_chats",
    text(
        f"{_SELECT_STATES} WHERE m.chat_id = ANY(cast(:chats AS bigint[]))"
        " ORDER BY m.chat_id, m.number"
    ),
)
UNPUBLISHED = text(
    "SELECT DISTINCT w.chat_id, w.number"
    " FROM outbox, unnest(chats, numbers) AS w(chat_id, number)"
    " WHERE published_at IS NULL ORDER BY 1, 2"
)
_SHOWN = "c.state = 'stored' AND a.removed_at IS NULL"
# Not hot: it reads all of the outbox, but runs only for messages that still differ when read again.
FACTS = text(
    f"""
    SELECT w.chat_id AS key_chat, w.number AS key_number,
           a.token, c.number AS chat, coalesce({_SHOWN}, false) AS chat_shown, m.version,
           coalesce(m.state = 'stored' AND {_SHOWN}, false) AS shown,
           coalesce(m.state = 'lost', false) AS lost,
           (w.chat_id, w.number) IN
               (SELECT u.chat_id, u.number FROM outbox, unnest(chats, numbers) AS u(chat_id, number)
                WHERE published_at IS NULL)
           OR coalesce(c.rows_left OR a.rows_left, false) AS is_pending,
           (SELECT d.key FROM dead_letter d WHERE d.kind = 'publish' AND d.token = a.token
                AND d.chat = c.number AND d.number = w.number ORDER BY d.id DESC LIMIT 1) AS dead_letter
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS w(chat_id, number)
    LEFT JOIN chat c ON c.id = w.chat_id LEFT JOIN application a ON a.id = c.application_id
    LEFT JOIN message m ON m.chat_id = w.chat_id AND m.number = w.number""",
)
RAISE_VERSION = hot(
    "raise_version",
    text(
        f"""
        UPDATE message SET version = greatest(version + 1, :above + 1, {CLOCK_MICROS})
        WHERE chat_id = :chat_id AND number = :number AND version <= :above"""
    ),
)
DELETE_DEAD_LETTERS = hot(
    "delete_publish_dead_letters",
    text(
        """
        DELETE FROM dead_letter d
        USING unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS w(chat_id, number)
            JOIN chat c ON c.id = w.chat_id JOIN application a ON a.id = c.application_id
        WHERE d.kind = 'publish' AND d.token = a.token AND d.chat = c.number AND d.number = w.number"""
    ),
)


def iter_states(
    connection: Connection, chat_ids: Sequence[int] | None
) -> Iterator[tuple[int, int, int, bool]]:
    """Every message, or those of some chats, in order: tuples of the fields of `MessageState`."""
    options = {"yield_per": PAGE}
    if chat_ids is None:
        rows = connection.execute(ALL_STATES, execution_options=options)
    else:
        rows = connection.execute(
            STATES_OF_CHATS, {"chats": list(chat_ids)}, execution_options=options
        )
    return _STATES.stream_tuples(rows)


def iter_unpublished(connection: Connection) -> Iterator[MessageKey]:
    """The messages that are not published yet, each once, in order."""
    rows = connection.execute(UNPUBLISHED, execution_options={"yield_per": PAGE})
    return _KEYS.stream_tuples(rows)


def load_facts(
    connection: Connection, keys: Sequence[MessageKey]
) -> dict[MessageKey, MessageFacts]:
    """What SQL knows of each of these."""
    values = {"chats": [chat for chat, _ in keys], "numbers": [number for _, number in keys]}
    rows = connection.execute(FACTS, values) if keys else ()
    return {
        (row.key_chat, row.key_number): MessageFacts(
            token=row.token,
            chat=row.chat,
            chat_shown=row.chat_shown,
            version=row.version,
            shown=row.shown,
            lost=row.lost,
            is_pending=row.is_pending,
            dead_letter=row.dead_letter,
        )
        for row in rows
    }


def republish(tx: Connection, found: Sequence[tuple[int, int, int]]) -> None:
    """Have messages, (chat id, number, version), published at a version above that one.

    One without a row is published as removed. Dead letters that say that an index has rejected it are
    deleted: an index that still does so makes another one.
    """
    for chat_id, number, above in found:
        tx.execute(RAISE_VERSION, {"chat_id": chat_id, "number": number, "above": above})
    chats, numbers, _ = zip(*found, strict=True)
    tx.execute(DELETE_DEAD_LETTERS, {"chats": list(chats), "numbers": list(numbers)})
    add_to_outbox(tx, [(chat_id, number, above + 1) for chat_id, number, above in found])
