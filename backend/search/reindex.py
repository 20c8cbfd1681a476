"""Reindexes: builds a search index beside the live one, then makes searches read it atomically.

    register  SQL registers the new index; from here on every change is published to it as well
    copy      all rows are written to it, page by page in the order of their keys; SQL records the progress
    verify    the version of every row is compared with the version of its document
    swap      publishing pauses for a moment, the alias and SQL change, publishing continues
    tidy      the previous index stays registered, and changes are published to it; older ones are deleted

A message that changes during the copy is in the outbox, or was committed before its page was read. Each
document has its row's version, and an older version never replaces a newer one. So the copy and the
publishers need no coordination. After the swap both indices are complete, which is why `rollback` loses
nothing.

SQL decides which index has which role, and Elasticsearch follows. A reindex that is killed at any point
leaves searches unchanged; the index it was building stays, for `build(resume=True)` or `abort`.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from itertools import islice
from typing import NamedTuple

from backend.domain.errors import Conflict, Failed, InstaChatError, Unavailable
from backend.domain.model import MessageKey
from backend.search.alias_swap import AliasSwap, unregister, unregister_all, with_publish_lock
from backend.search.index_verifier import IndexVerifier
from backend.search.publish import Publisher
from backend.storage.postgres import chats, leases, outbox, reindex_state, search_indices
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.leases import Lease, LeaseHeld, LeaseLost
from backend.storage.postgres.search_indices import RegisteredIndex
from backend.storage.search_index import Document, IndexUnusable, RejectedDocument, SearchIndex

PAGE_ROWS = 2_500  # as many documents as one bulk has
MAX_CONCURRENT_BULKS = 2  # while Elasticsearch works on one, the next is prepared
MAX_NAMED_MESSAGES = 5  # in an error message
logger = logging.getLogger(__name__)

ProgressCallback = Callable[[str, int, int], object]
"""Called with `copied` or `compared`, the number of messages done, and the total."""


@dataclass(frozen=True, slots=True)
class ReindexResult:
    """Searches now read the index `name`; `previous`, if any, is the index that they read before."""

    name: str
    messages: int
    previous: str | None


@dataclass(frozen=True, slots=True)
class IndexCheck:
    """The result of checking the live index; it is correct if there are no `faults`."""

    name: str | None
    messages: int
    faults: list[str]


class ReindexState(NamedTuple):
    """The names of the registered indices by role, and the number of messages."""

    live: str | None
    building: str | None
    previous: str | None
    messages: int
    copied: int  # into the index that is being built


class Reindexer:
    """Builds search indices, one at a time in an installation. Thread-safe.

    Each method that changes something raises Conflict, changing nothing, while another reindex runs, and
    names that one; EngineDown or Unavailable as the engines are.
    """

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher
        self._verifier = IndexVerifier(database, index, publisher)
        self._alias_swap = AliasSwap(database, index, publisher)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Make a build raise Unavailable after the page in progress, so that it can be resumed."""
        self._stopping.set()

    # -- building ----------------------------------------------------------------------------------

    def build(
        self,
        *,
        resume: bool = False,
        start_new: bool = True,
        progress: ProgressCallback = lambda *_: None,
    ) -> ReindexResult | None:
        """Build an index of all messages and make searches read it.

        With `resume` an interrupted build continues; without it, one that was interrupted raises Conflict.
        Without `start_new`, returns None if there is a live index and nothing to resume. Raises Failed if a
        message cannot be indexed or differs in the end: searches stay unchanged, and the new index stays.
        """
        with _exclusive(self._database) as lease:
            name = self._prepare_index(lease, resume=resume, start_new=start_new)
            if name is None:
                return None
            messages = self._copy(lease, name, progress)
            self._verify(lease, name, messages, progress)
            previous = self._alias_swap.swap(name, lease.confirm)
            logger.info("searches read %s", name)
            self._drop_unregistered()
            return ReindexResult(name, messages, previous)

    def _prepare_index(self, lease: Lease, *, resume: bool, start_new: bool) -> str | None:
        """Register and create the index to fill, or find the interrupted one; returns its name."""
        registered = self._registered()
        interrupted = _find_by_state(registered, "building")
        if interrupted and not resume:
            raise Conflict(
                "a reindex was interrupted; its unfinished index exists, and changes are published to it",
                "`instachat reindex --resume` continues it, `instachat reindex --abort` removes it",
            )
        if interrupted and interrupted.mapping != self._index.mapping_version:
            raise Conflict(
                f"the unfinished index has mapping {interrupted.mapping},"
                f" this program uses mapping {self._index.mapping_version}",
                "`instachat reindex --abort` removes it; then `instachat reindex` starts again",
            )
        if not interrupted and not start_new and _find_by_state(registered, "live"):
            return None
        # Raises EngineDown before anything is changed.
        found = self._index.list_indices(self._alias)
        if interrupted and interrupted.made and not found.get(interrupted.name):
            raise Failed(
                f"the unfinished index {interrupted.name} is no longer in Elasticsearch, or can't be used",
                "run `instachat reindex --abort`, then `instachat reindex`",
            )
        name = (
            interrupted.name
            if interrupted
            else self._index.new_name(self._database.installation.id)
        )
        self._register(lease, name, found)
        self._index.create(name)
        with self._database.begin() as tx:
            lease.confirm(tx)
            search_indices.mark_made(tx, name)
        return name

    def _register(self, lease: Lease, name: str, found: Mapping[str, bool]) -> None:
        """Register an index: every change from now on is published to it. Unregister lost indices."""

        def register(tx: Connection) -> None:
            registered = search_indices.list_indices(tx)
            for one in registered:
                if one.made and not found.get(one.name):
                    logger.warning(
                        "the %s search index %s is lost, closed, or not written to any more",
                        one.state,
                        one.name,
                    )
                    search_indices.unregister_index(tx, one.name)
            if name not in {one.name for one in registered}:
                search_indices.register_index(tx, name, "building", self._index.mapping_version)
            search_indices.set_publishing(tx, True)

        with_publish_lock(self._database, _confirmed(lease, register))

    def _copy(self, lease: Lease, name: str, progress: ProgressCallback) -> int:
        """Write all rows behind the recorded progress; returns the total number of rows."""
        with self._database.connect() as connection:
            reached = reindex_state.read_progress(connection, name)
            done, total = reindex_state.count_rows(connection, reached)
        under_way: deque[tuple[list[Document], Future[list[RejectedDocument]]]] = deque()

        def finish_one() -> None:
            nonlocal done
            page, written = under_way.popleft()
            if rejected := written.result():
                raise self._rejected_error(rejected)
            # What a holder that has lost the lease records is true nevertheless: it has copied these rows.
            with self._database.connect() as connection:
                is_registered = reindex_state.save_progress(connection, name, page[-1][:2])
            if not is_registered:
                with self._database.begin() as tx:
                    lease.confirm(tx)
                raise Failed(
                    f"{name}, which was being built, is no longer registered: another process has removed it",
                    "run `instachat reindex` again",
                )
            done += len(page)
            progress("copied", done, max(done, total))

        with ThreadPoolExecutor(MAX_CONCURRENT_BULKS, thread_name_prefix="reindex") as pool:
            for page in self._pages(lease, reached):
                under_way.append((page, pool.submit(self._index.write, name, page)))
                if len(under_way) > MAX_CONCURRENT_BULKS:
                    finish_one()
            while under_way:
                finish_one()
        return done

    def _pages(self, lease: Lease, after: MessageKey) -> Iterator[list[Document]]:
        while True:
            self._raise_if_stopping(lease)
            with self._database.connect() as connection:
                rows = reindex_state.list_rows_to_copy(connection, after, PAGE_ROWS)
            page = list(map(Document._make, rows))
            if page:
                yield page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1][:2]

    def _verify(self, lease: Lease, name: str, total: int, progress: ProgressCallback) -> None:
        def report_compared(done: int) -> None:
            self._raise_if_stopping(lease)
            progress("compared", done, max(done, total))

        if differing := list(
            islice(self._verifier.differences(name, report_compared), MAX_NAMED_MESSAGES + 1)
        ):
            raise Failed(
                f"the new search index differs from the stored messages: {self._describe(differing)};"
                " searches still read the old one",
                "see `instachat dead list` for messages that Elasticsearch refused;"
                " `instachat reindex --abort` removes the new index",
            )

    def _raise_if_stopping(self, lease: Lease) -> None:
        lease.raise_if_lost()
        if self._stopping.is_set():
            raise Unavailable(
                "the reindex was stopped", "`instachat reindex --resume` continues it"
            )

    # -- rollback --------------------------------------------------------------------------------

    def rollback(self) -> str:
        """Make searches read the previous index, which changes roles with the live one; returns its name.

        It has every change made since. Raises Failed if there is no previous index that can be searched.
        """
        with _exclusive(self._database) as lease:
            registered = _find_by_state(self._registered(), "previous")
            if registered is None:
                raise Failed(
                    "there is no previous search index", "`instachat reindex` builds another"
                )
            if registered.mapping != self._index.mapping_version:
                raise Failed(
                    f"the previous index has mapping {registered.mapping},"
                    f" this program uses mapping {self._index.mapping_version}",
                    "roll back with the version of the program that created it",
                )
            if not self._index.list_indices(self._alias).get(registered.name):
                raise Failed(
                    f"the previous index {registered.name} is no longer in Elasticsearch, or can't be used",
                    "`instachat reindex` builds another",
                )
            self._alias_swap.swap(registered.name, lease.confirm)
            return registered.name

    # -- removing ----------------------------------------------------------------------------------

    def abort(self) -> str | None:
        """Remove the unfinished index of an interrupted reindex; returns its name, None if there is none.

        The alias names the live index afterwards, even if somebody has moved it. If no index is left, changes
        are no longer recorded for publishing.
        """
        with _exclusive(self._database) as lease:
            registered = self._registered()
            interrupted, live = (
                _find_by_state(registered, "building"),
                _find_by_state(registered, "live"),
            )
            if (
                live
                and self._index.list_indices(self._alias).get(live.name)
                and self._index.aliased_indices(self._alias) != [live.name]
            ):
                # A crash may have left the alias on the unfinished index.
                self._alias_swap.swap_back(live.name, lease.confirm)
            if interrupted is not None:
                with_publish_lock(
                    self._database, _confirmed(lease, lambda tx: unregister(tx, interrupted.name))
                )
            self._drop_unregistered()
            return interrupted and interrupted.name

    def _drop_unregistered(self) -> None:
        """Delete unregistered indices from Elasticsearch; after an error, the next reindex does it."""
        try:
            # List the existing ones first: an index registered from now on is not among them.
            found = self._index.list_indices(self._alias)
            with self._database.connect() as connection:
                registered = {one.name for one in search_indices.list_indices(connection)}
            for name in sorted(found.keys() - registered):
                self._index.drop(name)
                logger.info("deleted the search index %s", name)
        except InstaChatError as error:
            logger.warning("%s; old search indices stay until the next reindex", error.message)

    # -- checking ----------------------------------------------------------------------------------

    def check(self, *, progress: ProgressCallback = lambda *_: None) -> IndexCheck:
        """Check that the live index has this program's mapping and every message at its current version.

        Publishes everything in the outbox first.
        """
        with self._database.connect() as connection:
            live = search_indices.live_index(connection)
            _, total = reindex_state.count_rows(connection, reindex_state.START_KEY)
        if live is None:
            return IndexCheck(None, total, ["there is no search index"] if total else [])
        if not live.made:
            self._publisher.wait_published()  # creates the index if there is a message to publish
        if not self._index.list_indices(self._alias).get(live.name):
            lost = live.made or total
            return IndexCheck(live.name, total, [self._unusable_reason(live.name)] if lost else [])
        faults = [
            f"{path} differs from this program's mapping"
            for path in self._index.configuration_differences(live.name)
        ]
        if live.mapping != self._index.mapping_version:
            faults.append(
                f"it has mapping {live.mapping}, this program uses mapping {self._index.mapping_version}"
            )
        keys = self._verifier.differences(
            live.name, lambda done: progress("compared", done, max(done, total))
        )
        if differing := list(islice(keys, MAX_NAMED_MESSAGES + 1)):
            faults.append(f"it differs from the stored messages: {self._describe(differing)}")
        return IndexCheck(live.name, total, faults)

    def _unusable_reason(self, name: str) -> str:
        try:
            self._index.check_usable(name)
        except IndexUnusable as error:
            return error.message
        return "it could not be used a moment ago"

    def state(self) -> ReindexState:
        """The current state; changes nothing, and does not need Elasticsearch."""
        with self._database.connect() as connection:
            names = {one.state: one.name for one in search_indices.list_indices(connection)}
            building = names.get("building")
            reached = (
                reindex_state.read_progress(connection, building)
                if building
                else reindex_state.START_KEY
            )
            copied, total = reindex_state.count_rows(connection, reached)
        return ReindexState(names.get("live"), building, names.get("previous"), total, copied)

    # -- helpers -----------------------------------------------------------------------------------

    def _registered(self) -> Sequence[RegisteredIndex]:
        with self._database.connect() as connection:
            return search_indices.list_indices(connection)

    @property
    def _alias(self) -> str:
        return self._index.installation_alias(self._database.installation.id)

    def _rejected_error(self, rejected: Sequence[RejectedDocument]) -> Failed:
        keys = [one.document[:2] for one in rejected]
        return Failed(
            f"can't be indexed: {self._describe(keys)}; {rejected[0].reason};"
            " searches still read the old one",
            "edit or delete it, then `instachat reindex --resume`; `--abort` removes the new index",
        )

    def _describe(self, keys: Sequence[MessageKey]) -> str:
        """The first messages, with their application, chat and number."""
        with self._database.connect() as connection:
            parents = chats.chat_parents(connection, {chat for chat, _ in keys})
        named = []
        for chat_id, number in keys[:MAX_NAMED_MESSAGES]:
            token, chat = parents.get(chat_id, ("?", "?"))
            named.append(f"message {number} of chat {chat} of application {token}")
        return ", ".join([*named, "and more"] if len(keys) > MAX_NAMED_MESSAGES else named)


def disable_publishing(database: Database) -> bool:
    """Unregister all indices and stop recording changes; False if that was so already.

    For an installation whose searches use PostgreSQL from now on. Elasticsearch is not contacted: a later
    reindex deletes the indices there. Raises Conflict while a reindex runs.
    """
    with _exclusive(database) as lease:
        with database.connect() as connection:
            noted = outbox.is_publishing(connection)
        if noted:
            with_publish_lock(database, _confirmed(lease, unregister_all))
        return noted


@contextmanager
def _exclusive(database: Database) -> Iterator[Lease]:
    """Hold the lease of the only reindex; raises Conflict, naming the holder, if another reindex runs.

    Raises Conflict, too, if the block finds that another process has taken the lease over.
    """
    try:
        with leases.hold(database, "reindex") as lease:
            yield lease
    except LeaseHeld as held:
        holder = held.holder
        raise Conflict(
            f"a reindex is already running: {holder.name},"
            f" since {holder.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; nothing was changed",
            "wait until it has ended",
        ) from None
    except LeaseLost:
        raise Conflict(
            f"this process was suspended for more than {leases.LEASE_SECONDS:.0f} seconds, or could not"
            " reach PostgreSQL, and another reindex began; this one has ended",
            "`instachat reindex --resume` continues what the other one leaves unfinished",
        ) from None


def _confirmed(lease: Lease, change: Callable[[Connection], None]) -> Callable[[Connection], None]:
    """The change, in a transaction that commits only while this process holds the lease."""

    def confirm_and_change(tx: Connection) -> None:
        lease.confirm(tx)
        change(tx)

    return confirm_and_change


def _find_by_state(registered: Sequence[RegisteredIndex], state: str) -> RegisteredIndex | None:
    return next((one for one in registered if one.state == state), None)
