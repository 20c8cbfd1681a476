"""A reindex: no search fails or shrinks meanwhile, no change is lost or undone, any end of it is mended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Conflict, EngineDown, Failed, Unavailable
from backend.ingest import accept
from backend.search import alias_swap, reindex
from backend.search.reindex import Reindexer
from backend.search.searcher import NoIndex
from backend.settings import Settings
from backend.storage.elasticsearch import index
from backend.storage.elasticsearch.index import MAPPING, Document, Index, alias_of_installation
from backend.storage.postgres import reindex_state, search_indices
from tests.conftest import Engines
from tests.elastic.fixtures import Elasticsearch
from tests.elastic.speaking import (
    found,
    http,
    live,
    publish,
    publisher,
    query,
    send,
    wait_until,
    waiting,
)

ROOT = Path(__file__).parents[2]
MANY = 15_000  # messages, so that a process can be met in the middle of copying them


class Told:
    """Remembers how far a reindex said it had come."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def __call__(self, step: str, done: int, total: int) -> None:
        self.steps.append((step, done, total))


def reindexer(core: Backend) -> Reindexer:
    """Its reindexer."""
    assert core.reindexer is not None
    return core.reindexer


def engine(core: Backend) -> Index:
    """Its Elasticsearch."""
    assert core.index is not None
    return core.index


def kept(core: Backend) -> dict[str, str]:
    """The names of the indices that are kept, by their states."""
    with core.database.connect() as connection:
        return {one.state: one.name for one in search_indices.indices(connection)}


def there(core: Backend) -> set[str]:
    """The installation's indices that Elasticsearch has."""
    return set(engine(core).found(alias_of_installation(core.database.installation.id)))


def fits(core: Backend) -> bool:
    """Whether the live index holds every message as it is; fails on a half-told answer."""
    checked = reindexer(core).check()
    assert checked.name == live(core)
    return not checked.faults


def chat_id(core: Backend) -> int:
    """The id of the only chat."""
    ((id_,),) = query(core, "SELECT id FROM chat")
    return int(id_)


def store_many(core: Backend, size: int) -> None:
    """Store messages of chat 1 past the log, of which the index hears nothing."""
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


def test_another_index_is_built_and_searched(core: Backend, token: str) -> None:
    """It holds all, tombstones included; the one before stays for a rollback, and no third."""
    send(core, token, "one apple", "two apples", "three apples", "four apples")
    core.catalog.delete_message(token, 1, 2)
    publish(core)
    names = [live(core)]
    for _ in range(2):
        told = Told()
        built = reindexer(core).build(tell=told)
        assert built is not None
        assert (built.messages, built.previous) == (4, names[-1])
        assert told.steps == [("copied", 4, 4), ("compared", 4, 4)]
        names.append(built.name)
        assert found(core, token, "apple") == [1, 3, 4]
        assert core.catalog.wait_searchable(token, 1, 1, 4, 5)  # it counts tombstones
        assert fits(core)
        assert kept(core) == {"live": names[-1], "previous": names[-2]}
        assert there(core) == set(names[-2:])


def test_no_search_fails_or_shrinks_meanwhile(core: Backend, token: str) -> None:
    """Searches go on through three reindexes and two rollbacks, with creations, edits and deletions.

    Whatever was found once is found again by each later search, until its deletion begins; no search that
    begins after a deletion was answered finds it; what never changes is always there.
    """
    send(core, token, *(f"steady {n}" for n in range(1, 301)))
    publish(core)
    leaving: set[int] = set()  # whose deletion has begun: it may be found, or not
    removed: set[int] = set()  # whose deletion was answered
    searches = 0
    made = count(1)

    def change() -> None:
        send(core, token, *(f"fresh {next(made)}" for _ in range(5)))
        numbers = found(core, token, "fresh")
        if len(numbers) > 20:
            core.catalog.edit_message(token, 1, numbers[1], f"fresh again {next(made)}")
            leaving.add(numbers[0])
            core.catalog.delete_message(token, 1, numbers[0])
            removed.add(numbers[0])

    def search() -> None:
        nonlocal searches
        seen: set[int] = set()
        while not done.is_set():
            assert found(core, token, "steady") == list(range(1, 301))
            gone = set(removed)
            now = set(found(core, token, "fresh"))
            assert seen - now <= set(leaving), "a search found less than one before it"
            assert not now & gone, "a deleted message was found"
            seen |= now
            searches += 1

    done = threading.Event()
    failures: list[BaseException] = []
    loops = [change, lambda: publisher(core).publish(), search]
    with _running(loops, done, failures):
        for _ in range(2):
            assert reindexer(core).build()
            reindexer(core).rollback()
        assert reindexer(core).build()
        wait_until(lambda: bool(failures) or (searches > 10 and bool(removed)), 60)
    assert not failures, failures
    publish(core)
    assert fits(core)
    reindexer(core).rollback()  # the other one has missed nothing, either
    assert fits(core)


@contextmanager
def _running(
    loops: Sequence[Callable[[], object]], done: threading.Event, failures: list[BaseException]
) -> Iterator[None]:
    """Each in a thread, again and again until the end; what goes wrong is kept."""

    def run(loop: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                loop()
        except BaseException as error:  # noqa: BLE001  # told by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=[loop]) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(30)


def test_changes_made_meanwhile_are_neither_lost_nor_undone(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before their page, behind it, and in between: read as they were, and written after the change."""
    monkeypatch.setattr(reindex, "PAGE", 2)
    send(core, token, *(f"old {n}" for n in range(1, 9)))
    publish(core)
    late = [Document(chat_id(core), 3, 1, "old 3")]

    def meddle(step: str, done: int, _: int) -> None:
        if (step, done) == ("copied", 4):
            core.catalog.edit_message(token, 1, 1, "new 1")  # copied before
            core.catalog.edit_message(token, 1, 8, "new 8")  # not yet
            core.catalog.delete_message(token, 1, 3)
            send(core, token, "new 9")
            publish(core)
            engine(core).write(kept(core)["building"], late)
        if (step, done) == ("copied", 8):
            core.catalog.delete_message(token, 1, 2)  # not published: it waits in the outbox

    assert reindexer(core).build(tell=meddle)
    assert found(core, token, "new") == [1, 8, 9]
    assert found(core, token, "old") == [4, 5, 6, 7]
    assert engine(core).candidates(live(core), chat_id(core), "old", 0, 10) == [4, 5, 6, 7]
    assert fits(core)


def test_a_rollback_loses_nothing_written_since(core: Backend, token: str) -> None:
    """Every write goes to both; going back and forth changes no result."""
    with pytest.raises(Failed, match="no search index to go back to"):
        reindexer(core).rollback()
    send(core, token, "one apple")
    publish(core)
    first = live(core)
    assert reindexer(core).build()
    send(core, token, "two apples", "three apples")
    core.catalog.edit_message(token, 1, 1, "one pear")
    core.catalog.delete_message(token, 1, 2)
    publisher(core).publish()
    for _ in range(2):
        second = live(core)
        assert reindexer(core).rollback() == kept(core)["live"] != second
        assert (found(core, token, "apple"), found(core, token, "pear")) == ([3], [1])
        assert fits(core)
    assert kept(core)["previous"] == first


def test_a_message_that_can_not_be_indexed_is_named(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a reindex fails, searches stay as they were, and no database id is told."""
    core.acceptor.accept(accept.chats(token, 40))  # so that chat and id differ
    core.acceptor.accept(accept.messages(token, 41, [f"apple {n}" for n in range(1, 151)]))
    core.drainer.drain_all()
    publish(core)
    before = live(core)
    number = {**index.FIELDS["properties"]["number"], "type": "byte"}
    shape = {**index.FIELDS, "properties": {**index.FIELDS["properties"], "number": number}}
    with monkeypatch.context() as patched:
        patched.setattr(index, "FIELDS", shape)
        with pytest.raises(Failed) as failure:
            reindexer(core).build()
    assert f"message 128 of chat 41 of application {token}" in failure.value.message
    assert "and more; Elasticsearch says document_parsing_exception" in failure.value.message
    assert live(core) == before
    assert fits(core)
    with pytest.raises(Conflict, match="was interrupted"):
        reindexer(core).build()
    assert reindexer(core).abort() is not None
    assert kept(core) == {"live": before}
    assert there(core) == {before}
    assert reindexer(core).build()


# -- ends and beginnings ----------------------------------------------------------------------------


def program(core: Backend, *words: str) -> "subprocess.Popen[str]":
    """`instachat …` on the backend's settings, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    given = core.settings.model_dump(exclude_unset=True)
    environment |= {f"INSTACHAT_{name.upper()}": str(value) for name, value in given.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "instachat_cli", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(core: Backend, *words: str) -> tuple[int, str]:
    """The exit code of `instachat …`, and all that it said."""
    process = program(core, *words)
    out, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    return process.returncode, out + said


def copied(core: Backend) -> int:
    """How many messages a build has noted as copied."""
    return reindexer(core).outlook().copied if "building" in kept(core) else 0


def test_killed_it_is_resumed_and_two_at_once_are_one(core: Backend, token: str) -> None:
    """One that is stopped is named to the second; killed, it can be resumed, not begun beside, from where
    it was.
    """
    store_many(core, MANY)
    first = program(core, "reindex")
    try:
        wait_until(lambda: copied(core) > 0, 60)
        first.send_signal(signal.SIGSTOP)
        name = kept(core)["building"]
        for words in ([], ["--resume"], ["--abort"], ["--rollback"]):
            code, said = run(core, "reindex", *words)
            assert code == 6
            assert f", process {first.pid}, since 20" in said
    finally:
        first.kill()
        first.communicate()
    wait_until(lambda: not _locked(core), 10)
    code, said = run(core, "reindex")
    assert code == 6
    assert "`instachat reindex --resume` goes on" in said
    before = copied(core)
    assert 0 < before < MANY
    told = Told()
    built = reindexer(core).build(resume=True, tell=told)
    assert built is not None
    assert (built.name, built.messages) == (name, MANY)
    assert told.steps[0][1] > before
    assert found(core, token, "message 14999") == [14999]
    assert fits(core)


def _locked(core: Backend) -> bool:
    ((locks,),) = query(
        core,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    return bool(locks)


def test_ctrl_c_says_what_to_run(core: Backend, token: str) -> None:
    """130, how far it was, and both ways on; each of them works."""
    store_many(core, MANY)
    process = program(core, "reindex")
    try:
        wait_until(lambda: copied(core) > 0, 60)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "of 15,000 messages copied" in said
    assert "`instachat reindex --resume`" in said
    assert "`instachat reindex --abort`" in said
    code, said = run(core, "reindex", "--resume", "--dry-run")
    assert code == 0
    assert '"copied": ' in said
    code, said = run(core, "reindex", "--resume", "-o", "table")
    assert code == 0
    assert "reindexed 15,000 messages" in said
    assert found(core, token, "message 14999") == [14999]
    assert run(core, "reindex", "--resume", "-o", "table")[1].startswith("nothing to resume")
    assert run(core, "reindex", "--abort", "-o", "table")[1].startswith("nothing to remove")


@pytest.mark.parametrize("mended_by", ["abort", "resume"])
def test_a_crash_between_alias_and_commit_is_mended(
    core: Backend, token: str, mended_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches may read the new index then, which holds all; either way leads to one truth."""
    send(core, token, "one apple")
    publish(core)
    before = live(core)
    turn = Index.read_from

    def crash(self: Index, name: str) -> None:
        turn(self, name)
        raise EngineDown("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "read_from", crash)
        with pytest.raises(EngineDown, match="the answer was lost"):
            reindexer(core).build()
    assert kept(core)["live"] == before
    assert found(core, token, "apple") == [1]
    if mended_by == "abort":
        reindexer(core).abort()
        assert kept(core) == {"live": before}
    else:
        assert reindexer(core).build(resume=True)
        assert kept(core)["previous"] == before
    assert there(core) == set(kept(core).values())
    send(core, token, "two apples")
    publish(core)
    assert found(core, token, "apple") == [1, 2]
    assert fits(core)


def test_a_publisher_in_the_middle_is_waited_for(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches do not turn while somebody has leased what only the old index holds."""
    send(core, token, "one apple")
    publish(core)
    send(core, token, "two apples")
    half, go_on = threading.Event(), threading.Event()
    write = Index.write

    def write_slowly(self: Index, name: str, documents: Any) -> Any:
        rejected = write(self, name, documents)
        if threading.current_thread() is thread and not half.is_set():
            half.set()
            assert go_on.wait(30)
        return rejected

    def hold_up(step: str, *_: object) -> None:
        if step == "copied":
            thread.start()
            assert half.wait(30)  # the live index has it
        elif not go_on.is_set():
            pytest.fail("compared while somebody published")

    monkeypatch.setattr(Index, "write", write_slowly)
    thread = threading.Thread(target=publisher(core).publish)
    turned = threading.Thread(target=lambda: reindexer(core).build(tell=hold_up))
    turned.start()
    assert half.wait(30)
    before = live(core)
    http(core, "POST", f"/{before}/_refresh")
    time.sleep(0.3)
    assert live(core) == before
    assert found(core, token, "apple") == [1, 2]
    go_on.set()
    for each in (thread, turned):
        each.join(30)
    assert live(core) != before
    assert found(core, token, "apple") == [1, 2]


def test_a_publisher_that_failed_half_way_hides_nothing(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote to the old index only, just before searches turn, is found in the new one."""
    send(core, token, "one apple")
    publish(core)
    write, hold = Index.write, reindex_state.hold_publishers

    def fail_half_way(self: Index, name: str, documents: Any) -> Any:
        if name == kept(core).get("building"):
            raise Unavailable("busy")
        return write(self, name, documents)

    def fail_before(tx: Connection, seconds: float) -> bool:
        send(core, token, "two apples")
        with monkeypatch.context() as patched:
            patched.setattr(Index, "write", fail_half_way)
            with pytest.raises(Unavailable, match="busy"):
                publisher(core).publish()
        http(core, "POST", f"/{live(core)}/_refresh")
        assert found(core, token, "apple") == [1, 2]
        return hold(tx, seconds)

    monkeypatch.setattr(reindex_state, "hold_publishers", fail_before)
    assert reindexer(core).build()
    assert found(core, token, "apple") == [1, 2]


# -- without, with, and without again ---------------------------------------------------------------


def test_an_installation_that_had_none_gets_one(
    engines: Engines, elasticsearch: Elasticsearch
) -> None:
    """Searches say what to run until it is built; aborted, nothing is noted for an index any more."""
    plain = engines.settings()
    with open_backend(plain) as core:
        token = core.catalog.create_application("test").token
        core.acceptor.accept(accept.chats(token))
        send(core, token, "one apple", "two apples")
        assert run(core, "reindex", "-o", "table") == (
            0,
            "nothing to build: PostgreSQL searches (INSTACHAT_ELASTICSEARCH_URL is not set)\n",
        )
    with open_backend(_with(plain, elasticsearch.url)) as core:
        with pytest.raises(NoIndex, match="no search index"):
            found(core, token, "apple")
        with pytest.raises(KeyboardInterrupt):
            reindexer(core).build(tell=_interrupt)
        send(core, token, "three apples")
        assert waiting(core) == 1
        assert reindexer(core).abort()
        assert (waiting(core), kept(core), there(core)) == (0, {}, set())
        send(core, token, "four apples")
        assert waiting(core) == 0
        code, said = run(core, "reindex", "--check")
        assert code == 4
        assert "there is no search index" in said
        code, said = run(core, "reindex", "-o", "json")
        assert code == 0
        assert '"messages": 4, "previous": null' in said
        assert found(core, token, "apple") == [1, 2, 3, 4]
        assert run(core, "reindex", "--check")[0] == 0
    with open_backend(plain) as core:
        code, said = run(core, "reindex", "--abort", "-o", "table")
        assert (code, "no longer noted" in said) == (0, True)
        send(core, token, "five apples")
        assert (waiting(core), kept(core)) == (0, {})


def _with(plain: Settings, url: str) -> Settings:
    given = plain.model_dump(exclude_unset=True)
    return Settings(**given, elasticsearch_url=url)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_lost_index_is_replaced(core: Backend, token: str) -> None:
    """Deleted by hand, it holds up publishing until a reindex; then all is searched again."""
    send(core, token, "one apple")
    publish(core)
    http(core, "DELETE", f"/{live(core)}")
    send(core, token, "two apples")
    with pytest.raises(Failed, match="is not in Elasticsearch"):
        publish(core)
    with pytest.raises(KeyboardInterrupt):
        reindexer(core).build(tell=_interrupt)
    assert reindexer(core).abort()
    with pytest.raises(NoIndex, match="no search index"):
        found(core, token, "apple")
    assert reindexer(core).build()
    http(core, "DELETE", f"/{live(core)}")
    assert reindexer(core).check().faults == ["it is not in Elasticsearch"]
    built = reindexer(core).build()
    assert built is not None
    assert built.previous is None
    assert found(core, token, "apple") == [1, 2]
    assert fits(core)


def test_a_build_that_is_deleted_fails(core: Backend, token: str) -> None:
    """While it is copied to or resumed: nothing is searched that is not whole."""
    send(core, token, "one apple")
    publish(core)

    def delete(step: str, *_: object) -> None:
        if step == "copied":
            http(core, "DELETE", f"/{kept(core)['building']}")

    with pytest.raises(Failed, match="is not in Elasticsearch"):
        reindexer(core).build(tell=delete)
    with pytest.raises(Failed, match="not in Elasticsearch any more"):
        reindexer(core).build(resume=True)
    assert reindexer(core).abort()
    assert found(core, token, "apple") == [1]
    assert reindexer(core).build()


# -- checking ---------------------------------------------------------------------------------------


def test_a_check_finds_what_differs(core: Backend, token: str) -> None:
    """A document that is missing, older, newer or too many, and a mapping that is not ours; 4, and named."""
    send(core, token, *(f"apple {n}" for n in range(1, 8)))
    core.catalog.delete_message(token, 1, 7)
    publish(core)
    assert fits(core)
    name, chat = live(core), chat_id(core)
    http(core, "DELETE", f"/{name}/_doc/{chat}-2?routing={chat}")
    with core.database.begin() as tx:
        tx.execute(text("UPDATE message SET version = version + 1 WHERE number = 3"))
        tx.execute(text("UPDATE message SET version = version - 1 WHERE number = 4"))
    extra = [Document(chat, 50, 1, "apple 50"), Document(chat, 51, 1, None)]
    assert engine(core).write(name, extra) == []
    http(core, "POST", f"/{name}/_refresh")
    (fault,) = reindexer(core).check().faults
    numbers = [n for n in range(1, 60) if f"message {n} of chat 1 of application {token}" in fault]
    assert numbers == [2, 3, 4, 50]  # a tombstone without a row is as good as none
    code, said = run(core, "reindex", "--check", "-o", "json")
    assert code == 4
    assert '"error": "check_failed"' in said
    assert reindexer(core).build()
    assert fits(core)


def test_a_check_knows_another_mapping(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number, and by what Elasticsearch really has; what an operator may set is left alone."""
    send(core, token, "apple")
    publish(core)
    http(core, "PUT", f"/{live(core)}/_settings", {"index": {"refresh_interval": "2s"}})
    assert fits(core)
    with monkeypatch.context() as patched:
        patched.setattr(reindex, "MAPPING", MAPPING + 1)
        assert reindexer(core).check().faults == [
            f"it is of mapping {MAPPING}, this program makes 2"
        ]
    fields = {**index.FIELDS["properties"], "text": {"type": "text", "analyzer": "simple"}}
    with monkeypatch.context() as patched:
        patched.setattr(index, "FIELDS", {**index.FIELDS, "properties": fields})
        patched.setattr(index, "SETTINGS", {**index.SETTINGS, "sort": {"field": "chat"}})
        assert reindexer(core).check().faults == [
            "mappings.properties.text.analyzer is not this program's",
            "settings.sort.field is not this program's",
        ]


def test_a_difference_keeps_searches_where_they_are(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that lost a message is found out before anything reads it."""
    send(core, token, "one apple", "two apples")
    publish(core)
    before = live(core)
    write = Index.write

    def lose_one(self: Index, name: str, documents: Any) -> Any:
        return write(self, name, [one for one in documents if one.number != 2])

    with monkeypatch.context() as patched:
        patched.setattr(Index, "write", lose_one)
        with pytest.raises(Failed, match=f"message 2 of chat 1 of application {token}"):
            reindexer(core).build()
    assert live(core) == before
    assert found(core, token, "apple") == [1, 2]


# -- as a job ---------------------------------------------------------------------------------------


def test_a_worker_reindexes_when_asked(core: Backend, token: str) -> None:
    """Asked for by a job; meanwhile it stores as ever, and it ends at once when it is told to."""
    store_many(core, MANY)
    before = live(core)
    process = program(core, "worker")
    try:
        core.jobs.ask_reindex()
        wait_until(lambda: copied(core) > 0, 60)
        since = time.monotonic()
        number = core.acceptor.accept(accept.chats(token)).first
        wait_until(lambda: core.catalog.chat(token, number) is not None, 10)
        assert time.monotonic() - since < 5
        assert "building" in kept(core)
        wait_until(lambda: live(core) != before, 60)
        core.jobs.ask_reindex()
        wait_until(lambda: copied(core) > 0, 60)
        with (
            core.database.begin() as tx
        ):  # its next checkpoint waits: it is not through before it is told
            tx.exec_driver_sql("SELECT FROM search_index WHERE state = 'building' FOR UPDATE")
            process.send_signal(signal.SIGTERM)
            time.sleep(1)  # two sweeps of the worker, which then tells it
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 0
    assert "the reindex was told to stop" in said
    assert reindexer(core).build(resume=True)
    assert found(core, token, "message 14999") == [14999]


def test_a_flag_that_can_not_be_had_changes_nothing(
    core: Backend, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that writes messages and does not end: nothing is begun beside what it may hide."""
    send(core, token, "one apple")
    publish(core)
    monkeypatch.setattr(alias_swap, "FLAG_TRIES", 1)
    monkeypatch.setattr(search_indices, "LOCK_SECONDS", 0.2)
    with core.database.begin() as tx:
        assert tx.scalar(text("SELECT publishing FROM installation"))
        with pytest.raises(Unavailable):
            reindexer(core).build()
    assert set(kept(core)) == {"live"}
    assert reindexer(core).build()
