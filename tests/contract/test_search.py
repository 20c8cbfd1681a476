"""Searching, on every way of searching: the contract's cases, and an oracle over real conversations."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from backend import accept
from backend.bootstrap import Backend, open_backend
from backend.errors import Invalid, NotFound
from loadtest.conversations import conversations
from tests.conftest import Engines
from tests.contract.cases import CASES, INVALID_KEYWORDS, SearchCase, oracle

SEED = 20_261_124
KEYWORDS_A_CHAT = 6
WAYS = ["scan"]


@dataclass
class Room:
    """Chats with known texts, on one way of searching."""

    backend: Backend
    token: str
    chats: dict[int, list[str]] = field(default_factory=dict)

    def fill(self, texts: list[str]) -> int:
        """A new chat with these texts as its messages 1, 2, 3 …; returns its number."""
        chat = self.backend.acceptor.accept(accept.chats(self.token)).first
        for start in range(0, len(texts), 1000):
            batch = accept.messages(self.token, chat, texts[start : start + 1000])
            self.backend.acceptor.accept(batch)
        self.chats[chat] = texts
        return chat

    def found(self, chat: int, keyword: str, **page: int) -> list[int]:
        """The indices (from 0) of the texts that a search gives, in its order."""
        hits = self.backend.catalog.search(self.token, chat, keyword, **page)
        return [hit.message.number - 1 for hit in hits]


@pytest.fixture(scope="module", params=WAYS)
def room(request: pytest.FixtureRequest, engines: Engines) -> Iterator[Room]:
    """Every case and every conversation, stored and searchable in one way."""
    assert request.param == "scan"
    with open_backend(engines.settings()) as backend:
        room = Room(backend, backend.catalog.create_application("search").token)
        for case in CASES:
            room.fill(case.texts)
        for conversation in conversations():
            room.fill(conversation.lines)
        backend.drainer.drain_all()
        yield room


@pytest.mark.parametrize(("chat", "case"), list(enumerate(CASES, 1)), ids=[c.name for c in CASES])
def test_each_case_of_the_contract(room: Room, chat: int, case: SearchCase) -> None:
    """What has to be found is found, and nothing else, in the order of the numbers."""
    assert room.found(chat, case.keyword) == case.matches


def test_real_conversations_agree_with_the_oracle(room: Room) -> None:
    """Keywords cut at random from every chat of the corpus: any script, any length from one."""
    dice = random.Random(SEED)
    compared = 0
    for chat, texts in room.chats.items():
        for _ in range(KEYWORDS_A_CHAT):
            text = dice.choice(texts)
            start = dice.randrange(len(text))
            keyword = text[start : start + dice.choice([1, 2, 3, 5, 9, 20])]
            try:
                found = room.found(chat, keyword)
            except Invalid:
                continue  # marks alone fold to nothing
            assert found == oracle(texts, keyword), f"seed {SEED}, chat {chat}, {keyword!r}"
            compared += 1
    assert compared > 1000


def test_another_chat_or_application_is_never_searched(room: Room) -> None:
    """The same text elsewhere is nobody's business here."""
    here, there = room.fill(["a secret of this chat"]), room.fill(["nothing"])
    other = room.backend.catalog.create_application("other").token
    room.backend.acceptor.accept(accept.chats(other, there))
    room.backend.drainer.drain_all()
    assert room.found(here, "secret") == [0]
    assert room.found(there, "secret") == []
    assert list(room.backend.catalog.search(other, here, "secret")) == []
    with pytest.raises(NotFound):
        room.found(there + 1000, "secret")


def test_pages_follow_each_other(room: Room) -> None:
    """`after` and `limit` cut the same results, nothing twice and nothing left out."""
    texts = [f"line {n} of many" for n in range(2500)]
    chat = room.fill(texts)
    room.backend.drainer.drain_all()
    everything = room.found(chat, "many")
    assert everything == list(range(2500))
    pages, after = [], 0
    while page := room.found(chat, "many", after=after, limit=700):
        pages.append(page)
        after = page[-1] + 1
    assert [len(page) for page in pages] == [700, 700, 700, 400]
    assert [index for page in pages for index in page] == everything


def test_edited_and_deleted_messages_are_searched_as_they_are(room: Room) -> None:
    """The old words are gone, the new ones are found, a deleted message never."""
    chat = room.fill(["first words", "second words"])
    room.backend.drainer.drain_all()
    room.backend.catalog.edit_message(room.token, chat, 1, "other things")
    room.backend.catalog.delete_message(room.token, chat, 2)
    assert room.found(chat, "words") == []
    assert room.found(chat, "other") == [0]


@pytest.mark.parametrize("keyword", INVALID_KEYWORDS.values(), ids=INVALID_KEYWORDS)
def test_an_invalid_keyword_is_refused(room: Room, keyword: str) -> None:
    """Empty, too long, not storable, or nothing once it is folded."""
    with pytest.raises(Invalid):
        room.found(1, keyword)
