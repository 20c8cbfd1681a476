"""Traces: what became of a number, in every state that it can be in, and which entry created it."""

from datetime import datetime

import pytest

from backend.bootstrap import Backend
from backend.catalog.message_trace.trace import MessageTrace, TracedState
from backend.domain.errors import NotFound
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import partitions
from backend.storage.redis.types import Creation
from tests.support.elasticsearch.requests import (
    publish_all,
    store_messages,
)
from tests.support.redis_values import plant_epoch


def steps(trace: MessageTrace) -> list[str]:
    """The names of its steps, in order."""
    return [step.step for step in trace.steps]


def in_order(trace: MessageTrace) -> bool:
    """Whether no step was before the one above it, by the clocks of both engines, which are one here."""
    times: list[datetime] = [step.until or step.at for step in trace.steps if step.at is not None]
    return times == sorted(times)


def accept(core: Backend, token: str, *texts: str) -> EntryId:
    """Accept messages of chat 1; returns the last one's entry."""
    return core.acceptor.accept(AcceptRequest.messages(token, 1, list(texts))).entry


def test_the_steps_of_a_message(backend: Backend, chat: str) -> None:
    """Accepted, stored, edited, deleted; then deleted with its chat and its application."""
    entry = accept(backend, chat, "Good morning", "other")
    tracer = backend.message_tracer
    pending = tracer.trace(chat, 1, 1)
    assert (pending.state, pending.entry, steps(pending)) == (
        TracedState.PENDING,
        str(entry),
        ["accepted"],
    )
    assert "no worker is running" in pending.detail
    backend.workers.pause()
    assert "queue is paused" in tracer.trace(chat, 1, 1).detail
    backend.workers.resume()
    backend.drainer.drain_all()
    stored = tracer.trace(chat, 1, 1)
    assert (stored.state, stored.entry) == (TracedState.STORED, str(entry))
    assert steps(stored) == ["accepted", "stored", "searchable"]
    assert "found by a search" in stored.detail
    assert stored.steps[0].at == pending.steps[0].at
    assert stored.steps[1].until is not None, "from marks of the log, or the last drain"
    assert in_order(stored)
    edited = backend.catalog.messages.edit(chat, 1, 1, {"text": "Good evening"})
    found = tracer.trace(chat, 1, 1)
    assert (steps(found)[:3], found.version) == (["accepted", "stored", "edited"], edited.version)
    backend.catalog.messages.delete(chat, 1, 1)
    removed = tracer.trace(chat, 1, 1)
    assert (removed.state, steps(removed)) == (
        TracedState.REMOVED,
        ["accepted", "stored", "deleted"],
    )
    assert in_order(removed)
    backend.catalog.chats.delete(chat, 1, cascade=True)
    assert steps(tracer.trace(chat, 1, 2)) == ["accepted", "stored", "deleted"]
    for parent in ("chat", "application"):
        backend.cascade_deleter.delete_all()
        gone = tracer.trace(chat, 1, 2)
        assert (gone.state, steps(gone)) == (TracedState.REMOVED, ["deleted"])
        assert gone.steps[0].detail == f"together with its {parent}"
        if parent == "chat":
            backend.catalog.applications.delete(chat, cascade=True)


def test_numbers_without_a_message(backend: Backend, chat: str) -> None:
    """Rejected, lost before and after a repair, and never given; unknown parents are not found."""
    tracer, shard = backend.message_tracer, backend.counters.shard(chat)
    payload = pack_messages(chat, 1, ["poison\0", "fine"])
    backend.log.accept(shard, [Creation("messages", Parent(chat, 1), payload)], EntryId(0, 0))
    backend.drainer.drain_all()
    dead = tracer.trace(chat, 1, 1)
    (letter,) = dead.dead_letters
    assert (dead.state, steps(dead)) == (TracedState.DEAD, ["accepted", "rejected"])
    assert dead.entry is not None
    assert letter.startswith(f"{shard}-{dead.entry}-")
    assert "NUL" in dead.detail or "can't be stored" in dead.detail
    assert tracer.trace(chat, 1, 2).state is TracedState.STORED
    backend.dead_letters.purge(letter)
    assert "discarded" in tracer.trace(chat, 1, 1).detail
    accept(backend, chat, "three", "four")
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM message WHERE number = 3")
    lost = tracer.trace(chat, 1, 3)
    assert (lost.state, steps(lost)) == (TracedState.LOST, [])
    assert "reconcile --repair" in lost.detail
    list(backend.reconciler.begin(repair=True).findings())
    assert steps(tracer.trace(chat, 1, 3)) == ["lost"]
    never = tracer.trace(chat, 1, 5)
    assert (never.state, never.detail) == (
        TracedState.NEVER_GIVEN,
        "the highest number of this chat is 4",
    )
    with pytest.raises(NotFound, match="chat"):
        tracer.trace(chat, 2, 1)
    with pytest.raises(NotFound, match="application"):
        tracer.trace("x" * 32, 1, 1)


def test_a_number_of_a_chat_that_is_not_stored_is_pending(
    backend: Backend, application: str
) -> None:
    """Also one of a chat whose creation becomes a dead letter."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    entry = accept(backend, application, "early")
    found = backend.message_tracer.trace(application, 1, 1)
    assert (found.state, found.entry) == (TracedState.PENDING, str(entry))
    assert backend.message_tracer.trace(application, 1, 2).state is TracedState.NEVER_GIVEN


def test_after_a_restart_of_redis_a_number_is_still_pending(backend: Backend, chat: str) -> None:
    """No process has begun another epoch; the trace does, as any read, and finds the entry of before."""
    accept(backend, chat, "stored")
    backend.drainer.drain_all()
    entry = accept(backend, chat, "waiting")
    plant_epoch(backend.log, backend.counters.shard(chat), server="0" * 40)
    found = backend.message_tracer.trace(chat, 1, 2)
    assert (found.state, found.entry) == (TracedState.PENDING, str(entry))
    assert backend.message_tracer.trace(chat, 1, 1).state is TracedState.STORED
    backend.drainer.drain_all()
    assert backend.message_tracer.trace(chat, 1, 2).entry == str(entry)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_entry_of_any_message_is_found(backend: Backend, chat: str, epochs: int) -> None:
    """Among many others, in every epoch whose entries are kept."""
    entries: dict[int, EntryId] = {}
    for epoch in range(epochs):
        for n in range(400 // epochs):
            entry = accept(backend, chat, f"{epoch} {n}")
            entries[len(entries) + 1] = entry
        backend.drainer.drain_all()
        backend.counters._epochs.renew(backend.counters.shard(chat))
    assert {entry.epoch for entry in entries.values()} == {
        entries[1].epoch + n for n in range(epochs)
    }
    for number in range(1, len(entries) + 1, 37):
        assert backend.message_tracer.trace(chat, 1, number).entry == str(entries[number])
    shard = backend.counters.shard(chat)
    backend.log.redis.delete(backend.log.key(shard, "log"))
    found = backend.message_tracer.trace(chat, 1, 1)
    assert (found.entry, found.state) == (None, TracedState.STORED)
    assert "any more" in found.steps[0].detail


def test_messages_in_partitions_are_traced(backend: Backend, chat: str) -> None:
    """The statement reads a column of PostgreSQL's own, which a partitioned table has, too."""
    accept(backend, chat, "one")
    backend.drainer.drain_all()
    partitions.partition_messages(backend.database, 3)
    assert backend.message_tracer.trace(chat, 1, 1).state is TracedState.STORED


def test_the_steps_to_the_index(core: Backend, token: str) -> None:
    """In the outbox, published, indexed in which version; an outdated document; a rejected one."""
    store_messages(core, token, "Good morning")
    waiting = core.message_tracer.trace(token, 1, 1)
    assert steps(waiting) == ["accepted", "stored", "in the outbox", "indexed"]
    assert "found by a search" in waiting.detail, "PostgreSQL reads what the index does not show"
    assert waiting.steps[1].detail == "named in the outbox by its transaction"
    publish_all(core)
    shown = core.message_tracer.trace(token, 1, 1)
    assert shown.steps[-1].detail.endswith(f"version {shown.version}, the present one")
    core.catalog.messages.edit(token, 1, 1, {"text": "Good evening"})
    behind = core.message_tracer.trace(token, 1, 1)
    assert "not the present one" in behind.steps[-1].detail
    core.catalog.messages.delete(token, 1, 1)
    publish_all(core)
    removed = core.message_tracer.trace(token, 1, 1)
    assert "has a tombstone" in removed.steps[-1].detail
    assert removed.detail == "no search finds it"
