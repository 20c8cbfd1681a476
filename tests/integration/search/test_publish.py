"""Publishing to a real Elasticsearch: stored messages are found, in any order and with any repetition."""

import threading
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, Unavailable
from backend.ingest.requests import AcceptRequest
from backend.search.publish import Publisher, register_first_index
from backend.storage.elasticsearch import index as index_module
from backend.storage.elasticsearch import mapping
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.elasticsearch.mapping import new_index_name
from backend.storage.postgres import locks, outbox, search_indices
from backend.storage.postgres.database import Database
from backend.storage.search_index import Document, IndexMissing
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.requests import (
    live_index_name,
    publish_all,
    publisher,
    query_rows,
    reject_numbers_above_127,
    request_elasticsearch,
    search_numbers,
    set_blocks,
    store_messages,
    unpublished_messages,
)
from tests.support.waiting import PATIENCE_SECONDS

_chats = count(1)


def test_a_stored_message_becomes_searchable(core: Backend, token: str) -> None:
    """The first index is created automatically; before and after, a search finds all messages."""
    store_messages(core, token, "Good morning", "good night", "Morning has broken")
    assert search_numbers(core, token, "morning") == [1, 3]
    assert publisher(core).publish() == 3
    assert core.catalog.messages.wait_searchable(token, 1, 1, 3, PATIENCE_SECONDS)
    assert search_numbers(core, token, "MORNING") == [1, 3]


def test_a_change_is_published_as_the_current_state(core: Backend, token: str) -> None:
    """An edited message is found by its new words, a deleted one never; then the outbox is empty."""
    store_messages(core, token, "one apple", "two apples", "three apples")
    core.catalog.messages.edit(token, 1, 2, {"text": "two pears"})
    publish_all(core)
    core.catalog.messages.delete(token, 1, 1)
    core.catalog.messages.edit(token, 1, 3, {"text": "three pears"})
    # PostgreSQL decides, however far behind the index is.
    assert search_numbers(core, token, "apple") == []
    assert search_numbers(core, token, "pear") == [2, 3]
    assert publish_all(core) == 2
    assert search_numbers(core, token, "apple") == []
    assert search_numbers(core, token, "pear") == [2, 3]
    assert unpublished_messages(core) == 0
    assert (
        request_elasticsearch(core, "GET", f"/{live_index_name(core)}/_count")["count"] == 3
    )  # one is a tombstone


def test_an_index_of_a_later_release_is_left_to_the_workers_of_that_release(
    core: Backend, token: str
) -> None:
    """It might reject every document of this one for ever; the changes stay in the outbox."""
    later = "UPDATE search_index SET mapping = mapping + :newer"
    store_messages(core, token, "Good morning")
    with core.database.begin() as tx:
        tx.execute(text(later), {"newer": 1})
    with pytest.raises(Unavailable, match="later release"):
        publisher(core).publish()
    assert query_rows(core, "SELECT count(*) FROM dead_letter") == [(0,)]
    assert unpublished_messages(core) == 1
    with core.database.begin() as tx:
        tx.execute(text(later), {"newer": -1})
    assert publisher(core).publish() == 1


def test_a_deleted_row_is_published_as_a_tombstone(core: Backend, token: str) -> None:
    """Its version is the one in the outbox, because a cascade has deleted the row."""
    store_messages(core, token, "a word")
    publish_all(core)
    with core.database.begin() as tx:
        ((chat_id, number, version),) = query_rows(
            core, "SELECT chat_id, number, version FROM message"
        )
        tx.exec_driver_sql("DELETE FROM message")
        outbox.add_to_outbox(tx, [(chat_id, number, version + 1)])
    publish_all(core)
    assert core.index is not None
    assert core.index.candidates(live_index_name(core), chat_id, "word", 0, 10) == []
    late = Document(chat_id, number, version, "a word")
    assert core.index.write(live_index_name(core), [late]) == []
    request_elasticsearch(core, "POST", f"/{live_index_name(core)}/_refresh")
    assert core.index.candidates(live_index_name(core), chat_id, "word", 0, 10) == []


def test_searches_switch_to_the_first_index_once_it_answers(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its creator is dead or its shard is not allocated, no search fails; later all is found."""
    name = live_index_name(core)
    nowhere = {"index.routing.allocation.require._name": "no such node"}
    request_elasticsearch(
        core,
        "PUT",
        f"/{name}?wait_for_active_shards=0",
        {
            "settings": {**mapping.INDEX_SETTINGS, **nowhere},
            "mappings": mapping.INDEX_MAPPING,
            "aliases": {f"{name}-write": {}},
        },
    )
    store_messages(core, token, "a word")
    with monkeypatch.context() as patched:
        patched.setattr(index_module, "LONG_TIMEOUT_SECONDS", 0.5)
        with pytest.raises(EngineDown):
            publisher(core).publish()
    assert search_numbers(core, token, "word") == [1]
    request_elasticsearch(core, "PUT", f"/{name}/_settings", dict.fromkeys(nowhere))
    with monkeypatch.context() as patched:
        patched.setattr(ElasticsearchIndex, "set_read_alias", _raise_engine_down)
        with pytest.raises(EngineDown, match="killed"):
            publisher(core).publish()
    assert search_numbers(core, token, "word") == [1]
    assert publish_all(core) == 1
    assert search_numbers(core, token, "w") == [1]


def _raise_engine_down(*_: object) -> None:
    raise EngineDown("killed")


# -- any order, any repetition ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(elasticsearch: Elasticsearch) -> Iterator[tuple[ElasticsearchIndex, str]]:
    """An index without a backend."""
    engine, name = ElasticsearchIndex(elasticsearch.url), new_index_name("property")
    engine.create(name)
    engine.set_read_alias(name)
    yield engine, name
    engine.drop(name)
    engine.close()


_STATES = st.lists(st.sampled_from(["apple", "pear", None]), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), messages=st.lists(_STATES, min_size=1, max_size=4))
def test_writes_in_any_order_and_repetition_have_the_same_result(
    index: tuple[ElasticsearchIndex, str], data: st.DataObject, messages: list[list[str | None]]
) -> None:
    """Creations, edits and deletions are shuffled and repeated over several bulks."""
    engine, name = index
    chat = next(_chats)
    states = [
        Document(chat, number, version, text)
        for number, texts in enumerate(messages, 1)
        for version, text in enumerate(texts, 1)
    ]
    delivered = data.draw(st.permutations(states + data.draw(st.lists(st.sampled_from(states)))))
    size = data.draw(st.integers(1, len(delivered)))
    for start in range(0, len(delivered), size):
        assert engine.write(name, delivered[start : start + size]) == []
    engine.client.indices.refresh(index=name)
    for word in ("apple", "pear"):
        expected = [number for number, texts in enumerate(messages, 1) if texts[-1] == word]
        assert engine.candidates(name, chat, word, 0, 100) == expected
    assert engine.count_documents(name, chat, 1, 100) == len(messages)


# -- leases -------------------------------------------------------------------------------------------


def test_concurrent_publishers_publish_each_message_once(core: Backend, token: str) -> None:
    """None of them finds the outbox locked."""
    for start in range(0, 6_000, 1_000):
        store_messages(core, token, *(f"line {number}" for number in range(start, start + 1_000)))
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(publisher(core).publish())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sum(counts) == 6_000
    assert unpublished_messages(core) == 0
    request_elasticsearch(core, "POST", f"/{live_index_name(core)}/_refresh")
    assert len(search_numbers(core, token, "line")) == 6_000


def test_an_expired_lease_is_taken_by_another_publisher(core: Backend, token: str) -> None:
    """Until then, other publishers leave the rows of a killed publisher alone."""
    store_messages(core, token, "a word")
    with core.database.begin() as tx:
        lease = outbox.lease(tx, 10, 600)
    assert lease is not None
    assert publisher(core).publish() == 0
    with core.database.begin() as tx:
        tx.exec_driver_sql("UPDATE outbox SET leased_until = leased_until - interval '600 s'")
    assert publish_all(core) == 1
    assert search_numbers(core, token, "word") == [1]


def test_a_lease_has_a_limited_number_of_messages(core: Backend, token: str) -> None:
    """A large transaction is split into several rows, and many small ones share a lease."""
    store_messages(core, token, *(f"line {number}" for number in range(6_000)))
    assert [size for (size,) in query_rows(core, "SELECT size FROM outbox ORDER BY id")] == [
        2500,
        2500,
        1000,
    ]
    for number in range(1, 6):
        core.catalog.messages.edit(token, 1, number, {"text": "changed"})
    with core.database.begin() as tx:
        leases = [outbox.lease(tx, 2_500, 60) for _ in range(4)]
    assert [lease and len(lease.ids) for lease in leases] == [1, 1, 6, None]


def test_a_lease_includes_indices_that_were_registered_before_it(core: Backend, token: str) -> None:
    """An index that is registered before a row is leased gets its message, too."""
    store_messages(core, token, "a word")
    other = new_index_name(core.database.installation.id)
    with core.database.begin() as tx:
        search_indices.register_index(tx, other, "building", 1)
        lease = outbox.lease(tx, 10, 0)
    assert lease is not None
    assert lease.indices == sorted([live_index_name(core), other])
    publish_all(core)
    request_elasticsearch(core, "POST", f"/{other}/_refresh")
    assert request_elasticsearch(core, "GET", f"/{other}/_count")["count"] == 1
    assert search_numbers(core, token, "word") == [1]


# -- what Elasticsearch refuses -----------------------------------------------------------------------


@pytest.mark.parametrize("block", ["write", "read_only_allow_delete"])
def test_changes_for_a_blocked_index_are_published_later(
    core: Backend, token: str, block: str
) -> None:
    """An operator's block (403) and a full disk's (429) lose none of them."""
    store_messages(core, token, "the first")
    publish_all(core)
    set_blocks(core, [block], True)
    store_messages(core, token, "the second")
    with pytest.raises(Unavailable, match="cluster_block_exception"):
        publisher(core).publish()
    assert unpublished_messages(core) == 1
    assert search_numbers(core, token, "the") == [1, 2]
    set_blocks(core, [block], None)
    assert publish_all(core) == 1
    assert search_numbers(core, token, "the") == [1, 2]


def test_a_rejected_document_becomes_a_dead_letter_and_blocks_no_other(
    core: Backend, token: str
) -> None:
    """Every item is checked: the one that the mapping rejects is named, the others are searchable."""
    name = reject_numbers_above_127(core)
    store_messages(core, token, *(f"secret word {number}" for number in range(1, 131)))
    assert publish_all(core) == 130
    assert unpublished_messages(core) == 0
    assert request_elasticsearch(core, "GET", f"/{name}/_count")["count"] == 127
    dead_letters = query_rows(
        core, "SELECT kind, token, chat, number, key, reason FROM dead_letter ORDER BY number"
    )
    assert [dead_letter[:4] for dead_letter in dead_letters] == [
        ("publish", token, 1, n) for n in (128, 129, 130)
    ]
    assert all(key.startswith("publish-") for *_, key, _ in dead_letters)
    assert "document_parsing_exception" in dead_letters[0][5]
    assert "secret" not in str(dead_letters)
    core.catalog.messages.edit(token, 1, 130, {"text": "again"})
    publish_all(core)
    assert (
        len(query_rows(core, "SELECT FROM dead_letter")) == 4
    )  # each version is a dead letter of its own


def test_a_lost_live_index_is_not_recreated_by_itself(core: Backend, token: str) -> None:
    """Nothing counts as published, and the error names the command to run; PostgreSQL searches meanwhile."""
    store_messages(core, token, "a word")
    publish_all(core)
    name = live_index_name(core)
    request_elasticsearch(core, "DELETE", f"/{name}")
    store_messages(core, token, "another word")
    with pytest.raises(IndexMissing) as caught:
        publisher(core).publish()
    assert name in caught.value.message
    assert "instachat reindex" in str(caught.value.hint)
    assert search_numbers(core, token, "word") == [1, 2]
    assert unpublished_messages(core) == 1
    assert request_elasticsearch(core, "GET", f"/_cat/indices/{name}*?format=json") == []


def test_publishing_without_the_write_alias_creates_no_index(core: Backend, token: str) -> None:
    """Elasticsearch would create one with a guessed mapping."""
    store_messages(core, token, "a word")
    publish_all(core)
    name = live_index_name(core)
    request_elasticsearch(core, "DELETE", f"/{name}/_alias/{name}-write")
    store_messages(core, token, "another word")
    with pytest.raises(IndexMissing):
        publisher(core).publish()
    listed = request_elasticsearch(core, "GET", f"/_cat/indices/{name}*?format=json")
    assert [index["index"] for index in listed] == [name]
    assert unpublished_messages(core) == 1


def test_a_lost_index_beside_the_live_one_is_unregistered(core: Backend, token: str) -> None:
    """Messages are published to the live index."""
    store_messages(core, token, "a word")
    publish_all(core)
    with core.database.begin() as tx:
        search_indices.register_index(
            tx, new_index_name(core.database.installation.id), "previous", 1
        )
        tx.exec_driver_sql("UPDATE search_index SET made_at = now()")
    store_messages(core, token, "another word")
    assert publish_all(core) == 1
    assert search_numbers(core, token, "word") == [1, 2]
    with core.database.connect() as connection:
        assert [kept.state for kept in search_indices.list_indices(connection)] == ["live"]


# -- switching on and off -----------------------------------------------------------------------------


def test_setting_the_url_later_lets_postgresql_search(
    engines: Engines, elasticsearch: Elasticsearch
) -> None:
    """With messages already stored, no incomplete index answers, and nothing is recorded for one."""
    plain = engines.settings()
    with open_backend(plain) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token))
        store_messages(core, token, "a word")
    with open_backend(plain.model_copy(update={"elasticsearch_url": elasticsearch.url})) as core:
        store_messages(core, token, "another word")
        assert search_numbers(core, token, "word") == [1, 2]
        assert unpublished_messages(core) == 0
        assert publisher(core).publish() == 0
    with open_backend(plain) as core:
        assert search_numbers(core, token, "word") == [1, 2]


def test_changes_without_the_url_are_published_once_it_is_set_again(
    core: Backend, token: str
) -> None:
    """The flag is in SQL, so every process records changes meanwhile."""
    store_messages(core, token, "a word")
    publish_all(core)
    without = core.settings.model_copy(update={"elasticsearch_url": None})
    with open_backend(without) as other:
        assert other.publisher is None
        store_messages(other, token, "another word")
        other.catalog.messages.delete(token, 1, 1)
        assert search_numbers(other, token, "word") == [2]
    assert unpublished_messages(core) == 2
    assert publish_all(core) == 2
    assert search_numbers(core, token, "word") == [2]


def test_unregistering_all_indices_stops_publishing(core: Backend, token: str) -> None:
    """Without an index there is no outbox and no flag, as if Elasticsearch had never been used."""
    store_messages(core, token, "a word")
    with core.database.begin() as tx:
        locks.lock_publishing(tx)
        search_indices.set_publishing(tx, False)
        search_indices.unregister_all(tx)
    store_messages(core, token, "another word")
    assert unpublished_messages(core) == 0
    assert publisher(core).publish() == 0
    assert search_numbers(core, token, "word") == [1, 2]


def test_concurrent_processes_register_one_first_index(engines: Engines) -> None:
    """Every command may be the first one."""
    database = Database(engines.fresh_database())
    engine = ElasticsearchIndex("http://127.0.0.1:1")  # is not contacted
    threads = [
        threading.Thread(target=register_first_index, args=(database, engine)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    with database.connect() as connection:
        assert len(search_indices.list_indices(connection)) == 1
        assert outbox.is_publishing(connection)
    database.close()


def test_the_publish_lock_waits_for_transactions_that_read_the_flag(core: Backend) -> None:
    """A drain that began before the flag was set must end before the lock is granted."""
    with core.database.begin() as tx:
        locks.lock_publishing(tx)
        search_indices.set_publishing(tx, False)
    with core.database.begin() as drain:
        assert not outbox.is_publishing(drain)
        with pytest.raises(Unavailable), core.database.begin() as tx:
            locks.lock_publishing(tx)


def test_a_publisher_without_an_index_leases_nothing(core: Backend, token: str) -> None:
    """The changes stay free until there is an index."""
    store_messages(core, token, "a word")
    with core.database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM search_index")
    assert core.index is not None
    assert Publisher(core.database, core.index).publish() == 0
    assert query_rows(core, "SELECT leased_until FROM outbox") == [(None,)]
