"""A message has every field that a client wrote, on every route; limits hold and are documented."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from backend.api import schemas
from tests.support.http_server import ApplicationClient, HttpResponse, HttpServer
from tests.support.message_fields import (
    EACH_MESSAGE,
    INVALID_FIELDS,
    LONE_SURROGATE,
    LONGEST_FIELDS,
    MESSAGE_FIELDS,
    NOT_EDITABLE,
    TEXT_ALONE,
    other_fields,
    without_nulls,
)

pytestmark = pytest.mark.xdist_group("http")
CHAT = "/api/v1/applications/{token}/chats/{chat}"
# An Origin header keeps a request off the fast path.
ORDINARY: dict[str, Any] = {"origin": "https://a.example"}
ROUTES = pytest.mark.parametrize(
    ("path", "headers"),
    [("messages", {}), ("messages", ORDINARY), ("messages/batch", {})],
    ids=["fast path", "ordinary route", "batch"],
)


@pytest.fixture
def document(shared_server: HttpServer) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = shared_server("GET", "/openapi.json").json
    return found


def validator(document: dict[str, Any], content: dict[str, Any]) -> Draft202012Validator:
    """The schema that an operation of the document states for a body."""
    # The references in the schema are to parts of the document.
    return Draft202012Validator(document | content["content"]["application/json"]["schema"])


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


def store(app: ApplicationClient, fields: dict[str, Any]) -> str:
    """Create a message in a new chat and wait until it is stored; returns its path."""
    chat = app.chat()
    assert create(app, "messages", {}, without_nulls(fields), chat).status == 202
    message = f"{chat}/messages/1"
    app.server.wait_found(message)
    return message


@ROUTES
def test_a_message_is_read_with_every_field_that_was_written(
    app: ApplicationClient, document: dict[str, Any], path: str, headers: dict[str, str]
) -> None:
    """By its number, in the list and by a search; a field that was not written is null."""
    chat = app.chat()
    # A null is the same as a field that is left out.
    for fields in (MESSAGE_FIELDS, without_nulls(TEXT_ALONE), TEXT_ALONE, LONGEST_FIELDS):
        assert create(app, path, headers, fields, chat).status == 202
    expected = [MESSAGE_FIELDS, TEXT_ALONE, TEXT_ALONE, LONGEST_FIELDS]
    app.server.wait_found(f"{chat}/messages/4")
    routes: list[dict[str, Any]] = [{}, ORDINARY]
    for route in routes:
        bodies = [
            app.server("GET", f"{chat}/messages/{number}", **route).json for number in range(1, 5)
        ]
        page = app.server("GET", f"{chat}/messages", **route).json
        found = app.server("GET", f"{chat}/messages?keyword=refused", **route).json
        for shown in (bodies, page["items"]):
            for body, fields in zip(shown, expected, strict=True):
                assert body.items() >= fields.items()
        for body, fields in zip(found["items"], expected[:3], strict=True):
            assert body.items() >= fields.items()
        schema = document["paths"][f"{CHAT}/messages/{{number}}"]["get"]["responses"]["200"]
        for body in bodies:
            validator(document, schema).validate(body)
        schema = document["paths"][f"{CHAT}/messages"]["get"]["responses"]["200"]
        for body in (page, found):
            validator(document, schema).validate(body)


@EACH_MESSAGE
def test_an_edit_changes_the_fields_that_it_names(
    app: ApplicationClient, document: dict[str, Any], fields: dict[str, Any]
) -> None:
    """Every field, but those that can't be edited; the others stay, and a null removes a field."""
    editable = schemas.Text.model_fields
    assert editable.keys() == MESSAGE_FIELDS.keys() - NOT_EDITABLE
    message = store(app, fields)
    schema = document["paths"][f"{CHAT}/messages/{{number}}"]["patch"]["responses"]["200"]
    required = {
        n: v for n, v in MESSAGE_FIELDS.items() if n in editable and editable[n].is_required()
    }
    each_changed = [required | {name: other_fields()[name]} for name in editable]
    each_removed = [required | {name: None} for name in editable.keys() - required.keys()]
    expected = dict(fields)
    for changes in each_changed + each_removed:
        expected |= changes
        edited = app.server("PATCH", message, {"message": changes}).json
        assert edited.items() >= expected.items()
        validator(document, schema).validate(edited)
    assert app.server("GET", message).json.items() >= expected.items()


@pytest.mark.parametrize(
    ("method", "path"),
    [("post", "messages"), ("post", "messages/batch"), ("patch", "messages/{number}")],
)
def test_the_limits_of_every_field_are_documented(
    document: dict[str, Any], method: str, path: str
) -> None:
    """A client that checks its requests by the OpenAPI document sends none that is refused."""
    operation = document["paths"][f"{CHAT}/{path}"][method]
    schema = validator(document, operation["requestBody"])

    def is_valid(fields: dict[str, Any]) -> bool:
        body = {"messages": [fields]} if path.endswith("batch") else {"message": fields}
        return schema.is_valid(body)

    for fields in (MESSAGE_FIELDS, without_nulls(TEXT_ALONE), TEXT_ALONE, LONGEST_FIELDS):
        assert is_valid(fields)
    unknown = NOT_EDITABLE if method == "patch" else set()
    for field in INVALID_FIELDS.keys() - unknown:
        for value in INVALID_FIELDS[field]:
            if value != LONE_SURROGATE:  # a schema describes valid Unicode
                assert not is_valid(MESSAGE_FIELDS | {field: value}), (field, value)


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_an_edit_beyond_the_limits_of_a_field_is_refused(
    app: ApplicationClient, field: str
) -> None:
    """Nothing is changed."""
    message = store(app, MESSAGE_FIELDS)
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
