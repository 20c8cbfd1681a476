"""Appending events that take no number, and are in SQL already."""

from redis.exceptions import ResponseError

from backend.domain.model import EntryId
from backend.storage.redis.accept import NOTIFY_AGAIN_MICROSECONDS, translate_script_error
from backend.storage.redis.appended import split_reply
from backend.storage.redis.client import RedisClient, text
from backend.storage.redis.errors import foreign_data_error
from backend.storage.redis.types import StaleEpoch


class AppendCalls(RedisClient):
    """Appends to a shard's log."""

    def append(self, shard: int, epoch: int, payload: bytes) -> tuple[EntryId, bool]:
        """Append an event; returns its entry, and whether the caller must request a drain.

        It is as durable as what is accepted. Raises StaleEpoch, with nothing appended; and Unconfirmed if the
        reply was lost, or if too few replicas have it.
        """
        keys = [self.key(shard, name) for name in ("epoch", "log")]
        arguments: list[str | int | bytes] = [epoch, payload, NOTIFY_AGAIN_MICROSECONDS]
        try:
            with self.unconfirmed_on_lost_reply():
                replies = self._call("append_event", keys, arguments, durably=True)
        except ResponseError as error:
            raise translate_script_error(error) from None
        (reply,) = split_reply(replies)
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"stale":
            raise StaleEpoch(text(reply[1]))
        if reply[0] == b"broken":
            raise foreign_data_error(text(reply[1]), shard)
        _, _, sequence, notify = reply
        return EntryId(epoch, sequence), bool(notify)
