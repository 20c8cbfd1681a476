"""Reconcile with an index: differences planted in any of the three stores are found exactly, and repaired."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import assert_never

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.reconcile import orphan_counters
from backend.reconcile.findings import Finding, FindingKind, rule_of
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.postgres import message_states, search_indices
from backend.storage.postgres.dead_letters import DeadLetter, add_dead_letters
from backend.storage.search_index import Document
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.requests import (
    publish_all,
    query_rows,
    reject_numbers_above_127,
    store_messages,
)
from tests.support.planted_findings import CHATS, FULL, MESSAGES, REMOVED, Field, Key

SEEDS = range(3)


@pytest.fixture
def core(
    engines: Engines, elasticsearch: Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Backend]:
    """A backend on a new database with a new index in the node that all tests share."""
    monkeypatch.setattr(orphan_counters, "CREATION_GRACE_SECONDS", 0.05)
    with open_backend(engines.settings(elasticsearch_url=elasticsearch.url)) as core:
        yield core


class IndexedField(Field):
    """A field whose messages are also in the index, with differences planted there, too."""

    def __init__(self, backend: Backend, dice: random.Random, applications: int = 2) -> None:
        super().__init__(backend, dice, applications)
        assert isinstance(backend.index, ElasticsearchIndex)
        assert backend.publisher
        self.index = backend.index
        backend.publisher.publish()
        with backend.database.connect() as connection:
            live = search_indices.live_index(connection)
            assert live
            self.name = live.name
            self.ids = {
                Parent(token, number): id_
                for token in self.tokens
                for id_, number in connection.exec_driver_sql(
                    "SELECT c.id, c.number FROM chat c JOIN application a ON a.id = application_id"
                    " WHERE token = %s",
                    (token,),
                )
            }

    def plant(self) -> None:
        """Plant in the index first, for messages whose rows stay as they are."""
        for token in self.tokens:
            for number in FULL:
                for kind in (
                    self._missing,
                    self._rejected,
                    self._older,
                    self._newer,
                    self._tombstone,
                    self._ghost,
                ):
                    if self.dice.random() < 0.3:
                        kind(Parent(token, number))
                if self.dice.random() < 0.3:
                    self._unknown_document(Parent(token, number))
        if self.dice.random() < 0.5:
            self._write(Document(10**12, 7, 1, "x"))
            self._expect_missing_row((None, None, 7))
        super().plant()

    def plant_kind(self, kind: FindingKind) -> None:
        """Plant one difference of this kind, and every difference that it implies."""
        chat = Parent(self.tokens[0], FULL[0])
        match kind:
            case FindingKind.COUNTER_BEHIND:
                self._behind(chat, MESSAGES)
            case FindingKind.COUNTER_AHEAD:
                self._ahead(chat, MESSAGES)
            case FindingKind.COUNT_DIFFERS:
                self._removed_differs(chat, MESSAGES)
            case FindingKind.GAP_UNEXPLAINED:
                self._gap(chat, MESSAGES)
            case FindingKind.ORPHAN:
                self._orphan_message()
                self._orphan_application()
                self._orphan_chat()
                self._open_removed(Parent(self.tokens[0], REMOVED))
            case FindingKind.MISSING_DOCUMENT:
                self._missing(chat)
                self._rejected(chat)
            case FindingKind.STALE_DOCUMENT:
                self._older(chat)
                self._newer(chat)
                self._tombstone(chat)
            case FindingKind.GHOST_DOCUMENT:
                self._ghost(chat)
            case FindingKind.DUPLICATE_NUMBER:
                self.plant_duplicate(chat, 4)
                self.plant_duplicate(Parent(self.tokens[0]), CHATS)
            case FindingKind.MISSING_ROW:
                self._unknown_document(chat)
            case _:
                assert_never(kind)

    def _delete(self, parent: Parent, number: int) -> None:
        super()._delete(parent, number)
        if parent.chat is not None:
            self._expect_missing_row((*parent, number))

    def _gap(self, parent: Parent, highest: int) -> None:
        """A gap among numbers whose documents are correct."""
        if parent.chat is None:
            super()._gap(parent, highest)
            return
        self._delete(parent, 8)
        self.expected.append((FindingKind.GAP_UNEXPLAINED, *parent, 8))

    def _missing(self, chat: Parent) -> None:
        id_ = self.ids[chat]
        self.index.client.delete(index=self.name, id=f"{id_}-3", routing=f"{id_}")
        self.expected.append((FindingKind.MISSING_DOCUMENT, *chat, 3))

    def _rejected(self, chat: Parent) -> None:
        """A message that the index has rejected: its dead letter is no reason to keep quiet about it."""
        id_ = self.ids[chat]
        self.index.client.delete(index=self.name, id=f"{id_}-7", routing=f"{id_}")
        letter = DeadLetter(f"publish-{id_}", "rejected", chat.token, chat.chat, 7, b"[]")
        with self.backend.database.begin() as tx:
            add_dead_letters(tx, [letter], "publish")
        self.expected.append((FindingKind.MISSING_DOCUMENT, *chat, 7))

    def _older(self, chat: Parent) -> None:
        self.execute(
            "UPDATE message SET version = version + 1 WHERE chat_id = :id AND number = 4",
            id=self.ids[chat],
        )
        self.expected.append((FindingKind.STALE_DOCUMENT, *chat, 4))

    def _newer(self, chat: Parent) -> None:
        self._write(Document(self.ids[chat], 5, 10**17, "newer"))
        self.expected.append((FindingKind.STALE_DOCUMENT, *chat, 5))

    def _tombstone(self, chat: Parent) -> None:
        self._write(Document(self.ids[chat], 6, 10**16, None))
        self.expected.append((FindingKind.STALE_DOCUMENT, *chat, 6))

    def _ghost(self, chat: Parent) -> None:
        """Documents of a message that is removed, and of one that was rejected."""
        for number in (2, MESSAGES - 1):
            self._write(Document(self.ids[chat], number, 10**16, "ghost"))
            self.expected.append((FindingKind.GHOST_DOCUMENT, *chat, number))

    def _unknown_document(self, chat: Parent) -> None:
        number = self.dice.randint(10**3, 10**9)
        self._write(Document(self.ids[chat], number, 1, "x"))
        self._expect_missing_row((*chat, number))

    def _expect_missing_row(self, of: tuple[str | None, int | None, int]) -> None:
        self._expect_kept((FindingKind.MISSING_ROW, *of))

    def _write(self, document: Document) -> None:
        assert not self.index.write(self.name, [document])


def found(core: Backend, token: str | None = None, *, repair: bool = False) -> list[Finding]:
    return list(core.reconciler.begin(token, repair=repair).findings())


def keys(findings: list[Finding]) -> Counter[Key]:
    return Counter((f.kind, f.token, f.chat, f.number) for f in findings)


def test_the_number_of_keys_includes_documents(core: Backend) -> None:
    """It is counted in advance, and equals the end of the progress."""
    field = IndexedField(core, random.Random(3))
    for token in (None, *field.tokens):
        done: list[int] = []
        work = core.reconciler.begin(token)
        assert list(work.findings(done.append)) == []
        assert work.count_keys() == done[-1] > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_reconcile_finds_exactly_the_planted_documents_and_repairs_them(
    core: Backend, seed: int
) -> None:
    """The differences are random and of every kind; after the repair those without one are left."""
    field = IndexedField(core, random.Random(seed))
    assert found(core) == []
    field.plant()
    assert keys(found(core)) == Counter(field.expected)
    assert keys(found(core, repair=True)) == Counter(field.expected)
    left = found(core)
    assert keys(left) == Counter(field.kept)
    assert not any(finding.repairable for finding in left)
    assert keys(found(core, repair=True)) == Counter(field.kept)


@pytest.mark.parametrize("kind", FindingKind)
def test_each_kind_of_finding_is_found_and_repaired(core: Backend, kind: FindingKind) -> None:
    """Each is planted alone and found alone; after the repair those without one are left."""
    field = IndexedField(core, random.Random(0), applications=1)
    field.plant_kind(kind)
    assert kind in {planted for planted, *_ in field.expected}
    assert keys(found(core, repair=True)) == Counter(field.expected)
    left = keys(found(core))
    assert left == Counter(field.kept)
    assert bool(rule_of(kind).repairs) == all(planted != kind for planted, *_ in left)


def test_messages_in_the_outbox_are_pending(core: Backend) -> None:
    """They are stored, edited or removed, and not published yet. Once they are published, none is pending."""
    field = IndexedField(core, random.Random(0))
    token = field.tokens[0]
    core.acceptor.accept(AcceptRequest.messages(token, 2, ["new"]))
    core.drainer.drain_all()
    core.catalog.messages.edit(token, 2, 3, {"text": "edited"})
    core.catalog.messages.delete(token, 2, 4)
    work = core.reconciler.begin()
    assert list(work.findings()) == []
    assert work.summary.pending == 3
    assert core.publisher
    core.publisher.publish()
    work = core.reconciler.begin()
    assert list(work.findings()) == []
    assert work.summary.pending == 0


def test_reconcile_of_one_application_compares_only_its_documents(core: Backend) -> None:
    field = IndexedField(core, random.Random(3))
    field.plant()
    for token in field.tokens:
        mine = Counter(key for key in field.expected if key[1] == token)
        assert keys(found(core, token)) == mine


def test_messages_that_the_index_rejects_are_findings_until_it_takes_them(
    core: Backend, token: str
) -> None:
    """A repair publishes them again: rejected again, each has one dead letter. A reindex ends the finding."""
    reject_numbers_above_127(core)
    store_messages(core, token, *("a word" for _ in range(129)))
    publish_all(core)
    expected = Counter({(FindingKind.MISSING_DOCUMENT, token, 1, n): 1 for n in (128, 129)})
    findings = found(core)
    assert keys(findings) == expected
    letters = query_rows(core, "SELECT key FROM dead_letter ORDER BY number")
    assert all(key in finding.detail for (key,), finding in zip(letters, findings, strict=True))
    assert keys(found(core, repair=True)) == expected
    assert query_rows(core, "SELECT number FROM dead_letter ORDER BY number") == [(128,), (129,)]
    assert core.reindexer is not None
    assert core.reindexer.build() is not None
    assert [finding.kind for finding in found(core, repair=True)] == []


def test_messages_missing_in_an_emptied_index_are_published_again(core: Backend) -> None:
    """The index was emptied outside the program, so every message is a finding."""
    field = IndexedField(core, random.Random(0))
    field.index.drop(field.name)
    field.index.create(field.name)
    field.index.set_read_alias(field.name)
    rows = sum(
        1 for finding in found(core, repair=True) if finding.kind == FindingKind.MISSING_DOCUMENT
    )
    assert rows == len(field.tokens) * len(FULL) * (MESSAGES - 2)
    assert found(core) == []
    with core.database.snapshot() as connection:
        assert list(message_states.iter_unpublished(connection)) == []
