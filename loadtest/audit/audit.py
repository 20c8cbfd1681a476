"""The audit: every number that was answered against what the server has, over HTTP, page by page.

The ledger and the server's list both come in the order of numbers, so each chat is one walk along both, in
memory that does not grow. First each chat's list, then what a search for the run's mark finds; what is not
searchable yet is given time, what is lost is not.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from loadtest.audit.ledger import Expected, Ledger
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import digest, mark_prefix
from loadtest.errors import Unreachable, Unusable
from loadtest.report.result import Audit, ChatAudit
from loadtest.web import ApiClient, messages_path

CONCURRENT_CHATS = 4
PAGE_SIZE = 200
PATIENCE_SECONDS = (
    60.0  # for what is accepted to be stored, and for what is stored to be searchable
)
POLL_SECONDS = 0.25
MAX_EXAMPLES = 10

Stored = Iterator[tuple[int, bytes]]  # number and digest


def audit(
    client: ApiClient,
    folder: Path,
    fixtures: Fixtures,
    seed: int,
    patience: float = PATIENCE_SECONDS,
) -> Audit:
    """Hold the ledger of a run against the server. Raises Unreachable if the server goes away."""
    since = time.monotonic()
    walk = _Auditor(client, Ledger(folder), fixtures, seed, since + patience)
    found = walk.all()
    return replace(found, seconds=round(time.monotonic() - since, 2))


class _Auditor:
    """Counts, of all chats."""

    def __init__(
        self, client: ApiClient, ledger: Ledger, fixtures: Fixtures, seed: int, deadline: float
    ) -> None:
        self._client, self._ledger, self._fixtures = client, ledger, fixtures
        self._mark_prefix, self._deadline = mark_prefix(seed), deadline
        self._counts: Counter[str] = Counter()
        self._examples: list[str] = []
        self._lock = threading.Lock()
        self._aborted = False

    def all(self) -> Audit:
        """Every chat, some at once."""
        with ThreadPoolExecutor(CONCURRENT_CHATS) as pool:
            try:
                for done in [pool.submit(self._chat, *chat) for chat in self._ledger.chats()]:
                    done.result()
                applications = range(len(self._fixtures.tokens))
                chats = list(pool.map(self._application, applications))
            except BaseException:  # nobody will ask for the rest
                self._aborted, self._deadline = True, 0.0
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        total: Counter[str] = sum(chats, Counter())
        return Audit(
            **self._counts, chats=ChatAudit(**total), examples=sorted(self._examples)[:MAX_EXAMPLES]
        )

    def _chat(self, application: int, chat: int) -> None:
        self._wait_stored(application, chat)
        counts, examples = self._compare_list(application, chat)
        while True:
            found, ghosts = self._search(application, chat)
            if (found >= counts["stored"] and not ghosts) or time.monotonic() > self._deadline:
                break
            time.sleep(POLL_SECONDS)
        counts["searchable"] = found
        counts["unsearchable"] = max(counts["stored"] - found, 0)
        counts["undead"] = max(counts["undead"], ghosts)
        if counts["unsearchable"]:
            examples.append(f"chat {chat}: {found:,} of {counts['stored']:,} found by searching")
        if ghosts:
            examples.append(f"chat {chat}: {ghosts:,} found by searching though deleted")
        with self._lock:
            self._counts += counts
            self._examples += [f"application {application + 1}, {line}" for line in examples]

    def _wait_stored(self, application: int, chat: int) -> None:
        """Until the chat's highest number is decided: within a chat, numbers are stored in order."""
        highest = self._ledger.highest(application, chat)
        path = messages_path(self._fixtures.tokens[application], chat, highest)
        while (
            highest
            and self._client.request("GET", path).status == 202
            and time.monotonic() < self._deadline
        ):
            time.sleep(POLL_SECONDS / 10)

    def _compare_list(self, application: int, chat: int) -> tuple[Counter[str], list[str]]:
        """The ledger against the chat's list."""
        unknown, matched = self._ledger.unknown(application, chat), set[bytes]()
        counts: Counter[str] = Counter(unknown=len(unknown))
        examples: list[str] = []
        before = 0
        entries = self._ledger.expected(application, chat)
        for number, entry, actual in _merge_by_number(entries, self._list(application, chat)):
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

    def _search(self, application: int, chat: int) -> tuple[int, int]:
        """How much of what must be actual a search finds, and how much of what must not be."""
        found = ghosts = 0
        entries = self._ledger.expected(application, chat)
        for _, entry, actual in _merge_by_number(
            entries, self._list(application, chat, self._mark_prefix)
        ):
            if entry and actual:
                found += entry.required and actual in entry.texts
                ghosts += not entry.allowed and entry.answers == 1
        return found, ghosts

    def _application(self, application: int) -> Counter[str]:
        """The chats of an application; actual are few, and they were answered by number alone."""
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
        """All items behind each other, as number and text."""
        after = 0
        while not self._aborted:
            query = f"?limit={PAGE_SIZE}&after={after}" + (f"&keyword={keyword}" if keyword else "")
            answer = self._client.request("GET", path + query)
            if answer.status == 404:  # the chat itself is not actual: so is nothing in it
                return
            if answer.status != 200:
                if time.monotonic() > self._deadline:
                    raise Unreachable(
                        f"{self._client.host} does not list what it has (status {answer.status}):"
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
                raise Unusable(f"{self._client.host} lists the same page again and again")
            after = following


def _fault(entry: Expected, actual: bytes | None) -> str:
    """What is wrong with a number that was answered; nothing, if nothing is."""
    if entry.answers > 1:  # whose message is actual, and whose deletion this was, nobody knows
        return "doubled"
    if actual is None:
        return "lost" if entry.required else ""
    if not entry.allowed:
        return "undead"
    return "" if actual in entry.texts else "wrong_text"


def _merge_by_number(
    entries: Iterable[Expected], stored: Stored
) -> Iterator[tuple[int, Expected | None, bytes | None]]:
    """Both in the order of their numbers, each number once: what is entry of it, and what is actual."""
    entry_iterator, stored_iterator = iter(entries), iter(stored)
    entry, actual = next(entry_iterator, None), next(stored_iterator, None)
    while entry or actual:
        if actual is None or (entry and entry.number < actual[0]):
            assert entry
            yield entry.number, entry, None
            entry = next(entry_iterator, None)
        elif entry is None or actual[0] < entry.number:
            yield actual[0], None, actual[1]
            actual = next(stored_iterator, None)
        else:
            yield entry.number, entry, actual[1]
            entry, actual = next(entry_iterator, None), next(stored_iterator, None)
