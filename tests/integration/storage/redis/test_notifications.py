"""Notifications: what each change publishes once it is committed, and how a lost connection is noticed."""

import io
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import EngineDown
from backend.storage.redis.log import Log
from backend.storage.redis.notifications import CHANNEL, Change, Subscription
from backend.transfer import format as line_format
from tests.support.engines import RedisServer
from tests.support.faults.shortcuts import rejecting_texts, send
from tests.support.transfer_lines import application_line, chat_line, message_line
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

AT = "2026-01-31T23:59:59.000000Z"


@pytest.fixture
def subscription(backend: Backend, chat: str) -> Iterator[Subscription]:
    """A subscription that begins after the chat is stored."""
    assert chat
    subscription = Subscription(backend.log.url)
    yield subscription
    subscription.close()


def received(subscription: Subscription, token: str) -> list[Change]:
    """The changes of an application that were published before this call, in order."""
    client: Any = subscription._client
    client.publish(CHANNEL, b'[["end"]]')
    found: list[Change] = []
    while Change("end") not in found:
        found += subscription.read(1)
    return [change for change in found if change.token == token]


def test_a_drain_names_each_chat_that_has_new_numbers_once(
    backend: Backend, chat: str, subscription: Subscription
) -> None:
    """Once they are stored, however many they are; rejected ones count."""
    send(backend, chat, "one", "two")
    with rejecting_texts(backend.database):
        send(backend, chat, "refused")
        assert received(subscription, chat) == []
        backend.drainer.drain_all()
    assert received(subscription, chat) == [Change(chat, 1)]


def test_edits_and_deletions_name_the_message(
    backend: Backend, chat: str, subscription: Subscription
) -> None:
    """After the commit."""
    send(backend, chat, "one", "two")
    backend.drainer.drain_all()
    received(subscription, chat)
    backend.catalog.messages.edit(chat, 1, 1, {"text": "another"})
    backend.catalog.messages.delete(chat, 1, 2)
    assert received(subscription, chat) == [Change(chat, 1, 1), Change(chat, 1, 2)]


def test_deletions_name_the_chat_or_the_application(
    backend: Backend, chat: str, subscription: Subscription
) -> None:
    """One that is refused names nothing."""
    send(backend, chat, "one")
    backend.drainer.drain_all()
    received(subscription, chat)
    with pytest.raises(Exception, match="message"):
        backend.catalog.chats.delete(chat, 1)
    assert received(subscription, chat) == []
    backend.catalog.chats.delete(chat, 1, cascade=True)
    backend.catalog.applications.delete(chat, cascade=True)
    assert received(subscription, chat) == [Change(chat, 1), Change(chat)]


def test_a_retried_dead_letter_names_its_message(
    backend: Backend, chat: str, subscription: Subscription
) -> None:
    """Its followers have passed its number."""
    with rejecting_texts(backend.database):
        send(backend, chat, "refused")
        backend.drainer.drain_all()
    received(subscription, chat)
    (letter,) = backend.dead_letters.all()
    assert backend.dead_letters.retry(letter.letter.key) is None
    assert Change(chat, 1, 1) in received(subscription, chat)


def test_an_import_names_its_chats(backend: Backend, subscription: Subscription) -> None:
    """It writes rows directly."""
    token = "i" * 24
    lines = "".join(
        [
            application_line(token, "imported", 1, AT, AT),
            chat_line(token, 1, 1, AT, AT),
            message_line(token, 1, 1, "imported", AT, AT),
        ]
    )
    work = backend.importer.begin()
    for chunk in line_format.read_chunks(io.BytesIO(lines.encode()).read):
        assert work.process(chunk) == []
    assert Change(token, 1) in received(subscription, token)


def test_foreign_messages_are_ignored(
    backend: Backend, chat: str, subscription: Subscription
) -> None:
    """Another program may publish there."""
    client: Any = subscription._client
    for foreign in (b"", b"{}", b'[["t", "x"]]', b"\xff"):
        client.publish(CHANNEL, foreign)
    backend.log.notify_changes([Change(chat, 1)])
    assert received(subscription, chat) == [Change(chat, 1)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_redis_that_goes_away_or_hangs_is_noticed(
    own_redis: RedisServer, how: signal.Signals
) -> None:
    """`read` raises, so that the follower looks at everything again; publishing never raises."""
    subscription = Subscription(own_redis.url)
    log = Log(own_redis.url, connect_timeout_seconds=0.2, reply_timeout_seconds=0.2)
    try:
        own_redis.send(how)

        def is_lost() -> bool:
            try:
                return bool(subscription.read(0.05))
            except EngineDown:
                return True

        wait_until(is_lost)
        log.notify_changes([Change("t", 1)])
        with pytest.raises(EngineDown):
            Subscription(own_redis.url)
    finally:
        subscription.close()
        log.close()
        own_redis.send(signal.SIGCONT)
