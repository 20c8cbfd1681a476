"""Plays of draining and deleting: a protocol each, with as few actors and as little data as its faults need.

Each play has an application of its own. Its two backends are those of two processes; at the end a recovery
does what the next worker would do, and then the promises are checked.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress

from backend.bootstrap import Backend
from backend.domain.errors import Closing, NotFound
from backend.domain.model import Chat
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import applications
from tests.support.faults.shortcuts import scalar, send, stored
from tests.support.interleavings.steps import Actor

Body = Callable[[], object]


class TokenPlay(ABC):
    """A play about the first chat of a new application."""

    def __init__(self, first: Backend, second: Backend) -> None:
        self.first, self.second = first, second
        self.token, self.shard = _new_application(first)
        first.acceptor.accept(AcceptRequest.chats(self.token))
        self.answered: dict[str, int] = {}
        """By the text of each message that was accepted, its number."""
        self._drain()
        self.prepare()

    def prepare(self) -> None:  # noqa: B027  # most plays need nothing else
        """Make the data that the actors begin with."""

    @abstractmethod
    def actors(self) -> Sequence[tuple[str, Body]]:
        """See Play."""

    @abstractmethod
    def check_promises(self) -> None:
        """Raise AssertionError if something does not hold after the recovery."""

    def check(self, ended: Sequence[Actor]) -> None:
        """See Play."""
        if any(actor.is_killed for actor in ended):
            self.recover()
        self.check_promises()

    def recover(self) -> None:
        """Do what a worker does that starts afterwards."""
        self._drain()

    def send(self, backend: Backend, message: str, chat: int = 1) -> None:
        """Accept a message, and note its number."""
        self.answered[message] = send(backend, self.token, message, chat=chat)

    def drain(self, backend: Backend) -> None:
        """Drain the shard, as a worker does when it is woken up."""
        backend.drainer.drain(self.shard)

    def _drain(self) -> None:
        self.second.drainer.drain(self.shard)

    def check_stored(self, chat: int = 1) -> None:
        """Each accepted message is stored once, under its number, and the live count is that of the rows."""
        expected = {number: message for message, number in self.answered.items()}
        assert stored(self.first, self.token, chat) == expected
        assert len(expected) == len(self.answered), "a number was given twice"
        found = self.first.catalog.chats.get(self.token, chat)
        assert isinstance(found, Chat)
        assert found.messages_count == len(expected)
        self.check_no_dead_letter()

    def check_no_dead_letter(self) -> None:
        """Nothing of this play became a dead letter."""
        count = "SELECT count(*) FROM dead_letter WHERE token = :token"
        assert not scalar(self.first, count, token=self.token)


class Draining(TokenPlay):
    """Two drains, while a message is accepted, whose process drains, too."""

    def prepare(self) -> None:
        """See TokenPlay."""
        self.send(self.first, "one")

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""

        def accept_and_drain() -> None:
            self.send(self.first, "two")
            self.drain(self.first)

        return [("accept", accept_and_drain), ("drain", lambda: self.drain(self.second))]

    def check_promises(self) -> None:
        """Also without a recovery: no message waits for another wake-up."""
        self.check_stored()


class Deleting(TokenPlay):
    """A chat is deleted while its first message is accepted; both processes drain."""

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""

        def accept_and_drain() -> None:
            with suppress(NotFound, Closing):
                self.send(self.first, "one")
            self.drain(self.first)

        def delete_and_drain() -> None:
            self.second.acceptor.accept(AcceptRequest.deletion(self.token, 1))
            self.drain(self.second)

        return [("accept", accept_and_drain), ("delete", delete_and_drain)]

    def check_promises(self) -> None:
        """The chat is deleted, or it has the message and takes others."""
        try:
            self.first.catalog.chats.get(self.token, 1)
        except NotFound:
            assert not self.answered
            return
        with suppress(NotFound):
            self.send(self.first, "and goes on")
            self._drain()
        self.check_stored()
        assert "and goes on" in self.answered, "the chat stays closed"


class Deciding(TokenPlay):
    """A chat's deletion waits to be decided while its message is deleted, and another one accepted."""

    def prepare(self) -> None:
        """See TokenPlay."""
        send(self.first, self.token, "the first")
        self._drain()
        self.first.acceptor.accept(AcceptRequest.deletion(self.token, 1))

    def actors(self) -> Sequence[tuple[str, Body]]:
        """See TokenPlay."""

        def change() -> None:
            self.second.catalog.messages.delete(self.token, 1, 1)
            with suppress(NotFound, Closing):
                self.send(self.second, "the second")

        return [("drain", lambda: self.drain(self.first)), ("change", change)]

    def check_promises(self) -> None:
        """The chat is deleted, or it has the other message."""
        self._drain()
        try:
            texts = list(stored(self.first, self.token).values())
        except NotFound:
            texts = []
        # Its deletion may have been killed.
        assert [one for one in texts if one != "the first"] == list(self.answered)
        self.check_no_dead_letter()


def _new_application(backend: Backend) -> tuple[str, int]:
    """A new application, always in the same shard: the steps of another one may differ."""
    shard = backend.database.installation.shards[0]
    while backend.counters.shard(token := secrets.token_urlsafe(24)) != shard:
        pass
    backend.counters.create_counter(token, shard)
    with backend.database.begin() as tx:
        applications.insert_application_once(tx, token, "play", shard)
    return token, shard
