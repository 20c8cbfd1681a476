"""Publishes changed messages from SQL into the search indices.

The outbox names the messages that changed. A publisher leases some of its rows, loads the current state of
these messages, writes it to every registered index, and deletes the rows. It publishes states with versions,
not events, so order and repetition do not matter, and several publishers may work at once. No transaction is
open during a request to Elasticsearch. While Elasticsearch is away, messages are still stored and the outbox
grows; the outbox is the only record of what has to be published.
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
from backend.storage.search_index import Document, IndexUnusable, RejectedDocument, SearchIndex

# Longer than a bulk; after a kill -9 the rows are blocked until it has expired.
LEASE_SECONDS = 30.0
MESSAGES_PER_LEASE = 2_500  # approximately
MAX_LEASE_ATTEMPTS = 20
LEASE_RETRY_SECONDS = 0.005  # another publisher chooses its rows within this time
WAIT_TIMEOUT_SECONDS = 2 * LEASE_SECONDS  # a killed publisher blocks its rows for one lease
WAIT_POLL_SECONDS = 0.02
logger = logging.getLogger(__name__)


class Publisher:
    """Publishes the messages in the outbox. Thread-safe; several threads are faster than one."""

    def __init__(self, database: Database, index: SearchIndex) -> None:
        self._database = database
        self._index = index
        self._stopping = threading.Event()
        self._leased_ids: set[int] = set()
        # Indices that exist according to SQL, which never revokes that.
        self._created: set[str] = set()

    def stop(self) -> None:
        """Finish the bulks in progress and begin no other."""
        self._stopping.set()

    def release_leases(self) -> None:
        """Release the leases of bulks in progress, when the process ends without waiting for them."""
        self._release(list(self._leased_ids))

    def publish(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Publish until the outbox has no row without a lease; returns how many changes were published.

        Stops early if `may_continue`, which is called before each bulk, returns False.

        Raises EngineDown or Unavailable when an engine is away or accepts no writes, IndexUnusable when the
        live index can't be used; everything that was not published stays in the outbox.
        """
        published = 0
        while not self._stopping.is_set() and may_continue() and (count := self._publish_batch()):
            published += count
        return published

    def wait_published(self) -> None:
        """Return once everything committed before this call is published, by this or another publisher.

        Raises as `publish` does, and Unavailable if none of it is published for a minute.
        """
        with self._database.connect() as connection:
            ends = outbox.id_range(connection)
        if ends is None:
            return
        oldest, through = ends
        deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
        while oldest <= through:
            if not self._publish_batch():  # other publishers have leased the rows
                time.sleep(WAIT_POLL_SECONDS)
            with self._database.connect() as connection:
                ends = outbox.id_range(connection)
            if ends is None:
                return
            if ends[0] > oldest:
                oldest, deadline = ends[0], time.monotonic() + WAIT_TIMEOUT_SECONDS
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"no waiting message became searchable within {WAIT_TIMEOUT_SECONDS:g} s",
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
        """Lease some rows; None if there are none, or other publishers hold all of them."""
        for _ in range(MAX_LEASE_ATTEMPTS):
            # If a crash of the server undoes the lease, the messages are published twice, which is harmless.
            with self._database.begin(durable=False) as tx:
                lease = outbox.lease(tx, MESSAGES_PER_LEASE, LEASE_SECONDS)
            if lease is None or lease.ids:
                return lease
            time.sleep(LEASE_RETRY_SECONDS)
        return None

    def _release(self, ids: Sequence[int]) -> None:
        with suppress(InstaChatError), self._database.begin() as tx:  # otherwise the lease expires
            outbox.release(tx, ids)

    def _write(self, name: str, documents: Sequence[Document]) -> list[RejectedDocument]:
        """Write to one index, unless it is no longer registered; returns what the index cannot store."""
        if name not in self._created:
            registered = self._find_index(name)
            if registered is None:
                return []
            if registered.mapping > self._index.mapping_version:
                raise Unavailable(
                    f"the search index {name} was made by a later release, whose workers publish",
                    "run a newer instachat",
                )
            if not registered.made:
                return self._create_and_write(name, documents)
            self._created.add(name)
        try:
            return self._index.write(name, documents)
        except IndexUnusable as error:
            self._handle_unusable(name, error)
            return []

    def _create_and_write(self, name: str, documents: Sequence[Document]) -> list[RejectedDocument]:
        """Create an index, write to it, and make searches read it if it is to be the live one.

        The read alias comes last: a write waits until the new index's shard is ready, a search would fail.
        After a crash in between, the next publisher does all of it again.
        """
        self._index.create(name)
        rejected = self._index.write(name, documents)
        with self._database.begin() as tx:
            # This locks its row, so that the read alias is not swapped to another index meanwhile.
            if search_indices.mark_made(tx, name) == "live":
                self._index.set_read_alias(name)
        logger.info("created the search index %s", name)
        return rejected

    def _handle_unusable(self, name: str, error: IndexUnusable) -> None:
        """Unregister an index that misses what is published from now on, such as one that is closed.

        Raises the error for the live index instead, so that its messages stay in the outbox.
        """
        registered = self._find_index(name)
        if registered is None:
            return
        if registered.state == "live":
            raise error
        with self._database.begin() as tx:
            search_indices.unregister_index(tx, name)
        logger.warning(
            "%s; it is unregistered, as it is not the one that searches read", error.message
        )

    def _find_index(self, name: str) -> search_indices.RegisteredIndex | None:
        with self._database.connect() as connection:
            return search_indices.find_index(connection, name)

    def _store_dead_letters(self, tx: Connection, rejected: Sequence[RejectedDocument]) -> None:
        """Store dead letters for messages that an index cannot store, with their application and chat."""
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
    """Register a live index if there is neither an index nor a message yet.

    Elasticsearch need not be reachable: the first publisher that reaches it creates the index. Changes
    nothing if there is a message, which the new index would miss. Raises Unavailable if a transaction that
    writes messages takes too long.
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
