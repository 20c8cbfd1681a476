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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import starmap

from backend.domain.errors import InstaChatError, Unavailable
from backend.storage.postgres import chats, locks, outbox, search_indices
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.dead_letters import DeadLetter, add_dead_letters
from backend.storage.search_index import Document, IndexMissing, RejectedDocument, SearchIndex

LEASE_SECONDS = (
    30.0  # more than a bulk may take; after a kill -9 it passes before another publishes
)
MESSAGES_PER_LEASE = 2_500  # of one lease, about
MAX_LEASE_ATTEMPTS = 20
LEASE_RETRY_SECONDS = 0.005  # that another publisher takes to choose its rows
WAIT_TIMEOUT_SECONDS = (
    2 * LEASE_SECONDS
)  # a publisher that was killed holds up its part for one of them
WAIT_POLL_SECONDS = 0.02
logger = logging.getLogger(__name__)


class Publisher:
    """Publishes what the outbox names. Thread-safe: several threads publish quicker than one."""

    def __init__(self, database: Database, index: SearchIndex) -> None:
        self._database = database
        self._index = index
        self._stopping = threading.Event()
        self._leased_ids: set[int] = set()
        self._created: set[str] = set()  # indices that SQL says are made, which it never unsays

    def stop(self) -> None:
        """Let the bulks under way finish, and begin no other."""
        self._stopping.set()

    def release_leases(self) -> None:
        """Let go of what bulks under way have leased, for the process ends without waiting for them."""
        self._release(list(self._leased_ids))

    def publish(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Publish until the outbox holds nothing that is free; returns how many changes it were.

        Ends also when `may_continue`, asked before each bulk, says no.

        Raises EngineDown or Unavailable when an engine is away or takes nothing, IndexMissing when the
        index that is searched is gone; all that was not published stays in the outbox.
        """
        published = 0
        while not self._stopping.is_set() and may_continue() and (count := self._publish_batch()):
            published += count
        return published

    def wait_published(self) -> None:
        """Return once everything that was committed before this call is published, by any publisher.

        Raises as `publish`, and Unavailable if nothing of it is published for a while.
        """
        with self._database.connect() as connection:
            ends = outbox.id_range(connection)
        if ends is None:
            return
        oldest, through = ends
        deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
        while oldest <= through:
            if not self._publish_batch():  # others are at it
                time.sleep(WAIT_POLL_SECONDS)
            with self._database.connect() as connection:
                ends = outbox.id_range(connection)
            if ends is None:
                return
            if ends[0] > oldest:
                oldest, deadline = ends[0], time.monotonic() + WAIT_TIMEOUT_SECONDS
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"nothing of what waits to become searchable"
                    f" was published for {WAIT_TIMEOUT_SECONDS:g} s",
                    "see the workers' logs; then try again",
                )

    def _publish_batch(self) -> int:
        lease = self._lease()
        if lease is None:
            return 0
        self._leased_ids.update(lease.ids)
        try:
            with self._database.connect() as connection:
                documents = list(
                    starmap(Document, outbox.list_changed_messages(connection, lease.ids))
                )
            rejected = [one for name in lease.indices for one in self._write(name, documents)]
            with self._database.begin(durable=bool(rejected)) as tx:
                if rejected:
                    self._store_dead_letters(tx, rejected)
                outbox.complete(tx, lease.ids)
        except InstaChatError:
            self._release(lease.ids)
            raise
        finally:
            self._leased_ids.difference_update(lease.ids)
        return len(documents)

    def _lease(self) -> outbox.Lease | None:
        """Some rows; None if there are none, or others can't let go of them."""
        for _ in range(MAX_LEASE_ATTEMPTS):
            # Undone by a crash of the server it is published again, which can't hurt.
            with self._database.begin(durable=False) as tx:
                lease = outbox.lease(tx, MESSAGES_PER_LEASE, LEASE_SECONDS)
            if lease is None or lease.ids:
                return lease
            time.sleep(LEASE_RETRY_SECONDS)
        return None

    def _release(self, ids: Sequence[int]) -> None:
        with suppress(InstaChatError), self._database.begin() as tx:  # or else the lease expires
            outbox.release(tx, ids)

    def _write(self, name: str, documents: Sequence[Document]) -> list[RejectedDocument]:
        """Write to one index; what it can't hold is returned. One that is not kept any more wants nothing."""
        if name not in self._created:
            registered = self._find_index(name)
            if registered is None:
                return []
            if not registered.made:
                return self._create_and_write(name, documents)
            self._created.add(name)
        try:
            return self._index.write(name, documents)
        except IndexMissing:
            self._handle_missing(name)
            return []

    def _create_and_write(self, name: str, documents: Sequence[Document]) -> list[RejectedDocument]:
        """Have a new index, write to it, and then have searches read it, if it is to be the live one.

        Searches come last: where another publisher is just making it, only what is written waits until its
        shard is there, and a search would fail. Killed in between, all of this is done again.
        """
        self._index.create(name)
        rejected = self._index.write(name, documents)
        with self._database.begin() as tx:
            # Its row is locked from here on, so that searches turn to no other meanwhile.
            if search_indices.mark_made(tx, name) == "live":
                self._index.set_read_alias(name)
        logger.info("made the search index %s", name)
        return rejected

    def _handle_missing(self, name: str) -> None:
        """Keep an index no longer that Elasticsearch has lost.

        The live one raises IndexMissing instead, so that nothing is taken for published that can't be found.
        """
        registered = self._find_index(name)
        if registered is None:
            return
        if registered.state == "live":
            raise IndexMissing(name)
        with self._database.begin() as tx:
            search_indices.unregister_index(tx, name)
        logger.warning(
            "the %s search index %s is gone: it is not kept any more", registered.state, name
        )

    def _find_index(self, name: str) -> search_indices.RegisteredIndex | None:
        with self._database.connect() as connection:
            return search_indices.find_index(connection, name)

    def _store_dead_letters(self, tx: Connection, rejected: Sequence[RejectedDocument]) -> None:
        """Keep what no index can hold as dead letters, named as operators name messages."""
        parents = chats.chat_parents(tx, {one.document.chat_id for one in rejected})
        dead_letters = []
        for document, reason in rejected:
            token, chat = parents.get(document.chat_id, (None, None))
            names = [token, chat, document.number, document.version]
            event = json.dumps(names).encode()
            key = f"publish-{hashlib.sha256(event).hexdigest()[:16]}"
            logger.warning("dead letter %s: %s", key, reason)
            dead_letters.append(DeadLetter(key, reason, token, chat, document.number, event))
        add_dead_letters(tx, dead_letters, "publish")


def register_first_index(database: Database, index: SearchIndex) -> None:
    """Where there is neither an index nor a message yet, have one kept, live from its beginning.

    Elasticsearch need not be there: the first publisher that reaches it has it made. Changes nothing
    where there is a message: what is stored already would be missing. Raises Unavailable if a
    transaction that writes messages takes too long.
    """
    with database.connect() as connection:
        if not search_indices.has_no_data(connection):
            return
    name = index.new_name(database.installation.id)  # outside the lock, which blocks reading the id
    with database.begin() as tx:
        locks.lock_publishing(tx)
        if search_indices.has_no_data(tx):
            search_indices.register_index(tx, name, "live", index.mapping_version)
            search_indices.set_publishing(tx, True)
