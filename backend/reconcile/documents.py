"""Documents: the index beside SQL, message by message, for `reconcile`.

At every moment a message's document is its row's latest version, or the outbox names it. So what differs
and is not in the outbox is wrong:

missing_document   a message that can be read has no document: no search finds it.
stale_document     it has one of another version (older: a search looks for a text that is gone; newer: SQL
                   was put back to an older copy), or one that says removed.
ghost_document     a document of a message that is removed or was rejected, or whose parent is removed.
missing_row        a document without row or tombstone, or whose row says `lost`: SQL has lost it. It is all
                   that is left of the message, so nothing repairs it, least of all by deleting it.

Repair names the first three in the outbox again, at a version above all that was, and publishes. That a
document of the right version has the wrong text can't be seen: the index does not keep texts.

Both sides are walked in the order of (chat, number), which is that of SQL's primary key and of the index
itself: a snapshot here, a point in time there. What changed in between differs, too, hence each difference
is looked at again: the document, then the row and the outbox in one snapshot, then the document. Versions
only grow, so one that is the same before and after was so at the moment of the snapshot.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from backend.domain.errors import Unavailable
from backend.domain.model import MessageKey
from backend.reconcile.findings import Finding, ReconcileSummary
from backend.search.publish import Publisher
from backend.storage.postgres import chats, message_states, search_indices
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.message_states import MessageFacts
from backend.storage.search_index import DocumentState, SearchIndex

CONFIRM_BATCH_SIZE = 500  # differences that are looked at again together
CHATS_PER_BATCH = 500  # of one application
MAX_ATTEMPTS = 20

MessageState = tuple[int, int, int, bool]  # chat id, number, version, shown
_AFTER_ALL: MessageState = (1 << 63, 0, 0, False)


class DocumentReconciler:
    """Compares the index that searches read with SQL. Thread-safe."""

    def __init__(self, database: Database, index: SearchIndex, publisher: Publisher) -> None:
        self._database = database
        self._index = index
        self._publisher = publisher

    def compare(
        self,
        snapshot: Connection,
        token: str | None,
        summary: ReconcileSummary,
        progress: Callable[[], None],
        *,
        repair: bool,
    ) -> Iterator[Finding]:
        """Compare all documents, or those of one application; repair what was found after it was told.

        Where there is no index yet, nothing is compared. Raises IndexMissing where there should be one,
        EngineDown or Unavailable as Elasticsearch is.
        """
        self._index.version()  # away is away, also where there is no index to compare
        live = search_indices.live_index(snapshot)
        if live is None or not live.made:
            return
        summary.documents = 0
        for chat_ids in self._chat_batches(snapshot, token):
            rows = message_states.iter_states(snapshot, chat_ids)
            documents = self._iter_documents(live.name, chat_ids, summary, progress)
            differing = _differing_keys(rows, documents)
            unexplained = _skip_pending(
                differing, message_states.iter_unpublished(snapshot), summary
            )
            while batch := list(islice(unexplained, CONFIRM_BATCH_SIZE)):
                yield from self._confirm(live.name, batch, repair=repair)

    def _chat_batches(self, snapshot: Connection, token: str | None) -> Iterator[list[int] | None]:
        """The chats to compare at a time; None is all of them."""
        if token is None:
            yield None
            return
        ids = chats.list_chat_ids(snapshot, token)
        for start in range(0, len(ids), CHATS_PER_BATCH):
            yield ids[start : start + CHATS_PER_BATCH]

    def _iter_documents(
        self,
        name: str,
        chat_ids: Sequence[int] | None,
        summary: ReconcileSummary,
        progress: Callable[[], None],
    ) -> Iterator[MessageState]:
        assert summary.documents is not None
        for page in self._index.iter_states(name, chat_ids):
            yield from page
            summary.documents += len(page)
            progress()

    def _confirm(self, name: str, keys: Sequence[MessageKey], *, repair: bool) -> Iterator[Finding]:
        """What still differs, of documents that stayed as they are while SQL was looked at."""
        for _ in range(MAX_ATTEMPTS):
            before = self._index.read_states(name, keys)
            with self._database.connect() as connection:
                facts = message_states.load_facts(connection, keys)
            after = self._index.read_states(name, keys)
            unchanged = [key for key in keys if before.get(key) == after.get(key)]
            to_republish: list[tuple[int, int, int]] = []
            for key in unchanged:
                document = after.get(key)
                finding = _check_document(key, facts[key], document)
                if finding:
                    yield finding
                    if finding.repairable:
                        # A document that somebody deleted has left its version behind for a while.
                        found = document.version if document else 0
                        to_republish.append((*key, max(found, facts[key].version or 0)))
            if repair and to_republish:
                self._republish(to_republish)
            changed = set(keys) - set(unchanged)
            keys = [key for key in keys if key in changed]
            if not keys:
                return
        raise Unavailable("some messages change faster than they can be compared", "try again")

    def _republish(self, to_republish: Sequence[tuple[int, int, int]]) -> None:
        with self._database.begin() as tx:
            message_states.republish(tx, to_republish)
        self._publisher.publish()


def _differing_keys(
    rows: Iterable[MessageState], documents: Iterator[MessageState]
) -> Iterator[MessageKey]:
    """The keys of which the two sides, each in order, say something that does not go together."""
    document = next(documents, _AFTER_ALL)
    for row in rows:
        if row == document:  # nearly always
            document = next(documents, _AFTER_ALL)
            continue
        key = row[:2]
        while document[:2] < key:
            if document[3]:
                yield document[:2]
            document = next(documents, _AFTER_ALL)
        there = document[:2] == key
        # The tombstone of what can't be read may have any version, or be missing.
        if row[3] or (there and document[3]):
            yield key
        if there:
            document = next(documents, _AFTER_ALL)
    for rest in chain([document], documents):
        if rest[3]:
            yield rest[:2]


def _skip_pending(
    keys: Iterable[MessageKey], pending: Iterator[MessageKey], summary: ReconcileSummary
) -> Iterator[MessageKey]:
    """Those of the keys that are not pending; both sides are in order."""
    waiting = next(pending, _AFTER_ALL[:2])
    for key in keys:
        while waiting < key:
            waiting = next(pending, _AFTER_ALL[:2])
        if waiting == key:
            summary.pending += 1
        else:
            yield key


def _check_document(
    key: MessageKey, fact: MessageFacts, document: DocumentState | None
) -> Finding | None:
    """What is wrong with a message's document, if anything is."""
    shown = document is not None and document.alive
    if fact.is_pending:
        return None
    if fact.shown:
        if document is None:
            kind, detail = "missing_document", "a message without a document: no search finds it"
        elif not document.alive:
            kind, detail = "stale_document", "the document says removed, the message is there"
        elif document.version != fact.version:
            age = "older" if document.version < (fact.version or 0) else "newer"
            kind, detail = "stale_document", f"the document is {age} than the message"
        else:
            return None
    elif not shown:
        return None
    elif fact.lost or (fact.version is None and (fact.chat_shown or fact.chat is None)):
        detail = "a document without a row: it is all that is left of the message"
        return Finding("missing_row", fact.token, fact.chat, key[1], detail, False)
    elif fact.chat is None:
        return None  # the row is an orphan, and told of as such
    else:
        kind, detail = "ghost_document", "a document of what is removed or was never stored"
    return Finding(kind, fact.token, fact.chat, key[1], detail, True)
