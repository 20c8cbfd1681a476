"""Compares the documents of the index with SQL, message by message.

At every moment a message's document has the version of its row, or the outbox names the message, or the
index has rejected it. So a difference that the outbox does not explain is a finding. The index does not
return texts, so a document of the right version with a wrong text goes unnoticed.

Both sides are walked in the order of (chat, number), the primary key in SQL and the sort order of the index:
SQL in a snapshot, the index at a point in time. A message that changed between the two differs as well, so
each difference is confirmed: the document is read, then the row and the outbox in one snapshot, then the
document again. Versions only grow, so a document that is the same in both reads was so during the snapshot.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

from backend.domain.errors import Unavailable
from backend.domain.model import MessageKey
from backend.reconcile.comparison import CheckResults, Comparison
from backend.reconcile.findings import Finding, FindingKind, ReconcileSummary, new_finding
from backend.reconcile.repair import Republish
from backend.search import index_walk
from backend.storage.postgres import chats, message_states, search_indices
from backend.storage.postgres.database import Connection
from backend.storage.postgres.message_states import MessageFacts
from backend.storage.search_index import DocumentState, DocumentVersion, PlainState, SearchIndex

CONFIRM_BATCH_SIZE = 500  # differences that are confirmed together
CHATS_PER_BATCH = 500  # of one application
MAX_ATTEMPTS = 20
_AFTER_ALL: MessageKey = (1 << 63, 0)


def check_documents(comparison: Comparison, snapshot: Connection) -> CheckResults:
    """Compare the index that searches read with SQL: all messages, or those of one application.

    Compares nothing without Elasticsearch, or before the first index exists. Raises IndexUnusable if the
    index can't be read, or what is published does not reach it; EngineDown or Unavailable as Elasticsearch
    is.
    """
    index = comparison.index
    if index is None:
        return
    index.version()  # raises EngineDown, also where there is no index to compare
    live = search_indices.live_index(snapshot)
    if live is None or not live.made:
        return
    index.check_usable(live.name)
    comparison.summary.documents = 0
    for chat_ids in _chat_batches(snapshot, comparison.token):
        differing = _differing_keys(comparison, index, live.name, snapshot, chat_ids)
        pending = message_states.iter_unpublished(snapshot)
        unexplained = _skip_pending(differing, pending, comparison.summary)
        while batch := list(islice(unexplained, CONFIRM_BATCH_SIZE)):
            yield from _confirm(comparison, index, live.name, batch)


def _chat_batches(snapshot: Connection, token: str | None) -> Iterator[list[int] | None]:
    """The ids of the chats to compare together; None stands for all chats."""
    if token is None:
        yield None
        return
    ids = chats.list_chat_ids(snapshot, token)
    for start in range(0, len(ids), CHATS_PER_BATCH):
        yield ids[start : start + CHATS_PER_BATCH]


def _differing_keys(
    comparison: Comparison,
    index: SearchIndex,
    name: str,
    snapshot: Connection,
    chat_ids: Sequence[int] | None,
) -> Iterator[MessageKey]:
    """The keys at which the two sides differ at first sight, in order."""
    summary = comparison.summary
    assert summary.documents is not None
    row_pages = index_walk.split_pages(message_states.iter_states(snapshot, chat_ids))
    with (
        index.point_in_time(name, chat_ids) as read_documents,
        closing(index_walk.paired_pages(row_pages, read_documents)) as pages,
    ):
        for rows, documents in pages:
            if rows != documents:
                yield from _differing_in_page(rows, documents)
            summary.documents += len(documents)
            comparison.progress()


def _differing_in_page(
    rows: Sequence[PlainState], documents: Sequence[PlainState]
) -> list[MessageKey]:
    """The keys at which two lists differ, unless neither side shows the message.

    The tombstone of a message that is not shown may have any version, or be missing.
    """
    return sorted({state[:2] for state in set(rows) ^ set(documents) if state[3]})


def _skip_pending(
    keys: Iterable[MessageKey], pending: Iterator[MessageKey], summary: ReconcileSummary
) -> Iterator[MessageKey]:
    """The keys that are not pending; both sides are in order."""
    waiting = next(pending, _AFTER_ALL)
    for key in keys:
        while waiting < key:
            waiting = next(pending, _AFTER_ALL)
        if waiting == key:
            summary.pending += 1
        else:
            yield key


def _confirm(
    comparison: Comparison, index: SearchIndex, name: str, keys: Sequence[MessageKey]
) -> CheckResults:
    """Compare messages again, until each document was the same before and after its row was read."""
    for _ in range(MAX_ATTEMPTS):
        before = index.read_states(name, keys)
        with comparison.database.connect() as connection:
            facts = message_states.load_facts(connection, keys)
        after = index.read_states(name, keys)
        unchanged = [key for key in keys if before.get(key) == after.get(key)]
        to_republish: list[DocumentVersion] = []
        for key in unchanged:
            document = after.get(key)
            finding = _check_document(key, facts[key], document)
            if finding:
                yield finding
                if finding.repairable:
                    # Elasticsearch remembers the version of a deleted document for a while.
                    found = document.version if document else 0
                    to_republish.append((*key, max(found, facts[key].version or 0)))
        if to_republish:
            yield Republish(to_republish)
        changed = set(keys) - set(unchanged)
        keys = [key for key in keys if key in changed]
        if not keys:
            return
    raise Unavailable("some messages change faster than they can be compared", "try again")


def _check_document(
    key: MessageKey, fact: MessageFacts, document: DocumentState | None
) -> Finding | None:
    """The difference between a message and its document, if there is one."""

    def finding(kind: FindingKind, detail: str) -> Finding:
        if fact.dead_letter is not None:
            detail += f"; the index has rejected the message: dead letter {fact.dead_letter}"
        return new_finding(kind, detail, token=fact.token, chat=fact.chat, number=key[1])

    if fact.is_pending:
        return None
    if fact.shown:
        if document is None:
            return finding(
                FindingKind.MISSING_DOCUMENT, "a message without a document in the index"
            )
        if not document.alive:
            return finding(
                FindingKind.STALE_DOCUMENT, "the document says removed, the message exists"
            )
        if document.version == fact.version:
            return None
        age = "older" if document.version < (fact.version or 0) else "newer"
        return finding(FindingKind.STALE_DOCUMENT, f"the document is {age} than the message")
    if document is None or not document.alive:
        return None
    if fact.lost or (fact.version is None and (fact.chat_shown or fact.chat is None)):
        return finding(
            FindingKind.MISSING_ROW,
            "a document without a row: it is all that is left of the message",
        )
    if fact.chat is None:
        return None  # the row is an orphan, which its own check reports
    return finding(
        FindingKind.GHOST_DOCUMENT, "a document of a message that is removed or was never stored"
    )
