"""Many writers, processes, applications and workers at once, and two kills of Redis.

All tests check the same run, one rule each.
"""

import time
from collections.abc import Iterator

import pytest

from backend.bootstrap import open_backend
from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.faults.load import CHATS, Load, Span, out_of_order, under_load
from tests.support.ledger import Audit

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("scale")]  # one run for all

APPLICATIONS = 10
PROCESSES = 8
WRITERS = 8  # in each process
WORKERS = 3
REQUESTS = 1_000  # that are answered before, between and after the kills, at least


class Run:
    """The result of a load."""

    def __init__(self, load: Load, audit: Audit) -> None:
        self.load = load
        self.audit = audit
        self.spans = load.spans


@pytest.fixture(scope="module")
def run(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """64 writers on 10 applications, three workers, and Redis killed twice meanwhile."""
    redis = RedisServer(valkey_binary())
    redis.start()
    settings = Settings(database_url=engines.fresh_database(), redis_url=redis.url)
    try:
        with under_load(settings, tmp_path_factory.mktemp("load"), APPLICATIONS) as load:
            for _ in range(WORKERS):
                load.work()
            load.write(processes=PROCESSES, writers=WRITERS)
            for _ in range(2):
                load.wait_for_answers(REQUESTS)
                redis.kill()
                time.sleep(0.2)
                redis.start()
                load.wait_for_answers(PROCESSES * WRITERS)
            load.wait_for_answers(REQUESTS)
            yield Run(load, load.finish())
    finally:
        redis.remove()


def test_every_answered_message_is_stored_once(run: Run) -> None:
    """None is lost, duplicated or changed, in any chat of any application."""
    assert run.audit.answered > 1000
    assert not run.audit.faults


def test_numbers_of_chats_have_no_gaps_and_no_duplicates(run: Run) -> None:
    """All writers created chats meanwhile."""
    for token in run.load.tokens:
        given = [span.first for span in run.spans if span.parent == token]
        with open_backend(run.load.settings) as backend:
            stored = [chat.number for chat in backend.catalog.chats.list(token)]
        assert len(set(given)) == len(given)
        assert set(given) <= set(stored)
        assert stored == list(range(1, len(stored) + 1))
        assert (
            CHATS + len(given)
            <= len(stored)
            <= CHATS + len(given) + run.load.refusals["Unconfirmed"]
        )


def test_a_request_that_ended_before_another_began_has_the_lower_number(run: Run) -> None:
    """This holds across threads, processes and kills."""
    assert not out_of_order(run.spans)
    assert sum(1 for span in run.spans if " " in span.parent) > 1000


def test_the_messages_of_a_writer_keep_their_order_in_a_chat(run: Run) -> None:
    with open_backend(run.load.settings) as backend:
        for token in run.load.tokens:
            for chat in range(1, CHATS + 1):
                sent: dict[str, list[int]] = {}
                for message in backend.catalog.messages.list(token, chat):
                    _, writer, number, *_ = message.text.split()
                    sent.setdefault(writer, []).append(int(number))
                assert sent
                assert all(numbers == sorted(set(numbers)) for numbers in sent.values())


def test_the_check_of_the_order_reports_a_lower_number() -> None:
    """Of two consecutive requests, the second must not have the lower number."""
    first, meanwhile, later = (
        Span("c", 2, 3, 10, 20),
        Span("c", 1, 1, 15, 30),
        Span("c", 4, 4, 21, 22),
    )
    assert not out_of_order([later, meanwhile, first])
    assert not out_of_order([first, Span("other", 1, 1, 21, 22)])
    for number in (1, 2, 3):
        late = Span("c", number, number, 21, 22)
        assert out_of_order([first, meanwhile, late]) == [(first, late)]
