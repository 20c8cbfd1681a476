"""States: what each message is now, for comparing with what the index holds."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.domain.model import MessageKey
from backend.storage.postgres.outbox import add_to_outbox
from backend.storage.postgres.statements import PAGE, hot


class MessageFacts(NamedTuple):
    """All that SQL knows of a message, in one snapshot.

    `token` and `chat` are None where its chat has no row, `version` where it has none itself. `shown` if it
    can be read, `lost` if all that is known of it is that it is. `is_pending` if the index is to hear of it,
    perhaps once a removed parent is cleared, or has refused it for good.
    """

    token: str | None
    chat: int | None
    chat_shown: bool
    version: int | None
    shown: bool
    lost: bool
    is_pending: bool


_STATES = """
    SELECT m.chat_id, m.number, m.version, m.state = 'stored' AND coalesce(c.shown, false)
    FROM message m LEFT JOIN (
        SELECT c.id, c.state = 'stored' AND a.removed_at IS NULL AS shown
        FROM chat c JOIN application a ON a.id = c.application_id) c ON c.id = m.chat_id"""
ALL_STATES = text(f"{_STATES} ORDER BY m.chat_id, m.number")
STATES_OF_CHATS = hot(
    "states_of_chats",
    f"{_STATES} WHERE m.chat_id = ANY(cast(:chats AS bigint[])) ORDER BY m.chat_id, m.number",
)
UNPUBLISHED = text(
    "SELECT DISTINCT w.chat_id, w.number"
    " FROM outbox, unnest(chats, numbers) AS w(chat_id, number) ORDER BY 1, 2"
)
_SHOWN = "c.state = 'stored' AND a.removed_at IS NULL"
# Not a hot one: it reads all of the outbox, and is asked for what differs at a second look only.
FACTS = text(
    f"""
    SELECT w.chat_id, w.number, a.token, c.number, coalesce({_SHOWN}, false), m.version,
           coalesce(m.state = 'stored' AND {_SHOWN}, false), coalesce(m.state = 'lost', false),
           (w.chat_id, w.number) IN
               (SELECT u.chat_id, u.number FROM outbox, unnest(chats, numbers) AS u(chat_id, number))
           OR coalesce(c.rows_left OR a.rows_left, false)
           OR EXISTS (SELECT FROM dead_letter d WHERE d.kind = 'publish' AND d.token = a.token
                      AND d.chat = c.number AND d.number = w.number)
    FROM unnest(cast(:chats AS bigint[]), cast(:numbers AS bigint[])) AS w(chat_id, number)
    LEFT JOIN chat c ON c.id = w.chat_id LEFT JOIN application a ON a.id = c.application_id
    LEFT JOIN message m ON m.chat_id = w.chat_id AND m.number = w.number""",
)
RAISE_VERSION = hot(
    "raise_version",
    """
    UPDATE message SET version = greatest(version + 1, :above + 1,
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    WHERE chat_id = :chat_id AND number = :number AND version <= :above""",
)


def iter_states(
    connection: Connection, chat_ids: Sequence[int] | None
) -> Iterator[tuple[int, int, int, bool]]:
    """(chat id, number, version, can be read) of every message, or of some chats', in order."""
    options = {"yield_per": PAGE}
    if chat_ids is None:
        rows = connection.execute(ALL_STATES, execution_options=options)
    else:
        rows = connection.execute(
            STATES_OF_CHATS, {"chats": list(chat_ids)}, execution_options=options
        )
    for page in rows.partitions(PAGE):  # without a size it would be all of them
        yield from map(tuple, page)


def iter_unpublished(connection: Connection) -> Iterator[MessageKey]:
    """The messages that the outbox names, each once, in order."""
    rows = connection.execute(UNPUBLISHED, execution_options={"yield_per": PAGE})
    yield from map(tuple, rows)


def load_facts(
    connection: Connection, keys: Sequence[MessageKey]
) -> dict[MessageKey, MessageFacts]:
    """What SQL knows of each of these."""
    values = {"chats": [c for c, _ in keys], "numbers": [n for _, n in keys]}
    rows = connection.execute(FACTS, values) if keys else ()
    return {(chat_id, number): MessageFacts(*rest) for chat_id, number, *rest in rows}


def republish(tx: Connection, found: Sequence[tuple[int, int, int]]) -> None:
    """Have messages, (chat id, number, version), published at a version above that one.

    One without a row is published as removed.
    """
    for chat_id, number, above in found:
        tx.execute(RAISE_VERSION, {"chat_id": chat_id, "number": number, "above": above})
    add_to_outbox(tx, [(chat_id, number, above + 1) for chat_id, number, above in found])
