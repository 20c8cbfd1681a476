"""Rate limits: what the accept script refuses, and that no loss of Redis forgets a limit."""

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.application_settings import parse_rate
from backend.domain.errors import HasChildren, Invalid, NotFound, RateLimited
from backend.domain.model import Accepted
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.transfer.format import LineChunk
from tests.support.transfer_lines import message_line

AT = "2026-01-31T23:59:59.000000Z"
SLOW = 1  # a second: whatever a test does takes less than the minute that a request of 60 is worth


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """The token of an application with a stored chat."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    backend.drainer.drain_all()
    return application


def send(backend: Backend, token: str, messages: int = 1) -> int:
    """Create messages in chat 1; returns the first number."""
    return backend.acceptor.accept(AcceptRequest.messages(token, 1, ["x"] * messages)).first


def test_what_is_above_the_limit_is_refused_until_it_is_lifted(backend: Backend, chat: str) -> None:
    """A large request is accepted, and the next ones wait; another application does not."""
    backend.rate_limits.set(chat, SLOW)
    assert send(backend, chat, 60) == 1
    for refused in (
        lambda: send(backend, chat),
        lambda: backend.acceptor.accept(AcceptRequest.chats(chat)),
    ):
        with pytest.raises(RateLimited) as caught:
            refused()
        assert caught.value.per_second == SLOW
        assert 0 < caught.value.wait_seconds <= 60
    other = backend.catalog.applications.create("other").token
    assert [backend.acceptor.accept(AcceptRequest.chats(other)).first for _ in range(9)] == list(
        range(1, 10)
    )
    backend.rate_limits.set(chat, None)
    assert backend.rate_limits.get(chat) is None
    assert send(backend, chat) == 61


def test_as_much_as_comes_in_a_second_may_come_at_once(backend: Backend, chat: str) -> None:
    """Each request of one call takes its share of it; the others wait for as long as theirs takes."""
    backend.rate_limits.set(chat, 100)
    answers = backend.acceptor.accept_batch([AcceptRequest.chats(chat, 10)] * 20)
    assert [isinstance(answer, Accepted) for answer in answers] == [True] * 10 + [False] * 10
    assert isinstance(answers[-1], RateLimited)
    assert answers[-1].wait_seconds == 0.01


def test_reads_edits_and_deletions_are_not_limited(backend: Backend, chat: str) -> None:
    """A deletion that is refused leaves the limit as it was."""
    backend.rate_limits.set(chat, SLOW)
    send(backend, chat, 60)
    backend.drainer.drain_all()
    assert backend.catalog.chats.get(chat, 1).messages_count == 60  # type: ignore[union-attr]
    backend.catalog.messages.edit(chat, 1, 1, {"text": "edited"})
    backend.catalog.messages.delete(chat, 1, 2)
    with pytest.raises(HasChildren):
        backend.catalog.applications.delete(chat)
    send(backend, chat, 60)
    with pytest.raises(RateLimited):
        send(backend, chat)
    backend.catalog.applications.delete(chat, cascade=True)
    with pytest.raises(NotFound):
        backend.rate_limits.set(chat, 5)


def test_a_limit_comes_back_when_redis_has_lost_it(
    backend: Backend, settings: Settings, chat: str
) -> None:
    """SQL has it, also if an import is the first to raise the application's counter."""
    backend.rate_limits.set(chat, SLOW)
    send(backend, chat, 60)
    backend.drainer.drain_all()
    backend.log.redis.flushall()
    with open_backend(settings) as other:
        line = message_line(chat, 1, 70, "imported", AT, AT).encode()
        assert other.importer.begin().process(LineChunk(1, [line], len(line))) == []
        assert send(other, chat, 60) == 71
        for core in (other, backend):
            with pytest.raises(RateLimited):
                send(core, chat)


@pytest.mark.parametrize("rate", ["", "0/s", "100", "1e3/s", "-1/s", "10/m", "1000001/s", "/s"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    """Such as another unit, or more than is ever accepted."""
    with pytest.raises(Invalid):
        parse_rate(rate)


def test_rates() -> None:
    assert [parse_rate("100/s"), parse_rate("off")] == [100, None]
