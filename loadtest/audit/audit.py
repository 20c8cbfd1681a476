"""The audit: compares every number that was answered with what the server stores, over HTTP, page by page.

The ledger and the server's list are both ordered by number, so one pass over both compares a chat in
constant memory. The audit compares each chat's list first, then the results of a search for the run's mark.
What the server has shown during the run is audited in `shown`.
It waits for stored messages to become searchable. If the server stores the messages of a chat in order, it
does not wait for one that is missing although later ones are stored; otherwise it waits for every one.
What a server can't do is left out: its counts are None then.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from loadtest.adapter.answers import ApiAnswer, ListedItem
from loadtest.adapter.operations import Operation
from loadtest.audit.ledger import AuditLedger, Expected
from loadtest.audit.shown import ShownAudit, audit_shown
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import Marks, digest
from loadtest.errors import Unreachable
from loadtest.polling import wait_until
from loadtest.recording import recorded_pages
from loadtest.report.result import Audit, ChatAudit
from loadtest.web import ApiClient

CONCURRENT_CHATS = 4
PATIENCE_SECONDS = 60.0  # for accepted messages to be stored, and for stored ones to be searchable
POLL_SECONDS = 0.25
MAX_EXAMPLES = 10

MAY_CHANGE = ("lost", "wrong_text", "undead")
"""Faults that a server which stores in any order may not have any more a moment later."""

Stored = Iterator[tuple[int, bytes]]  # number and digest
Examples = defaultdict[str, list[str]]  # in words, by the kind of fault


class _Compared(NamedTuple):
    """One number of a chat: what the ledger says about it, and the digest of the text that is stored.

    `copies` is how often the number is listed.
    """

    number: int
    entry: Expected | None
    actual: bytes | None
    copies: int


class _ListComparison(NamedTuple):
    """The counts of a chat, examples of faults in words, and whether a later list may have fewer faults."""

    counts: Counter[str]
    examples: Examples
    may_change: bool


class _SearchCounts(NamedTuple):
    """How many of the messages that must exist a search finds, of the deleted ones, and of other chats'."""

    required: int
    deleted: int
    leaked: int


def audit(
    client: ApiClient,
    folder: Path,
    fixtures: Fixtures,
    seed: int,
    patience: float = PATIENCE_SECONDS,
) -> Audit:
    """Compare the records of a run with the server, waiting at most `patience` seconds in all.

    Raises Unreachable if the server stops answering.
    """
    since = time.monotonic()
    ledger = AuditLedger(folder)
    shown = audit_shown(ledger, recorded_pages(folder))
    found = _Auditor(client, ledger, fixtures, seed, since + patience).audit_all(shown)
    return replace(found, seconds=round(time.monotonic() - since, 2))


class _Auditor:
    """Audits all chats of a run and adds up their counts."""

    def __init__(
        self, client: ApiClient, ledger: AuditLedger, fixtures: Fixtures, seed: int, deadline: float
    ) -> None:
        self._client, self._ledger, self._fixtures = client, ledger, fixtures
        self._keyword = Marks(seed, client.adapter.finds_words).keyword
        self._deadline = deadline
        self._searches = Operation.SEARCH in client.adapter
        self._counts: Counter[str] = Counter()
        self._examples: Examples = defaultdict(list)
        self._lock = threading.Lock()
        self._aborted = False

    def audit_all(self, shown: ShownAudit) -> Audit:
        """Audit every chat, several at once; returns that together with the audit of what was shown."""
        with ThreadPoolExecutor(CONCURRENT_CHATS) as pool:
            try:
                for done in [pool.submit(self._chat, *chat) for chat in self._ledger.chats()]:
                    done.result()
                applications = range(len(self._fixtures.tokens))
                chats = list(pool.map(self._application, applications))
            except BaseException:  # Ctrl-C, or a failed chat: the other chats need not be finished
                self._aborted, self._deadline = True, 0.0
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        total: Counter[str] = sum(chats, Counter())
        chat_audit = ChatAudit(**total)
        found = Audit(
            **self._counts,
            chats=chat_audit if self._lists_chats else replace(chat_audit, stored=None),
            pages=shown.pages,
            deliveries=shown.deliveries,
            followers=shown.followers,
            examples=[*_some_of_each(self._examples), *shown.examples],
        )
        return found if self._searches else replace(found, searchable=None)

    @property
    def _lists_chats(self) -> bool:
        return Operation.LIST_CHATS in self._client.adapter

    def _chat(self, application: int, chat: int) -> None:
        counts, examples, _ = self._compare_stored(application, chat)
        if self._searches:
            self._compare_found(application, chat, counts, examples)
        with self._lock:
            self._counts += counts
            for kind, lines in examples.items():
                self._examples[kind] += [f"application {application + 1}, {line}" for line in lines]

    def _compare_stored(self, application: int, chat: int) -> _ListComparison:
        """Compare the chat's list once it is complete, or the deadline is over."""
        if self._client.adapter.waits_by_reading:
            self._wait_stored(application, chat)
            return self._compare_list(application, chat)
        while True:
            compared = self._compare_list(application, chat)
            if not compared.may_change or self._aborted or time.monotonic() > self._deadline:
                return compared
            time.sleep(POLL_SECONDS)

    def _compare_found(
        self, application: int, chat: int, counts: Counter[str], examples: Examples
    ) -> None:
        """Add what a search for the run's marks finds, once that is complete or the deadline is over."""
        most = self._client.adapter.max_found
        expected = counts["stored"] if most is None else min(counts["stored"], most)
        while True:
            found = self._search(application, chat)
            complete = found.required >= expected and not found.deleted
            # What another chat's messages take of the places is not there for this chat's.
            crowded = most is not None and found.leaked
            if complete or crowded or time.monotonic() > self._deadline:
                break
            time.sleep(POLL_SECONDS)
        counts["searchable"] = found.required
        counts["unsearchable"] = 0 if crowded else max(expected - found.required, 0)
        counts["undead"] = max(counts["undead"], found.deleted)
        counts["leaked"] += found.leaked
        if counts["unsearchable"]:
            words = f"chat {chat}: {found.required:,} of {expected:,} found by searching"
            examples["unsearchable"].append(words)
        if found.deleted:
            words = f"chat {chat}: {found.deleted:,} found by searching though deleted"
            examples["undead"].append(words)
        if found.leaked:
            words = f"chat {chat}: {found.leaked:,} of other chats found by searching it"
            examples["leaked"].append(words)

    def _wait_stored(self, application: int, chat: int) -> None:
        """Wait until the chat's highest number is stored; the numbers below it are stored then, too."""
        highest, pending = self._ledger.highest(application, chat), self._client.adapter.pending
        if not highest:
            return

        def is_stored() -> bool:
            token = self._fixtures.tokens[application]
            place = {"token": token, "chat": chat, "number": highest}
            read = self._client.request(Operation.READ, place)
            return self._aborted or read.status not in pending

        wait_until(is_stored, self._deadline, pause=POLL_SECONDS / 10)

    def _compare_list(self, application: int, chat: int) -> _ListComparison:
        """Compare the ledger with the chat's list."""
        unknown, matched = self._ledger.unknown(application, chat), set[bytes]()
        counts: Counter[str] = Counter(unknown=len(unknown))
        examples: Examples = defaultdict(list)
        before, may_change = 0, False
        entries = self._ledger.expected(application, chat)
        for number, entry, actual, copies in _by_number(entries, self._list(application, chat)):
            counts["gaps"] += max(number - before - 1, 0)
            kind, count = "", max(copies - 1, 1)
            if entry:
                counts["answered"] += entry.required
                counts["deleted"] += not entry.allowed
                kind, count = _fault(entry, actual, copies), max(entry.answers - 1, count)
                counts["stored"] += entry.required and not kind
            elif actual in unknown and actual not in matched:
                matched.add(actual)
                counts["unknown_stored"] += 1
            elif actual:
                kind = "doubled" if self._ledger.was_sent(actual) else "unasked"
            if (
                actual
                and kind in ("doubled", "wrong_text")
                and self._is_foreign(application, chat, actual)
            ):
                kind = "leaked"
            if kind:
                counts[kind] += count
                # Pages shift while a message is stored, so one may be listed twice.
                may_change |= kind in MAY_CHANGE or (
                    copies > 1 and not (entry and entry.answers > 1)
                )
            of_kind = examples[kind]
            if (kind or number - before > 1) and len(of_kind) < MAX_EXAMPLES:
                of_kind.append(f"chat {chat}: number {number} {_in_words(kind, entry, copies)}")
            before = number
        return _ListComparison(counts, examples, may_change)

    def _is_foreign(self, application: int, chat: int, actual: bytes) -> bool:
        """Whether a text was sent, but only to other chats."""
        chats = self._ledger.sent_to(actual)
        return bool(chats) and (application, chat) not in chats

    def _search(self, application: int, chat: int) -> _SearchCounts:
        required = deleted = 0
        leaked = set[bytes]()

        def own() -> Stored:
            for number, actual in self._list(application, chat, self._keyword):
                if self._is_foreign(application, chat, actual):
                    leaked.add(actual)
                else:
                    yield number, actual

        for _, entry, actual, _ in _by_number(self._ledger.expected(application, chat), own()):
            if entry and actual:
                required += entry.required and actual in entry.texts
                deleted += not entry.allowed and entry.answers == 1
        return _SearchCounts(required, deleted, len(leaked))

    def _application(self, application: int) -> Counter[str]:
        """Compare the chats of an application by their numbers; there are few enough to hold in memory."""
        answered, lost_answers = self._ledger.chat_numbers(application)
        if not self._lists_chats:
            return Counter(
                answered=len(answered),
                doubled=sum(answered.values()) - len(answered),
                gaps=max(max(answered, default=0) - len(answered) - lost_answers, 0),
            )
        token = self._fixtures.tokens[application]
        stored = {item.number for item in self._all(Operation.LIST_CHATS, token=token)}
        extra = stored - answered.keys()
        everything = stored | answered.keys()
        return Counter(
            answered=len(answered),
            stored=len(stored & answered.keys()),
            lost=len(answered.keys() - stored),
            doubled=sum(answered.values()) - len(answered) + max(len(extra) - lost_answers, 0),
            gaps=max(everything, default=0) - len(everything),
        )

    def _list(self, application: int, chat: int, keyword: str | None = None) -> Stored:
        token = self._fixtures.tokens[application]
        if keyword is None:
            items = self._all(Operation.LIST, token=token, chat=chat)
        else:
            items = self._all(Operation.SEARCH, token=token, chat=chat, keyword=keyword)
        for number, text in items:
            yield number, digest(text)

    def _all(self, operation: Operation, **values: object) -> Iterator[ListedItem]:
        """Everything that the server lists, until the audit is aborted. Raises Unreachable."""

        def may_retry(answer: ApiAnswer) -> bool:
            if time.monotonic() > self._deadline and not self._aborted:
                raise Unreachable(
                    f"{self._client.host} does not list its messages (status {answer.status}):"
                    " the audit could not be made"
                )
            time.sleep(POLL_SECONDS)
            return not self._aborted

        for item in self._client.list_all(operation, may_retry, **values):
            if self._aborted:
                return
            yield item


def _some_of_each(examples: Examples) -> list[str]:
    """At most MAX_EXAMPLES, in the order of chats for each kind; no kind takes the places of another."""
    ordered = [sorted(lines) for _, lines in sorted(examples.items())]
    in_turns = [line for lines in zip_longest(*ordered) for line in lines if line]
    return sorted(in_turns[:MAX_EXAMPLES])


def _fault(entry: Expected, actual: bytes | None, copies: int) -> str:
    """The kind of fault of a number that was answered; empty if there is none."""
    if entry.answers > 1:  # it cannot be known whose message is stored, and whose was deleted
        return "doubled"
    if actual is None:
        return "lost" if entry.required else ""
    if not entry.allowed:
        return "undead"
    if actual not in entry.texts:
        return "wrong_text"
    return "doubled" if copies > 1 else ""


def _in_words(kind: str, entry: Expected | None, copies: int) -> str:
    """A fault of a number, or a gap before it."""
    if kind == "doubled" and entry and entry.answers > 1:
        return f"was answered to {entry.answers:,} messages"
    if kind == "doubled" and copies > 1:
        return f"is stored {copies:,} times"
    if kind == "leaked":
        return "has the text of another chat"
    return kind.replace("_", " ") or "follows a gap"


def _by_number(entries: Iterable[Expected], stored: Stored) -> Iterator[_Compared]:
    """Merge the ledger and the server's list, both ordered by number; yields each number once.

    Of a number that is listed several times, the text is one that the ledger expects, if there is one.
    """
    entry_iterator, listed = iter(entries), groupby(stored, key=itemgetter(0))
    entry, actual = next(entry_iterator, None), next(listed, None)
    while entry or actual:
        if actual is None or (entry and entry.number < actual[0]):
            assert entry
            yield _Compared(entry.number, entry, None, 0)
            entry = next(entry_iterator, None)
            continue
        number, texts = actual[0], [text for _, text in actual[1]]
        if entry is None or number < entry.number:
            yield _Compared(number, None, texts[0], len(texts))
        else:
            known = (text for text in texts if text in entry.texts)
            yield _Compared(number, entry, next(known, texts[0]), len(texts))
            entry = next(entry_iterator, None)
        actual = next(listed, None)
