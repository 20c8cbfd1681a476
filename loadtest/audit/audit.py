"""The audit: compares every number that was answered with what the server stores, over HTTP, page by page.

The ledger and the server's list are both ordered by number, so one pass over both compares a chat in
constant memory. The audit compares each chat's list first, then the results of a search for the run's mark.
What the server has shown during the run is audited in `shown`.
It waits for stored messages to become searchable. It does not wait for a message that is missing although
later ones are stored.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from loadtest.audit.ledger import AuditLedger, Expected
from loadtest.audit.shown import ShownAudit, audit_shown
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import digest, mark_prefix
from loadtest.errors import Unreachable, Unusable
from loadtest.polling import wait_until
from loadtest.recording import recorded_pages
from loadtest.report.result import Audit, ChatAudit
from loadtest.web import ApiClient, messages_path

CONCURRENT_CHATS = 4
PAGE_SIZE = 200
PATIENCE_SECONDS = 60.0  # for accepted messages to be stored, and for stored ones to be searchable
POLL_SECONDS = 0.25
MAX_EXAMPLES = 10

Stored = Iterator[tuple[int, bytes]]  # number and digest


class _Compared(NamedTuple):
    """One number of a chat: what the ledger says about it, and the digest of the text that is stored."""

    number: int
    entry: Expected | None
    actual: bytes | None


class _SearchCounts(NamedTuple):
    """How many of the messages that must exist a search finds, and how many of the deleted ones."""

    required: int
    deleted: int


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
        self._mark_prefix, self._deadline = mark_prefix(seed), deadline
        self._counts: Counter[str] = Counter()
        self._examples: list[str] = []
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
        return Audit(
            **self._counts,
            chats=ChatAudit(**total),
            pages=shown.pages,
            deliveries=shown.deliveries,
            followers=shown.followers,
            examples=[*sorted(self._examples)[:MAX_EXAMPLES], *shown.examples],
        )

    def _chat(self, application: int, chat: int) -> None:
        self._wait_stored(application, chat)
        counts, examples = self._compare_list(application, chat)
        while True:
            found = self._search(application, chat)
            complete = found.required >= counts["stored"] and not found.deleted
            if complete or time.monotonic() > self._deadline:
                break
            time.sleep(POLL_SECONDS)
        counts["searchable"] = found.required
        counts["unsearchable"] = max(counts["stored"] - found.required, 0)
        counts["undead"] = max(counts["undead"], found.deleted)
        if counts["unsearchable"]:
            examples.append(
                f"chat {chat}: {found.required:,} of {counts['stored']:,} found by searching"
            )
        if found.deleted:
            examples.append(f"chat {chat}: {found.deleted:,} found by searching though deleted")
        with self._lock:
            self._counts += counts
            self._examples += [f"application {application + 1}, {line}" for line in examples]

    def _wait_stored(self, application: int, chat: int) -> None:
        """Wait until the chat's highest number is stored; the numbers below it are stored then, too."""
        highest = self._ledger.highest(application, chat)
        if highest:
            path = messages_path(self._fixtures.tokens[application], chat, highest)
            wait_until(
                lambda: self._aborted or self._client.request("GET", path).status != 202,
                self._deadline,
                pause=POLL_SECONDS / 10,
            )

    def _compare_list(self, application: int, chat: int) -> tuple[Counter[str], list[str]]:
        """Compare the ledger with the chat's list; returns the counts, and examples of faults in words."""
        unknown, matched = self._ledger.unknown(application, chat), set[bytes]()
        counts: Counter[str] = Counter(unknown=len(unknown))
        examples: list[str] = []
        before = 0
        entries = self._ledger.expected(application, chat)
        for number, entry, actual in _by_number(entries, self._list(application, chat)):
            counts["gaps"] += max(number - before - 1, 0)
            kind = ""
            if entry:
                counts["answered"] += entry.required
                counts["deleted"] += not entry.allowed
                kind = _fault(entry, actual)
                counts["stored"] += entry.required and not kind
            elif actual in unknown and actual not in matched:
                matched.add(actual)
                counts["unknown_stored"] += 1
            elif actual:
                kind = "doubled" if self._ledger.was_sent(actual) else "unasked"
            if kind:
                counts[kind] += max(entry.answers - 1, 1) if entry else 1
            if (kind or number - before > 1) and len(examples) < MAX_EXAMPLES:
                examples.append(
                    f"chat {chat}: number {number} {kind.replace('_', ' ') or 'follows a gap'}"
                )
            before = number
        return counts, examples

    def _search(self, application: int, chat: int) -> _SearchCounts:
        required = deleted = 0
        entries = self._ledger.expected(application, chat)
        found = self._list(application, chat, self._mark_prefix)
        for _, entry, actual in _by_number(entries, found):
            if entry and actual:
                required += entry.required and actual in entry.texts
                deleted += not entry.allowed and entry.answers == 1
        return _SearchCounts(required, deleted)

    def _application(self, application: int) -> Counter[str]:
        """Compare the chats of an application by their numbers; there are few enough to hold in memory."""
        answered, lost_answers = self._ledger.chat_numbers(application)
        path = f"/applications/{self._fixtures.tokens[application]}/chats"
        stored = {number for number, _ in self._pages(path)}
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
        path = messages_path(self._fixtures.tokens[application], chat)
        for number, text in self._pages(path, keyword):
            yield number, digest(text)

    def _pages(self, path: str, keyword: str | None = None) -> Iterator[tuple[int, str]]:
        """The items of all pages, as number and text."""
        after = 0
        while not self._aborted:
            query = f"?limit={PAGE_SIZE}&after={after}" + (f"&keyword={keyword}" if keyword else "")
            answer = self._client.request("GET", path + query)
            if answer.status == 404:  # the chat does not exist, so nothing in it is stored
                return
            if answer.status != 200:
                if time.monotonic() > self._deadline:
                    raise Unreachable(
                        f"{self._client.host} does not list its messages (status {answer.status}):"
                        " the audit could not be made"
                    )
                time.sleep(POLL_SECONDS)
                continue
            for item in answer.body["items"]:
                yield item["number"], item.get("text", "")
            following = answer.body["next"]
            if following is None:
                return
            if following <= after:
                raise Unusable(f"{self._client.host} returns the same page repeatedly")
            after = following


def _fault(entry: Expected, actual: bytes | None) -> str:
    """The kind of fault of a number that was answered; empty if there is none."""
    if entry.answers > 1:  # it cannot be known whose message is stored, and whose was deleted
        return "doubled"
    if actual is None:
        return "lost" if entry.required else ""
    if not entry.allowed:
        return "undead"
    return "" if actual in entry.texts else "wrong_text"


def _by_number(entries: Iterable[Expected], stored: Stored) -> Iterator[_Compared]:
    """Merge the ledger and the server's list, both ordered by number; yields each number once."""
    entry_iterator, stored_iterator = iter(entries), iter(stored)
    entry, actual = next(entry_iterator, None), next(stored_iterator, None)
    while entry or actual:
        if actual is None or (entry and entry.number < actual[0]):
            assert entry
            yield _Compared(entry.number, entry, None)
            entry = next(entry_iterator, None)
        elif entry is None or actual[0] < entry.number:
            yield _Compared(actual[0], None, actual[1])
            actual = next(stored_iterator, None)
        else:
            yield _Compared(entry.number, entry, actual[1])
            entry, actual = next(entry_iterator, None), next(stored_iterator, None)
