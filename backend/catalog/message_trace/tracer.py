"""Traces numbers of chats: asks the log first, then SQL, and then the search index."""

from dataclasses import replace

from backend.catalog.message_trace.log_view import read_log_view
from backend.catalog.message_trace.rejections import read_dead_letters
from backend.catalog.message_trace.search_steps import SearchSteps
from backend.catalog.message_trace.stored import StoredNumbers
from backend.catalog.message_trace.trace import MessageTrace, with_durations
from backend.catalog.message_trace.unstored import UnstoredNumbers
from backend.domain.model import checked_number, checked_token, no_application, no_chat
from backend.ingest.counters import Counters
from backend.ingest.entry_search import CreatedMessage
from backend.search.searcher import Searcher
from backend.storage.postgres import message_trace
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers
from backend.storage.search_index import SearchIndex


class MessageTracer:
    """Traces messages; changes none. Thread-safe. Raises EngineDown if PostgreSQL is away."""

    def __init__(
        self,
        log: Log,
        database: Database,
        counters: Counters,
        workers: Workers,
        searcher: Searcher,
        index: SearchIndex | None,
    ) -> None:
        self._log = log
        self._database = database
        self._counters = counters
        self._unstored = UnstoredNumbers(log, database, workers)
        self._stored = StoredNumbers(log, SearchSteps(database, searcher, index))

    def trace(self, token: str, chat: int, number: int) -> MessageTrace:
        """What became of a number of a chat, also of a removed one.

        Raises NotFound for an application that never was, and a chat whose number was never given. Without
        Redis or Elasticsearch, the trace says what it lacks.
        """
        checked_token(token)
        checked_number(chat)
        wanted = CreatedMessage(token, chat, checked_number(number))
        # Before SQL: each number that is issued by now is then in the log, or stored.
        view = read_log_view(self._log, self._database, self._counters, token, chat)
        with self._database.connect() as connection:
            known = message_trace.find_number(connection, view.shard, *wanted)
            if known is None:
                raise no_application()
            letters = list(read_dead_letters(connection, wanted))
            outbox = (
                message_trace.list_outbox_entries(connection, known.chat_id, number)
                if known.chat_id is not None
                else []
            )
        if known.chat_id is None and (view.chats_issued or 0) < chat and view.problem is None:
            raise no_chat(chat)
        if known.state is None:
            trace = self._unstored.trace(wanted, view, known, letters)
        else:
            trace = self._stored.trace(wanted, view, known, letters, outbox)
        return replace(
            trace,
            shard=view.shard,
            dead_letters=[letter.key for letter in letters],
            steps=with_durations(trace.steps),
        )
