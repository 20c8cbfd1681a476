"""Every field that a client writes of a message is stored and shown, and its limits hold on every route."""

import json
from typing import Any

import pytest

from backend.api import schemas
from tests.support.http_server import ApplicationClient, HttpResponse
from tests.support.message_fields import (
    INVALID_FIELDS,
    MESSAGE_FIELDS,
    NOT_EDITABLE,
    other_fields,
)

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
    """By its number, and in the list."""
    assert create(app, path, headers, MESSAGE_FIELDS).status == 202
    message = f"{app.path}/chats/1/messages/1"
    assert app.server.wait_stored(message).json.items() >= MESSAGE_FIELDS.items()
    (listed,) = app.server("GET", f"{app.path}/chats/1/messages").json["items"]
    assert listed.items() >= MESSAGE_FIELDS.items()


def test_an_edit_changes_the_fields_that_it_names(app: ApplicationClient) -> None:
    """Every field, but those that can't be edited; the others stay, and a null removes a field."""
    editable = schemas.Text.model_fields
    assert editable.keys() == MESSAGE_FIELDS.keys() - NOT_EDITABLE
    message = f"{app.chat()}/messages/1"
    wait = "messages?wait=stored"
    assert create(app, wait, {}, MESSAGE_FIELDS, f"{app.path}/chats/1").status == 201
    required = {
        n: v for n, v in MESSAGE_FIELDS.items() if n in editable and editable[n].is_required()
    }
    expected = dict(MESSAGE_FIELDS)
    for name in editable:
        changes = required | {name: other_fields()[name]}
        expected |= changes
        assert app.server("PATCH", message, {"message": changes}).json.items() >= expected.items()
    for name in editable.keys() - required.keys():
        expected |= required | {name: None}
        changes = required | {name: None}
        assert app.server("PATCH", message, {"message": changes}).json.items() >= expected.items()
    assert app.server("GET", message).json.items() >= expected.items()


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_an_edit_beyond_the_limits_of_a_field_is_refused(
    app: ApplicationClient, field: str
) -> None:
    """Nothing is changed."""
    message = f"{app.chat()}/messages/1"
    created = create(app, "messages?wait=stored", {}, MESSAGE_FIELDS, f"{app.path}/chats/1")
    assert created.status == 201
    for value in INVALID_FIELDS[field]:
        raw = json.dumps({"message": MESSAGE_FIELDS | {field: value}}).encode()
        edited = app.server("PATCH", message, raw=raw, content_type="application/json")
        assert edited.status in (400, 422), value
    assert app.server("GET", message).json.items() >= MESSAGE_FIELDS.items()


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
