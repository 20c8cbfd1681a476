"""The ledger, sorted: what must be, and what may be, under each number of each chat.

Sorting is SQLite's, on disk, so memory does not grow with the run. Edits and deletions of one message come
from one user, one after another, so the last of them decides; where an answer was lost, both outcomes may be.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from loadtest.recording import LedgerEntry, Outcome, ledger_entries

FILE = "ledger.sqlite"


@dataclass
class Expected:
    """What the answers say about one number of a chat."""

    number: int
    texts: set[bytes] = field(default_factory=set)  # digests; any of them is right
    required: bool = True  # it has to be there
    allowed: bool = True  # it can be there
    answers: int = 0  # how many creations were answered with this number

    def apply(self, outcome: int, digest: bytes) -> None:
        """The next thing that happened to it."""
        match outcome:
            case Outcome.CREATED:
                self.answers += 1
                self.texts.add(digest)
            case Outcome.EDITED:
                self.texts = {digest}
            case Outcome.EDIT_UNKNOWN:
                self.texts.add(digest)
            case Outcome.DELETED:
                self.required = self.allowed = False
            case Outcome.DELETION_UNKNOWN:
                self.required = False


class Ledger:
    """The ledger of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._path.unlink(missing_ok=True)
        with sqlite3.connect(self._path) as db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            db.execute("CREATE TABLE entry (outcome, application, chat, number, digest)")
            db.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?)", map(_row, ledger_entries(folder))
            )
            db.execute("CREATE INDEX place ON entry (application, chat, number)")
            db.execute("CREATE INDEX text ON entry (digest)")
        db.close()

    def chats(self) -> list[tuple[int, int]]:
        """(application, chat) of each chat that something was sent to."""
        return self._query(
            "SELECT DISTINCT application, chat FROM entry WHERE outcome NOT IN (?, ?)",
            Outcome.CHAT_CREATED,
            Outcome.CHAT_CREATION_UNKNOWN,
        )

    def highest(self, application: int, chat: int) -> int:
        """The highest number of a chat that must be there; 0 if none must."""
        ((number,),) = self._query(
            "SELECT max(number) FROM entry AS made WHERE application = ? AND chat = ? AND outcome = ?"
            " AND NOT EXISTS (SELECT 1 FROM entry AS later WHERE later.application = made.application"
            " AND later.chat = made.chat AND later.number = made.number AND later.outcome IN (?, ?))",
            application,
            chat,
            Outcome.CREATED,
            Outcome.DELETED,
            Outcome.DELETION_UNKNOWN,
        )
        return number or 0

    def expected(self, application: int, chat: int) -> Iterator[Expected]:
        """What is known of each number of a chat, in order."""
        db = self._connect()
        rows = db.execute(
            "SELECT number, outcome, digest FROM entry WHERE application = ? AND chat = ? AND number > 0"
            " AND outcome NOT IN (?, ?) ORDER BY number, rowid",
            (application, chat, Outcome.CHAT_CREATED, Outcome.CHAT_CREATION_UNKNOWN),
        )
        for number, happened in groupby(rows, key=itemgetter(0)):
            expected = Expected(number)
            for _, outcome, digest in happened:
                expected.apply(outcome, digest)
            yield expected
        db.close()

    def unknown(self, application: int, chat: int) -> set[bytes]:
        """The texts sent to a chat whose answers were lost."""
        rows = self._query(
            "SELECT digest FROM entry WHERE application = ? AND chat = ? AND number = 0 AND outcome = ?",
            application,
            chat,
            Outcome.CREATION_UNKNOWN,
        )
        return {digest for (digest,) in rows}

    def was_sent(self, digest: bytes) -> bool:
        """Whether this text was sent at all, as a message or as an edit, to whatever chat."""
        return bool(self._query("SELECT 1 FROM entry WHERE digest = ? LIMIT 1", digest))

    def chat_numbers(self, application: int) -> tuple[dict[int, int], int]:
        """The chats answered in an application with how often each, and how many answers were lost."""
        rows = self._query(
            "SELECT chat, count(*) FROM entry WHERE application = ? AND outcome = ? GROUP BY chat",
            application,
            Outcome.CHAT_CREATED,
        )
        ((lost,),) = self._query(
            "SELECT count(*) FROM entry WHERE application = ? AND outcome = ?",
            application,
            Outcome.CHAT_CREATION_UNKNOWN,
        )
        return dict(rows), lost

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)

    def _query(self, query: str, *values: object) -> list[Any]:
        db = self._connect()
        try:
            return db.execute(query, values).fetchall()
        finally:
            db.close()


def _row(entry: LedgerEntry) -> tuple[int, int, int, int, bytes]:
    return int(entry.outcome), entry.application, entry.chat, entry.number, entry.digest
