"""The story that `instachat demo` tells on real conversations, ending with what was measured.

Nothing is staged: a worker of its own is killed with -9 in the middle, and the proof compares a list of
every answer, kept here, with what is stored.
"""

import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from backend.bootstrap import open_backend
from backend.domain.errors import CheckFailed
from backend.domain.model import Match
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import counter_columns
from instachat_cli.console.stderr import visible
from instachat_cli.demo import load
from instachat_cli.runtime.supervisor import spawn_worker
from loadtest.corpus.conversations import Conversation, conversations

if TYPE_CHECKING:
    from backend.bootstrap import Backend
    from backend.settings import Settings

SENDERS = 32
PROBES = 40  # messages sent one at a time on the idle system, to time their way to SQL
STORE_SECONDS = 60.0
SEARCHES = [
    ("english", "greetings", "how are"),
    ("arabic", None, "مرحبا"),
    ("hindi", None, "नम"),
    ("chinese", None, "你"),
    ("hebrew", None, "של"),
    ("emoji", None, "👋"),
]


@dataclass
class DemoLedger:
    """What the demo has sent so far: the list that the proof goes by."""

    tokens: dict[str, str] = field(default_factory=dict)
    chats: dict[tuple[str, str], int] = field(default_factory=dict)
    answers: dict[tuple[str, int], dict[int, str]] = field(default_factory=dict)
    accepted: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, token: str, chat: int, number: int, text: str) -> None:
        """Remember an answer; AssertionError if that number was answered before."""
        with self.lock:
            numbers = self.answers.setdefault((token, chat), {})
            assert number not in numbers, f"number {number} was answered twice"
            numbers[number] = text
            self.accepted += 1


def run_demo(settings: "Settings", *, to_stderr: bool = False) -> dict[str, Any]:
    """Tell the story on standard output (on standard error if `to_stderr`); returns what was measured.

    Raises CheckFailed if anything answered is lost, doubled, changed or out of order.
    """
    console = Console(stderr=to_stderr, highlight=False, width=None if sys.stdout.isatty() else 80)
    where = "private engines" if settings.database_url is None else "the engines that are set"
    console.print(
        Text.assemble(
            ("InstaChat", "bold"),
            " gives a number at once, and stores the message a moment later.\n",
            f"What follows is real: {where}, {settings.durability} durability, no message made up.\n",
        )
    )
    measured: dict[str, Any] = {}
    with open_backend(settings) as backend:
        _Demo(backend, console, measured).run()
    return measured


class _Demo:
    def __init__(self, backend: "Backend", console: Console, measured: dict[str, Any]) -> None:
        self.backend = backend
        self.console = console
        self.measured = measured
        self.ledger = DemoLedger()

    def run(self) -> None:
        dialogues = list(conversations())
        self._create(dialogues)
        with _worker() as worker:
            self._send(dialogues, worker)
        with _worker():
            self._wait_until_stored()
            self._verify_answers()
            self._search()
            self._time_to_stored()
            self._compare_counts()
        self._print_measurements()
        with _worker():
            self._run_load()

    # -- 1 -----------------------------------------------------------------------------------------

    def _create(self, dialogues: Sequence[Conversation]) -> None:
        """One application a language, one chat a topic."""
        languages = dict.fromkeys(c.language for c in dialogues)
        for language in languages:
            topics = [c.topic for c in dialogues if c.language == language]
            token = self.backend.catalog.create_application(language).token
            first = self.backend.acceptor.accept(AcceptRequest.chats(token, len(topics))).first
            self.ledger.tokens[language] = token
            self.ledger.chats |= {(token, t): first + i for i, t in enumerate(topics)}
        self._headline(1, "Applications and chats")
        self.console.print(
            f"One application a language: {len(languages)}. One chat a topic: {len(dialogues)}.\n"
            "The chats take messages at once; their rows come later, with the first worker.\n"
        )

    # -- 2 -----------------------------------------------------------------------------------------

    def _send(self, dialogues: Sequence[Conversation], worker: "subprocess.Popen[bytes]") -> None:
        """Every line a message, by several senders at once; the worker is killed in the middle."""
        total = sum(len(c.lines) for c in dialogues)
        self._headline(2, f"{total:,} lines of conversation, and kill -9 in the middle")
        start = time.monotonic()
        killed_at = 0
        with (
            self._progress("accepted", total) as advance,
            ThreadPoolExecutor(SENDERS) as senders,
        ):
            sending = [senders.submit(self._send_conversation, c) for c in dialogues]
            while not all(done.done() for done in sending):
                time.sleep(0.02)
                advance(self.ledger.accepted)
                if not killed_at and self.ledger.accepted > total / 2:
                    worker.send_signal(signal.SIGKILL)
                    killed_at = self.ledger.accepted
            for done in sending:
                done.result()
        seconds = time.monotonic() - start
        waiting = sum(self.backend.log.lengths(self.backend.database.installation.shards))
        self.measured |= {
            "messages": total,
            "accepted_per_second": round(total / seconds),
            "killed_after": killed_at,
        }
        self.console.print(
            f"{total:,} numbers answered in {seconds:.1f} s by {SENDERS} senders, one message a "
            f"call.\nThe worker was killed after {killed_at:,} of them, without a warning; "
            f"{waiting:,} wait\nin the log for the next one.\n"
        )

    def _send_conversation(self, conversation: Conversation) -> None:
        token = self.ledger.tokens[conversation.language]
        chat = self.ledger.chats[token, conversation.topic]
        for line in conversation.lines:
            accepted = self.backend.acceptor.accept(AcceptRequest.messages(token, chat, [line]))
            self.ledger.record(token, chat, accepted.first, line)

    # -- 3 -----------------------------------------------------------------------------------------

    def _wait_until_stored(self) -> None:
        start = time.monotonic()
        shards = self.backend.database.installation.shards
        waiting = sum(self.backend.log.lengths(shards))
        while sum(self.backend.log.lengths(shards)):
            if time.monotonic() - start > STORE_SECONDS:
                raise CheckFailed("the worker did not store everything", "see `instachat status`")
            time.sleep(0.005)
        self.measured["left_to_the_second_worker"] = waiting

    def _verify_answers(self) -> None:
        """Compare every answer with what is stored."""
        lost = doubled = changed = 0
        for (token, chat), answers in self.ledger.answers.items():
            stored = [(m.number, m.text) for m in self.backend.catalog.messages(token, chat)]
            numbers = [number for number, _ in stored]
            doubled += len(numbers) - len(set(numbers))
            lost += len(answers.keys() - set(numbers))
            changed += sum(answers.get(number) != text for number, text in stored)
            if numbers != sorted(numbers) or set(numbers) != set(range(1, len(answers) + 1)):
                lost += 1
        self._headline(3, "The proof: every answer against every row")
        stored_count = sum(len(answers) for answers in self.ledger.answers.values())
        self.console.print(
            f"{stored_count:,} answers compared: {lost} lost, {doubled} doubled, {changed} changed; "
            "numbers 1, 2, 3 …\nwithout a gap in each of "
            f"{len(self.ledger.answers)} chats. "
            "A second worker went on where the first one died.\n"
        )
        self.measured |= {"lost": lost, "doubled": doubled, "changed": changed}
        if lost or doubled or changed:
            raise CheckFailed("what was answered is not what is stored", "please report this")

    # -- 4 -----------------------------------------------------------------------------------------

    def _search(self) -> None:
        """A keyword in each of several scripts, within one chat, matches marked."""
        self._headline(4, "Searching, in any script")
        table = Table(box=None, pad_edge=False, expand=False, show_edge=False)
        table.add_column("chat", no_wrap=True)
        table.add_column("found", justify="right", no_wrap=True)
        table.add_column("ms", justify="right", no_wrap=True)
        table.add_column("first of them", no_wrap=True, overflow="ellipsis", max_width=42)
        for language, wanted_topic, keyword in SEARCHES:
            topic, found, seconds = self._search_language(language, wanted_topic, keyword)
            table.add_row(
                f"{language}/{topic}",
                f"{len(found)}",
                f"{seconds * 1000:.1f}",
                _mark_matches(found[0], self.console.is_terminal) if found else Text("-"),
            )
        self.console.print(table)
        self.console.print()

    def _search_language(
        self, language: str, wanted_topic: str | None, keyword: str
    ) -> tuple[str, list[Match], float]:
        """The first chat of a language in which the keyword is found."""
        token = self.ledger.tokens[language]
        topics = [
            t for owner, t in self.ledger.chats if owner == token and wanted_topic in (None, t)
        ]
        for topic in topics:
            start = time.monotonic()
            chat = self.ledger.chats[token, topic]
            found = list(self.backend.catalog.search(token, chat, keyword))
            seconds = time.monotonic() - start
            if found:
                break
        return topic, found, seconds

    def _time_to_stored(self) -> None:
        """From the answer to the row, one message at a time on the idle system."""
        token = next(iter(self.ledger.tokens.values()))
        chat = self.backend.acceptor.accept(AcceptRequest.chats(token)).first
        times = []
        for n in range(PROBES):
            start = time.monotonic()
            accepted = self.backend.acceptor.accept(
                AcceptRequest.messages(token, chat, [f"probe {n}"])
            )
            if not self.backend.catalog.wait_stored(accepted.shard, accepted.entry, 10):
                raise CheckFailed("a message was not stored within 10 s", "see `instachat status`")
            times.append((time.monotonic() - start) * 1000)
        self.measured |= {
            "stored_after_ms_p50": round(statistics.median(times), 1),
            "stored_after_ms_max": round(max(times), 1),
        }

    # -- 5 -----------------------------------------------------------------------------------------

    def _compare_counts(self) -> None:
        """Counts live against stored, a sync, and what `reconcile` says of it all."""
        self._headline(5, "Counts, and one truth in every store")
        live = sum(
            chat.messages_count
            for token in self.ledger.tokens.values()
            for chat in self.backend.catalog.chats(token)
        )
        before = self._counts_in_sql()
        synced = sum(1 for _ in self.backend.counter_sync.sync())
        after = self._counts_in_sql()
        begin = time.monotonic()
        work = self.backend.reconciler.begin()
        findings = [f for f in work.findings() if f.token in self.ledger.tokens.values()]
        seconds = time.monotonic() - begin
        self.console.print(
            f"Messages by the live counters: {live:,}. By SQL's columns, which follow\n"
            f"within the hour: {before:,}; after `sync-counters` wrote {synced:,} of them: {after:,}.\n"
            f"`reconcile` compared {work.summary.chats:,} chats and {work.summary.messages:,} messages"
            f" key by key, in {seconds:.1f} s:\n{len(findings)} differences.\n"
        )
        self.measured |= {
            "counted_live": live,
            "counted_in_sql": after,
            "reconcile_seconds": round(seconds, 2),
            "differences": len(findings),
        }
        if findings or live != after:
            raise CheckFailed("the stores do not agree", "please report this")

    def _counts_in_sql(self) -> int:
        """What SQL's count columns add up to, of the demo's own applications."""
        with self.backend.database.connect() as connection:
            return sum(
                counter_columns.sum_message_counts(connection, token)
                for token in self.ledger.tokens.values()
            )

    # -- 6 -----------------------------------------------------------------------------------------

    def _print_measurements(self) -> None:
        self._headline(6, "Measured")
        stored = self._storing_rate()
        self.measured["stored_per_second"] = round(stored)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(justify="right", style="bold")
        table.add_column()
        table.add_row(
            f"{self.measured['accepted_per_second']:,}/s", "accepted, one message a call, on disk"
        )
        table.add_row(f"{stored:,.0f}/s", "stored by one drain, from a full log")
        table.add_row(
            f"{self.measured['stored_after_ms_p50']} ms",
            f"from the request to the row (median of {PROBES}; at most "
            f"{self.measured['stored_after_ms_max']} ms)",
        )
        faults = sum(self.measured[kind] for kind in ("lost", "doubled", "changed"))
        table.add_row(f"{faults}", f"lost, doubled or changed of {self.measured['messages']:,}")
        self.console.print(table)

    # -- 7 -----------------------------------------------------------------------------------------

    def _run_load(self) -> None:
        self.console.print()
        self._headline(7, "A short load over HTTP, and its audit")
        self.measured |= load.load(self.console)

    def _storing_rate(self) -> float:
        """Rows a second of one drain in this process, with nothing else to do."""
        token = next(iter(self.ledger.tokens.values()))
        chat = self.backend.acceptor.accept(AcceptRequest.chats(token)).first
        lines = [line for answers in self.ledger.answers.values() for line in answers.values()]
        for start in range(0, len(lines), 1000):
            batch = lines[start : start + 1000]
            self.backend.acceptor.accept(AcceptRequest.messages(token, chat, batch))
        begin = time.monotonic()
        self.backend.drainer.drain_all()
        return len(lines) / (time.monotonic() - begin)

    def _headline(self, number: int, title: str) -> None:
        self.console.print(Text(f"{number}. {title}", style="bold cyan"))

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Any]:
        """A bar on a terminal, nothing where the output is piped."""
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)


@contextmanager
def _worker() -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process on the same settings; ended in good order, if it still runs."""
    process = spawn_worker(stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _mark_matches(match: Match, styled: bool) -> Text:
    """The message with its matches marked: by colour on a terminal, by brackets elsewhere."""
    shown, text = Text(), visible(match.message.text)
    at = 0
    for start, end in match.highlight:
        shown.append(text[at:start])
        shown.append(text[start:end] if styled else f"[{text[start:end]}]", style="bold reverse")
        at = end
    shown.append(text[at:])
    return shown
