"""Publish: from SQL into the search index, what each changed message is now.

The outbox says which messages changed. A publisher leases some of its rows, loads these messages as they
are at that moment, writes them to every index that is kept, and deletes the rows. It publishes states, not
events, and each carries its version: so order and repetition cannot hurt, and several publishers may work
at once. No transaction is open while Elasticsearch works. While it is away storing goes on, and the outbox
grows; nothing else remembers what is to be done.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Sequence

from sqlalchemy import Connection

from backend.errors import InstaChatError
from backend.index import MAPPING, Document, Index, IndexMissing, Rejected, new_name
from backend.sql import Database, DeadLetter, add_dead_letters, indices, outbox

LEASE_SECONDS = (
    30.0  # more than a bulk may take; after a kill -9 it passes before another publishes
)
MESSAGES = 2_500  # of one lease, about
logger = logging.getLogger(__name__)


class Publisher:
    """Publishes what the outbox names. Thread-safe: several threads publish quicker than one."""

    def __init__(self, database: Database, index: Index) -> None:
        self._database = database
        self._index = index
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the bulks under way finish, and begin no other."""
        self._stopping.set()

    def publish(self) -> int:
        """Publish until the outbox holds nothing that is free; returns how many changes it were.

        Raises EngineDown or Unavailable when an engine is away or takes nothing, IndexMissing when the
        index that is searched is gone; all that was not published stays in the outbox.
        """
        published = 0
        while not self._stopping.is_set() and (count := self._publish_some()):
            published += count
        return published

    def _publish_some(self) -> int:
        with self._database.begin() as tx:
            lease = outbox.lease(tx, MESSAGES, LEASE_SECONDS)
        if lease is None:
            return 0
        try:
            with self._database.connect() as connection:
                documents = [Document(*row) for row in outbox.changed(connection, lease.ids)]
            rejected = [one for name in lease.indices for one in self._write(name, documents)]
        except InstaChatError:
            with self._database.begin() as tx:
                outbox.release(tx, lease.ids)
            raise
        with self._database.begin() as tx:
            if rejected:
                self._bury(tx, rejected)
            outbox.complete(tx, lease.ids)
        return len(documents)

    def _write(self, name: str, documents: Sequence[Document]) -> list[Rejected]:
        """Write to one index; what it can't hold is returned."""
        try:
            return self._index.write(name, documents)
        except IndexMissing:
            # Made now if it is new. One that is not kept any more wants nothing.
            return self._index.write(name, documents) if self._made(name) else []

    def _made(self, name: str) -> bool:
        """Have an index that Elasticsearch lacks; False if there is none to be had under this name.

        One that was there has lost what it held: the live one raises IndexMissing, so that nothing is
        taken for published that can't be found; another is forgotten.
        """
        with self._database.connect() as connection:
            kept = indices.find_index(connection, name)
        if kept is None:
            return False
        if kept.made and kept.state == "live":
            raise IndexMissing(name)
        if kept.made:
            with self._database.begin() as tx:
                indices.forget_index(tx, name)
            logger.warning(
                "the %s search index %s is gone: it is not kept any more", kept.state, name
            )
            return False
        self._index.create(name)
        if kept.state == "live":
            self._index.read_from(name)
        with self._database.begin() as tx:
            indices.mark_made(tx, name)
        logger.info("made the search index %s", name)
        return True

    def _bury(self, tx: Connection, rejected: Sequence[Rejected]) -> None:
        """Keep what no index can hold as dead letters, named as operators name messages."""
        parents = outbox.parents(tx, {one.document.chat_id for one in rejected})
        letters = []
        for document, reason in rejected:
            token, chat = parents.get(document.chat_id, (None, None))
            named = [token, chat, document.number, document.version]
            event = json.dumps(named).encode()
            key = f"publish-{hashlib.sha256(event).hexdigest()[:16]}"
            logger.warning("dead letter %s: %s", key, reason)
            letters.append(DeadLetter(key, reason, token, chat, document.number, event))
        add_dead_letters(tx, letters, "publish")


def keep_first_index(database: Database) -> None:
    """Where there is neither an index nor a message yet, have one kept, live from its beginning.

    Elasticsearch need not be there: the first publisher that reaches it has it made. Changes nothing
    where there is a message: what is stored already would be missing. Raises Unavailable if a
    transaction that writes messages takes too long.
    """
    with database.connect() as connection:
        if not indices.is_blank(connection):
            return
    name = new_name(database.installation.id)  # before the lock, which nobody can read it behind
    with database.begin() as tx:
        indices.lock_flag(tx)
        if indices.is_blank(tx):
            indices.add_index(tx, name, "live", MAPPING)
            indices.set_publishing(tx, True)
