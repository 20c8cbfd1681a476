"""Searches by the fast path's `IndexedSearches` without a server: its event loop runs in a thread."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from backend.api.server.group_count import GroupCount
from backend.api.server.group_read import CONNECTIONS, GroupRead
from backend.api.server.indexed_search import IndexedSearches
from backend.bootstrap import Backend
from backend.domain.folding import fold_keyword
from backend.search.searcher import IndexSearcher
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.driver import Rows
from backend.storage.redis.counters import Issued
from backend.storage.redis.counters_async import ThreadCounterClient
from tests.support.waiting import PATIENCE_SECONDS, wait_until

PAGE_SIZE = 200
Found = list[int] | None
"""The numbers of a page's messages; None if the search is left to the ordinary route."""


class GroupedSearches:
    """Searches a backend's chats, by the index at an URL. `close` ends it."""

    def __init__(self, core: Backend, index_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._threads = ThreadPoolExecutor(6)
        self._index = ElasticsearchIndex(index_url)
        self._counts: GroupCount = self._call(
            lambda: GroupCount(core.counters.shard, ThreadCounterClient(core.log))
        )
        self.group: GroupRead = self._call(lambda: GroupRead(core.database, self._counts))
        self.searcher = IndexSearcher(core.database, self._index)
        self.searches = IndexedSearches(self.group, self._threads, self.searcher)
        wait_until(self._is_connected)

    def submit(self, token: str, keyword: str, **page: int) -> "Future[Found]":
        """Begin a search of a `chat` for the first `limit` messages `after` a number."""
        return self.submit_all([search(token, keyword, **page)])[0]

    def submit_all(self, reads: "Sequence[_Read]") -> "list[Future[Found]]":
        """Begin searches in one iteration of the event loop."""

        def submit() -> None:
            for read in reads:
                self.searches.submit(read)

        self._call(submit)
        return [read.result for read in reads]

    def find(self, token: str, keyword: str, **page: int) -> Found:
        """The result of a search."""
        return self.submit(token, keyword, **page).result(PATIENCE_SECONDS)

    def end(self) -> None:
        """End all searches, as a server that stops does."""
        self._call(self.searches.close)

    def close(self) -> None:
        """Close the connections."""
        self.end()
        self._call(self.group.close)
        asyncio.run_coroutine_threadsafe(self._counts.close(), self._loop).result(PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._threads.shutdown(wait=False)
        self._index.close()

    def _is_connected(self) -> bool:
        """The first read opens the connections; until then, reads fall back."""
        self.find("unknown-token-that-is-long", "x")
        return self.group.open_connections == CONNECTIONS

    def _call(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE_SECONDS)


def search(
    token: str, keyword: str, *, chat: int = 1, after: int = 0, limit: int = PAGE_SIZE
) -> "_Read":
    """A search for `submit_all`."""
    return _Read((token, chat, fold_keyword(keyword), after, limit))


class _Read:
    """The read of a search, which records its result. See `group_read.Read`."""

    statement = grouped_reads.SEARCHES
    max_rows = 1

    def __init__(self, values: tuple[str, int, str, int, int]) -> None:
        self.values = values
        self.result: Future[Found] = Future()
        self.results = 0

    def shown_counts(self, _: Rows) -> None:
        """It shows no count."""

    def deliver(self, rows: Rows, _: Issued) -> None:
        """The rows are those of `grouped_reads.SEARCHES`."""
        self.results += 1
        self.result.set_result([row[3] for row in rows if row[3] is not None])

    def fall_back(self) -> None:
        """The ordinary route would answer."""
        self.results += 1
        self.result.set_result(None)

    def fail(self, error: Exception) -> None:
        """The client would get this error."""
        self.results += 1
        self.result.set_exception(error)
