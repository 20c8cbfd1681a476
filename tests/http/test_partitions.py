"""One direction of the network to an engine is gone: the engine works, and its answers do not arrive.

`make partitions` harms the network between all parts, in every way.
"""

from contextlib import closing

import pytest

from backend.api import service
from backend.bootstrap import open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.conftest import Engines, database_name
from tests.http.test_connection import serve_in_process
from tests.http.test_engine_failures import problem_of
from tests.http.test_fast_searches import send
from tests.support.faults.proxy import Proxy
from tests.support.faults.shortcuts import stored
from tests.support.waiting import promised, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("http-faults")]


def test_requests_whose_answers_do_not_arrive_are_unconfirmed(
    engines: Engines, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the time that is promised. Redis had accepted; PostgreSQL makes the change once it goes on."""
    monkeypatch.setattr(service, "CHANGE_CALL_TIMEOUT_SECONDS", 0.3)
    with (
        closing(Proxy(engines.postgres.folder / ".s.PGSQL.5432")) as postgres,
        closing(Proxy(("127.0.0.1", engines.redis.port))) as redis,
        open_backend(settings) as core,
    ):
        linked = Settings(
            database_url=f"postgresql://postgres@127.0.0.1:{postgres.port}/{database_name(settings)}",
            redis_url=f"redis://127.0.0.1:{redis.port}",
        )
        token = core.catalog.applications.create("x").token
        core.acceptor.accept(AcceptRequest.chats(token))
        path = f"/api/v1/applications/{token}/chats/1/messages"
        one, two, three = (
            b'{"message": {"text": "%s"}}' % text for text in (b"one", b"two", b"three")
        )
        with serve_in_process(linked) as server:
            assert send(server.port, "POST", path, one).json == {"number": 1}
            redis.hold(from_clients=False)
            with promised(1):
                assert problem_of(send(server.port, "POST", path, two)) == (503, "unconfirmed")
            redis.deliver()
            wait_until(lambda: send(server.port, "POST", path, three).status == 202)
            core.drainer.drain_all()
            texts = stored(core, token)
            assert (texts[1], texts[2]) == ("one", "two")
            assert set(texts.values()) == {"one", "two", "three"}
            postgres.hold(from_clients=False)
            edited = send(server.port, "PATCH", f"{path}/1", b'{"message": {"text": "another"}}')
            assert problem_of(edited) == (503, "unconfirmed")
            postgres.deliver()
            wait_until(lambda: stored(core, token)[1] == "another")
