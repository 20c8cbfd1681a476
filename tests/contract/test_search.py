"""Both ways of searching, checked by the contract's cases and by an oracle on real conversations."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Invalid, NotFound
from backend.domain.model import Message
from backend.ingest.requests import AcceptRequest
from backend.search.refresh import Refresher
from loadtest.corpus.conversations import conversations
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.search_cases import CASES, INVALID_KEYWORDS, SearchCase, oracle

SEED = 20_261_124
KEYWORDS_A_CHAT = 3
WAYS = ["scan", pytest.param("index", marks=pytest.mark.xdist_group("elasticsearch"))]


@dataclass
class Room:
    """Chats with known texts, and a way of searching them."""

    backend: Backend
    token: str
    chats: dict[int, list[str]] = field(default_factory=dict)

    def fill(self, texts: list[str]) -> int:
        """Create a chat with these texts as its messages 1, 2, 3 …; returns its number."""
        chat = self.backend.acceptor.accept(AcceptRequest.chats(self.token)).first
        for start in range(0, len(texts), 1000):
            batch = AcceptRequest.messages(self.token, chat, texts[start : start + 1000])
            self.backend.acceptor.accept(batch)
        self.chats[chat] = texts
        return chat

    def store(self) -> None:
        """Store everything, and leave the index at a random stage: behind, published, or refreshed.

        A search finds the same at each.
        """
        self.backend.drainer.drain_all()
        stage = random.choice(["behind", "published", "refreshed"])
        if self.backend.publisher and self.backend.index and stage != "behind":
            self.backend.publisher.publish()
            if stage == "refreshed":
                Refresher(self.backend.database, self.backend.index).refresh(0)

    def found(
        self, chat: int, keyword: str, *, after: int = 0, limit: int | None = None
    ) -> list[int]:
        """The indices (from 0) of the texts that a search returns, in its order; it must be complete."""
        search = self.backend.catalog.messages.search
        hits, incomplete = search(self.token, chat, keyword, after=after, limit=limit).read_all()
        assert incomplete is None
        return [hit.message.number - 1 for hit in hits]

    def found_everywhere(self, keyword: str, *, page: int = 200) -> list[tuple[int, int]]:
        """The chat and the number of each message of the application that a search finds, page by page."""
        search = self.backend.catalog.messages.search_application
        keys, before = [], None
        while True:
            found = search(self.token, keyword, before=before, limit=page)
            assert found.incomplete is None
            assert len(found.matches) <= page
            keys += [(match.chat, match.message.number) for match in found.matches]
            if found.next is None:
                return keys
            assert before is None or found.next < before, "the search does not go on"
            before = found.next


def every_message(room: Room) -> list[tuple[int, Message]]:
    """All messages of the application, each with its chat, newest first."""
    catalog = room.backend.catalog
    found = [
        (chat.number, message)
        for chat in catalog.chats.list(room.token)
        for message in catalog.messages.list(room.token, chat.number)
    ]
    return sorted(found, key=lambda each: (each[1].created_at, each[0], each[1].number))[::-1]


@pytest.fixture(scope="module", params=WAYS)
def room(request: pytest.FixtureRequest, engines: Engines) -> Iterator[Room]:
    """Every case and every conversation, stored, and searched in one way."""
    node: Elasticsearch | None = None
    if request.param == "index":
        node = request.getfixturevalue("elasticsearch")
    with open_backend(engines.installation(elasticsearch_url=node and node.url)) as backend:
        room = Room(backend, backend.catalog.applications.create("search").token)
        for case in CASES:
            room.fill(case.texts)
        for conversation in conversations():
            room.fill(conversation.lines)
        room.store()
        yield room


@pytest.mark.parametrize(("chat", "case"), list(enumerate(CASES, 1)), ids=[c.name for c in CASES])
def test_search_of_each_case_of_the_contract(room: Room, chat: int, case: SearchCase) -> None:
    """The search finds exactly the expected texts, in the order of the numbers."""
    assert room.found(chat, case.keyword) == case.matches


def test_search_agrees_with_the_oracle_on_real_conversations(room: Room) -> None:
    """The keywords are random parts of every chat of the corpus, in any script and of any length."""
    dice = random.Random(SEED)
    compared = 0
    everything = len(CASES) + sum(
        1 for _ in conversations()
    )  # chats; other tests create the later ones
    for chat, texts in islice(room.chats.items(), everything):
        for _ in range(KEYWORDS_A_CHAT):
            text = dice.choice(texts)
            start = dice.randrange(len(text))
            keyword = text[start : start + dice.choice([1, 2, 3, 5, 9, 20])]
            try:
                found = room.found(chat, keyword)
            except Invalid:
                continue  # a keyword of marks only is empty once it is folded
            assert found == oracle(texts, keyword), f"seed {SEED}, chat {chat}, {keyword!r}"
            compared += 1
    assert compared > 500


def test_a_search_over_all_chats_agrees_with_the_oracle(room: Room) -> None:
    """Frequent keywords and rare ones, in pages of any size: each message once, newest first."""
    dice = random.Random(SEED)
    room = Room(room.backend, room.backend.catalog.applications.create("all").token)
    cases = dice.sample(CASES, 40)
    for case in cases:
        room.fill(case.texts)
    for start in (0, 1050):
        room.fill([f"everywhere {n}" for n in range(start, start + 1050)])
    room.store()
    messages = every_message(room)
    keys = [(chat, message.number) for chat, message in messages]
    everything = [message.text for _, message in messages]
    keywords = [case.keyword for case in cases[:8]]
    for _ in range(4):
        text = dice.choice(everything)
        start = dice.randrange(len(text))
        keywords.append(text[start : start + dice.choice([1, 3, 9])])
    for keyword in [*keywords, "everywhere", "where 27", "%", "found nowhere at all"]:
        try:
            found = room.found_everywhere(keyword, page=dice.choice([100, 200]))
        except Invalid:
            continue  # it is empty once it is folded
        expected = [keys[index] for index in oracle(everything, keyword)]
        assert found == expected, f"seed {SEED}, {keyword!r}"


def test_a_search_over_all_chats_finds_what_is_stored_when_it_is_asked(room: Room) -> None:
    """Never another application's messages, old texts, or what is removed, a chat included."""
    catalog = room.backend.catalog
    other = catalog.applications.create("other").token
    room.backend.acceptor.accept(AcceptRequest.chats(other))
    room.backend.acceptor.accept(AcceptRequest.messages(other, 1, ["an octarine sky"]))
    here, there = room.fill(["octarine", "octarine too"]), room.fill(["an octarine cat"])
    gone = room.fill(["octarine"])
    room.store()
    assert room.found_everywhere("octarine") == [(gone, 1), (there, 1), (here, 2), (here, 1)]
    catalog.messages.edit(room.token, here, 1, {"text": "other things"})
    catalog.messages.delete(room.token, here, 2)
    catalog.messages.edit(room.token, there, 1, {"text": "OCTARINE, again"})
    catalog.chats.delete(room.token, gone, cascade=True)
    assert room.found_everywhere("octarine", page=1) == [(there, 1)]
    room.store()
    assert room.found_everywhere("octarine") == [(there, 1)]
    catalog.applications.delete(other, cascade=True)
    with pytest.raises(NotFound):
        catalog.messages.search_application(other, "octarine", limit=1)


def test_search_finds_nothing_of_other_chats_and_applications(room: Room) -> None:
    here, there = room.fill(["a secret of this chat"]), room.fill(["nothing"])
    other = room.backend.catalog.applications.create("other").token
    room.backend.acceptor.accept(AcceptRequest.chats(other, there))
    room.store()
    assert room.found(here, "secret") == [0]
    assert room.found(there, "secret") == []
    assert list(room.backend.catalog.messages.search(other, here, "secret")) == []
    with pytest.raises(NotFound):
        room.found(there + 1000, "secret")


def test_pages_together_have_every_result_once(room: Room) -> None:
    """`after` and `limit` split the results into pages."""
    texts = [f"line {n} of many" for n in range(2500)]
    chat = room.fill(texts)
    room.store()
    everything = room.found(chat, "many")
    assert everything == list(range(2500))
    pages, after = [], 0
    while page := room.found(chat, "many", after=after, limit=700):
        pages.append(page)
        after = page[-1] + 1
    assert [len(page) for page in pages] == [700, 700, 700, 400]
    assert [index for page in pages for index in page] == everything


def test_false_candidates_do_not_shorten_a_page(room: Room) -> None:
    """They have all grams of the keyword, but not the keyword. They do not end the results early, either."""
    texts = ["bcde abcd" if n % 40 else "an abcde" for n in range(3000)]
    chat = room.fill(texts)
    room.store()
    expected = list(range(0, 3000, 40))
    assert room.found(chat, "abcde") == expected
    assert room.found(chat, "abcde", limit=20) == expected[:20]
    assert room.found(chat, "abcde", after=expected[19] + 1, limit=20) == expected[20:40]
    assert room.found(chat, "abcde", after=2961) == []


def test_search_finds_the_current_text_of_edited_and_deleted_messages(room: Room) -> None:
    """Old words are not found even before the change is published; deleted messages never are."""
    chat = room.fill(["first words", "second words"])
    room.store()
    room.backend.catalog.messages.edit(room.token, chat, 1, {"text": "other things"})
    room.backend.catalog.messages.delete(room.token, chat, 2)
    assert room.found(chat, "words") == []
    room.store()
    assert room.found(chat, "words") == []
    assert room.found(chat, "other") == [0]


# Few letters, so that grams repeat; characters that fold, join or grow; syntax of query languages.
_LETTERS = st.sampled_from([*"aAbß  é́\"'", *"*?\\%_+-&|!(){}[]^~:/.<>=,#@\t\n\r\x1f\x7f"])
_SCRIPTS = st.sampled_from(
    [*"مَرآىیكک\u0640ﷺ", *"한국ㄱ日本がカﾞ", *"कि्षनी", *"👩🏽‍🚀🇪🇬e\u0301\ufb03İı", "\U0010ffff"]
)
_ANY = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
_TEXTS = st.text(_LETTERS | _SCRIPTS | _ANY, min_size=1, max_size=30) | st.builds(
    lambda text, times: text * times,
    st.text(_LETTERS | _SCRIPTS, min_size=1, max_size=12),
    st.integers(20, 100),
)


@st.composite
def _chats(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """The texts of a chat, and keywords: parts of the texts, whole texts, and others."""
    texts = draw(st.lists(_TEXTS, min_size=1, max_size=20))
    keywords = []
    for _ in range(8):
        text = draw(st.sampled_from(texts))
        start = draw(st.integers(0, len(text) - 1))
        size = draw(st.sampled_from([1, 2, 3, 4, 9, 35, 256]))
        keywords.append(text[start : start + size])
    return texts, [*keywords, draw(_TEXTS)[:256]]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(chat=_chats())
def test_search_agrees_with_the_oracle_on_random_texts_and_keywords(
    room: Room, chat: tuple[list[str], list[str]]
) -> None:
    """A keyword has 1 to 256 code points."""
    texts, keywords = chat
    number = room.fill(texts)
    room.store()
    for keyword in keywords:
        try:
            found = room.found(number, keyword)
        except Invalid:
            continue  # it is empty once it is folded
        assert found == oracle(texts, keyword), (texts, keyword)
        assert room.found(number, keyword, limit=1) == found[:1]


@pytest.mark.parametrize("keyword", INVALID_KEYWORDS.values(), ids=INVALID_KEYWORDS)
def test_an_invalid_keyword_is_refused(room: Room, keyword: str) -> None:
    """Empty, too long, not storable, or empty once it is folded."""
    with pytest.raises(Invalid):
        room.found(1, keyword)
