"""PostgreSQL goes back in time while the index does not: what searches find, and what reconcile repairs."""

from collections import Counter

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.reconcile.findings import FindingKind
from tests.conftest import Engines
from tests.support.elasticsearch.requests import publish_all, search_numbers, store_messages
from tests.support.faults.older_dump import OlderDump


def findings(core: Backend, *, repair: bool = False) -> Counter[FindingKind]:
    return Counter(found.kind for found in core.reconciler.begin(repair=repair).findings())


def found_in(core: Backend, token: str, chat: int, keyword: str) -> list[int]:
    return [hit.message.number for hit in core.catalog.messages.search(token, chat, keyword)]


def test_searches_find_what_is_stored_again_and_repair_publishes_what_was_edited(
    core: Backend, engines: Engines, token: str
) -> None:
    """Chats have other ids then: documents of forgotten ids are in no search, and a reindex drops them."""
    store_messages(core, token, "edited morning", "deleted morning")
    publish_all(core)
    dump = OlderDump(engines, core)
    core.catalog.messages.edit(token, 1, 1, {"text": "evening"})
    core.catalog.messages.delete(token, 1, 2)
    store_messages(core, token, "stored again this morning")
    chat = core.acceptor.accept(AcceptRequest.chats(token)).first
    core.acceptor.accept(AcceptRequest.messages(token, chat, ["morning"] * 3))
    core.drainer.drain_all()
    publish_all(core)
    dump.restore()
    core.drainer.drain_all()
    other = core.acceptor.accept(AcceptRequest.chats(token)).first
    core.acceptor.accept(AcceptRequest.messages(token, other, ["evening", "morning"]))
    core.drainer.drain_all()
    publish_all(core)
    assert found_in(core, token, chat, "morning") == [1, 2, 3]
    assert found_in(core, token, other, "morning") == [2]
    assert 3 in search_numbers(core, token, "morning")
    assert findings(core, repair=True) == {
        FindingKind.STALE_DOCUMENT: 2,
        FindingKind.MISSING_ROW: 3,
    }
    publish_all(core)
    assert search_numbers(core, token, "morning") == [1, 2, 3]
    assert core.reindexer is not None
    core.reindexer.build()
    assert findings(core) == {}
