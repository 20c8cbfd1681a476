"""The ledger, sorted: which text must, and which may, be stored under each number of each chat.

Beside it is what the server has shown to readers and followers. SQLite sorts both on disk, so memory does not
grow with the run. Edits and deletions of one message come from one user, one after another, so the last one
decides. Where an answer was lost, both outcomes are allowed.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.recording import (
    READER,
    LedgerEntry,
    RecordedOutcome,
    Shown,
    ledger_entries,
    shown_texts,
)

FILE = "ledger.sqlite"


@dataclass
class Expected:
    """What the answers say about one number of a chat."""

    number: int
    texts: set[bytes] = field(default_factory=set)  # digests of the texts that are correct
    required: bool = True  # it must be stored
    allowed: bool = True  # it may be stored
    answers: int = 0  # how many creations were answered with this number

    def apply(self, outcome: int, digest: bytes) -> None:
        """Apply the next recorded outcome."""
        match outcome:
            case RecordedOutcome.CREATED:
                self.answers += 1
                self.texts.add(digest)
            case RecordedOutcome.EDITED:
                self.texts = {digest}
            case RecordedOutcome.EDIT_UNKNOWN:
                self.texts.add(digest)
            case RecordedOutcome.DELETED:
                self.required = self.allowed = False
            case RecordedOutcome.DELETION_UNKNOWN:
                self.required = False


class Follower(NamedTuple):
    """A client that followed a chat: the process that it ran in, and its place among those of the chat."""

    source: str
    application: int
    chat: int
    place: int


class AuditLedger:
    """The sorted ledger of a run's folder. Creating one reads all of its records."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._path.unlink(missing_ok=True)
        with sqlite3.connect(self._path) as db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            db.execute("CREATE TABLE entry (source, outcome, application, chat, number, digest)")
            db.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", map(_row, ledger_entries(folder))
            )
            db.execute("CREATE INDEX place ON entry (application, chat, number)")
            db.execute("CREATE INDEX text ON entry (digest)")
            db.execute("CREATE TABLE shown (source, application, chat, follower, number, digest)")
            db.executemany(
                "INSERT INTO shown VALUES (?, ?, ?, ?, ?, ?)",
                ((source, *text) for source, text in shown_texts(folder)),
            )
            db.execute("CREATE INDEX receiver ON shown (application, chat, follower, source)")
        db.close()

    def chats(self) -> list[tuple[int, int]]:
        """(application, chat) of each chat that received a request."""
        return self._query(
            "SELECT DISTINCT application, chat FROM entry WHERE outcome NOT IN (?, ?)",
            RecordedOutcome.CHAT_CREATED,
            RecordedOutcome.CHAT_CREATION_UNKNOWN,
        )

    def highest(self, application: int, chat: int) -> int:
        """The highest number of a chat that must be stored; 0 if there is none."""
        ((number,),) = self._query(
            "SELECT max(number) FROM entry AS made WHERE application = ? AND chat = ? AND outcome = ?"
            " AND NOT EXISTS (SELECT 1 FROM entry AS later WHERE later.application = made.application"
            " AND later.chat = made.chat AND later.number = made.number AND later.outcome IN (?, ?))",
            application,
            chat,
            RecordedOutcome.CREATED,
            RecordedOutcome.DELETED,
            RecordedOutcome.DELETION_UNKNOWN,
        )
        return number or 0

    def expected(self, application: int, chat: int) -> Iterator[Expected]:
        """What the answers say about each number of a chat, in order."""
        db = self._connect()
        rows = db.execute(
            "SELECT number, outcome, digest FROM entry WHERE application = ? AND chat = ? AND number > 0"
            " AND outcome NOT IN (?, ?) ORDER BY number, rowid",
            (
                application,
                chat,
                RecordedOutcome.CHAT_CREATED,
                RecordedOutcome.CHAT_CREATION_UNKNOWN,
            ),
        )
        for number, happened in groupby(rows, key=itemgetter(0)):
            expected = Expected(number)
            for _, outcome, digest in happened:
                expected.apply(outcome, digest)
            yield expected
        db.close()

    def unknown(self, application: int, chat: int) -> set[bytes]:
        """The digests of texts that were sent to a chat and whose answers were lost."""
        rows = self._query(
            "SELECT digest FROM entry WHERE application = ? AND chat = ? AND number = 0 AND outcome = ?",
            application,
            chat,
            RecordedOutcome.CREATION_UNKNOWN,
        )
        return {digest for (digest,) in rows}

    def was_sent(self, digest: bytes) -> bool:
        """Whether this text was sent, as a message or as an edit, to any chat."""
        return bool(self._query("SELECT 1 FROM entry WHERE digest = ? LIMIT 1", digest))

    def sent_to(self, digest: bytes) -> set[tuple[int, int]]:
        """(application, chat) of each chat that this text was sent to, as a message or as an edit."""
        return set(
            self._query("SELECT DISTINCT application, chat FROM entry WHERE digest = ?", digest)
        )

    def chat_numbers(self, application: int) -> tuple[dict[int, int], int]:
        """How often each chat number of an application was answered, and how many answers were lost."""
        rows = self._query(
            "SELECT chat, count(*) FROM entry WHERE application = ? AND outcome = ? GROUP BY chat",
            application,
            RecordedOutcome.CHAT_CREATED,
        )
        ((lost,),) = self._query(
            "SELECT count(*) FROM entry WHERE application = ? AND outcome = ?",
            application,
            RecordedOutcome.CHAT_CREATION_UNKNOWN,
        )
        return dict(rows), lost

    def followers(self) -> list[Follower]:
        """Every client that followed a chat."""
        rows = self._query(
            "SELECT source, application, chat, follower FROM shown WHERE number = 0 AND follower <> ?"
            " ORDER BY application, chat, follower",
            READER,
        )
        return [Follower(*row) for row in rows]

    def received(self, follower: Follower) -> Iterator[int]:
        """The numbers that a follower has received, in the order in which they came."""
        db = self._connect()
        rows = db.execute(
            "SELECT number FROM shown WHERE source = ? AND application = ? AND chat = ? AND follower = ?"
            " AND number > 0 ORDER BY rowid",
            follower,
        )
        yield from (number for (number,) in rows)
        db.close()

    def answered(self, application: int, chat: int, after: int, until: int) -> set[int]:
        """The numbers from `after` + 1 to `until` that creations were answered with."""
        rows = self._query(
            "SELECT DISTINCT number FROM entry WHERE application = ? AND chat = ? AND number > ?"
            " AND number <= ? AND outcome = ?",
            *(application, chat, after, until, RecordedOutcome.CREATED),
        )
        return {number for (number,) in rows}

    def highest_answered_to(self, source: str, application: int, chat: int) -> int:
        """The highest number of a chat that one process was answered; 0 if there is none."""
        ((number,),) = self._query(
            "SELECT max(number) FROM entry WHERE source = ? AND application = ? AND chat = ?"
            " AND outcome = ?",
            *(source, application, chat, RecordedOutcome.CREATED),
        )
        return number or 0

    def unsent(self) -> list[Shown]:
        """What was shown under a number although no request of the run has sent it there.

        A text whose answer was lost may be shown under any number of its chat.
        """
        rows = self._query(
            "SELECT application, chat, follower, number, digest FROM shown WHERE number > 0"
            " AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.digest = shown.digest"
            " AND entry.application = shown.application AND entry.chat = shown.chat"
            " AND entry.number IN (shown.number, 0))"
            " ORDER BY application, chat, number, follower"
        )
        return [Shown(*row) for row in rows]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)

    def _query(self, query: str, *values: object) -> list[Any]:
        db = self._connect()
        try:
            return db.execute(query, values).fetchall()
        finally:
            db.close()


def _row(recorded: tuple[str, LedgerEntry]) -> tuple[str, int, int, int, int, bytes]:
    source, entry = recorded
    return source, int(entry.outcome), *entry[1:]
