"""Searches with an index on the fast path: what happens between their parts, and when one of them hangs."""

from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.server import group_read, indexed_search
from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.search import searcher
from backend.search.refresh import Refresher
from backend.storage.elasticsearch import index as elasticsearch_index
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.async_connection import AsyncConnection
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.gate import Place, SearchGate
from tests.support.elasticsearch.grouped_searches import GroupedSearches, search
from tests.support.elasticsearch.requests import (
    live_index_name,
    publisher,
    query_rows,
    reject_numbers_above_127,
    request_elasticsearch,
    search_numbers,
    store_messages,
)
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import PATIENCE_SECONDS, wait_until

PLACES: list[Place] = ["request", "answer"]


class Installation(NamedTuple):
    """A backend with an index, and searches of its chats, which a test may block as long as it needs."""

    core: Backend
    gate: SearchGate
    searches: GroupedSearches


def show(core: Backend) -> None:
    """Publish everything, and refresh, so that no chat has a tail."""
    assert core.index is not None
    publisher(core).publish()
    Refresher(core.database, core.index).refresh(0)
    assert query_rows(core, "SELECT count(*) FROM outbox") == [(0,)]


def new_fruit(core: Backend) -> str:
    """A new application's token; chat 1 has two apples and a pear, which the index shows, and no tail."""
    token = core.catalog.applications.create("test").token
    core.acceptor.accept(AcceptRequest.chats(token))
    store_messages(core, token, "one apple", "two apples", "a pear")
    show(core)
    return token


@contextmanager
def open_installation(engines: Engines, elasticsearch: Elasticsearch) -> Iterator[Installation]:
    """A new installation, in which nothing is too slow."""
    gate = SearchGate(elasticsearch.url)
    with (
        pytest.MonkeyPatch.context() as patch,
        open_backend(engines.installation(elasticsearch_url=elasticsearch.url)) as core,
        closing(gate),
    ):
        patch.setattr(elasticsearch_index, "SEARCH_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        patch.setattr(indexed_search, "READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        with closing(GroupedSearches(core, gate.url)) as searches:
            yield Installation(core, gate, searches)


@pytest.fixture(scope="module")
def shared(engines: Engines, elasticsearch: Elasticsearch) -> Iterator[Installation]:
    """An installation for tests that do not change what is in it as a whole."""
    with open_installation(engines, elasticsearch) as shared:
        yield shared


@pytest.fixture
def own(engines: Engines, elasticsearch: Elasticsearch) -> Iterator[Installation]:
    """An installation for one test."""
    with open_installation(engines, elasticsearch) as own:
        yield own


@pytest.fixture
def core(shared: Installation) -> Backend:
    """The shared backend."""
    return shared.core


@pytest.fixture
def gate(shared: Installation) -> SearchGate:
    """The shared way to the index."""
    return shared.gate


@pytest.fixture
def searches(shared: Installation) -> GroupedSearches:
    """The shared searches."""
    return shared.searches


@pytest.fixture
def fruit(core: Backend) -> str:
    """See `new_fruit`."""
    return new_fruit(core)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the grouped statements that were executed."""
    need_sessions()
    executed: list[str] = []
    execute = AsyncConnection.execute

    def record(self: AsyncConnection, statement: str, *arguments: object) -> None:
        executed.append(statement.removeprefix("EXECUTE ").partition("(")[0])
        execute(self, statement, *arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(AsyncConnection, "execute", record)
    return executed


def problem_of(searching: "Callable[[], object]") -> problems.Problem:
    """The problem that a search fails with."""
    with pytest.raises(ProblemException) as raised:
        searching()
    return raised.value.problem


# -- what is found ------------------------------------------------------------------------------------


def test_searches_of_one_moment_share_their_statements(
    searches: GroupedSearches, fruit: str, statements: list[str]
) -> None:
    """Also those of other chats, keywords and pages. Each has its own messages."""
    statements.clear()
    pending = searches.submit_all(
        [
            *(search(fruit, keyword) for keyword in ("apple", "pear", "plum") * 2),
            search(fruit, "e", after=1),
            search(fruit, "e", limit=2),
            search(fruit, "e", chat=2),
            search("x" * 32, "e"),
        ]
    )
    results = [each.result(PATIENCE_SECONDS) for each in pending]
    assert results == [*[[1, 2], [3], []] * 2, [2, 3], [1, 2], None, None]
    assert statements.count("grouped_search_states") == 1
    assert statements.count("grouped_candidates") == len(statements) - 1


def test_the_tail_of_a_chat_is_searched(
    core: Backend, searches: GroupedSearches, fruit: str
) -> None:
    """It is unpublished, or published and not shown yet; each message is found once, also by pages."""
    store_messages(core, fruit, "three apples", "a plum")
    core.catalog.messages.edit(fruit, 1, 1, {"text": "a quince"})
    core.catalog.messages.edit(fruit, 1, 3, {"text": "an apple"})
    for advance in (lambda: None, publisher(core).publish, lambda: show(core)):
        advance()
        assert searches.find(fruit, "apple") == [2, 3, 4]
        assert searches.find(fruit, "apple", limit=2) == [2, 3]
        assert searches.find(fruit, "apple", after=3, limit=2) == [4]


def test_a_page_that_the_first_candidates_do_not_fill_is_left_to_the_route(
    core: Backend, searches: GroupedSearches, fruit: str
) -> None:
    """They have the grams of the keyword without it, or changed; the tail must not hide those behind them."""
    store_messages(core, fruit, *["bcde abcd"] * 150, "an abcde")
    show(core)
    assert searches.find(fruit, "abcde", limit=10) is None
    assert searches.find(fruit, "abcde", after=100, limit=10) == [154]
    store_messages(core, fruit, *["an abcde"] * 20)
    assert searches.find(fruit, "abcde", limit=10) is None
    assert searches.find(fruit, "abcde", after=100, limit=3) == [154, 155, 156]


def test_a_long_tail_is_left_to_the_route(own: Installation) -> None:
    """It has too many changes, or is in too many rows of the outbox."""
    core, _, searches = own
    fruit = new_fruit(core)
    limit = grouped_reads.MAX_GROUPED_CHANGES
    store_messages(core, fruit, *["an apple"] * limit)
    assert searches.find(fruit, "apple", limit=4) == [1, 2, 4, 5]
    store_messages(core, fruit, "one too many")
    assert searches.find(fruit, "apple", limit=4) is None
    with core.database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM outbox")
        tx.exec_driver_sql(
            "INSERT INTO outbox (chats, numbers, versions)"
            " SELECT ARRAY[id], '{1}', '{1}' FROM chat, generate_series(1, 399)"
        )
    assert searches.find(fruit, "apple") == [1, 2]
    with core.database.begin() as tx:
        tx.exec_driver_sql(
            "INSERT INTO outbox (chats, numbers, versions) SELECT ARRAY[id], '{1}', '{1}' FROM chat"
        )
    assert searches.find(fruit, "apple") is None


def test_rejected_messages_are_left_to_the_route(own: Installation) -> None:
    """Those of another chat are not."""
    core, _, searches = own
    token = core.catalog.applications.create("test").token
    core.acceptor.accept(AcceptRequest.chats(token))
    reject_numbers_above_127(core)
    core.acceptor.accept(AcceptRequest.chats(token))
    core.acceptor.accept(AcceptRequest.messages(token, 2, ["x"]))
    store_messages(core, token, *["x"] * 128)
    show(core)
    assert query_rows(core, "SELECT chat, number FROM dead_letter") == [(1, 128)]
    assert searches.find(token, "x") is None
    assert searches.find(token, "x", chat=2) == [1]


# -- between the parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_change_during_a_search_is_decided_by_postgresql(
    core: Backend, searches: GroupedSearches, gate: SearchGate, fruit: str, place: Place
) -> None:
    """What is edited away or deleted meanwhile is not shown, whatever the index says."""
    with gate.holding(place):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        core.catalog.messages.edit(fruit, 1, 1, {"text": "a quince"})
        core.catalog.messages.delete(fruit, 1, 2)
    assert found.result(PATIENCE_SECONDS) == []


@pytest.mark.parametrize("place", PLACES)
def test_a_message_stored_and_shown_during_a_search_is_found_once_at_most(
    core: Backend, searches: GroupedSearches, gate: SearchGate, fruit: str, place: Place
) -> None:
    """It is in the index's answer or in none; one that was in the tail when the search began is found."""
    store_messages(core, fruit, "three apples")
    with gate.holding(place):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        store_messages(core, fruit, "four apples")
        show(core)
    assert found.result(PATIENCE_SECONDS) == ([1, 2, 4, 5] if place == "request" else [1, 2, 4])
    assert searches.find(fruit, "apple") == [1, 2, 4, 5]


@pytest.mark.parametrize("place", PLACES)
def test_a_reindex_during_a_search_hides_nothing(own: Installation, place: Place) -> None:
    """The index that was live when the search began is dropped by the second one.

    If it is gone before it is asked, the route answers.
    """
    core, gate, searches = own
    fruit = new_fruit(core)
    assert core.reindexer is not None
    name = live_index_name(core)
    with gate.holding(place):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        core.reindexer.build(resume=True)
        core.reindexer.build(resume=True)
        assert live_index_name(core) != name
    assert found.result(PATIENCE_SECONDS) == (None if place == "request" else [1, 2])
    assert search_numbers(core, fruit, "apple") == [1, 2]


def test_a_chat_that_is_deleted_during_a_search_is_left_to_the_route(
    core: Backend, searches: GroupedSearches, gate: SearchGate, fruit: str
) -> None:
    """Which answers 404."""
    with gate.holding("answer"):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        for number in (1, 2, 3):
            core.catalog.messages.delete(fruit, 1, number)
        core.catalog.chats.delete(fruit, 1)
        core.drainer.drain_all()
    assert found.result(PATIENCE_SECONDS) is None


# -- engines that are away or hang --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["unregistered", "deleted"])
def test_without_an_index_a_search_is_left_to_the_route(
    own: Installation, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No index holds all messages; or it is lost, and that during the search."""
    core, gate, searches = own
    fruit = new_fruit(core)
    if how == "unregistered":
        with core.database.begin() as tx:
            tx.exec_driver_sql("DELETE FROM search_index")
        assert searches.find(fruit, "apple") is None
        assert "could not be asked" not in caplog.text
        return
    with gate.holding("request"):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        request_elasticsearch(core, "DELETE", f"/{live_index_name(core)}")
    assert found.result(PATIENCE_SECONDS) is None
    assert not searches.searches.running


def test_an_index_that_did_not_answer_costs_no_statement_for_a_moment(
    own: Installation, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes away during a search. Those that follow are left to the ordinary route at once."""
    core, gate, searches = own
    fruit = new_fruit(core)
    target = gate.target
    monkeypatch.setattr(searcher, "RETRY_SECONDS", PATIENCE_SECONDS)
    with gate.holding("request"):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        gate.lead_to(Path("/nowhere"))
    assert found.result(PATIENCE_SECONDS) is None
    statements.clear()
    assert searches.find(fruit, "apple") is None
    assert statements == []
    gate.lead_to(target)
    searches.searcher._not_asked_until = 0.0
    assert searches.find(fruit, "apple") == [1, 2]


@pytest.mark.parametrize("hangs", ["the first read", "the index", "the second read"])
def test_one_deadline_ends_a_search_whatever_hangs(
    core: Backend,
    searches: GroupedSearches,
    gate: SearchGate,
    fruit: str,
    hangs: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each part may take as long; together, they may not. A part that returns later is ignored."""
    monkeypatch.setattr(group_read, "READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(indexed_search, "READ_TIMEOUT_SECONDS", 0.5)
    with core.database.connect() as connection:
        with gate.holding("answer"):
            if hangs == "the first read":
                connection.exec_driver_sql("BEGIN; LOCK TABLE outbox")
            ended = search(fruit, "apple")
            (found,) = searches.submit_all([ended])
            if hangs == "the second read":
                wait_until(lambda: gate.held or found.done())
                connection.exec_driver_sql("BEGIN; LOCK TABLE message")
                gate.release()
            problem = problem_of(lambda: found.result(PATIENCE_SECONDS))
            assert problem == problems.CALL_TIMED_OUT
            assert not searches.searches.running
        connection.exec_driver_sql("ROLLBACK")
    monkeypatch.setattr(indexed_search, "READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    assert searches.find(fruit, "apple") == [1, 2]
    assert ended.results == 1


@pytest.mark.parametrize("part", ["the first read", "the second read"])
def test_the_parts_of_a_search_share_its_time(
    core: Backend,
    searches: GroupedSearches,
    gate: SearchGate,
    fruit: str,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A read and the index that take most of it each are too slow together."""
    monkeypatch.setattr(group_read, "READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(indexed_search, "READ_TIMEOUT_SECONDS", 1.5)
    table = "outbox" if part == "the first read" else "message"
    with core.database.connect() as connection, gate.holding("answer"):
        connection.exec_driver_sql(f"BEGIN; LOCK TABLE {table}")
        found = searches.submit(fruit, "apple")
        wait([found], 1.1)
        if part == "the first read":
            connection.exec_driver_sql("ROLLBACK")
        else:
            gate.release()
        wait([found], 1.1)
        connection.exec_driver_sql("ROLLBACK")
    assert problem_of(lambda: found.result(PATIENCE_SECONDS)) == problems.CALL_TIMED_OUT


def test_a_postgresql_that_goes_away_during_a_search_leaves_it_to_the_route(
    core: Backend, searches: GroupedSearches, gate: SearchGate, fruit: str
) -> None:
    """Which answers, or says 503. Later searches are answered again."""
    need_sessions()
    with gate.holding("answer"):
        found = searches.submit(fruit, "apple")
        gate.wait_held()
        with core.database.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'EXECUTE grouped%%'"
                " OR query LIKE '%%PREPARE grouped%%' AND pid <> pg_backend_pid()"
            ).all()
    assert found.result(PATIENCE_SECONDS) is None
    wait_until(lambda: searches.find(fruit, "apple") == [1, 2])


# -- bounds -------------------------------------------------------------------------------------------


def test_the_searches_in_progress_are_bounded(
    searches: GroupedSearches, gate: SearchGate, fruit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the bound are refused at once, and those within it are answered."""
    monkeypatch.setattr(indexed_search, "MAX_SEARCHES", 9)
    with gate.holding("answer"):
        pending = [searches.submit(fruit, "apple") for _ in range(9)]
        assert problem_of(lambda: searches.find(fruit, "apple")) == problems.TOO_MANY_CALLS
        gate.wait_held(6)
        assert len(searches.searches.running) == 9
    assert [each.result(PATIENCE_SECONDS) for each in pending] == [[1, 2]] * 9
    assert not searches.searches.running
    assert searches.find(fruit, "apple") == [1, 2]


def test_a_server_that_stops_ends_its_searches(
    searches: GroupedSearches, gate: SearchGate, fruit: str
) -> None:
    """Whatever they wait for: nothing is answered, or asked, any more."""
    before = gate.seen
    with gate.holding("answer"):
        pending = [searches.submit(fruit, "apple") for _ in range(9)]
        gate.wait_held(6)
        searches.end()
        assert not searches.searches.running
    assert searches.find(fruit, "pear") == [3]
    assert gate.seen == before + 6 + 1
    assert not any(each.done() for each in pending)


def test_a_search_whose_own_code_fails_gets_the_error(
    searches: GroupedSearches, fruit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its client is answered; others get their rows."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    failing = search(fruit, "apple")
    monkeypatch.setattr(failing, "deliver", fail)
    error, found = searches.submit_all([failing, search(fruit, "apple")])
    assert isinstance(error.exception(PATIENCE_SECONDS), ZeroDivisionError)
    assert found.result(PATIENCE_SECONDS) == [1, 2]
