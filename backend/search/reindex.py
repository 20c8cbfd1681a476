"""Reindex: another search index, built beside the live one; searches turn to it from one moment to the next.

    keep      SQL names the new index; from here on whatever changes is written to it, too
    copy      all rows, page by page in the order of their keys; SQL remembers how far it has come
    compare   the version of every row with that of every document
    turn      publishing pauses for a moment, the alias and SQL change, publishing goes on
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

from sqlalchemy import Connection

from backend.domain.errors import Conflict, Failed, InstaChatError, Unavailable
from backend.search.alias_swap import Turner, forget, forget_all, under_flag
from backend.search.index_verifier import Parity
from backend.search.publish import Publisher
from backend.storage.elasticsearch.index import (
    MAPPING,
    Document,
    Index,
    Rejected,
    alias_of_installation,
    new_name,
)
from backend.storage.postgres import Database, outbox, reindex_state, search_indices
from backend.storage.postgres.reindex_state import Held, Key
from backend.storage.postgres.search_indices import KeptIndex

PAGE = 2_500  # rows; as many documents as one bulk takes
BULKS_AT_ONCE = 2  # while Elasticsearch works on one, the next is made
NAMED = 5  # of many differences
REINDEXED_WITHIN = 2.0  # a page of one, when the worker ends
logger = logging.getLogger(__name__)

Tell = Callable[[str, int, int], object]
"""Called now and then with `copied` or `compared`, how many messages are, and how many there are to be."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a reindex has made: `name` is searched now, and `previous`, if any, is kept beside it."""

    name: str
    messages: int
    previous: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found of the live index; it fits if there are no `faults`."""

    name: str | None
    messages: int
    faults: list[str]


class Outlook(NamedTuple):
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

    def __init__(self, database: Database, index: Index, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher
        self._parity = Parity(database, index, publisher)
        self._turner = Turner(database, index, publisher)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have a build under way raise Unavailable after its page, and begin no other; it can be resumed."""
        self._stopping.set()

    # -- building ----------------------------------------------------------------------------------

    def build(
        self, *, resume: bool = False, anew: bool = True, tell: Tell = lambda *_: None
    ) -> Built | None:
        """Build an index of all messages and have searches read it.

        `resume` goes on with one that was interrupted; otherwise such a one is a Conflict. With `anew` off
        none is begun beside a live one: then None where there is nothing to resume. Raises Failed if a
        message can't be put into it, or differs in the end: searches stay as they are, and so does what was
        built.
        """
        with _only_one(self._database) as mine:
            name = self._begin(mine, resume=resume, anew=anew)
            if name is None:
                return None
            messages = self._copy(mine, name, tell)
            self._compare(name, messages, tell)
            reindex_state.reached(mine, name)  # raises if the lock was lost with its connection
            previous = self._turner.turn(name)
            logger.info("searches read %s", name)
            self._tidy()
            return Built(name, messages, previous)

    def _begin(self, mine: Connection, *, resume: bool, anew: bool) -> str | None:
        """The name of the index to fill, kept and made."""
        kept = search_indices.indices(mine)
        left = _in_state(kept, "building")
        if left and not resume:
            raise Conflict(
                "a reindex was interrupted; what it was building is still there, and written to",
                "`instachat reindex --resume` goes on with it, `instachat reindex --abort` removes it",
            )
        if left and left.mapping != MAPPING:
            raise Conflict(
                f"what was being built is of mapping {left.mapping}, this program makes {MAPPING}",
                "`instachat reindex --abort` removes it; then `instachat reindex` begins anew",
            )
        if not left and not anew and _in_state(kept, "live"):
            return None
        found = self._index.found(self._alias)  # nothing is begun while Elasticsearch is away
        if left and left.made and not found.get(left.name):
            raise Failed(
                f"what was being built, {left.name}, is not in Elasticsearch any more",
                "`instachat reindex --abort`, then `instachat reindex` begins anew",
            )
        name = left.name if left else new_name(self._database.installation.id)
        self._keep(name, found)
        self._index.create(name)
        with self._database.begin() as tx:
            search_indices.mark_made(tx, name)
        return name

    def _keep(self, name: str, found: Mapping[str, bool]) -> None:
        """Have all that changes from now on written to this index; one that is lost is kept no longer."""

        def keep(tx: Connection) -> None:
            kept = search_indices.indices(tx)
            for one in kept:
                if one.made and not found.get(one.name):
                    logger.warning("the %s search index %s is lost", one.state, one.name)
                    search_indices.forget_index(tx, one.name)
            if name not in {one.name for one in kept}:
                search_indices.add_index(tx, name, "building", MAPPING)
            search_indices.set_publishing(tx, True)

        under_flag(self._database, keep)

    def _copy(self, mine: Connection, name: str, tell: Tell) -> int:
        """Write all rows behind the checkpoint; returns how many there are altogether."""
        reached = reindex_state.reached(mine, name)
        done, total = reindex_state.count(mine, reached)
        under_way: deque[tuple[list[Document], Future[list[Rejected]]]] = deque()

        def finish_one() -> None:
            nonlocal done
            page, written = under_way.popleft()
            if rejected := written.result():
                raise self._not_indexed(rejected)
            if not reindex_state.reach(mine, name, page[-1][:2]):
                raise Failed(
                    f"{name}, which was being built, is not kept any more: somebody has deleted it",
                    "`instachat reindex` begins anew",
                )
            done += len(page)
            tell("copied", done, max(done, total))

        with ThreadPoolExecutor(BULKS_AT_ONCE, thread_name_prefix="reindex") as pool:
            for page in self._pages(reached):
                under_way.append((page, pool.submit(self._index.write, name, page)))
                if len(under_way) > BULKS_AT_ONCE:
                    finish_one()
            while under_way:
                finish_one()
        return done

    def _pages(self, after: Key) -> Iterator[list[Document]]:
        while True:
            self._go_on()
            with self._database.connect() as connection:
                rows = reindex_state.copied(connection, after, PAGE)
            page = list(map(Document._make, rows))
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1][:2]

    def _compare(self, name: str, total: int, tell: Tell) -> None:
        def went(done: int) -> None:
            self._go_on()
            tell("compared", done, max(done, total))

        if differing := list(islice(self._parity.differences(name, went), NAMED + 1)):
            raise Failed(
                f"not all messages are in the new search index as they are: {self._names(differing)};"
                " searches still read the old one",
                "see `instachat dead list` for what Elasticsearch refused; `instachat reindex --abort`"
                " removes the new one",
            )

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise Unavailable(
                "the reindex was told to stop", "`instachat reindex --resume` goes on with it"
            )

    # -- going back --------------------------------------------------------------------------------

    def rollback(self) -> str:
        """Have searches read the index before the live one, which becomes the one before; returns its name.

        Nothing written since is missing there. Raises Failed if there is none that could be searched.
        """
        with _only_one(self._database) as mine:
            kept = _in_state(search_indices.indices(mine), "previous")
            if kept is None:
                raise Failed(
                    "there is no search index to go back to", "`instachat reindex` builds another"
                )
            if kept.mapping != MAPPING:
                raise Failed(
                    f"the index before is of mapping {kept.mapping}, and this program searches {MAPPING}",
                    "roll back with the program that made it",
                )
            if not self._index.found(self._alias).get(kept.name):
                raise Failed(
                    f"the index before, {kept.name}, is not in Elasticsearch any more",
                    "`instachat reindex` builds another",
                )
            self._turner.turn(kept.name)
            return kept.name

    # -- removing ----------------------------------------------------------------------------------

    def abort(self) -> str | None:
        """Remove what an interrupted reindex was building; returns its name, None if there is nothing.

        Where no index is left then, changes are no longer noted for one.
        """
        with _only_one(self._database) as mine:
            kept = search_indices.indices(mine)
            left, live = _in_state(kept, "building"), _in_state(kept, "live")
            if left is not None:
                if live and self._index.found(self._alias).get(live.name):
                    # A crash may have left the alias on the other.
                    self._turner.turn_back(live.name)
                under_flag(self._database, lambda tx: forget(tx, left.name))
            self._tidy()
            return left and left.name

    def _tidy(self) -> None:
        """Remove what SQL does not keep from Elasticsearch; what can't be removed now is, the next time."""
        try:
            # First what is there: none that is kept from now on is among it.
            found = self._index.found(self._alias)
            with self._database.connect() as connection:
                kept = {one.name for one in search_indices.indices(connection)}
            for name in sorted(found.keys() - kept):
                self._index.drop(name)
                logger.info("removed the search index %s", name)
        except InstaChatError as error:
            logger.warning("%s; old search indices stay until the next reindex", error.message)

    # -- checking ----------------------------------------------------------------------------------

    def check(self, *, tell: Tell = lambda *_: None) -> Checked:
        """Whether the live index is of this program's mapping and holds all messages as they are.

        What waits to become searchable is published first.
        """
        with self._database.connect() as connection:
            live = search_indices.live_index(connection)
            _, total = reindex_state.count(connection, reindex_state.FIRST)
        if live is None:
            return Checked(None, total, ["there is no search index"] if total else [])
        if not live.made:
            self._publisher.settle()  # which makes it, if there is anything to publish
        if not self._index.found(self._alias).get(live.name):
            lost = live.made or total
            return Checked(live.name, total, ["it is not in Elasticsearch"] if lost else [])
        faults = [f"{path} is not this program's" for path in self._index.misfits(live.name)]
        if live.mapping != MAPPING:
            faults.append(f"it is of mapping {live.mapping}, this program makes {MAPPING}")
        keys = self._parity.differences(
            live.name, lambda done: tell("compared", done, max(done, total))
        )
        if differing := list(islice(keys, NAMED + 1)):
            faults.append(f"it does not hold every message as it is: {self._names(differing)}")
        return Checked(live.name, total, faults)

    def outlook(self) -> Outlook:
        """How things stand; changes nothing, and Elasticsearch need not be there."""
        with self._database.connect() as connection:
            names = {one.state: one.name for one in search_indices.indices(connection)}
            building = names.get("building")
            reached = (
                reindex_state.reached(connection, building) if building else reindex_state.FIRST
            )
            copied, total = reindex_state.count(connection, reached)
        return Outlook(names.get("live"), building, names.get("previous"), total, copied)

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _alias(self) -> str:
        return alias_of_installation(self._database.installation.id)

    def _not_indexed(self, rejected: Sequence[Rejected]) -> Failed:
        keys = [one.document[:2] for one in rejected]
        return Failed(
            f"can't be put into the new search index: {self._names(keys)}; {rejected[0].reason};"
            " searches still read the old one",
            "edit or delete it, then `instachat reindex --resume`; `--abort` removes the new index",
        )

    def _names(self, keys: Sequence[Key]) -> str:
        """Messages as operators name them; of many the first."""
        with self._database.connect() as connection:
            parents = outbox.parents(connection, {chat for chat, _ in keys})
        named = []
        for chat_id, number in keys[:NAMED]:
            token, chat = parents.get(chat_id, ("?", "?"))
            named.append(f"message {number} of chat {chat} of application {token}")
        return ", ".join([*named, "and more"] if len(keys) > NAMED else named)


class Builder:
    """A thread that reindexes when asked to, so that no drain waits for it."""

    def __init__(self, reindexer: Reindexer, asked: threading.Event) -> None:
        self._reindexer = reindexer
        self._asked = asked
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reindex", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the page under way; what is built by then is gone on with when it is asked for again."""
        self._stopping.set()
        self._reindexer.stop()
        self._asked.set()
        self._thread.join(REINDEXED_WITHIN)

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._stopping.is_set():
                return
            try:
                logger.info("reindexing, as asked")
                self._reindexer.build(resume=True)
            except InstaChatError as error:
                logger.warning("%s%s", error.message, f"; {error.hint}" if error.hint else "")
            except Exception:
                logger.exception("the reindex failed")


def end_publishing(database: Database) -> bool:
    """Where PostgreSQL searches from now on: keep no index and note no changes; False if that was so.

    Elasticsearch is not touched: a later reindex tidies up. Raises Conflict while a reindex runs.
    """
    with _only_one(database) as mine:
        noted = outbox.publishing(mine)
        if noted:
            under_flag(database, forget_all)
        return noted


@contextmanager
def _only_one(database: Database) -> Iterator[Connection]:
    """Be the only one that reindexes; Conflict, naming the other, if there is one."""
    try:
        with reindex_state.only_one(database) as mine:
            yield mine
    except Held as held:
        who, since = held.holder
        begun = f", since {since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if since else ""
        raise Conflict(
            f"a reindex is running already: {who}{begun}; nothing was changed", "wait for its end"
        ) from None


def _in_state(kept: Sequence[KeptIndex], state: str) -> KeptIndex | None:
    return next((one for one in kept if one.state == state), None)
