"""Any operations in any order, on real engines, compared with a small model of dictionaries (`model`).

The backends of two processes accept, change, delete, drain and end, while Redis is killed, wiped and restored
from older copies. After each step SQL must have the rows of the model; at the end also the counts, the
searches, and the numbers that each parent issues next must agree.

A failure prints the steps and how to replay them: `--hypothesis-seed`, or the blob. `make interleavings`
tries more examples, and INSTACHAT_MODEL_EXAMPLES=10000 so many.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Closing, InstaChatError
from backend.domain.model import Accepted, Parent, shard_of
from backend.ingest.batch import BatchLimits, ShardLimits
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import applications, shards
from backend.transfer import format as line_format
from tests.conftest import Engines
from tests.support.engines import RedisServer
from tests.support.faults.killed import Killed
from tests.support.faults.model import (
    SHARDS,
    Answer,
    Model,
    ModelRequest,
    RedisState,
    Refusal,
    shard,
)
from tests.support.transfer_lines import chat_line, message_line

pytestmark = pytest.mark.faults

EXAMPLES = int(os.environ.get("INSTACHAT_MODEL_EXAMPLES", "10"))
STEPS = 40

# Three applications in two shards, so that two of them share a shard.
TOKENS = [
    t for n in range(999) if shard_of(t := f"application-number-{n:04}", SHARDS) in SHARDS[3:5]
][:3]
AT = "2026-01-31T23:59:59.000000Z"
KEYWORDS = ["a", "b", "ab", "%", "_", "\\"]

FAULTS = ["process", "kill", "wipe", "copy", "lose", "lose", "restore", "restore"]

pick = st.integers(0, 9)  # picks one of those that exist at that step
texts = st.lists(st.text("ab%_\\\n\té", min_size=1, max_size=4), min_size=1, max_size=4)
RequestDraw = tuple[str, int, int, list[str], str | None]
request_draws = st.tuples(
    st.sampled_from(["messages"] * 5 + ["chats"] * 3 + ["delete chat"] * 2 + ["delete"]),
    pick,
    pick,
    texts,
    st.sampled_from([None, None, None, "key 1", "key 2"]),
)
batches = st.lists(request_draws, min_size=1, max_size=6)


class BackendMachine(RuleBasedStateMachine):
    """One installation, and its model."""

    def __init__(self, engines: Engines, redis: RedisServer) -> None:
        super().__init__()
        self.model = Model()
        self.redis = redis
        self.copies: list[tuple[Path, RedisState]] = []
        self.open = ExitStack()
        self.settings = Settings(database_url=engines.fresh_database(), redis_url=redis.url)
        redis.kill()
        for data in redis.folder.iterdir():
            if data.is_dir():
                shutil.rmtree(data)
        redis.start()
        self.backends = [self.open_process(0), self.open_process(1)]
        for token in TOKENS:
            self.create_application(token)
        self.compare(0, [ModelRequest("chats", Parent(token), chats=2) for token in TOKENS[:-1]])
        self.drain(0)

    def open_process(self, which: int) -> Backend:
        """The backend of a new process. Process 1 drains in batches of one entry."""
        backend = self.open.enter_context(open_backend(self.settings))
        # As a process that has found its Redis before: a new one would refuse the Redis whose data are lost.
        backend.epochs.recognition.adopt()
        if which == 1:
            backend.drainer._limits = ShardLimits(BatchLimits(entries=1))
        return backend

    def create_application(self, token: str) -> None:
        """As `Applications.create`, with a token that the test chooses."""
        number = self.backends[0].counters.shard(token)
        with self.backends[0].database.begin() as tx:
            applications.insert_application_once(tx, token, "x", number)
        self.backends[0].counters.create_counter(token, number)
        self.model.create_application(token)

    # -- requests ----------------------------------------------------------------------------------

    @rule(process=pick, application=pick, chat=pick, texts=texts)
    def write(self, process: int, application: int, chat: int, texts: list[str]) -> None:
        """Messages to one chat."""
        self.compare(process, [self.ask("messages", application, chat, texts, None)])

    @rule(process=pick, batch=batches)
    def accept(self, process: int, batch: list[RequestDraw]) -> None:
        """Requests of any kinds, chats and applications in one call, some with idempotency keys."""
        self.compare(process, [self.ask(*wish) for wish in batch])

    @rule(process=pick, application=pick, chat=pick, number=pick, new=texts)
    def edit(self, process: int, application: int, chat: int, number: int, new: list[str]) -> None:
        """A message that may be stored, accepted, deleted, or unknown."""
        parent, number = self.chat(application, chat), number + 1
        found = outcome(
            lambda: self.backend(process).catalog.messages.edit(
                *named(parent), number, {"text": new[0]}
            )
        )
        assert found == self.model.change(parent, number, new[0])

    @rule(process=pick, application=pick, chat=pick, number=pick)
    def delete_message(self, process: int, application: int, chat: int, number: int) -> None:
        """A message, as in `edit`."""
        parent, number = self.chat(application, chat), number + 1
        found = outcome(
            lambda: self.backend(process).catalog.messages.delete(*named(parent), number)
        )
        assert found == self.model.change(parent, number, None)

    @rule(process=pick, application=pick, chat=st.one_of(st.none(), pick))
    def delete(self, process: int, application: int, chat: int | None) -> None:
        """A chat or an application: requested, drained and decided."""
        catalog = self.backend(process).catalog
        if chat is None:
            parent = self.application(application)
            found = outcome(lambda: catalog.applications.delete(parent.token))
        else:
            parent = self.chat(application, chat)
            found = outcome(lambda: catalog.chats.delete(*named(parent)))
        assert found == self.model.delete(parent)

    @precondition(lambda self: self.model.chats())
    @rule(process=pick, which=pick)
    def look(self, process: int, which: int) -> None:
        """Live counts agree with the model's, including what is not stored yet."""
        self.check_counts(self.backend(process), _one_of(self.model.chats(), which))

    @rule(
        process=pick,
        application=pick,
        texts=st.lists(st.one_of(st.none(), st.sampled_from(KEYWORDS)), max_size=4),
        gone=st.booleans(),
        again=st.booleans(),
    )
    def import_chat(
        self, process: int, application: int, texts: list[str | None], gone: bool, again: bool
    ) -> None:
        """Import a chat under the next number, with texts and with deleted messages; perhaps twice."""
        self.drain(process)
        parent = self.application(application)
        texts = [] if gone else texts
        number = 1 + max(self.model.redis_state.issued.get(parent, 0), self.model.highest(parent))
        lines = [chat_line(parent.token, number, None if gone else 0, AT, AT)]
        for n, text_ in enumerate(texts, 1):
            lines.append(message_line(parent.token, number, n, text_, AT, AT))
        work = self.backend(process).importer.begin()
        chunk = line_format.LineChunk(1, [line.encode() for line in lines], 0)
        faults = work.process(chunk)
        assert self.model.import_chat(parent, number, texts, gone=gone) == (not faults)
        if again and not faults:
            assert not work.process(chunk)
            assert work.counts.skipped == len(lines)

    # -- drains ------------------------------------------------------------------------------------

    @rule(process=pick)
    def drain(self, process: int) -> None:
        """All shards that have entries, or a new epoch: counters that an old Redis closed open again."""
        backend = self.backend(process)
        with backend.database.connect() as connection:
            states = shards.shard_states(connection)
        due = {shard(event.ask.parent) for event in self.model.redis_state.log}
        due |= {n for n, state in states.items() if state.cursor.epoch < state.epoch}
        backend.drainer.drain_all()
        for number in due:
            self.model.drain(number)

    @rule(
        process=pick,
        batch=batches,
        which=pick,
        step=st.sampled_from(["read", "rows", "rows", "committed", "trimmed"]),
    )
    def drain_that_dies(
        self, process: int, batch: list[RequestDraw], which: int, step: str
    ) -> None:
        """A drain of a shard that has new entries, ended at a step."""

        def die(name: str) -> None:
            if name == step:
                raise Killed

        self.compare(process, [self.ask(*wish) for wish in batch])
        if not self.model.redis_state.log:
            return
        backend = self.backend(process)
        number = shard(_one_of(self.model.redis_state.log, which).ask.parent)
        epochs = Epochs(backend.log, backend.database)
        drainer = Drainer(
            backend.log,
            backend.database,
            epochs,
            step=die,
            limits=BatchLimits(seconds=inf),  # one batch, however busy the machine is
        )
        with pytest.raises(Killed):
            drainer.drain(number)
        if step != "read":
            self.model.drain(number, committed=step != "rows")

    # -- faults ------------------------------------------------------------------------------------

    @rule(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2), which=pick)
    def harm(self, faults: list[str], which: int) -> None:
        """A process ends, and a new one takes its place; Redis is killed or wiped; its data are copied
        and then lost, or restored from the copy."""
        for fault in faults:
            if fault == "process":
                self.backends[which % 2] = self.open_process(which % 2)
                continue
            if fault != "wipe":
                self.kill_redis(fault, which)
            if fault in ("wipe", "lose"):
                self.redis.client().flushall()
                self.model.wipe()

    @rule(process=pick, before=batches, after=batches, drained=st.booleans())
    def bring_back_old_redis(
        self, process: int, before: list[RequestDraw], after: list[RequestDraw], drained: bool
    ) -> None:
        """What was accepted is lost, its numbers are issued again, and then it comes back."""
        self.compare(process, [self.ask(*wish) for wish in before])
        self.harm(["lose"], process)
        self.compare(process, [self.ask(*wish) for wish in after])
        if drained:
            self.drain(process)
        self.harm(["restore"], len(self.copies) - 1)

    def kill_redis(self, fault: str, which: int) -> None:
        """kill -9, and a start with the same data, or with an older copy."""
        self.redis.kill()
        data = self.redis.folder / "appendonlydir"
        if fault in ("copy", "lose"):
            copy = self.redis.folder / f"copy-{len(self.copies)}"
            shutil.copytree(data, copy)
            self.copies.append((copy, self.model.copy()))
        elif fault == "restore" and self.copies:
            copy, held = _one_of(self.copies, which)
            shutil.rmtree(data)
            shutil.copytree(copy, data)
            self.model.restore(held)
        self.redis.start()
        self.model.restart()

    # -- what holds --------------------------------------------------------------------------------

    @invariant()
    def sql_holds_what_the_model_says(self) -> None:
        """Every row, its state and its text; every count of removals; every dead letter."""
        applications, chats, messages = {}, {}, {}
        for token, application in self.model.stored.items():
            removed = len(application.chats) - len(application.alive)
            applications[token] = (application.gone, removed)
            for number, chat in application.chats.items():
                assert not (application.gone and chat in application.alive.values())
                assert not (chat.gone and chat.alive), "a deleted chat has no children"
                removed = len(chat.messages) - len(chat.alive)
                chats[token, number] = (chat.gone, removed)
                assert list(chat.messages) == list(range(1, len(chat.messages) + 1)), "dense"
                for n, message in chat.messages.items():
                    messages[token, number, n] = message.text
        assert self.query(
            "SELECT token, removed_at IS NOT NULL, chats_removed FROM application"
        ) == {(token, *values) for token, values in applications.items()}
        assert self.query(
            "SELECT token, number, state = 'removed', messages_removed"
            " FROM chat JOIN application a ON a.id = application_id"
        ) == {(*key, *values) for key, values in chats.items()}
        assert self.query(
            "SELECT token, c.number, m.number, CASE m.state WHEN 'stored' THEN text END"
            " FROM message m JOIN chat c ON c.id = chat_id JOIN application a ON a.id = application_id"
        ) == {(*key, value) for key, value in messages.items()}
        assert self.query("SELECT count(*) FROM dead_letter") == {(len(self.model.dead_letters),)}

    def teardown(self) -> None:
        """At the end everything is drained, and every parent that exists issues numbers."""
        try:
            if sys.exc_info()[0] is None:  # no step has failed
                self.check_the_end()
        finally:
            self.open.close()

    def check_the_end(self) -> None:
        """Counts and searches agree, and each chat takes one more message: none stays closed."""
        self.drain(0)
        self.sql_holds_what_the_model_says()
        chats = self.model.chats()
        for chat in chats:
            self.check_counts(self.backends[0], chat)
        self.drain(1)
        for chat in self.model.chats():
            for keyword in KEYWORDS:
                found = self.backends[1].catalog.messages.search(*named(chat), keyword)
                assert {m.message.number: m.message.text for m in found} == {
                    n: t for n, t in self.model.texts(chat).items() if keyword in t
                }
            assert self.compare(0, [ModelRequest("messages", chat, ("at the end",))]) != [Closing]
        self.drain(0)
        self.sql_holds_what_the_model_says()

    def compare(self, process: int, asks: list[ModelRequest]) -> list[Answer]:
        """Accept a batch; its answers agree with the model, and none is a stored number."""
        before = {ask.parent: self.model.highest(ask.parent) for ask in asks}
        found = self.backend(process).acceptor.accept_batch([request(ask) for ask in asks])
        answers = [(a.first, a.last) if isinstance(a, Accepted) else type(a) for a in found]
        assert answers == self.model.accept(asks)
        for ask, answer in zip(asks, answers, strict=True):
            if isinstance(answer, tuple) and ask.key is None:
                assert answer[0] > before[ask.parent], "the number of something stored"
        return answers

    def check_counts(self, backend: Backend, chat: Parent) -> None:
        """The live counts of a stored chat and of its application."""
        application = Parent(chat.token)
        assert backend.catalog.applications.get(chat.token).chats_count == self.model.count(
            application
        )
        found = backend.catalog.chats.get(*named(chat))
        assert getattr(found, "messages_count", None) == self.model.count(chat)

    # -- inside ------------------------------------------------------------------------------------

    def backend(self, process: int) -> Backend:
        """One of the processes."""
        return self.backends[process % len(self.backends)]

    def application(self, which: int) -> Parent:
        """One of the applications, including deleted ones."""
        return Parent(_one_of(list(self.model.stored), which))

    def chat(self, application: int, which: int) -> Parent:
        """Usually one of the first two; or one that is stored, accepted, deleted, or unknown."""
        parent = self.application(application)
        known = max(self.model.redis_state.issued.get(parent, 0), self.model.highest(parent))
        return Parent(parent.token, 1 + (which % 2 if which < 6 else which % (known + 1)))

    def ask(
        self, kind: str, application: int, chat: int, texts: list[str], key: str | None
    ) -> ModelRequest:
        """A request for parents that exist at this step."""
        match kind:
            case "messages":
                return ModelRequest(kind, self.chat(application, chat), tuple(texts), key=key)
            case "chats":
                return ModelRequest(
                    kind, self.application(application), chats=(len(texts) + 1) // 2, key=key
                )
            case "delete chat":
                return ModelRequest("delete", self.chat(application, chat))
        return ModelRequest("delete", self.application(application))

    def query(self, statement: str) -> set[tuple[Any, ...]]:
        """Rows, read from SQL directly."""
        with self.backends[0].database.connect() as connection:
            return {tuple(row) for row in connection.execute(text(statement))}


def request(ask: ModelRequest) -> AcceptRequest:
    """The request as the program takes it."""
    match ask.kind:
        case "messages":
            return AcceptRequest.messages(*named(ask.parent), ask.texts, key=ask.key)
        case "chats":
            return AcceptRequest.chats(ask.parent.token, ask.chats, key=ask.key)
    return AcceptRequest.deletion(*ask.parent)


def named(chat: Parent) -> tuple[str, int]:
    """A chat's token and number."""
    assert chat.chat is not None
    return chat.token, chat.chat


def outcome(call: Callable[[], object]) -> Refusal | None:
    """None if it was done, or the type of the error."""
    try:
        call()
    except InstaChatError as error:
        return type(error)
    return None


def _one_of(things: list[Any], which: int) -> Any:
    return things[which % len(things)]


@pytest.mark.xdist_group("model")  # first, because it takes longest
@pytest.mark.timeout(900 + 60 * EXAMPLES)  # a failure is shrunk for five minutes
def test_the_backend_does_what_the_model_says(
    engines: Engines, own_redis: RedisServer, request: pytest.FixtureRequest
) -> None:
    """For any operations and faults, in any order, by two processes."""

    class Here(BackendMachine):
        def __init__(self) -> None:
            super().__init__(engines, own_redis)

    given = request.config.getoption("--hypothesis-seed")
    number = random.SystemRandom().getrandbits(32) if given is None else given
    try:
        run_state_machine_as_test(
            seed(number)(Here),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                print_blob=True,
                report_multiple_bugs=False,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as error:
        error.add_note(f"the same examples again: --hypothesis-seed={number}")
        raise
