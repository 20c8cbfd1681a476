"""The outbox: which messages changed, for the publisher."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, text


def add_to_outbox(tx: Connection, changes: Sequence[tuple[int, int, int]]) -> None:
    """Name changed messages, as (chat id, number, version), for the publisher: one row a transaction."""
    tx.execute(
        text("INSERT INTO outbox (messages) VALUES (cast(:messages AS jsonb))"),
        {"messages": json.dumps(changes)},
    )


def publishing(tx: Connection) -> bool:
    """Whether changes are to be named in the outbox; the flag is the database's, not a process's."""
    return bool(tx.scalar(text("SELECT publishing FROM installation")))
