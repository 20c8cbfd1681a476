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
from loadtest.corpus.fixtures import Ground
from loadtest.corpus.texts import beginning, digest
from loadtest.errors import Unreachable, Unusable
from loadtest.report.result import Audit, ChatAudit
from loadtest.web import Web, messages

AT_ONCE = 4
PAGE = 200
PATIENCE = 60.0  # for what is accepted to be stored, and for what is stored to be searchable
PAUSE = 0.25
EXAMPLES = 10

Stored = Iterator[tuple[int, bytes]]  # number and digest


def audit(web: Web, folder: Path, ground: Ground, seed: int, patience: float = PATIENCE) -> Audit:
    """Hold the ledger of a run against the server. Raises Unreachable if the server goes away."""
    since = time.monotonic()
    walk = _Walk(web, Ledger(folder), ground, seed, since + patience)
    found = walk.all()
    return replace(found, seconds=round(time.monotonic() - since, 2))


class _Walk:
    """Counts, of all chats."""

    def __init__(
        self, web: Web, ledger: Ledger, ground: Ground, seed: int, deadline: float
    ) -> None:
        self._web, self._ledger, self._ground = web, ledger, ground
        self._sign, self._deadline = beginning(seed), deadline
        self._counts: Counter[str] = Counter()
        self._examples: list[str] = []
        self._lock = threading.Lock()
        self._given_up = False

    def all(self) -> Audit:
        """Every chat, some at once."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for done in [pool.submit(self._chat, *chat) for chat in self._ledger.chats()]:
                    done.result()
                applications = range(len(self._ground.tokens))
                chats = list(pool.map(self._application, applications))
            except BaseException:  # nobody will ask for the rest
                self._given_up, self._deadline = True, 0.0
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        total: Counter[str] = sum(chats, Counter())
        return Audit(
            **self._counts, chats=ChatAudit(**total), examples=sorted(self._examples)[:EXAMPLES]
        )

    def _chat(self, application: int, chat: int) -> None:
        self._await_stored(application, chat)
        counts, examples = self._hold(application, chat)
        while True:
            found, ghosts = self._search(application, chat)
            if (found >= counts["stored"] and not ghosts) or time.monotonic() > self._deadline:
                break
            time.sleep(PAUSE)
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

    def _await_stored(self, application: int, chat: int) -> None:
        """Until the chat's highest number is decided: within a chat, numbers are stored in order."""
        highest = self._ledger.highest(application, chat)
        path = messages(self._ground.tokens[application], chat, highest)
        while (
            highest
            and self._web.ask("GET", path).status == 202
            and time.monotonic() < self._deadline
        ):
            time.sleep(PAUSE / 10)

    def _hold(self, application: int, chat: int) -> tuple[Counter[str], list[str]]:
        """The ledger against the chat's list."""
        unknown, seen = self._ledger.unknown(application, chat), set[bytes]()
        counts: Counter[str] = Counter(unknown=len(unknown))
        examples: list[str] = []
        before = 0
        expected = self._ledger.expected(application, chat)
        for number, known, there in _beside(expected, self._list(application, chat)):
            counts["gaps"] += max(number - before - 1, 0)
            kind = ""
            if known:
                counts["answered"] += known.must
                counts["deleted"] += not known.may
                kind = _verdict(known, there)
                counts["stored"] += known.must and not kind
            elif there in unknown and there not in seen:
                seen.add(there)
                counts["unknown_stored"] += 1
            elif there:
                kind = "doubled" if self._ledger.was_sent(there) else "unasked"
            if kind:
                counts[kind] += max(known.answers - 1, 1) if known else 1
            if (kind or number - before > 1) and len(examples) < EXAMPLES:
                examples.append(
                    f"chat {chat}: number {number} {kind.replace('_', ' ') or 'follows a gap'}"
                )
            before = number
        return counts, examples

    def _search(self, application: int, chat: int) -> tuple[int, int]:
        """How much of what must be there a search finds, and how much of what must not be."""
        found = ghosts = 0
        expected = self._ledger.expected(application, chat)
        for _, known, there in _beside(expected, self._list(application, chat, self._sign)):
            if known and there:
                found += known.must and there in known.texts
                ghosts += not known.may and known.answers == 1
        return found, ghosts

    def _application(self, application: int) -> Counter[str]:
        """The chats of an application; there are few, and they were answered by number alone."""
        answered, lost_answers = self._ledger.chat_numbers(application)
        path = f"/applications/{self._ground.tokens[application]}/chats"
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
        path = messages(self._ground.tokens[application], chat)
        for number, text in self._pages(path, keyword):
            yield number, digest(text)

    def _pages(self, path: str, keyword: str | None = None) -> Iterator[tuple[int, str]]:
        """All items behind each other, as number and text."""
        after = 0
        while not self._given_up:
            query = f"?limit={PAGE}&after={after}" + (f"&keyword={keyword}" if keyword else "")
            answer = self._web.ask("GET", path + query)
            if answer.status == 404:  # the chat itself is not there: so is nothing in it
                return
            if answer.status != 200:
                if time.monotonic() > self._deadline:
                    raise Unreachable(
                        f"{self._web.host} does not list what it has (status {answer.status}):"
                        " the audit could not be made"
                    )
                time.sleep(PAUSE)
                continue
            for item in answer.body["items"]:
                yield item["number"], item.get("text", "")
            following = answer.body["next"]
            if following is None:
                return
            if following <= after:
                raise Unusable(f"{self._web.host} lists the same page again and again")
            after = following


def _verdict(known: Expected, there: bytes | None) -> str:
    """What is wrong with a number that was answered; nothing, if nothing is."""
    if known.answers > 1:  # whose message is there, and whose deletion this was, nobody knows
        return "doubled"
    if there is None:
        return "lost" if known.must else ""
    if not known.may:
        return "undead"
    return "" if there in known.texts else "wrong_text"


def _beside(
    expected: Iterable[Expected], stored: Stored
) -> Iterator[tuple[int, Expected | None, bytes | None]]:
    """Both in the order of their numbers, each number once: what is known of it, and what is there."""
    knowns, theres = iter(expected), iter(stored)
    known, there = next(knowns, None), next(theres, None)
    while known or there:
        if there is None or (known and known.number < there[0]):
            assert known
            yield known.number, known, None
            known = next(knowns, None)
        elif known is None or there[0] < known.number:
            yield there[0], None, there[1]
            there = next(theres, None)
        else:
            yield known.number, known, there[1]
            known, there = next(knowns, None), next(theres, None)
