"""Every field that a client writes of a message is stored and shown, and its limits hold on every route."""

import json
from typing import Any

import pytest

from backend.api import schemas
from tests.support.http_server import ApplicationClient, HttpResponse
from tests.support.message_fields import INVALID_FIELDS, MESSAGE_FIELDS
from tests.support.waiting import wait_until

# An Origin header keeps a request off the fast path.
ROUTES = pytest.mark.parametrize(
    ("path", "headers"),
    [("messages", {}), ("messages", {"origin": "https://a.example"}), ("messages/batch", {})],
    ids=["fast path", "ordinary route", "batch"],
)


def create(
    app: ApplicationClient,
    path: str,
    headers: dict[str, Any],
    fields: dict[str, Any],
    chat: str | None = None,
) -> HttpResponse:
    """Create a message in a chat, by default a new one."""
    body = {"messages": [fields]} if path.endswith("batch") else {"message": fields}
    raw = json.dumps(body).encode()  # with escapes, because a lone surrogate has no UTF-8
    return app.server(
        "POST", f"{chat or app.chat()}/{path}", raw=raw, content_type="application/json", **headers
    )


@ROUTES
def test_a_message_is_read_with_every_field_that_was_written(
    app: ApplicationClient, path: str, headers: dict[str, str]
) -> None:
    """By its number, in the list, and after an edit, which changes the fields of its own body only."""
    assert create(app, path, headers, MESSAGE_FIELDS).status == 202
    message = f"{app.path}/chats/1/messages/1"
    wait_until(lambda: app.server("GET", message).status == 200)
    assert app.server("GET", message).json.items() >= MESSAGE_FIELDS.items()
    (listed,) = app.server("GET", f"{app.path}/chats/1/messages").json["items"]
    assert listed.items() >= MESSAGE_FIELDS.items()
    changed = {name: f"other {MESSAGE_FIELDS[name]}" for name in schemas.Text.model_fields}
    assert app.server("PATCH", message, {"message": changed}).status == 200
    assert app.server("GET", message).json.items() >= (MESSAGE_FIELDS | changed).items()


@ROUTES
@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_an_idempotency_key_belongs_to_every_field(
    app: ApplicationClient, path: str, headers: dict[str, Any], field: str
) -> None:
    """The same key with the same fields is answered again; with another value of any field it is refused."""
    chat = app.chat()
    headers = headers | {"idempotency_key": "the key"}
    first = create(app, path, headers, MESSAGE_FIELDS, chat)
    assert create(app, path, headers, MESSAGE_FIELDS, chat).json == first.json
    changed = MESSAGE_FIELDS | {field: f"other {MESSAGE_FIELDS[field]}"}
    assert create(app, path, headers, changed, chat).status == 409


@ROUTES
@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in INVALID_FIELDS.items() for value in values],
    ids=lambda value: str(value)[:9].encode("unicode_escape").decode(),
)
def test_a_field_beyond_its_limits_is_refused(
    app: ApplicationClient, path: str, headers: dict[str, str], field: str, value: object
) -> None:
    """Nothing is created."""
    assert INVALID_FIELDS.keys() == schemas.MessageInput.model_fields.keys()
    assert create(app, path, headers, MESSAGE_FIELDS | {field: value}).status in (400, 422)
    assert app.server("GET", f"{app.path}/chats/1/messages").json["items"] == []
