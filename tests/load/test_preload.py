"""Messages that a private installation has before a run."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from backend.domain.model import checked_token
from backend.transfer.format import ApplicationLine, ChatLine, MessageLine, parse
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.preload import CHATS_PER_APPLICATION, MESSAGES_PER_CHAT, Preload
from loadtest.run.counts import parse_count
from tests.load.conftest import ROOT


def test_the_lines_are_those_of_an_export() -> None:
    """Parents first, numbers from 1 without a gap, as many messages as asked for."""
    preload = Preload.new(2_500)
    chats: dict[int, int] = {}
    for line in preload.lines(seed=1):
        match parse(line.encode()):
            case ApplicationLine() as application:
                assert application.token in preload.tokens
            case ChatLine() as chat:
                assert chat.token in preload.tokens
                assert chat.number == len(chats) + 1
                chats[chat.number] = 0
            case MessageLine() as message:
                assert message.text
                chat_number = message.parent.chat
                assert chat_number is not None
                chats[chat_number] += 1
                assert message.number == chats[chat_number]
    assert chats == {1: 1_000, 2: 1_000, 3: 500}


@pytest.mark.parametrize(
    ("messages", "chats", "applications"),
    [(0, 0, 0), (1, 1, 1), (1_000, 1, 1), (100_000, 100, 1), (100_001, 101, 2)],
)
def test_messages_are_spread_over_chats_and_applications(
    messages: int, chats: int, applications: int
) -> None:
    """A thousand a chat, and a hundred chats an application."""
    preload = Preload.new(messages)
    assert len(preload.tokens) == applications
    assert list(map(checked_token, preload.tokens)) == list(preload.tokens)
    places = [(chat.application, chat.number) for chat in preload.chats]
    assert len(set(places)) == len(places) == chats
    assert all(number <= CHATS_PER_APPLICATION for _, number in places)
    sizes = [chat.messages for chat in preload.chats]
    assert sum(sizes) == messages
    assert all(size == MESSAGES_PER_CHAT for size in sizes[:-1])


def test_users_read_the_chats_of_the_preload_but_do_not_write_there() -> None:
    """Its applications have the indices behind those of the run, also after JSON."""
    preload = Preload.new(1_500)
    made = Fixtures(["own"], [(0, 1), (0, 2)], preload)
    fixtures = Fixtures.from_json(json.loads(json.dumps(asdict(made))))
    assert fixtures.chats == [(0, 1), (0, 2)]
    assert fixtures.readable_chats == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [fixtures.token(place) for place in (0, 1)] == ["own", *preload.tokens]
    sizes = [fixtures.preloaded_messages(*chat) for chat in fixtures.readable_chats]
    assert sizes == [None, None, 1_000, 500]
    assert fixtures.language(1, 2) == Fixtures([""], []).language(0, 2)


USER = """
import locust  # patches this process, before anything else is imported
import json
from collections import defaultdict
from random import Random
from types import SimpleNamespace
from loadtest.adapter.adapter import default_adapter
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.preload import Preload
from loadtest.corpus.texts import Marks
from loadtest.users.page_user import PageUser

class Stopped(Exception): pass
class User(PageUser):
    abstract = True
    layout = SimpleNamespace(messages_per_chat=0)
    def __init__(self):
        fixtures = Fixtures(["own"], [(0, 1)], Preload(2_000, ("full",)))
        self._coordinator = SimpleNamespace(fixtures=fixtures, marks=Marks(1), seed=1,
                                            adapter=default_adapter())
        self.rng, self._sender, self._sent_count = Random(1), "u1", 0
    def _request(self, operation, **values):
        places[task].add(f"{values['token']} {values['chat']}")
        raise Stopped

user, places = User(), defaultdict(set)
for task in ("list_page", "list_newest", "search", "send") * 50:
    try:
        getattr(user, task)()
    except Stopped:
        pass
print(json.dumps({task: sorted(found) for task, found in places.items()}))
"""


def test_each_way_of_reading_draws_from_all_chats() -> None:
    """Pages, newest pages and searches do; messages are sent to the chats of the run only."""
    done = subprocess.run(  # Locust patches the process that imports a user
        [sys.executable, "-c", USER], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    everywhere = ["full 1", "full 2", "own 1"]
    reading = dict.fromkeys(("list_page", "list_newest", "search"), everywhere)
    assert json.loads(done.stdout) == reading | {"send": ["own 1"]}


@pytest.mark.parametrize(
    ("text", "count"), [("5000", 5_000), ("100k", 100_000), ("1m", 1_000_000), ("0", 0)]
)
def test_counts(text: str, count: int) -> None:
    """Thousands and millions."""
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5m", "1g", "1 k", "1e6", "١k"])
def test_what_is_no_count(text: str) -> None:
    """It is refused."""
    with pytest.raises(ValueError, match="is not a count"):
        parse_count(text)
