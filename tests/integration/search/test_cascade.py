"""A cascade removes its messages from the search index, too."""

import pytest

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import chats
from tests.support.elasticsearch.requests import live_index_name
from tests.support.faults.shortcuts import scalar
from tests.support.waiting import wait_until


def in_the_index(core: Backend, chat_id: int) -> list[int]:
    """The numbers of a chat's messages that the index itself has for a keyword, without PostgreSQL."""
    assert core.index
    return core.index.candidates(live_index_name(core), chat_id, "morning", 0, 100)


@pytest.mark.parametrize("whole", [False, True])
def test_a_cascade_removes_its_messages_from_the_index(core: Backend, whole: bool) -> None:
    """This includes messages that were not published yet. The messages of the other chat stay."""
    assert core.publisher
    token = core.catalog.applications.create("test").token
    core.acceptor.accept(AcceptRequest.chats(token, 2))
    for chat in (1, 2):
        core.acceptor.accept(AcceptRequest.messages(token, chat, ["morning"] * 5))
    core.drainer.drain_all()
    with core.database.connect() as connection:
        ids = [chats.chat_ids(connection, [(token, n)])[token, n][0] for n in (1, 2)]
    core.publisher.publish()
    wait_until(lambda: [len(in_the_index(core, id_)) for id_ in ids] == [5, 5])
    core.acceptor.accept(AcceptRequest.messages(token, 1, ["morning, not published"]))
    core.drainer.drain_all()
    if whole:
        core.catalog.applications.delete(token, cascade=True)
    else:
        core.catalog.chats.delete(token, 1, cascade=True)
    assert core.cascade_deleter.delete_all() == (11 if whole else 6)
    core.publisher.publish()
    assert scalar(core, "SELECT count(*) FROM outbox WHERE published_at IS NULL") == 0
    left = [0, 0] if whole else [0, 5]
    wait_until(lambda: [len(in_the_index(core, id_)) for id_ in ids] == left)
