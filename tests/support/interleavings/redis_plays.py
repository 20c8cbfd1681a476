"""Plays of a Redis that is replaced by another copy of itself while it is used."""

from collections.abc import Sequence

from sqlalchemy import text

from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import shards
from backend.storage.redis.types import LogEnd, LogSize
from tests.support.faults.shortcuts import send
from tests.support.interleavings.plays import Body, TokenPlay
from tests.support.redis_copy import RedisCopy, bring_back, copy_redis


class Losing(TokenPlay):
    """Redis is replaced by an older copy of itself while messages are accepted and stored."""

    older: RedisCopy

    def prepare(self) -> None:
        """See TokenPlay."""
        self.older = copy_redis(self.first.log.redis)
        self.send(self.first, "one")
        self.send(self.first, "two")
        self._drain()
        self.before = self._rows()
        """What was stored when Redis was replaced."""

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""

        def accept_and_drain() -> None:
            self.send(self.first, "three")
            self.drain(self.second)

        return [("accept", accept_and_drain), ("replace Redis", self._replace)]

    def check_promises(self) -> None:
        """What was stored stays, and its numbers are given to nothing else."""
        self._drain()
        rows = self._rows()
        assert self.before.items() <= rows.items()
        assert set(rows.values()) <= set(self.answered)
        for message, number in self.answered.items():
            assert self.before.get(number, message) == message, "a stored number was given again"
        self.check_no_dead_letter()

    def _replace(self) -> None:
        self.before = self._rows()
        bring_back(self.first.log.redis, self.older)

    def _rows(self) -> dict[int, str]:
        statement = """
            SELECT m.number, m.text FROM message m JOIN chat c ON c.id = m.chat_id
            JOIN application a ON a.id = c.application_id
            WHERE a.token = :token AND c.number = 1 AND m.state = 'stored'"""
        with self.first.database.engine.connect() as connection:
            rows = connection.execute(text(statement), {"token": self.token}).all()
        return {row.number: row.text for row in rows}


class Returning(TokenPlay):
    """A Redis that was replaced is back, with messages that nobody has stored; its log is trimmed, too."""

    def prepare(self) -> None:
        """See TokenPlay."""
        self.first.acceptor.accept(AcceptRequest.chats(self.token))
        self._drain()
        for message in ("one", "two"):
            self.send(self.first, message)
        former = copy_redis(self.first.log.redis)
        self.first.log.redis.flushall()
        send(self.first, self.token, "of the other Redis", chat=2)
        self._drain()
        bring_back(self.first.log.redis, former)

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""

        def trim_and_drain() -> None:
            self._trim()
            self.drain(self.first)

        return [("drain", lambda: self.drain(self.second)), ("trim", trim_and_drain)]

    def check_promises(self) -> None:
        """All of them are stored."""
        self._drain()
        self.check_stored()

    def _trim(self) -> None:
        """As a worker does, of this shard only: each would add steps."""
        log, shard = self.first.log, self.shard
        size, end = log.try_sizes([shard])[shard], log.try_ends([shard])[shard]
        assert isinstance(size, LogSize)
        assert isinstance(end, LogEnd)
        with self.first.database.connect() as connection:
            drained = shards.drained_shards(connection)[shard]
        self.first.kept_log._trim_shard(shard, drained, size, end, 1.0)
