"""What the requests of the fast path have in common: their state, what they use, and their response."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

from msgspec import Struct

from backend.api.server.group_commit import AcceptCallback
from backend.api.server.group_read import Read
from backend.ingest.requests import AcceptRequest

NOT_MODIFIED: Final = 304


class FastResponse(Struct, frozen=True, gc=False):
    """A successful response: its status, the lines of the headers that only it has, and its body."""

    status: int
    headers: bytes
    body: bytes


Respond = Callable[["FastRequest", FastResponse | Exception | None], None]
"""Takes a request and its response, or the error to describe; None passes it to the ordinary route."""


ReceivedHeaders = list[tuple[bytes, bytes]]

MakeRequest = Callable[[ReceivedHeaders], "FastRequest"]
"""Makes a request of a head that was read before, given its headers. Each call makes another one."""


class Core(Protocol):
    """What the fast path needs of the service."""

    def original_path(self, url: bytes) -> bytes:
        """See `token_paths.original_path`."""

    def when_tokens_change(self, call: Callable[[], object]) -> None:
        """Call it on the event loop whenever a token was replaced."""

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        """See `GroupCommit.submit`."""

    def submit_read(self, read: Read) -> None:
        """See `GroupRead.submit`."""

    def submit_search(self, read: Read) -> None:
        """As `submit_read`, for a search; see `IndexedSearches.submit` for one with an index."""


class _NoEvent:
    """The event of a new part of the body. A request of the fast path has no task that waits for it."""

    def set(self) -> None: ...


_NO_EVENT = _NoEvent()


class FastRequest(ABC):
    """A plain request. It takes the place of Uvicorn's cycle of a request.

    What most requests have in common is an attribute of the class: setting each in an instance takes a
    twentieth of the time of the HTTP part of a request.
    """

    method: ClassVar[str]
    route: ClassVar[str]
    """The route in the log and the metrics: the path template of the ordinary route."""
    may_fall_back_late: ClassVar[bool] = False
    """Whether `respond` may get None after `start` has returned."""

    unparsed = b""
    """The whole request, if the parser has not read it."""

    # The attributes of a cycle that Uvicorn's protocol uses:
    body = b""
    more_body = True
    keep_alive = True
    disconnected = False
    response_complete = False
    message_event: ClassVar = _NO_EVENT

    def __init__(self, headers: ReceivedHeaders) -> None:
        self.headers = headers
        self.started_at = time.perf_counter()

    @abstractmethod
    def start(self, core: Core, respond: Respond) -> None:
        """Process the request, whose body is complete, and call `respond` once, now or later."""
