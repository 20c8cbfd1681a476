"""The search indices that are kept: their names, states, and the flag that changes are published.

SQL decides which indices there are, Elasticsearch follows. Whoever switches publishing on or off waits
for all transactions that have read the flag before, by locking the table it is in.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.storage.postgres.statements import hot

_INDEX = "SELECT name, state, mapping, made_at IS NOT NULL FROM search_index"
LIVE_INDEX = hot("live_index", _INDEX + " WHERE state = 'live'")


class RegisteredIndex(NamedTuple):
    """An index that is kept; `made` once Elasticsearch has made it."""

    name: str
    state: str  # building | live | previous
    mapping: int
    made: bool


def list_indices(connection: Connection) -> list[RegisteredIndex]:
    """All indices that are kept, each of which is written to."""
    return [RegisteredIndex(*row) for row in connection.execute(text(_INDEX + " ORDER BY name"))]


def find_index(connection: Connection, name: str) -> RegisteredIndex | None:
    """An index by its name; None if it is not kept."""
    row = connection.execute(text(_INDEX + " WHERE name = :name"), {"name": name}).one_or_none()
    return None if row is None else RegisteredIndex(*row)


def live_index(connection: Connection) -> RegisteredIndex | None:
    """The index that searches read; None if there is none."""
    row = connection.execute(LIVE_INDEX).one_or_none()
    return None if row is None else RegisteredIndex(*row)


def mark_made(tx: Connection, name: str) -> str | None:
    """Note that Elasticsearch has made an index; its state, or None if that was noted or it is not kept."""
    state: str | None = tx.scalar(
        text(
            "UPDATE search_index SET made_at = now() WHERE name = :name AND made_at IS NULL"
            " RETURNING state"
        ),
        {"name": name},
    )
    return state


def unregister_index(tx: Connection, name: str) -> None:
    """Keep an index no longer: nothing is written to it any more."""
    tx.execute(text("DELETE FROM search_index WHERE name = :name"), {"name": name})


def has_no_data(connection: Connection) -> bool:
    """Whether there is neither an index nor a message: the first index would miss nothing."""
    return bool(
        connection.scalar(
            text(
                "SELECT NOT EXISTS (SELECT FROM search_index) AND NOT EXISTS (SELECT FROM message)"
            )
        )
    )


def set_publishing(tx: Connection, publishing: bool) -> None:
    """Have changes named in the outbox from now on, or no longer; the caller holds the flag."""
    tx.execute(text("UPDATE installation SET publishing = :publishing"), {"publishing": publishing})


def unregister_all(tx: Connection) -> None:
    """Keep no index, and nothing that was to be published; the caller holds the flag, and unsets it.

    What Elasticsearch holds is not touched.
    """
    tx.execute(text("DELETE FROM outbox"))  # first, as who leases locks these rows first, too
    tx.execute(text("DELETE FROM search_index"))


def register_index(tx: Connection, name: str, state: str, mapping: int) -> None:
    """Keep an index: whatever is published from now on is written to it, too."""
    tx.execute(
        text("INSERT INTO search_index (name, state, mapping) VALUES (:name, :state, :mapping)"),
        {"name": name, "state": state, "mapping": mapping},
    )
