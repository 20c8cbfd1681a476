"""`GET …/messages/stream`: each number once, in order; resumption; edits and deletions; its end."""

import pytest

from tests.support.event_stream import EventStreamClient, StreamEvent
from tests.support.http_server import ApplicationClient, HttpServer

pytestmark = pytest.mark.xdist_group("http")


def follow(
    app: ApplicationClient, chat: str, *, query: str = "", last: int | None = None
) -> EventStreamClient:
    """A connection to the stream of a chat."""
    client = EventStreamClient(app.server.port, chat, query=query, last=last)
    assert client.status == 200
    return client


def create(app: ApplicationClient, chat: str, count: int) -> None:
    """Create so many messages in one request."""
    messages = [{"text": f"text {n}"} for n in range(count)]
    made = app.server("POST", f"{chat}/messages/batch", {"messages": messages})
    assert made.status == 202, made


def edit(app: ApplicationClient, message: str, text: str) -> None:
    """Change a message."""
    assert app.server("PATCH", message, {"message": {"text": text}}).status == 200


def test_creations_come_once_they_are_stored(app: ApplicationClient) -> None:
    """With their numbers as ids; a stream without a position begins behind what is stored."""
    chat = app.chat()
    app.message(chat, "before")
    with follow(app, chat) as client:
        assert client.headers["content-type"] == "text/event-stream"
        assert client.take(1) == [StreamEvent("start", {"after": 1}, 1)]
        message = app.message(chat, "line\nbreak \u2028 é\r")
        (event,) = client.take(1)
    assert event == StreamEvent("message", app.server("GET", message).json, 2)


def test_a_client_resumes_behind_its_last_number(app: ApplicationClient) -> None:
    """From pages of SQL, then from what the followers share; the header counts, then `after`."""
    chat = app.chat()
    create(app, chat, 450)
    with follow(app, chat, last=0) as client:
        assert client.take_numbers(450) == list(range(1, 451))
        with follow(app, chat, last=440, query="?after=3") as second:
            create(app, chat, 300)
            assert second.take_numbers(750) == list(range(441, 751))
        assert client.take_numbers(750) == list(range(451, 751))
    with follow(app, chat, query="?after=748") as client:
        assert [event.id for event in client.take(2)] == [749, 750]


def test_edits_and_deletions_come_while_connected(app: ApplicationClient) -> None:
    """They have no id, so that a client resumes behind what it has; later clients see the present state."""
    chat = app.chat()
    first, second = app.message(chat, "one"), app.message(chat, "two")
    with follow(app, chat, last=0) as client:
        assert [event.data["text"] for event in client.take(2)] == ["one", "two"]
        edit(app, first, "another")
        assert client.take(1) == [StreamEvent("edited", app.server("GET", first).json, None)]
        assert app.server("DELETE", second).status == 204
        assert client.take(1) == [StreamEvent("deleted", {"number": 2}, None)]
        with follow(app, chat, last=0) as late:
            created, gone = late.take(2)
    assert created == StreamEvent("message", app.server("GET", first).json, 1)
    assert gone == StreamEvent("gone", {"number": 2, "reason": "removed"}, 2)


def test_a_chat_that_is_not_stored_yet_can_be_followed(own_server: HttpServer) -> None:
    """There is no worker: the chat is stored by the first command that needs it."""
    app = ApplicationClient(own_server)
    chat = app.chat()
    with follow(app, chat) as client:
        assert client.take(1) == [StreamEvent("start", {"after": 0}, 0)]


def test_a_deleted_chat_ends_its_streams(app: ApplicationClient) -> None:
    """The last event says so; a client that connects again learns that there is no such chat."""
    for parent in ("chat", "application"):
        chat = app.chat()
        app.message(chat)
        with follow(app, chat) as client:
            client.take(1)
            path = chat if parent == "chat" else app.path
            assert app.server("DELETE", f"{path}?cascade=true").status == 202
            assert list(client) == [StreamEvent("end", {"reason": "deleted"}, None)]
        with EventStreamClient(app.server.port, chat, last=1) as client:
            assert client.status == 404


@pytest.mark.parametrize("position", ["-1", "x", "", "9007199254740992", "1.5"])
def test_an_invalid_position_is_refused(app: ApplicationClient, position: str) -> None:
    """In the header as in the query."""
    path = f"{app.chat()}/messages/stream"
    for answer in (
        app.server("GET", path, last_event_id=position),
        app.server("GET", f"{path}?after={position}"),
    ):
        assert answer.status == 422, answer


def test_an_unknown_chat_is_not_found(app: ApplicationClient) -> None:
    """As everywhere."""
    assert app.server("GET", f"{app.path}/chats/7/messages/stream").status == 404
