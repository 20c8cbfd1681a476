"""The registered search indices: their names, their states, and the flag that changes are published.

SQL decides which indices exist, Elasticsearch follows. A transaction that switches publishing on or off
waits for all transactions that have read the flag before: it locks the flag's table (`locks`).
"""

from typing import NamedTuple

from sqlalchemy import bindparam, delete, exists, func, insert, not_, select, update

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper, hot
from backend.storage.postgres.tables import installation, message, outbox, search_index


class RegisteredIndex(NamedTuple):
    """An index that changes are written to; `made` once Elasticsearch has created it."""

    name: str
    state: str  # building | live | previous
    mapping: int
    made: bool


_INDICES = RowMapper(RegisteredIndex)
_index = select(
    search_index.c.name,
    search_index.c.state,
    search_index.c.mapping,
    search_index.c.made_at.is_not(None).label("made"),
)
LIVE_INDEX = hot("live_index", _index.where(search_index.c.state == "live"))
INDICES = _index.order_by(search_index.c.name)
INDEX = _index.where(search_index.c.name == bindparam("name"))
MARK_MADE = (
    update(search_index)
    .where(search_index.c.name == bindparam("of_name"), search_index.c.made_at.is_(None))
    .values(made_at=func.now())
    .returning(search_index.c.state)
)
REGISTER = insert(search_index)
UNREGISTER = delete(search_index).where(search_index.c.name == bindparam("name"))
HAS_NO_DATA = select(
    not_(exists(select(search_index.c.name))) & not_(exists(select(message.c.number)))
)
SET_PUBLISHING = update(installation).values(publishing=bindparam("enabled"))


def list_indices(connection: Connection) -> list[RegisteredIndex]:
    """All registered indices, by name."""
    return _INDICES.all(connection.execute(INDICES))


def find_index(connection: Connection, name: str) -> RegisteredIndex | None:
    """An index by its name; None if it is not registered."""
    return _INDICES.one_or_none(connection.execute(INDEX, {"name": name}))


def live_index(connection: Connection) -> RegisteredIndex | None:
    """The index that searches read; None if there is none."""
    return _INDICES.one_or_none(connection.execute(LIVE_INDEX))


def mark_made(tx: Connection, name: str) -> str | None:
    """Record that Elasticsearch has created an index; returns its state.

    None if that was recorded before, or the index is not registered.
    """
    state: str | None = tx.scalar(MARK_MADE, {"of_name": name})
    return state


def register_index(tx: Connection, name: str, state: str, mapping: int) -> None:
    """Register an index: everything that is published from now on is written to it, too."""
    tx.execute(REGISTER, {"name": name, "state": state, "mapping": mapping})


def unregister_index(tx: Connection, name: str) -> None:
    """Unregister an index: nothing is written to it any more."""
    tx.execute(UNREGISTER, {"name": name})


def unregister_all(tx: Connection) -> None:
    """Unregister every index and empty the outbox; the caller holds the flag's lock, and unsets the flag.

    What Elasticsearch holds is not touched.
    """
    tx.execute(delete(outbox))  # first: a transaction that leases locks these rows first, too
    tx.execute(delete(search_index))


def has_no_data(connection: Connection) -> bool:
    """Whether there is neither an index nor a message: the first index would lack nothing."""
    return bool(connection.scalar(HAS_NO_DATA))


def set_publishing(tx: Connection, publishing: bool) -> None:
    """Switch on or off that changes are named in the outbox; the caller holds the flag's lock."""
    tx.execute(SET_PUBLISHING, {"enabled": publishing})
