"""What the log knows of a number: how many were issued, the entry that created it, when that was stored."""

from datetime import datetime
from typing import NamedTuple

from backend.catalog.message_trace.trace import TraceStep
from backend.domain.errors import InstaChatError
from backend.domain.events import from_micros
from backend.domain.model import EntryId, Parent
from backend.ingest.counters import Counters
from backend.ingest.entry_search import CreatedMessage, FoundEntry, find_kept_entry
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log

NOWHERE = EntryId(0, 0)


class LogView(NamedTuple):
    """What Redis knew before SQL was read; `problem` says why it is unknown.

    `issued` and `chats_issued` are the highest numbers of the chat and of the application's chats, `stored`
    and `end` the last entry of the log that is stored, and the last one.
    """

    shard: int
    issued: int | None
    chats_issued: int | None
    stored: EntryId
    end: EntryId
    problem: str | None = None


def read_log_view(
    log: Log, database: Database, counters: Counters, token: str, chat: int
) -> LogView:
    """What Redis knows of a chat. Raises EngineDown if PostgreSQL is away; without Redis it says so."""
    with database.connect() as connection:
        shard = counters.locate(connection, {token})[token]
    try:
        parents = [Parent(token, chat), Parent(token)]
        counters.read_log_end(shard)  # begins an epoch after a restart, as any read does
        (of_chat, of_application), end = log.inspect(shard, parents)
        stored = log.ends([shard])[shard].stored
    except InstaChatError as error:
        return LogView(shard, None, None, NOWHERE, NOWHERE, error.message)
    return LogView(shard, of_chat.issued, of_application.issued, stored, end)


def find_entry(log: Log, view: LogView, wanted: CreatedMessage, at: datetime) -> FoundEntry | None:
    """The entry that created a stored message then; None if the log does not hold it, or is unknown."""
    return None if view.problem else find_kept_entry(log, view.shard, wanted, at, view.end)


def describe_entry(entry: FoundEntry, shard: int) -> str:
    """Where an entry is."""
    return f"entry {entry.id} of the log of shard {shard}"


def stored_between(
    log: Log, shard: int, entry: FoundEntry, drained_at: datetime | None
) -> TraceStep:
    """When an entry was stored: from the marks of the kept log, one a second.

    Behind the last mark it is known from the shard's last drain, which began at `drained_at`.
    """
    before = entry.at
    for micros, through in log.stored_marks(shard):
        if through >= entry.id:
            marked = max(from_micros(micros), before)
            return TraceStep("stored", before, "at the latest, by a mark of the log", marked)
        before = max(before, from_micros(micros))
    until = max(drained_at, before) if drained_at else None
    return TraceStep("stored", before, "at the latest, in the shard's last drain", until)
