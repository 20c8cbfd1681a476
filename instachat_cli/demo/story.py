"""The story that `instachat demo` tells on real conversations, chapter by chapter.

Nothing is simulated: a worker is killed with -9 in the middle, and the proof compares the demo's own record
of every answer with the stored messages.
"""

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from backend.bootstrap import open_backend
from backend.domain.errors import CheckFailed
from backend.domain.model import Match, Message
from backend.domain.plurals import counted
from backend.ingest.requests import AcceptRequest
from instachat_cli.console.stderr import visible
from instachat_cli.console.tables import mark_matches
from instachat_cli.demo import load_test, measurements
from instachat_cli.demo.follower import DemoFollower
from instachat_cli.demo.ledger import DemoLedger
from instachat_cli.runtime.extras import has_bench
from instachat_cli.runtime.supervisor import spawn_worker
from loadtest.corpus.conversations import Conversation, conversations

if TYPE_CHECKING:
    from backend.bootstrap import Backend
    from backend.settings import Settings

SENDERS = 32
STORE_SECONDS = 60.0
SHOWN_MESSAGES = 3  # of those that the follower hears of
SEARCHES = [
    ("english", "greetings", "how are"),
    ("arabic", None, "مرحبا"),
    ("hindi", None, "नम"),
    ("chinese", None, "你"),
    ("hebrew", None, "של"),
    ("emoji", None, "👋"),
]


def run_demo(settings: "Settings", *, to_stderr: bool = False) -> dict[str, Any]:
    """Run the demo, narrated on standard output, or on standard error if `to_stderr`.

    Returns the measurements by name. Raises CheckFailed if a message is lost, doubled, changed or out of
    order.
    """
    console = Console(stderr=to_stderr, highlight=False, width=None if sys.stdout.isatty() else 80)
    where = "private engines" if settings.database_url is None else "the configured engines"
    console.print(
        Text.assemble(
            ("InstaChat", "bold"),
            " returns a number immediately and stores the message moments later.\n",
            f"Everything below is real: {where}, {settings.durability} durability, real texts.\n",
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
        self.follower: DemoFollower | None = None

    def run(self) -> None:
        dialogues = list(conversations())
        self._create(dialogues)
        with _worker() as worker:
            self._send(dialogues, worker)
        with _worker():
            self._wait_until_stored()
            self._verify_answers()
            self._search()
            self._measure_time_to_stored()
            self._compare_counts()
        self._print_measurements()
        with _worker():
            self._run_load()

    # -- 1 -----------------------------------------------------------------------------------------

    def _create(self, dialogues: Sequence[Conversation]) -> None:
        """One application per language, one chat per topic."""
        languages = dict.fromkeys(c.language for c in dialogues)
        for language in languages:
            topics = [c.topic for c in dialogues if c.language == language]
            token = self.backend.catalog.applications.create(language).token
            first = self.backend.acceptor.accept(AcceptRequest.chats(token, len(topics))).first
            self.ledger.tokens[language] = token
            self.ledger.chats |= {(token, t): first + i for i, t in enumerate(topics)}
        self._headline(1, "Applications and chats")
        self.console.print(
            f"One application per language: {len(languages)}. One chat per topic: {len(dialogues)}.\n"
            "The chats accept messages immediately; a worker stores their rows later.\n"
        )

    # -- 2 -----------------------------------------------------------------------------------------

    def _send(self, dialogues: Sequence[Conversation], worker: "subprocess.Popen[bytes]") -> None:
        """Send every line as a message, from several threads; kill the worker in the middle."""
        total = sum(len(c.lines) for c in dialogues)
        self._headline(2, f"{total:,} lines of conversation, and kill -9 in the middle")
        self._follow(max(dialogues, key=lambda c: len(c.lines)))
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
        waiting = self.backend.log.waiting(self.backend.database.installation.all_shards)
        self.measured |= {
            "messages": total,
            "accepted_per_second": round(total / seconds),
            "killed_after": killed_at,
        }
        self.console.print(
            f"{SENDERS} senders received {total:,} numbers in {seconds:.1f} s, one message per "
            f"request.\nThe worker was killed with -9 after {killed_at:,} of them;\n"
            f"{waiting:,} entries wait in the log.\n"
        )

    def _follow(self, conversation: Conversation) -> None:
        """Follow a chat while it is written, and print the first messages as they come."""
        chat = (
            self.ledger.tokens[conversation.language],
            self.ledger.chats[self.ledger.tokens[conversation.language], conversation.topic],
        )

        def show(message: Message) -> None:
            if message.number <= SHOWN_MESSAGES:
                line = Text(f"  {message.number}  {visible(message.text)}")
                line.truncate(self.console.width, overflow="ellipsis")
                self.console.print(line, no_wrap=True)

        self.console.print(
            f"A follower of {conversation.language}/{conversation.topic} hears live:"
        )
        self.follower = DemoFollower(self.backend, chat, len(conversation.lines), show)

    def _send_conversation(self, conversation: Conversation) -> None:
        token = self.ledger.tokens[conversation.language]
        chat = self.ledger.chats[token, conversation.topic]
        for line in conversation.lines:
            accepted = self.backend.acceptor.accept(AcceptRequest.messages(token, chat, [line]))
            self.ledger.record(token, chat, accepted.first, line)

    # -- 3 -----------------------------------------------------------------------------------------

    def _wait_until_stored(self) -> None:
        start = time.monotonic()
        shards = self.backend.database.installation.all_shards
        waiting = self.backend.log.waiting(shards)
        while self.backend.log.waiting(shards):
            if time.monotonic() - start > STORE_SECONDS:
                raise CheckFailed("the worker did not store everything", "see `instachat status`")
            time.sleep(0.005)
        self.measured["left_to_the_second_worker"] = waiting

    def _verify_answers(self) -> None:
        compared = self.ledger.compare(self.backend.catalog)
        self._headline(3, "The proof: every answer against every row")
        answers = sum(len(answers) for answers in self.ledger.answers.values())
        self.console.print(
            f"{answers:,} answers compared: {compared.lost} lost, {compared.doubled} doubled,"
            f" {compared.changed} changed; numbers 1, 2, 3 …\n"
            f"without a gap in each of {len(self.ledger.answers)} chats."
            " A second worker continued where the\nfirst one was killed.\n"
        )
        self.measured |= compared._asdict()
        if any(compared):
            raise CheckFailed("stored messages differ from the answers", "please report this")
        assert self.follower
        if not self.follower.wait(STORE_SECONDS):
            raise CheckFailed("the follower missed or repeated a message", "please report this")
        self.measured["followed"] = len(self.follower.numbers)
        self.console.print(
            f"The follower heard of each of its chat's {self.measured['followed']:,} messages once, in"
            " order.\n"
        )

    # -- 4 -----------------------------------------------------------------------------------------

    def _search(self) -> None:
        """Search a chat for a keyword, in several scripts, and mark the matches."""
        self._headline(4, "Searching, in any script")
        table = Table(box=None, pad_edge=False, expand=False, show_edge=False)
        table.add_column("chat", no_wrap=True)
        table.add_column("found", justify="right", no_wrap=True)
        table.add_column("ms", justify="right", no_wrap=True)
        table.add_column("first match", no_wrap=True, overflow="ellipsis", max_width=42)
        for language, wanted_topic, keyword in SEARCHES:
            topic, found, seconds = self._search_language(language, wanted_topic, keyword)
            table.add_row(
                f"{language}/{topic}",
                f"{len(found)}",
                f"{seconds * 1000:.1f}",
                self._mark(found[0]) if found else Text("-"),
            )
        self.console.print(table)
        self.console.print()

    def _search_language(
        self, language: str, wanted_topic: str | None, keyword: str
    ) -> tuple[str, list[Match], float]:
        """The topic of the first chat with matches, the matches, and the seconds of that search."""
        token = self.ledger.tokens[language]
        topics = [
            t for owner, t in self.ledger.chats if owner == token and wanted_topic in (None, t)
        ]
        for topic in topics:
            start = time.monotonic()
            chat = self.ledger.chats[token, topic]
            found = list(self.backend.catalog.messages.search(token, chat, keyword))
            seconds = time.monotonic() - start
            if found:
                break
        return topic, found, seconds

    def _measure_time_to_stored(self) -> None:
        times = measurements.times_to_stored(self.backend, self._first_token())
        self.measured |= {
            "stored_after_ms_p50": round(statistics.median(times), 1),
            "stored_after_ms_max": round(max(times), 1),
        }

    # -- 5 -----------------------------------------------------------------------------------------

    def _compare_counts(self) -> None:
        """Compare live and stored counts, sync them, and reconcile the stores."""
        self._headline(5, "Counts, and agreement of all stores")
        live = sum(
            chat.messages_count
            for token in self.ledger.tokens.values()
            for chat in self.backend.catalog.chats.list(token)
        )
        before = self._counts_in_sql()
        synced = sum(1 for _ in self.backend.counter_sync.sync())
        after = self._counts_in_sql()
        begin = time.monotonic()
        work = self.backend.reconciler.begin()
        findings = [f for f in work.findings() if f.token in self.ledger.tokens.values()]
        seconds = time.monotonic() - begin
        self.console.print(
            f"Messages by the live counters: {live:,}. By SQL's columns, which workers update\n"
            f"hourly: {before:,}; after `sync-counters` wrote {synced:,} counts: {after:,}.\n"
            f"`reconcile` compared {work.summary.chats:,} chats and {work.summary.messages:,} messages"
            f" key by key, in {seconds:.1f} s:\n{counted(len(findings), 'difference')}.\n"
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
        """The sum of SQL's message counts over the demo's applications."""
        return sum(map(self.backend.counter_sync.stored_message_count, self.ledger.tokens.values()))

    # -- 6 -----------------------------------------------------------------------------------------

    def _print_measurements(self) -> None:
        self._headline(6, "Measured")
        lines = [line for answers in self.ledger.answers.values() for line in answers.values()]
        stored = measurements.storing_rate(self.backend, self._first_token(), lines)
        self.measured["stored_per_second"] = round(stored)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(justify="right", style="bold")
        table.add_column()
        table.add_row(
            f"{self.measured['accepted_per_second']:,}/s", "accepted, one message per request"
        )
        table.add_row(f"{stored:,.0f}/s", "stored by one drain, from a full log")
        table.add_row(
            f"{self.measured['stored_after_ms_p50']} ms",
            f"from the request to the row (median of {measurements.PROBES}; at most "
            f"{self.measured['stored_after_ms_max']} ms)",
        )
        faults = sum(self.measured[kind] for kind in ("lost", "doubled", "changed"))
        table.add_row(f"{faults}", f"lost, doubled or changed of {self.measured['messages']:,}")
        self.console.print(table)

    # -- 7 -----------------------------------------------------------------------------------------

    def _run_load(self) -> None:
        self.console.print()
        self._headline(7, "A short load over HTTP, and its audit")
        if has_bench():
            self.measured |= load_test.run_load_test(self.console)
        else:
            self.console.print(
                "It needs the extra `bench`, which is not installed: `instachat[bench]`."
            )

    def _first_token(self) -> str:
        return next(iter(self.ledger.tokens.values()))

    def _mark(self, match: Match) -> Text:
        text = Text(visible(match.message.text))
        return mark_matches(text, match.highlight, styled=self.console.is_terminal)

    def _headline(self, number: int, title: str) -> None:
        self.console.print(Text(f"{number}. {title}", style="bold cyan"))

    @contextmanager
    def _progress(self, noun: str, total: int) -> Iterator[Any]:
        """A progress bar, on a terminal only."""
        columns = (TextColumn(noun), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(noun, total=total)
            yield lambda done: progress.update(task, completed=done)


@contextmanager
def _worker() -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process with the same settings, stopped gracefully at the end."""
    process = spawn_worker(stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
