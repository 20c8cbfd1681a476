"""429 of an application with a rate limit."""

import pytest

from backend.bootstrap import open_backend
from tests.support.http_server import ApplicationClient, HttpServer


@pytest.mark.parametrize("path", ["messages", "messages/batch"])
def test_a_limited_application_gets_429_with_the_limit_and_the_wait(
    shared_server: HttpServer, app: ApplicationClient, path: str
) -> None:
    """On the fast path and the ordinary route; nothing was accepted, and others are not refused."""
    chat = app.chat()
    with open_backend(shared_server.settings) as core:
        core.rate_limits.set(app.token, 1)
    body = {"messages": [{"text": "x"}] * 60} if "batch" in path else {"message": {"text": "x"}}
    server = app.server
    first = server("POST", f"{chat}/messages/batch", {"messages": [{"text": "x"}] * 60})
    assert first.status == 202
    refused = server("POST", f"{chat}/{path}", body)
    assert refused.status == 429
    assert refused.json["type"].endswith(":rate-limited")
    assert refused.headers["ratelimit-policy"] == '"application";q=1;w=1'
    wait = int(refused.headers["retry-after"])
    assert 1 <= wait <= 60
    assert refused.headers["ratelimit"] == f'"application";r=0;t={wait}'
    assert server("GET", f"{chat}/messages?limit=1").status == 200
    assert server("POST", f"{ApplicationClient(server).path}/chats").status == 202
    with open_backend(shared_server.settings) as core:
        core.rate_limits.set(app.token, None)
    assert server("POST", f"{chat}/messages", {"message": {"text": "x"}}).json["number"] == 61
