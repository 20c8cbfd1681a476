"""Creating applications: a creation that fails leaves nothing that anybody has to repair."""

from collections.abc import Callable

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import EngineDown, Unconfirmed
from backend.domain.model import Accepted
from backend.ingest.counters import Counters
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import applications
from backend.storage.redis.log import Log


def fail(*_: object) -> None:
    """What an engine that goes away does."""
    raise EngineDown("away")


def findings(backend: Backend) -> list[str]:
    """What `reconcile` finds."""
    return [str(finding) for finding in backend.reconciler.begin().findings()]


def test_a_creation_that_sql_refuses_leaves_no_counter(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(applications, "insert_application_once", fail)
        with pytest.raises(EngineDown):
            backend.catalog.applications.create("refused")
    assert findings(backend) == []


@pytest.mark.parametrize("owner", [Log, Counters], ids=["the log", "the counter"])
def test_a_creation_that_loses_redis_can_be_used_and_repeated(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, owner: type[object]
) -> None:
    """Its row is stored. Its first use creates what it lacks; only what is not in the log is unconfirmed."""
    name = "append" if owner is Log else "create_counter"
    create: Callable[[], object] = lambda: backend.catalog.applications.create("found", key="once")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        if owner is Log:
            with pytest.raises(Unconfirmed):
                create()
        else:
            create()
    assert findings(backend) == []
    (stored,) = backend.catalog.applications.list()
    assert isinstance(backend.acceptor.accept(AcceptRequest.chats(stored.token)), Accepted)
    create()
    (stored,) = backend.catalog.applications.list()
    assert stored.chats_count == 1
    assert findings(backend) == []


def test_without_redis_no_application_is_stored(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Log, "read_issued", fail)
        with pytest.raises(EngineDown):
            backend.catalog.applications.create("refused")
    assert list(backend.catalog.applications.list()) == []
