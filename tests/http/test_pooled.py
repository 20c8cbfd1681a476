"""PostgreSQL behind a PgBouncer in transaction mode: everything works, and nothing of a session remains."""

from pathlib import Path

import pytest

from backend.settings import Settings
from tests.http.conftest import running_worker
from tests.support.http_server import ApplicationClient, running_server
from tests.support.pgbouncer import left_behind


@pytest.mark.scale("PgBouncer in transaction mode: nothing of a session remains")
def test_a_server_and_a_worker_leave_nothing_in_the_poolers_connections(
    pooled: Settings, tmp_path: Path
) -> None:
    """Every kind of grouped read is answered by its statement, on whichever connection it runs."""
    with running_server(pooled, tmp_path) as server, running_worker(server):
        app = ApplicationClient(server)
        chat = app.chat()
        texts = ["one apple", "two apples", "100 % pear"]
        messages = [app.message(chat, text) for text in texts]
        for _ in range(30):  # on other connections each time
            assert server("GET", messages[0]).json["text"] == "one apple"
            page = server("GET", f"{chat}/messages?order=desc").json
            assert [item["text"] for item in page["items"]] == texts[::-1]
            assert server("GET", f"{chat}/messages").json["total"] == 3
            found = server("GET", f"{chat}/messages?keyword=APPLE").json
            assert [item["number"] for item in found["items"]] == [1, 2]
            assert server("GET", chat).json["messages_count"] == 3
            assert server("GET", f"{app.path}/chats").json["total"] == 1
            assert server("GET", app.path).json["chats_count"] == 1
        edited = server("PATCH", messages[2], {"message": {"text": "a plum"}})
        assert edited.json["text"] == "a plum"
        assert server("DELETE", messages[1]).status == 204
        assert "ordinary route" not in server.stderr_text
    assert left_behind(str(pooled.database_url)) == []
