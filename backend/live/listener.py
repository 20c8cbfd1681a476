"""A thread that receives notifications, and connects again whenever it has to."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing

from backend.domain.errors import InstaChatError
from backend.storage.redis.notifications import Change, Subscription

READ_SECONDS = 1.0
RECONNECT_SECONDS = 0.5
logger = logging.getLogger(__name__)


class Listener:
    """Calls `on_changes` with what is published, and `on_connected` whenever a subscription begins.

    What was published before that may be lost, so `on_connected` has to look at everything. Both are called
    in the listener's thread.
    """

    def __init__(
        self,
        url: str,
        on_changes: Callable[[Sequence[Change]], object],
        on_connected: Callable[[], object],
    ) -> None:
        self._url = url
        self._on_changes = on_changes
        self._on_connected = on_connected
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread within a second or two; does not wait for that."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(Subscription(self._url)) as subscription:
                    self._on_connected()
                    while not self._stopping.is_set():
                        if changes := subscription.read(READ_SECONDS):
                            self._on_changes(changes)
            except InstaChatError as error:
                logger.info("notifications are not received: %s", error.message)
            except Exception:
                logger.exception("notifications are not received")
            self._stopping.wait(RECONNECT_SECONDS)
