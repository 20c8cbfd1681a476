"""An installation whose Redis has epochs and counters as hashes, as this program wrote them once."""

from pathlib import Path

import pytest

from backend.bootstrap import open_backend
from backend.domain.errors import NotFound
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import shards
from tests.conftest import Engines
from tests.support.faults.shortcuts import scalar, send, stored
from tests.support.ledger import Ledger, audit
from tests.support.redis_values import as_hashes


def test_an_upgrade_from_hashes_loses_nothing_and_gives_no_number_again(
    engines: Engines, tmp_path: Path
) -> None:
    """What waits in the log is stored, a deletion that waits is decided, and an idempotency key is known."""
    settings = engines.settings()
    ledger = Ledger(tmp_path / "ledger")
    with open_backend(settings) as old:
        token = old.catalog.applications.create("old").token
        old.acceptor.accept(AcceptRequest.chats(token, 3))
        ledger.record_answer(token, 1, send(old, token, "a", "b"), ["a", "b"])
        old.drainer.drain_all()
        ledger.record_answer(token, 1, send(old, token, "c"), ["c"])
        ledger.record_answer(token, 2, send(old, token, "d", chat=2), ["d"])
        keyed = AcceptRequest.messages(token, 1, ["e"], key="once")
        given = old.acceptor.accept(keyed)
        ledger.record_answer(token, 1, given.first, ["e"])
        old.acceptor.accept(AcceptRequest.deletion(token, 3))
        as_hashes(old.log, old.database.installation.shards)
    with open_backend(settings) as new:
        ledger.record_answer(token, 1, send(new, token, "f"), ["f"])
        assert new.acceptor.accept(keyed) == given
        ledger.record_answer(token, 2, send(new, token, "g", chat=2), ["g"])
        assert new.acceptor.accept(AcceptRequest.chats(token)).first == 4
        new.drainer.drain_all()
        assert audit(new, [tmp_path / "ledger"]).faults == {}
        assert list(stored(new, token)) == [1, 2, 3, 4, 5]
        assert list(stored(new, token, 2)) == [1, 2]
        with pytest.raises(NotFound):
            send(new, token, "late", chat=3)
        assert [chat.number for chat in new.catalog.chats.list(token)] == [1, 2, 4]
        assert not list(new.reconciler.begin(None, repair=False).findings())
        assert scalar(new, "SELECT count(*) FROM dead_letter") == 0
        with new.database.connect() as connection:
            assert shards.last_rewind(connection) is None
