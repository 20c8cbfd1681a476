"""Waiting until replicas have what was accepted on disk.

WAITAOF waits for the writes of its own connection, so it is sent on the connection of the accept script,
after the script's reply. If a replica receives the primary's question together with the writes, it answers
before it has synced them; by itself it reports what it has synced once a second only. For the same reason
the question is repeated after a tenth of a second.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from backend.domain.errors import EngineDown, Unconfirmed
from backend.storage.redis.appended import is_appended, split_reply
from backend.storage.redis.pipeline import Command
from backend.storage.versions import parse_version

MIN_WAITAOF_VERSION = (7, 2)  # of Redis; each Valkey says that it is a Redis 7.2
ASK_INTERVAL_SECONDS = 0.1


class ReplicaWait(NamedTuple):
    """How many replicas must have a write on disk, and how long an answer waits for them."""

    replicas: int
    timeout_seconds: float

    @property
    def commands(self) -> list[Command]:
        """WAITAOF, which waits for the primary's own disk, too; once for each time that it asks."""
        times = math.ceil(self.timeout_seconds / ASK_INTERVAL_SECONDS)
        return [("WAITAOF", 1, self.replicas, int(ASK_INTERVAL_SECONDS * 1000))] * times

    def confirmed(self, reply: Sequence[Any], waited: Sequence[Any]) -> Sequence[Any]:
        """The reply of a script that appends; Unconfirmed in the place of what too few replicas have.

        `waited` are the replies to `commands`.
        """
        for found in waited:
            if not isinstance(found, Exception) and found[0] >= 1 and found[1] >= self.replicas:
                return reply
        return [self._unconfirmed() if is_appended(part) else part for part in split_reply(reply)]

    def _unconfirmed(self) -> Unconfirmed:
        return Unconfirmed(
            f"fewer than {self.replicas} replicas have this on disk; it may be lost with the primary",
            "see `instachat doctor`; with an idempotency key the same request can be repeated",
        )

    def check_version(self, server_info: Mapping[str, Any]) -> None:
        """Raise EngineDown if the server of this INFO does not have WAITAOF."""
        version = str(server_info["redis_version"])
        if parse_version(version) < MIN_WAITAOF_VERSION:
            raise EngineDown(
                f"Redis {version} does not have WAITAOF, which INSTACHAT_DURABLE_REPLICAS="
                f"{self.replicas} needs; nothing was accepted",
                "use Redis 7.2 or newer, or any Valkey; or unset INSTACHAT_DURABLE_REPLICAS",
            )
