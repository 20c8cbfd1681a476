"""Plays of what follows a change: its count in SQL, and the rows below a removed application."""

from collections.abc import Sequence
from contextlib import suppress

from backend.bootstrap import Backend
from backend.domain.errors import Closing, NotFound
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from tests.support.faults.shortcuts import scalar
from tests.support.interleavings.plays import Body, TokenPlay


class Counting(TokenPlay):
    """A message is accepted while another process syncs counts."""

    def prepare(self) -> None:
        """See TokenPlay."""
        self._sync(self.first)
        self.send(self.first, "one")
        self._drain()

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""
        return [
            ("accept", lambda: self.send(self.first, "two")),
            ("sync", lambda: self._sync(self.second)),
        ]

    def check_promises(self) -> None:
        """The next sync writes what these did not."""
        self._drain()
        self._sync(self.second)
        self.check_stored()
        count = """
            SELECT c.messages_issued FROM chat c JOIN application a ON a.id = c.application_id
            WHERE a.token = :token"""
        assert scalar(self.first, count, token=self.token) == len(self.answered)

    def _sync(self, backend: Backend) -> None:
        """Of this shard only: each would add steps."""
        epoch = backend.epochs.read(self.shard)
        list(backend.counter_sync._write_changes(self.shard, epoch))


class CountingTwice(Counting):
    """As Counting, while the process that accepts syncs counts, too."""

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""
        return [*super().actors(), ("other sync", lambda: self._sync(self.first))]


class Cascading(TokenPlay):
    """Two processes delete what is left of a removed application; one of them accepts before."""

    def prepare(self) -> None:
        """See TokenPlay."""
        self.send(self.first, "one")
        self.first.acceptor.accept(AcceptRequest.chats(self.token))
        self._drain()
        self.first.acceptor.accept(AcceptRequest.deletion(self.token, cascade=True))
        self._drain()

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""

        def accept_and_delete() -> None:
            with suppress(NotFound, Closing):
                self.send(self.second, "two")
            self.second.cascade_deleter.delete_all()

        return [
            ("delete", self.first.cascade_deleter.delete_all),
            ("accept", accept_and_delete),
        ]

    def recover(self) -> None:
        """See TokenPlay."""
        super().recover()
        self.second.cascade_deleter.delete_all()

    def check_promises(self) -> None:
        """Nothing is left but the tombstone, and the chats have no counters."""
        assert self.answered.keys() == {"one"}
        left = """
            SELECT count(*) FROM chat c JOIN application a ON a.id = c.application_id
            WHERE a.token = :token"""
        assert scalar(self.first, left, token=self.token) == 0
        for chat in (1, 2):
            key = self.first.log.counter_key(self.shard, Parent(self.token, chat))
            assert not self.first.log.redis.exists(key), f"chat {chat} still has a counter"
        self.check_no_dead_letter()
