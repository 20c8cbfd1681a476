"""A follower of one chat: it hears of each message as soon as that is stored."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.domain.model import Message
from backend.live.events import Created, Gone
from backend.live.follow import follow

if TYPE_CHECKING:
    from backend.bootstrap import Backend


class DemoFollower:
    """Follows a chat from its beginning in a thread, which ends with the chat's last number."""

    def __init__(
        self,
        backend: "Backend",
        chat: tuple[str, int],
        last: int,
        on_message: Callable[[Message], object],
    ) -> None:
        """`last` is the number of the last message; `on_message` is called in the thread."""
        self.numbers: list[int] = []
        """The numbers that it was told of, in the order in which they came."""
        self._backend = backend
        self._chat = chat
        self._last = last
        self._on_message = on_message
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the last number; whether each came once and in order by then."""
        self._thread.join(seconds)
        return self.numbers == list(range(1, self._last + 1))

    def _run(self) -> None:
        backend = self._backend
        for event in follow(backend.live_reader, backend.log.url, self._chat, after=0):
            if isinstance(event, Created | Gone):
                self.numbers.append(event.number)
            if isinstance(event, Created):
                self._on_message(event.message)
            if self.numbers and self.numbers[-1] >= self._last:
                return
