"""A proxy in front of Elasticsearch that stops searches between their parts."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

from tests.support.faults.proxy import Proxy
from tests.support.waiting import wait_until

Place = Literal["request", "answer"]
_match_head = re.compile(rb"(?:GET|POST|PUT|DELETE|HEAD) [^\r]+ HTTP/1.1\r\n").match


class SearchGate(Proxy):
    """Forwards everything, and holds searches where a test says so. `close` ends it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._place: Place | None = None
        self._open = threading.Event()
        self._open.set()
        self.seen = 0
        """How many searches have come."""
        self.held = 0
        """How many searches it has held since `holding`."""
        self._of_connection = threading.local()  # each has a thread
        super().__init__((str(parts.hostname), parts.port or 9200))

    @property
    def url(self) -> str:
        """The URL to use instead of Elasticsearch's."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def holding(self, place: Place) -> Iterator[None]:
        """Hold each search, before its request reaches Elasticsearch or before its answer leaves."""
        self.held, self._place = 0, place
        self._open.clear()
        try:
            yield
        finally:
            self.release()

    def wait_held(self, searches: int = 1) -> None:
        """Return once it holds so many."""
        wait_until(lambda: self.held >= searches)

    def release(self) -> None:
        """Hold none any more."""
        self._place = None
        self._open.set()

    def _pass(self, data: bytes, *, from_client: bool) -> None:
        place: Place = "request" if from_client else "answer"
        if from_client and (head := _match_head(data)):  # the body may come by itself
            is_search = b"/_search" in head[0]
            self.seen += is_search
            self._of_connection.place = self._place if is_search else None
        if self._of_connection.place == place:
            self._of_connection.place = None  # once
            self.held += 1
            self._open.wait()
