"""Applications move to other shards, and nobody notices but by a short delay."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.catalog import applications
from backend.domain.errors import Conflict, KeyReused, NotFound
from backend.domain.model import Parent, new_token
from backend.ingest.requests import AcceptRequest
from backend.maintenance.reshard import FIRST_OWN_SHARD, Resharder, ReshardResult
from backend.monitoring.checks import Severity
from backend.monitoring.reshard_checks import check_reshard, read_reshard
from backend.storage.postgres import leases, placements
from backend.storage.postgres.shards import shard_state
from backend.storage.redis.keys import counter_key
from backend.storage.redis.types import StaleEpoch
from tests.conftest import Engines
from tests.support.faults.load import drain_completely, out_of_order, under_load
from tests.support.faults.older_dump import OlderDump
from tests.support.faults.shortcuts import scalar, send, stored
from tests.support.fork_server import start_module
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import PATIENCE_SECONDS

APPLICATIONS = 4


@pytest.fixture
def other(backend: Backend) -> Iterator[Backend]:
    """Another process, which learns of no move before it is refused."""
    with open_backend(backend.settings) as opened:
        opened.routing.refresh()
        yield opened


@pytest.fixture
def tokens(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Applications with a chat and a message that is stored, and one that is only accepted.

    They are where the tests below move them from, and there are no others, which would be moved, too.
    """

    def token_of_later_shard() -> str:
        while backend.routing.shard(token := new_token()) < 19:
            pass
        return token

    monkeypatch.setattr(applications, "new_token", token_of_later_shard)
    found = [backend.catalog.applications.create("test").token for _ in range(APPLICATIONS)]
    for token in found:
        backend.acceptor.accept(AcceptRequest.chats(token, 2))
        send(backend, token, "stored")
        backend.drainer.drain_all()
        send(backend, token, "accepted")
    return found


def shards_of(backend: Backend, tokens: list[str]) -> set[int]:
    return {backend.routing.learn(token).shard for token in tokens}


def test_numbers_counts_and_keys_go_on_in_the_other_shard(
    backend: Backend, other: Backend, tokens: list[str]
) -> None:
    """There and back again, for the process that moves, and for one that knows nothing of it."""
    keyed = {token: AcceptRequest.messages(token, 1, ["once"], key="k") for token in tokens}
    answers = {token: other.acceptor.accept(request) for token, request in keyed.items()}
    before = shards_of(backend, tokens)
    for round_, count in enumerate((2, 64, 3), 1):
        result = backend.resharder.reshard(count)
        assert result.shards == count
        assert shards_of(backend, tokens) <= set(range(16, 16 + count))
        for token in tokens:
            for process in (other, backend):
                assert process.acceptor.accept(keyed[token]) == answers[token]
                reused = AcceptRequest.messages(token, 1, ["another"], key="k")
                with pytest.raises(KeyReused):
                    process.acceptor.accept(reused)
                assert process.counters.read_issued([Parent(token), Parent(token, 2)]) == [
                    2,
                    round_ - 1,
                ]
            assert send(other, token, "next") == 2 + 2 * round_
            assert send(backend, token, "next") == 3 + 2 * round_
            assert send(other, token, "second", chat=2) == round_
    assert shards_of(backend, tokens) != before
    backend.drainer.drain_all()
    for token in tokens:
        assert list(stored(other, token)) == list(range(1, 10))
        assert other.counters.read_issued([Parent(token, 1)]) == [9]
    assert list(other.reconciler.begin().findings()) == []
    assert scalar(backend, "SELECT count(*) FROM dead_letter") == 0
    list(backend.counter_sync.sync())
    assert scalar(backend, "SELECT sum(messages_count) FROM chat") == APPLICATIONS * (9 + 3)


@pytest.mark.parametrize("step", ["requested", "decided"])
def test_a_killed_reshard_is_completed_by_the_next_one(
    backend: Backend, other: Backend, tokens: list[str], step: str
) -> None:
    """The application whose move was requested can be used: the next request has the move decided."""
    urls = [backend.settings.database_url, backend.settings.redis_url]
    process = start_module(
        "tests.support.faults.resharder", *urls, 2, step, 2, environment=os.environ
    )
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    for token in tokens:
        assert send(other, token, "next") == 3
    with backend.database.begin() as tx:  # the lease of the killed process would expire by itself
        tx.execute(text("DELETE FROM lease"))
    with backend.database.connect() as connection:
        reshard = read_reshard(connection)
    assert reshard is not None
    assert reshard.to_move is not None
    assert 0 <= reshard.to_move - backend.resharder.plan(2).to_move <= 2  # of a second ago
    (interrupted,) = check_reshard(backend.database)
    assert interrupted.remedy == "run `instachat reshard 2`, which continues"
    with leases.hold(backend.database, placements.RESHARD_LEASE):
        (running,) = check_reshard(backend.database)
        assert running.severity is Severity.OK
        with pytest.raises(Conflict, match="moves applications since"):
            backend.resharder.reshard(2)
    assert backend.resharder.reshard(2).moved in range(APPLICATIONS)
    assert list(check_reshard(backend.database)) == []
    assert shards_of(backend, tokens) <= {16, 17}
    for token in tokens:
        assert send(other, token, "next") == 4
        assert send(backend, token, "next") == 5
    backend.drainer.drain_all()
    assert [list(stored(backend, token)) for token in tokens] == [[1, 2, 3, 4, 5]] * APPLICATIONS
    assert scalar(backend, "SELECT count(*) FROM application WHERE counters_left") == 0
    assert list(backend.reconciler.begin().findings()) == []


@pytest.mark.faults
def test_a_reshard_under_load_loses_and_repeats_no_answered_message(
    engines: Engines, tmp_path: Path
) -> None:
    """While the command, the worker and Redis are killed; the ledger decides."""
    settings = engines.settings()
    urls = [settings.database_url, settings.redis_url]
    with under_load(settings, tmp_path, applications=4) as load:
        load.work()
        load.write(processes=2, writers=2)
        for count, step in ((2, "requested"), (2, "decided"), (64, "requested"), (64, "")):
            load.wait_for_answers(30)
            with open_backend(settings) as backend, backend.database.begin() as tx:
                tx.execute(text("DELETE FROM lease"))
            process = start_module(
                "tests.support.faults.resharder", *urls, count, step, environment=os.environ
            )
            if step == "decided":
                load.kill_worker()
                load.work()
            assert process.wait(PATIENCE_SECONDS) == (-signal.SIGKILL if step else 0)
            load.wait_for_every_application()
        with load.ended() as backend:
            assert load.compare(backend).faults == {}
            assert out_of_order(load.spans) == []
            assert list(backend.dead_letters.all()) == []
            assert list(backend.reconciler.begin().findings()) == []


def test_a_hot_application_gets_a_shard_of_its_own(
    backend: Backend, other: Backend, tokens: list[str]
) -> None:
    """It keeps it when the number of shards changes."""
    hot = tokens[0]
    assert backend.resharder.separate(hot)
    assert not backend.resharder.separate(hot)
    own = backend.routing.learn(hot).shard
    assert own == FIRST_OWN_SHARD
    assert send(other, hot, "next") == 3
    accepted = other.acceptor.accept(AcceptRequest.messages(hot, 1, ["next"]))
    assert (accepted.first, accepted.shard) == (4, own)
    backend.resharder.reshard(1)
    assert shards_of(backend, tokens) == {16, own}
    assert backend.resharder.rejoin(hot)
    assert not backend.resharder.rejoin(hot)
    assert shards_of(backend, tokens) == {16}
    assert send(other, hot, "next") == 5
    assert backend.drainer.drain_all() > 0
    assert list(stored(backend, hot)) == [1, 2, 3, 4, 5]
    assert list(backend.reconciler.begin().findings()) == []


def test_what_moves_of_long_ago_left_behind_is_removed(
    backend: Backend, other: Backend, engines: Engines, tokens: list[str]
) -> None:
    """No process accepts in a shard that was left: neither an outdated one, nor one that was suspended."""
    origins = {token: other.routing.shard(token) for token in tokens}
    with backend.database.connect() as connection:
        epochs = {o: shard_state(connection, o).epoch for o in origins.values()}
    backend.resharder.reshard(2)
    assert backend.resharder.reshard(2).forgotten == 0
    assert marked(backend, origins) == tokens
    assert later(backend).reshard(2) == ReshardResult(2, 0, APPLICATIONS)
    assert marked(backend, origins) == []
    assert later(backend).reshard(2).forgotten == 0
    routes = other.acceptor.route_changes
    for token, origin in origins.items():
        with pytest.raises(StaleEpoch):  # a verification that began before the move
            backend.log.verify(origin, epochs[origin], Parent(token), 1, create=True)
        assert send(other, token, "next") == 3
        assert send(backend, token, "next") == 4
        assert backend.routing.learn(token).left_shards == ()
    assert other.acceptor.route_changes > routes
    backend.drainer.drain_all()
    engines.redis.client().flushall()  # so that the counters are made again
    for token in tokens:
        assert send(backend, token, "next") == 5
    assert later(backend).reshard(64).moved == APPLICATIONS
    for token in tokens:
        assert send(other, token, "next") == 6
    backend.drainer.drain_all()
    assert [list(stored(backend, token)) for token in tokens] == [[1, 2, 3, 4, 5, 6]] * APPLICATIONS
    assert list(backend.reconciler.begin().findings()) == []


def later(backend: Backend) -> Resharder:
    """The reshard of a day later, when moves are forgotten."""
    backend.resharder._forget_after_seconds = 0
    return backend.resharder


def marked(backend: Backend, origins: dict[str, int]) -> list[str]:
    """The applications that have a counter, which says so, in the shard that they have left."""
    return [
        token
        for token, origin in origins.items()
        if backend.log.redis.exists(counter_key(origin, Parent(token)))
    ]


def test_what_a_restored_dump_has_forgotten_of_a_move_is_decided_again(
    backend: Backend, engines: Engines, tokens: list[str]
) -> None:
    """The log of the other shard waits for that of the earlier one, whichever is drained first."""
    dump = OlderDump(engines, backend)
    for token in tokens:
        backend.acceptor.accept(AcceptRequest.chats(token))
        send(backend, token, "before", chat=3)
    backend.resharder.reshard(2)
    for token in tokens:
        send(backend, token, "behind", chat=3)
    backend.resharder.reshard(64)
    for token in tokens:
        send(backend, token, "at last", chat=3)
    backend.drainer.drain_all()
    places = shards_of(backend, tokens)
    dump.restore()
    with open_backend(backend.settings) as restored:
        drain_completely(restored)
        for token in tokens:
            assert send(restored, token, "next", chat=3) == 4
        restored.drainer.drain_all()
        texts = {1: "before", 2: "behind", 3: "at last", 4: "next"}
        assert [stored(restored, token, 3) for token in tokens] == [texts] * APPLICATIONS
        assert shards_of(restored, tokens) == places
        assert scalar(restored, "SELECT count(*) FROM dead_letter") == 0
        assert list(restored.reconciler.begin().findings()) == []


def test_applications_created_after_a_reshard_are_in_the_new_shards(
    backend: Backend, other: Backend
) -> None:
    """By each process: one that does not know the new shards places it in an old one, where it is found.

    A creation with an idempotency key that is repeated finds its application, also where that moved to.
    """
    first = other.catalog.applications.create("keyed", key="k")
    backend.resharder.reshard(1)
    mine = backend.catalog.applications.create("new", key="new").token
    theirs = other.catalog.applications.create("old").token
    assert backend.routing.learn(mine).shard == 16
    assert backend.routing.learn(theirs).shard in range(16, 80)
    for process in (backend, other):
        assert process.catalog.applications.create("keyed", key="k").token == first.token
        assert process.catalog.applications.create("new", key="new").token == mine
        for token in (first.token, mine, theirs):
            process.acceptor.accept(AcceptRequest.chats(token))
    backend.drainer.drain_all()
    other.routing.refresh()
    assert other.routing.shard(mine) == 16
    assert other.counters.read_issued([Parent(theirs)]) == [2]
    assert backend.resharder.reshard(1).moved in (0, 1)
    assert shards_of(backend, [first.token, mine, theirs]) == {16}
    assert list(backend.reconciler.begin().findings()) == []


@pytest.mark.xdist_group("redis cluster")
def test_applications_move_between_the_nodes_of_a_cluster(
    engines: Engines, redis_cluster: RedisCluster
) -> None:
    """A process that knows nothing of it follows them."""
    with (
        open_backend(engines.on_cluster(redis_cluster)) as backend,
        open_backend(backend.settings) as other,
    ):
        tokens = [backend.catalog.applications.create(f"{n}").token for n in range(3)]
        for token in tokens:
            other.acceptor.accept(AcceptRequest.chats(token))
        for first, count in ((1, 1), (3, 3)):
            backend.resharder.reshard(count)
            for token in tokens:
                assert send(other, token, "next") == first
                assert send(backend, token, "next") == first + 1
                assert other.counters.read_issued([Parent(token, 1)]) == [first + 1]
        backend.drainer.drain_all()
        assert [list(stored(other, token)) for token in tokens] == [[1, 2, 3, 4]] * 3
        assert list(other.reconciler.begin().findings()) == []


def test_an_application_whose_token_was_replaced_moves_under_its_original_one(
    backend: Backend, other: Backend, tokens: list[str]
) -> None:
    """The mark in the shard that it left has that name, so a process that knew of neither follows it.

    The replaced token stays refused, idempotency keys go on, and nothing in Redis has the new token.
    """
    token = tokens[0]
    keyed = AcceptRequest.messages(token, 1, ["once"], key="k")
    answer = other.acceptor.accept(keyed)
    new = backend.catalog.applications.rotate(token).token
    left = backend.routing.learn(token).shard
    assert backend.resharder.separate(token)
    assert b"moved-" in stored_counter(backend, left, token)

    other.database.refresh_installation()  # as a server does twice a second
    other.tokens.follow()
    assert other.tokens.original(new) == token
    with pytest.raises(NotFound):
        other.tokens.original(token)
    assert other.acceptor.accept(keyed) == answer
    number = send(other, token, "moved")
    assert number == answer.last + 1
    assert other.routing.shard(token) >= FIRST_OWN_SHARD
    backend.drainer.drain_all()
    assert [m.number for m in backend.catalog.messages.list(token, 1)] == [*range(1, number + 1)]
    assert backend.log.redis.keys(f"*{new}*") == []
    assert backend.resharder.rejoin(token)
    assert send(other, token, "back") == number + 1


def stored_counter(backend: Backend, shard: int, token: str) -> bytes:
    """The counter of an application in a shard, as Redis has it."""
    found = backend.log.redis.get(counter_key(shard, Parent(token)))
    assert isinstance(found, bytes)
    return found
