"""Reindex: another search index, built beside the live one; searches turn to it from one moment to the next.

    keep      SQL names the new index; from here on whatever changes is written to it, too
    copy      all rows, page by page in the order of their keys; SQL remembers how far it has come
    compare   the version of every row with that of every document
    swap      publishing pauses for a moment, the alias and SQL change, publishing goes on
    tidy      the index before stays, and is written to as before; older ones go

What changes while rows are copied is in the outbox, or it was committed before its page was read: each
document has its row's version, and the older of two never wins. So the copy and the publishers need not
know of each other. After the turn both indices hold everything, which is why `rollback` loses nothing.

SQL decides which index is what, and Elasticsearch follows. Killed at any point, a reindex leaves searches
as they were; what it was building stays, for `build(resume=True)` or `abort`.
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
from backend.storage.postgres import chats, locks, outbox, reindex_state, search_indices
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.locks import ReindexRunning
from backend.storage.postgres.search_indices import RegisteredIndex
from backend.storage.search_index import Document, RejectedDocument, SearchIndex

PAGE_ROWS = 2_500  # rows; as many documents as one bulk takes
MAX_CONCURRENT_BULKS = 2  # while Elasticsearch works on one, the next is made
MAX_NAMED_MESSAGES = 5  # of many differences
logger = logging.getLogger(__name__)

ProgressCallback = Callable[[str, int, int], object]
"""Called now and then with `copied` or `compared`, how many messages are, and how many there are to be."""


@dataclass(frozen=True, slots=True)
class ReindexResult:
    """What a reindex has made: `name` is searched now, and `previous`, if any, is kept beside it."""

    name: str
    messages: int
    previous: str | None


@dataclass(frozen=True, slots=True)
class IndexCheck:
    """What a check found of the live index; it fits if there are no `faults`."""

    name: str | None
    messages: int
    faults: list[str]


class ReindexState(NamedTuple):
    """How things stand: the names of the indices that are kept, and how many messages there are."""

    live: str | None
    building: str | None
    previous: str | None
    messages: int
    copied: int  # of these, into the one that is being built


class Reindexer:
    """Builds search indices, one at a time in an installation. Thread-safe.

    Each method raises Conflict, changing nothing, while another reindex runs, and names that one; EngineDown
    or Unavailable as the engines are.
    """

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher
        self._verifier = IndexVerifier(database, index, publisher)
        self._alias_swap = AliasSwap(database, index, publisher)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have a build under way raise Unavailable after its page, and begin no other; it can be resumed."""
        self._stopping.set()

    # -- building ----------------------------------------------------------------------------------

    def build(
        self,
        *,
        resume: bool = False,
        start_new: bool = True,
        progress: ProgressCallback = lambda *_: None,
    ) -> ReindexResult | None:
        """Build an index of all messages and have searches read it.

        `resume` goes on with one that was interrupted; otherwise it is a Conflict. Without `start_new`
        none is begun beside a live one: then None where there is nothing to resume. Raises Failed if a
        message can't be put into it, or differs in the end: searches stay as they are, and so does what was
        built.
        """
        with _exclusive(self._database) as lock_connection:
            name = self._prepare_index(lock_connection, resume=resume, start_new=start_new)
            if name is None:
                return None
            messages = self._copy(lock_connection, name, progress)
            self._verify(name, messages, progress)
            reindex_state.read_progress(
                lock_connection, name
            )  # raises if the lock was lost with its connection
            previous = self._alias_swap.swap(name)
            logger.info("searches read %s", name)
            self._drop_unregistered()
            return ReindexResult(name, messages, previous)

    def _prepare_index(
        self, lock_connection: Connection, *, resume: bool, start_new: bool
    ) -> str | None:
        """The name of the index to fill, kept and made."""
        registered = search_indices.list_indices(lock_connection)
        interrupted = _find_by_state(registered, "building")
        if interrupted and not resume:
            raise Conflict(
                "a reindex was interrupted; what it was building is still there, and written to",
                "`instachat reindex --resume` goes on with it, `instachat reindex --abort` removes it",
            )
        if interrupted and interrupted.mapping != self._index.mapping_version:
            raise Conflict(
                f"what was being built is of mapping {interrupted.mapping},"
                f" this program makes {self._index.mapping_version}",
                "`instachat reindex --abort` removes it; then `instachat reindex` begins anew",
            )
        if not interrupted and not start_new and _find_by_state(registered, "live"):
            return None
        found = self._index.list_indices(
            self._alias
        )  # nothing is begun while Elasticsearch is away
        if interrupted and interrupted.made and not found.get(interrupted.name):
            raise Failed(
                f"what was being built, {interrupted.name}, is not in Elasticsearch any more",
                "`instachat reindex --abort`, then `instachat reindex` begins anew",
            )
        name = (
            interrupted.name
            if interrupted
            else self._index.new_name(self._database.installation.id)
        )
        self._register(name, found)
        self._index.create(name)
        with self._database.begin() as tx:
            search_indices.mark_made(tx, name)
        return name

    def _register(self, name: str, found: Mapping[str, bool]) -> None:
        """Have all that changes from now on written to this index; one that is lost is kept no longer."""

        def register(tx: Connection) -> None:
            registered = search_indices.list_indices(tx)
            for one in registered:
                if one.made and not found.get(one.name):
                    logger.warning("the %s search index %s is lost", one.state, one.name)
                    search_indices.unregister_index(tx, one.name)
            if name not in {one.name for one in registered}:
                search_indices.register_index(tx, name, "building", self._index.mapping_version)
            search_indices.set_publishing(tx, True)

        with_publish_lock(self._database, register)

    def _copy(self, lock_connection: Connection, name: str, progress: ProgressCallback) -> int:
        """Write all rows behind the checkpoint; returns how many there are altogether."""
        reached = reindex_state.read_progress(lock_connection, name)
        done, total = reindex_state.count_rows(lock_connection, reached)
        under_way: deque[tuple[list[Document], Future[list[RejectedDocument]]]] = deque()

        def finish_one() -> None:
            nonlocal done
            page, written = under_way.popleft()
            if rejected := written.result():
                raise self._rejected_error(rejected)
            if not reindex_state.save_progress(lock_connection, name, page[-1][:2]):
                raise Failed(
                    f"{name}, which was being built, is not kept any more: somebody has deleted it",
                    "`instachat reindex` begins anew",
                )
            done += len(page)
            progress("copied", done, max(done, total))

        with ThreadPoolExecutor(MAX_CONCURRENT_BULKS, thread_name_prefix="reindex") as pool:
            for page in self._pages(reached):
                under_way.append((page, pool.submit(self._index.write, name, page)))
                if len(under_way) > MAX_CONCURRENT_BULKS:
                    finish_one()
            while under_way:
                finish_one()
        return done

    def _pages(self, after: MessageKey) -> Iterator[list[Document]]:
        while True:
            self._raise_if_stopping()
            with self._database.connect() as connection:
                rows = reindex_state.list_rows_to_copy(connection, after, PAGE_ROWS)
            page = list(map(Document._make, rows))
            if page:
                yield page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1][:2]

    def _verify(self, name: str, total: int, progress: ProgressCallback) -> None:
        def report_compared(done: int) -> None:
            self._raise_if_stopping()
            progress("compared", done, max(done, total))

        if differing := list(
            islice(self._verifier.differences(name, report_compared), MAX_NAMED_MESSAGES + 1)
        ):
            raise Failed(
                f"not all messages are in the new search index as they are: {self._describe(differing)};"
                " searches still read the old one",
                "see `instachat dead list` for what Elasticsearch refused; `instachat reindex --abort`"
                " removes the new one",
            )

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise Unavailable(
                "the reindex was told to stop", "`instachat reindex --resume` goes on with it"
            )

    # -- going back --------------------------------------------------------------------------------

    def rollback(self) -> str:
        """Have searches read the index before the live one, which becomes the one before; returns its name.

        Nothing written since is missing there. Raises Failed if there is none that could be searched.
        """
        with _exclusive(self._database) as lock_connection:
            registered = _find_by_state(search_indices.list_indices(lock_connection), "previous")
            if registered is None:
                raise Failed(
                    "there is no search index to go back to", "`instachat reindex` builds another"
                )
            if registered.mapping != self._index.mapping_version:
                raise Failed(
                    f"the index before is of mapping {registered.mapping},"
                    f" and this program searches {self._index.mapping_version}",
                    "roll back with the program that made it",
                )
            if not self._index.list_indices(self._alias).get(registered.name):
                raise Failed(
                    f"the index before, {registered.name}, is not in Elasticsearch any more",
                    "`instachat reindex` builds another",
                )
            self._alias_swap.swap(registered.name)
            return registered.name

    # -- removing ----------------------------------------------------------------------------------

    def abort(self) -> str | None:
        """Remove what an interrupted reindex was building; returns its name, None if there is nothing.

        Where no index is left then, changes are no longer noted for one.
        """
        with _exclusive(self._database) as lock_connection:
            registered = search_indices.list_indices(lock_connection)
            interrupted, live = (
                _find_by_state(registered, "building"),
                _find_by_state(registered, "live"),
            )
            if interrupted is not None:
                if live and self._index.list_indices(self._alias).get(live.name):
                    # A crash may have left the alias on the other.
                    self._alias_swap.swap_back(live.name)
                with_publish_lock(self._database, lambda tx: unregister(tx, interrupted.name))
            self._drop_unregistered()
            return interrupted and interrupted.name

    def _drop_unregistered(self) -> None:
        """Remove what SQL does not keep from Elasticsearch; what can't be removed now is, the next time."""
        try:
            # First what is there: none that is kept from now on is among it.
            found = self._index.list_indices(self._alias)
            with self._database.connect() as connection:
                registered = {one.name for one in search_indices.list_indices(connection)}
            for name in sorted(found.keys() - registered):
                self._index.drop(name)
                logger.info("removed the search index %s", name)
        except InstaChatError as error:
            logger.warning("%s; old search indices stay until the next reindex", error.message)

    # -- checking ----------------------------------------------------------------------------------

    def check(self, *, progress: ProgressCallback = lambda *_: None) -> IndexCheck:
        """Whether the live index is of this program's mapping and holds all messages as they are.

        What waits to become searchable is published first.
        """
        with self._database.connect() as connection:
            live = search_indices.live_index(connection)
            _, total = reindex_state.count_rows(connection, reindex_state.START_KEY)
        if live is None:
            return IndexCheck(None, total, ["there is no search index"] if total else [])
        if not live.made:
            self._publisher.wait_published()  # which makes it, if there is anything to publish
        if not self._index.list_indices(self._alias).get(live.name):
            lost = live.made or total
            return IndexCheck(live.name, total, ["it is not in Elasticsearch"] if lost else [])
        faults = [
            f"{path} is not this program's"
            for path in self._index.configuration_differences(live.name)
        ]
        if live.mapping != self._index.mapping_version:
            faults.append(
                f"it is of mapping {live.mapping}, this program makes {self._index.mapping_version}"
            )
        keys = self._verifier.differences(
            live.name, lambda done: progress("compared", done, max(done, total))
        )
        if differing := list(islice(keys, MAX_NAMED_MESSAGES + 1)):
            faults.append(f"it does not hold every message as it is: {self._describe(differing)}")
        return IndexCheck(live.name, total, faults)

    def state(self) -> ReindexState:
        """How things stand; changes nothing, and Elasticsearch need not be there."""
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

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _alias(self) -> str:
        return self._index.installation_alias(self._database.installation.id)

    def _rejected_error(self, rejected: Sequence[RejectedDocument]) -> Failed:
        keys = [one.document[:2] for one in rejected]
        return Failed(
            f"can't be put into the new search index: {self._describe(keys)}; {rejected[0].reason};"
            " searches still read the old one",
            "edit or delete it, then `instachat reindex --resume`; `--abort` removes the new index",
        )

    def _describe(self, keys: Sequence[MessageKey]) -> str:
        """Messages as operators name them; of many the first."""
        with self._database.connect() as connection:
            parents = chats.chat_parents(connection, {chat for chat, _ in keys})
        named = []
        for chat_id, number in keys[:MAX_NAMED_MESSAGES]:
            token, chat = parents.get(chat_id, ("?", "?"))
            named.append(f"message {number} of chat {chat} of application {token}")
        return ", ".join([*named, "and more"] if len(keys) > MAX_NAMED_MESSAGES else named)


def disable_publishing(database: Database) -> bool:
    """Where PostgreSQL searches from now on: keep no index and note no changes; False if that was so.

    Elasticsearch is not touched: a later reindex tidies up. Raises Conflict while a reindex runs.
    """
    with _exclusive(database) as lock_connection:
        noted = outbox.is_publishing(lock_connection)
        if noted:
            with_publish_lock(database, unregister_all)
        return noted


@contextmanager
def _exclusive(database: Database) -> Iterator[Connection]:
    """Be the only one that reindexes; Conflict, naming the other, if there is one."""
    try:
        with locks.exclusive_reindex(database) as lock_connection:
            yield lock_connection
    except ReindexRunning as held:
        holder, since = held.holder
        since_text = f", since {since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if since else ""
        raise Conflict(
            f"a reindex is running already: {holder}{since_text}; nothing was changed",
            "wait for its end",
        ) from None


def _find_by_state(registered: Sequence[RegisteredIndex], state: str) -> RegisteredIndex | None:
    return next((one for one in registered if one.state == state), None)
