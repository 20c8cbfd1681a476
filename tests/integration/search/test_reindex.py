"""Reindex: no search fails or misses a message, no change is lost, every interruption is repaired."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Conflict, EngineDown, Failed, Unavailable
from backend.ingest.requests import AcceptRequest
from backend.search import alias_swap, reindex
from backend.search.reindex import Reindexer
from backend.settings import Settings
from backend.storage.elasticsearch import mapping
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.elasticsearch.mapping import MAPPING_VERSION, installation_alias
from backend.storage.postgres import leases, locks, search_indices
from backend.storage.search_index import Document, IndexMissing, SearchIndex
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.requests import (
    live_index_name,
    publish_all,
    publisher,
    query_rows,
    request_elasticsearch,
    search_numbers,
    store_messages,
    unpublished_messages,
)
from tests.support.fork_server import Captured, fork_server
from tests.support.pgbouncer import left_behind
from tests.support.waiting import PATIENCE_SECONDS, wait_until

MANY_MESSAGES = 10_000  # messages: four pages of a build


class ProgressCalls:
    """Records the progress that a reindex reports."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def __call__(self, step: str, done: int, total: int) -> None:
        self.steps.append((step, done, total))


def reindexer(core: Backend) -> Reindexer:
    """The backend's reindexer."""
    assert core.reindexer is not None
    return core.reindexer


def index_client(core: Backend) -> SearchIndex:
    """The backend's Elasticsearch."""
    assert core.index is not None
    return core.index


def registered_indices(core: Backend) -> dict[str, str]:
    """The names of the registered indices, by state."""
    with core.database.connect() as connection:
        return {one.state: one.name for one in search_indices.list_indices(connection)}


def existing_indices(core: Backend) -> set[str]:
    """The installation's indices that exist in Elasticsearch."""
    return set(index_client(core).list_indices(installation_alias(core.database.installation.id)))


def index_matches(core: Backend) -> bool:
    """Whether the live index holds every message as it is; fails if the check was of another index."""
    checked = reindexer(core).check()
    assert checked.name == live_index_name(core)
    return not checked.faults


def chat_id(core: Backend) -> int:
    """The id of the only chat."""
    ((id_,),) = query_rows(core, "SELECT id FROM chat")
    return int(id_)


def store_many(core: Backend, size: int) -> None:
    """Store messages of chat 1 by a direct write that does not tell the index."""
    with core.database.begin() as tx:
        tx.execute(
            text(
                """
                INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
                SELECT :chat, n, n, now(), now(), 'message ' || n, 'message ' || n
                FROM generate_series(1, :size) n"""
            ),
            {"chat": chat_id(core), "size": size},
        )


# -- the whole of it --------------------------------------------------------------------------------


def test_a_reindex_builds_another_index_that_searches_then_use(core: Backend, token: str) -> None:
    """It holds all messages and tombstones. The previous index stays for a rollback, and no older one."""
    store_messages(core, token, "one apple", "two apples", "three apples", "four apples")
    core.catalog.messages.delete(token, 1, 2)
    publish_all(core)
    names = [live_index_name(core)]
    for _ in range(2):
        progress_calls = ProgressCalls()
        built = reindexer(core).build(progress=progress_calls)
        assert built is not None
        assert (built.messages, built.previous) == (4, names[-1])
        assert progress_calls.steps == [("copied", 4, 4), ("compared", 4, 4)]
        names.append(built.name)
        assert search_numbers(core, token, "apple") == [1, 3, 4]
        assert core.catalog.messages.wait_searchable(
            token, 1, 1, 4, PATIENCE_SECONDS
        )  # it counts tombstones
        assert index_matches(core)
        assert registered_indices(core) == {"live": names[-1], "previous": names[-2]}
        assert existing_indices(core) == set(names[-2:])


def test_no_search_fails_or_misses_messages_during_reindexes(core: Backend, token: str) -> None:
    """Searches run during three reindexes and two rollbacks, with creations, edits and deletions.

    A message that was found once is found by each later search until its deletion begins. No search that
    begins after a deletion was answered finds the message. Messages that never change are always found.
    """
    store_messages(core, token, *(f"steady {n}" for n in range(1, 301)))
    publish_all(core)
    leaving: set[int] = set()  # the deletion has begun: the message may be found or not
    removed: set[int] = set()  # the deletion was answered
    searches = 0
    made = count(1)

    def change() -> None:
        store_messages(core, token, *(f"fresh {next(made)}" for _ in range(5)))
        numbers = search_numbers(core, token, "fresh")
        if len(numbers) > 20:
            core.catalog.messages.edit(token, 1, numbers[1], {"text": f"fresh again {next(made)}"})
            leaving.add(numbers[0])
            core.catalog.messages.delete(token, 1, numbers[0])
            removed.add(numbers[0])

    def search() -> None:
        nonlocal searches
        seen_numbers: set[int] = set()
        while not done.is_set():
            assert search_numbers(core, token, "steady") == list(range(1, 301))
            gone = set(removed)
            now = set(search_numbers(core, token, "fresh"))
            assert seen_numbers - now <= set(leaving), "a search found less than one before it"
            assert not now & gone, "a deleted message was found"
            seen_numbers |= now
            searches += 1

    done = threading.Event()
    failures: list[BaseException] = []
    loops = [change, lambda: publisher(core).publish(), search]
    with _looping_threads(loops, done, failures):
        for _ in range(2):
            assert reindexer(core).build()
            reindexer(core).rollback()
        assert reindexer(core).build()
        wait_until(lambda: bool(failures) or (searches > 10 and bool(removed)))
    assert not failures, failures
    publish_all(core)
    assert index_matches(core)
    reindexer(core).rollback()  # the other index has all changes, too
    assert index_matches(core)


@contextmanager
def _looping_threads(
    loops: Sequence[Callable[[], object]], done: threading.Event, failures: list[BaseException]
) -> Iterator[None]:
    """Run each function in a thread, repeatedly, until the block ends; their errors are collected."""

    def run(loop: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                loop()
        except BaseException as error:  # noqa: BLE001  # reported by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=[loop]) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)


def test_changes_during_a_reindex_are_neither_lost_nor_undone(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come before, during and after the copy of their page; the index gets the newest version."""
    monkeypatch.setattr(reindex, "PAGE_ROWS", 2)
    store_messages(core, token, *(f"old {n}" for n in range(1, 9)))
    publish_all(core)
    late = [Document(chat_id(core), 3, 1, "old 3")]

    def change_data(step: str, done: int, _: int) -> None:
        if (step, done) == ("copied", 4):
            core.catalog.messages.edit(token, 1, 1, {"text": "new 1"})  # copied before
            core.catalog.messages.edit(token, 1, 8, {"text": "new 8"})  # not copied yet
            core.catalog.messages.delete(token, 1, 3)
            store_messages(core, token, "new 9")
            publish_all(core)
            index_client(core).write(registered_indices(core)["building"], late)
        if (step, done) == ("copied", 8):
            core.catalog.messages.delete(token, 1, 2)  # not published: it waits in the outbox

    assert reindexer(core).build(progress=change_data)
    assert search_numbers(core, token, "new") == [1, 8, 9]
    assert search_numbers(core, token, "old") == [4, 5, 6, 7]
    assert index_client(core).candidates(live_index_name(core), chat_id(core), "old", 0, 10) == [
        4,
        5,
        6,
        7,
    ]
    assert index_matches(core)


def test_a_rollback_loses_no_later_change(core: Backend, token: str) -> None:
    """Every write goes to both indices, so going back and forth changes no result."""
    with pytest.raises(Failed, match="no previous search index"):
        reindexer(core).rollback()
    store_messages(core, token, "one apple")
    publish_all(core)
    first = live_index_name(core)
    assert reindexer(core).build()
    store_messages(core, token, "two apples", "three apples")
    core.catalog.messages.edit(token, 1, 1, {"text": "one pear"})
    core.catalog.messages.delete(token, 1, 2)
    publisher(core).publish()
    for _ in range(2):
        second = live_index_name(core)
        assert reindexer(core).rollback() == registered_indices(core)["live"] != second
        assert (search_numbers(core, token, "apple"), search_numbers(core, token, "pear")) == (
            [3],
            [1],
        )
        assert index_matches(core)
    assert registered_indices(core)["previous"] == first


def test_a_reindex_reports_a_message_that_cannot_be_indexed(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, and searches do not change. The error contains no database ID."""
    core.acceptor.accept(
        AcceptRequest.chats(token, 40)
    )  # so that the chat's number and its id differ
    core.acceptor.accept(AcceptRequest.messages(token, 41, [f"apple {n}" for n in range(1, 151)]))
    core.drainer.drain_all()
    publish_all(core)
    before = live_index_name(core)
    number = {**mapping.INDEX_MAPPING["properties"]["number"], "type": "byte"}
    shape = {
        **mapping.INDEX_MAPPING,
        "properties": {**mapping.INDEX_MAPPING["properties"], "number": number},
    }
    with monkeypatch.context() as patched:
        patched.setattr(mapping, "INDEX_MAPPING", shape)
        with pytest.raises(Failed) as failure:
            reindexer(core).build()
    assert f"message 128 of chat 41 of application {token}" in failure.value.message
    assert "and more; Elasticsearch says document_parsing_exception" in failure.value.message
    assert live_index_name(core) == before
    assert index_matches(core)
    with pytest.raises(Conflict, match="was interrupted"):
        reindexer(core).build()
    assert reindexer(core).abort() is not None
    assert registered_indices(core) == {"live": before}
    assert existing_indices(core) == {before}
    assert reindexer(core).build()


# -- ends and beginnings ----------------------------------------------------------------------------


def start_command(core: Backend, *words: str, module: str = "") -> Captured:
    """Start `instachat …`, or a module, on the backend's settings, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    given = core.settings.model_dump(exclude_unset=True)
    environment |= {f"INSTACHAT_{name.upper()}": str(value) for name, value in given.items()}
    return fork_server().capture([*words], environment, module=module)


def run_command(core: Backend, *words: str) -> tuple[int, str]:
    """The exit code of `instachat …`, and its output."""
    result = start_command(core, *words).result()
    return result.code, result.out + result.err


@contextmanager
def second_checkpoint_held(core: Backend) -> Iterator[None]:
    """Inside, a build waits before it records its second page, so a process can be met in the middle."""
    with core.database.begin() as tx:
        tx.exec_driver_sql(
            """
            CREATE TABLE IF NOT EXISTS gate ();
            CREATE OR REPLACE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN LOCK TABLE gate IN SHARE MODE; RETURN NEW; END $$;
            CREATE OR REPLACE TRIGGER pass_gate BEFORE UPDATE ON search_index
            FOR EACH ROW WHEN (OLD.copied_number > 0) EXECUTE FUNCTION pass_gate();
            """
        )
    with core.database.begin() as tx:
        tx.exec_driver_sql("LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")
        yield


def copied_messages(core: Backend) -> int:
    """How many messages a build has recorded as copied."""
    return reindexer(core).state().copied if "building" in registered_indices(core) else 0


def test_a_killed_reindex_can_be_resumed(core: Backend, token: str) -> None:
    """`--resume` continues at its last page. While it runs, a second reindex is refused."""
    store_many(core, MANY_MESSAGES)
    with second_checkpoint_held(core):
        first = start_command(core, "reindex").process
        try:
            wait_until(lambda: copied_messages(core) > 0)
            name = registered_indices(core)["building"]
            for words in ([], ["--resume"], ["--abort"], ["--rollback"]):
                code, said = run_command(core, "reindex", *words)
                assert code == 6
                assert f", process {first.pid}, since 20" in said
        finally:
            first.kill()
            first.wait(PATIENCE_SECONDS)
    expire_lease(core)
    code, said = run_command(core, "reindex")
    assert code == 6
    assert "`instachat reindex --resume` continues" in said
    before = copied_messages(core)
    assert 0 < before < MANY_MESSAGES
    progress_calls = ProgressCalls()
    built = reindexer(core).build(resume=True, progress=progress_calls)
    assert built is not None
    assert (built.name, built.messages) == (name, MANY_MESSAGES)
    assert progress_calls.steps[0][1] > before
    assert search_numbers(core, token, f"message {MANY_MESSAGES - 1}") == [MANY_MESSAGES - 1]
    assert index_matches(core)


@pytest.mark.usefixtures("token")
def test_a_suspended_reindex_ends_once_another_has_begun(core: Backend) -> None:
    """When it continues, it does not move searches back to its index, and says so: exit code 6."""
    store_many(core, MANY_MESSAGES)
    with ExitStack() as stack:
        with second_checkpoint_held(core):
            first = start_command(core, "reindex")
            stack.callback(first.process.kill)
            wait_until(lambda: copied_messages(core) > 0)
            first.process.send_signal(signal.SIGSTOP)
        expire_lease(core)
        assert reindexer(core).build(resume=True) is not None
        built = reindexer(core).build()
        first.process.send_signal(signal.SIGCONT)
        stack.pop_all()
    result = first.result()
    assert (result.code, "another reindex began" in result.err) == (6, True), result.err
    assert built is not None
    assert live_index_name(core) == built.name
    assert index_matches(core)


@pytest.mark.usefixtures("token")
def test_a_swap_is_refused_to_a_reindex_that_lost_its_lease(
    core: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if no heartbeat has noticed it: the transaction of the swap does."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 3600)
    before = live_index_name(core)

    def take_lease(step: str, done: int, total: int) -> None:
        if (step, done) == ("compared", total):
            with core.database.begin() as tx:
                tx.execute(text("UPDATE lease SET term = gen_random_uuid()"))

    with pytest.raises(Conflict, match="another reindex began"):
        reindexer(core).build(progress=take_lease)
    expire_lease(core)
    assert live_index_name(core) == before
    assert reindexer(core).abort() is not None


def test_a_pooler_keeps_no_lock_of_a_killed_reindex(
    pooled: Settings, elasticsearch: Elasticsearch
) -> None:
    """Behind PgBouncer in transaction mode; neither does one of a reindex that has ended."""
    settings = pooled.model_copy(update={"elasticsearch_url": elasticsearch.url})
    with open_backend(settings) as core:
        core.acceptor.accept(AcceptRequest.chats(core.catalog.applications.create("test").token))
        core.drainer.drain_all()
        store_many(core, MANY_MESSAGES)
        with second_checkpoint_held(core):
            process = start_command(core, "reindex").process
            try:
                wait_until(lambda: copied_messages(core) > 0)
            finally:
                process.kill()
                process.wait(PATIENCE_SECONDS)
        expire_lease(core)
        for words in (["--resume"], []):
            code, said = run_command(core, "reindex", *words)
            assert code == 0, said
        assert index_matches(core)
    assert left_behind(str(pooled.database_url)) == []


def expire_lease(core: Backend) -> None:
    """Let the lease of a process that does not run expire at once."""
    with core.database.begin() as tx:
        tx.execute(text("UPDATE lease SET expires_at = clock_timestamp()"))


def test_ctrl_c_reports_the_progress_and_the_next_commands(core: Backend, token: str) -> None:
    """The exit code is 130, and each of the commands works."""
    store_many(core, MANY_MESSAGES)
    with second_checkpoint_held(core):
        command = start_command(core, "reindex")
        try:
            wait_until(lambda: copied_messages(core) > 0)
            command.process.send_signal(signal.SIGINT)
        except BaseException:
            command.process.kill()
            raise
    result = command.result()
    assert result.code == 130
    said = result.err
    assert f"of {MANY_MESSAGES:,} messages copied" in said
    assert "`instachat reindex --resume`" in said
    assert "`instachat reindex --abort`" in said
    code, said = run_command(core, "reindex", "--resume", "--dry-run")
    assert code == 0
    assert '"copied": ' in said
    code, said = run_command(core, "reindex", "--resume", "-o", "table")
    assert code == 0
    assert f"reindexed {MANY_MESSAGES:,} messages" in said
    assert search_numbers(core, token, f"message {MANY_MESSAGES - 1}") == [MANY_MESSAGES - 1]
    assert run_command(core, "reindex", "--resume", "-o", "table")[1].startswith(
        "nothing to resume"
    )
    assert run_command(core, "reindex", "--abort", "-o", "table")[1].startswith("nothing to remove")


@pytest.mark.parametrize("repaired_by", ["abort", "resume"])
def test_resume_and_abort_repair_a_crash_between_alias_and_commit(
    core: Backend, token: str, repaired_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches may read the new, complete index until then."""
    store_messages(core, token, "one apple")
    publish_all(core)
    before = live_index_name(core)
    set_read_alias = ElasticsearchIndex.set_read_alias

    def crash(self: ElasticsearchIndex, name: str) -> None:
        set_read_alias(self, name)
        raise EngineDown("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(ElasticsearchIndex, "set_read_alias", crash)
        with pytest.raises(EngineDown, match="the answer was lost"):
            reindexer(core).build()
    assert registered_indices(core)["live"] == before
    assert search_numbers(core, token, "apple") == [1]
    if repaired_by == "abort":
        reindexer(core).abort()
        assert registered_indices(core) == {"live": before}
    else:
        assert reindexer(core).build(resume=True)
        assert registered_indices(core)["previous"] == before
    assert existing_indices(core) == set(registered_indices(core).values())
    store_messages(core, token, "two apples")
    publish_all(core)
    assert search_numbers(core, token, "apple") == [1, 2]
    assert index_matches(core)


def test_the_swap_waits_for_a_publisher_with_a_lease_for_the_old_index(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias is not swapped while a publisher holds a lease for the old index only."""
    store_messages(core, token, "one apple")
    publish_all(core)
    store_messages(core, token, "two apples")
    half, go_on = threading.Event(), threading.Event()
    write = ElasticsearchIndex.write

    def write_slowly(self: ElasticsearchIndex, name: str, documents: Any) -> Any:
        rejected = write(self, name, documents)
        if threading.current_thread() is thread and not half.is_set():
            half.set()
            assert go_on.wait(PATIENCE_SECONDS)
        return rejected

    def hold_up(step: str, *_: object) -> None:
        if step == "copied":
            thread.start()
            assert half.wait(PATIENCE_SECONDS)  # the live index has it
        elif not go_on.is_set():
            pytest.fail("compared while somebody published")

    monkeypatch.setattr(ElasticsearchIndex, "write", write_slowly)
    thread = threading.Thread(target=publisher(core).publish)
    build_thread = threading.Thread(target=lambda: reindexer(core).build(progress=hold_up))
    build_thread.start()
    assert half.wait(PATIENCE_SECONDS)
    before = live_index_name(core)
    request_elasticsearch(core, "POST", f"/{before}/_refresh")
    time.sleep(0.3)
    assert live_index_name(core) == before
    assert search_numbers(core, token, "apple") == [1, 2]
    go_on.set()
    for each in (thread, build_thread):
        each.join(PATIENCE_SECONDS)
    assert live_index_name(core) != before
    assert search_numbers(core, token, "apple") == [1, 2]


def test_a_message_of_a_failed_publisher_is_found_in_the_new_index(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher wrote it only to the old index, just before the swap."""
    store_messages(core, token, "one apple")
    publish_all(core)
    write, hold = ElasticsearchIndex.write, locks.block_publishers

    def fail_half_way(self: ElasticsearchIndex, name: str, documents: Any) -> Any:
        if name == registered_indices(core).get("building"):
            raise Unavailable("busy")
        return write(self, name, documents)

    def fail_before(tx: Connection, seconds: float) -> bool:
        store_messages(core, token, "two apples")
        with monkeypatch.context() as patched:
            patched.setattr(ElasticsearchIndex, "write", fail_half_way)
            with pytest.raises(Unavailable, match="busy"):
                publisher(core).publish()
        request_elasticsearch(core, "POST", f"/{live_index_name(core)}/_refresh")
        assert search_numbers(core, token, "apple") == [1, 2]
        return hold(tx, seconds)

    monkeypatch.setattr(locks, "block_publishers", fail_before)
    assert reindexer(core).build()
    assert search_numbers(core, token, "apple") == [1, 2]


# -- without, with, and without again ---------------------------------------------------------------


def test_a_reindex_builds_the_first_index_of_an_installation(
    engines: Engines, elasticsearch: Elasticsearch
) -> None:
    """PostgreSQL searches until an index is built; after an abort, no change is recorded."""
    plain = engines.settings()
    with open_backend(plain) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token))
        store_messages(core, token, "one apple", "two apples")
        assert run_command(core, "reindex", "-o", "table") == (
            0,
            "nothing to build: PostgreSQL searches (INSTACHAT_ELASTICSEARCH_URL is not set)\n",
        )
    with open_backend(_with(plain, elasticsearch.url)) as core:
        assert search_numbers(core, token, "apple") == [1, 2]
        with pytest.raises(KeyboardInterrupt):
            reindexer(core).build(progress=_interrupt)
        store_messages(core, token, "three apples")
        assert unpublished_messages(core) == 1
        assert reindexer(core).abort()
        assert (unpublished_messages(core), registered_indices(core), existing_indices(core)) == (
            0,
            {},
            set(),
        )
        store_messages(core, token, "four apples")
        assert unpublished_messages(core) == 0
        code, said = run_command(core, "reindex", "--check")
        assert code == 4
        assert "there is no search index" in said
        code, said = run_command(core, "reindex", "-o", "json")
        assert code == 0
        assert '"messages": 4, "previous": null' in said
        assert search_numbers(core, token, "apple") == [1, 2, 3, 4]
        assert run_command(core, "reindex", "--check")[0] == 0
    with open_backend(plain) as core:
        code, said = run_command(core, "reindex", "--abort", "-o", "table")
        assert (code, "no longer queued" in said) == (0, True)
        store_messages(core, token, "five apples")
        assert (unpublished_messages(core), registered_indices(core)) == (0, {})


def _with(plain: Settings, url: str) -> Settings:
    given = plain.model_dump(exclude_unset=True)
    return Settings(**given, elasticsearch_url=url)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_reindex_replaces_a_deleted_index(core: Backend, token: str) -> None:
    """If it was deleted by hand, publishing waits until a reindex; then everything is found again."""
    store_messages(core, token, "one apple")
    publish_all(core)
    request_elasticsearch(core, "DELETE", f"/{live_index_name(core)}")
    store_messages(core, token, "two apples")
    with pytest.raises(IndexMissing):
        publish_all(core)
    with pytest.raises(KeyboardInterrupt):
        reindexer(core).build(progress=_interrupt)
    assert reindexer(core).abort()
    assert search_numbers(core, token, "apple") == [1, 2]
    assert reindexer(core).build()
    request_elasticsearch(core, "DELETE", f"/{live_index_name(core)}")
    (fault,) = reindexer(core).check().faults
    assert fault.endswith("is not in Elasticsearch")
    built = reindexer(core).build()
    assert built is not None
    assert built.previous is None
    assert search_numbers(core, token, "apple") == [1, 2]
    assert index_matches(core)


def test_a_reindex_fails_if_its_new_index_is_deleted(core: Backend, token: str) -> None:
    """It is deleted during the copy or before a resume; searches never read an incomplete index."""
    store_messages(core, token, "one apple")
    publish_all(core)

    def delete(step: str, *_: object) -> None:
        if step == "copied":
            request_elasticsearch(core, "DELETE", f"/{registered_indices(core)['building']}")

    with pytest.raises(IndexMissing):
        reindexer(core).build(progress=delete)
    with pytest.raises(Failed, match="no longer in Elasticsearch"):
        reindexer(core).build(resume=True)
    assert reindexer(core).abort()
    assert search_numbers(core, token, "apple") == [1]
    assert reindexer(core).build()


# -- checking ---------------------------------------------------------------------------------------


def test_a_check_reports_every_different_document(core: Backend, token: str) -> None:
    """They are missing, older, newer or surplus; the exit code is 4."""
    store_messages(core, token, *(f"apple {n}" for n in range(1, 8)))
    core.catalog.messages.delete(token, 1, 7)
    publish_all(core)
    assert index_matches(core)
    name, chat = live_index_name(core), chat_id(core)
    request_elasticsearch(core, "DELETE", f"/{name}/_doc/{chat}-2?routing={chat}")
    with core.database.begin() as tx:
        tx.execute(text("UPDATE message SET version = version + 1 WHERE number = 3"))
        tx.execute(text("UPDATE message SET version = version - 1 WHERE number = 4"))
    extra = [Document(chat, 50, 1, "apple 50"), Document(chat, 51, 1, None)]
    assert index_client(core).write(name, extra) == []
    request_elasticsearch(core, "POST", f"/{name}/_refresh")
    (fault,) = reindexer(core).check().faults
    numbers = [n for n in range(1, 60) if f"message {n} of chat 1 of application {token}" in fault]
    assert numbers == [2, 3, 4, 50]  # a tombstone without a row is no difference
    code, said = run_command(core, "reindex", "--check", "-o", "json")
    assert code == 4
    assert '"error": "check_failed"' in said
    assert reindexer(core).build()
    assert index_matches(core)


def test_a_check_reports_another_mapping(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compares the version and the mapping, but no settings that an operator may change."""
    store_messages(core, token, "apple")
    publish_all(core)
    request_elasticsearch(
        core, "PUT", f"/{live_index_name(core)}/_settings", {"index": {"refresh_interval": "2s"}}
    )
    assert index_matches(core)
    with monkeypatch.context() as patched:
        patched.setattr(ElasticsearchIndex, "mapping_version", MAPPING_VERSION + 1)
        assert reindexer(core).check().faults == [
            f"it has mapping {MAPPING_VERSION}, this program uses mapping 2"
        ]
    fields = {**mapping.INDEX_MAPPING["properties"], "text": {"type": "text", "analyzer": "simple"}}
    with monkeypatch.context() as patched:
        patched.setattr(mapping, "INDEX_MAPPING", {**mapping.INDEX_MAPPING, "properties": fields})
        patched.setattr(
            mapping, "INDEX_SETTINGS", {**mapping.INDEX_SETTINGS, "sort": {"field": "chat"}}
        )
        assert reindexer(core).check().faults == [
            "mappings.properties.text.analyzer differs from this program's mapping",
            "settings.sort.field differs from this program's mapping",
        ]


def test_a_reindex_that_lacks_a_message_does_not_change_searches(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison finds it before a search reads the new index."""
    store_messages(core, token, "one apple", "two apples")
    publish_all(core)
    before = live_index_name(core)
    write = ElasticsearchIndex.write

    def lose_one(self: ElasticsearchIndex, name: str, documents: Any) -> Any:
        return write(self, name, [one for one in documents if one.number != 2])

    with monkeypatch.context() as patched:
        patched.setattr(ElasticsearchIndex, "write", lose_one)
        with pytest.raises(Failed, match=f"message 2 of chat 1 of application {token}"):
            reindexer(core).build()
    assert live_index_name(core) == before
    assert search_numbers(core, token, "apple") == [1, 2]


# -- as a job ---------------------------------------------------------------------------------------


def test_a_worker_runs_a_requested_reindex(core: Backend, token: str, tmp_path: Path) -> None:
    """It stores messages meanwhile, and stops the reindex when it has to stop."""
    store_many(core, MANY_MESSAGES)
    before = live_index_name(core)
    told_to_stop = tmp_path / "told"
    worker = start_command(core, str(told_to_stop), module="tests.support.faults.waiting_worker")
    try:
        with second_checkpoint_held(core):
            core.jobs.request_reindex()
            wait_until(lambda: copied_messages(core) > 0)
            number = core.acceptor.accept(AcceptRequest.chats(token)).first
            wait_until(lambda: core.catalog.chats.get(token, number) is not None)
            assert "building" in registered_indices(core)
        wait_until(lambda: live_index_name(core) != before)
        with second_checkpoint_held(core):
            core.jobs.request_reindex()
            wait_until(lambda: copied_messages(core) > 0)
            worker.process.send_signal(signal.SIGTERM)
            wait_until(told_to_stop.exists)  # so it cannot finish before
        told_to_stop.unlink()
        result = worker.result()
    finally:
        worker.process.kill()
    assert result.code == 0
    assert "the reindex was stopped" in result.err
    assert reindexer(core).build(resume=True)
    assert search_numbers(core, token, f"message {MANY_MESSAGES - 1}") == [MANY_MESSAGES - 1]


def test_a_reindex_whose_publish_lock_times_out_changes_nothing(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that writes messages does not end, so no index is registered beside it."""
    store_messages(core, token, "one apple")
    publish_all(core)
    monkeypatch.setattr(alias_swap, "PUBLISH_LOCK_ATTEMPTS", 1)
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_SECONDS", 0.2)
    with core.database.begin() as tx:
        assert tx.scalar(text("SELECT publishing FROM installation"))
        with pytest.raises(Unavailable):
            reindexer(core).build()
    assert set(registered_indices(core)) == {"live"}
    assert reindexer(core).build()
