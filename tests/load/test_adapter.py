"""Adapters: what is wrong with a file is named, and requests are made as it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.adapter.adapter import (
    DEFAULT_FILE,
    InvalidAdapter,
    ServerAdapter,
    default_adapter,
    load,
)
from loadtest.adapter.answers import ApiAnswer, ListedItem
from loadtest.adapter.operations import Operation
from loadtest.errors import UnexpectedAnswer
from loadtest.recording import ROUTE_OF, ROUTES
from loadtest.run.choices import Scenario
from loadtest.run.needs import LEFT_OUT, NEEDS, lacking, left_out

SMALLEST: dict[str, dict[str, Any]] = {
    "create_application": {"request": "POST /apps", "body": {"n": "{name}"}, "token": "0.id"},
    "create_chat": {"request": "POST /apps/{token}/rooms", "number": ""},
    "send_message": {
        "request": "POST /posts",
        "headers": {"Authorization": "Bearer {token}"},
        "body": {"room": "{chat}", "post": {"text": "{text}", "tags": []}},
        "number": "header:Location",
    },
    "list_messages": {
        "request": "GET /apps/{token}/rooms/{chat}/posts?page={page}",
        "number": "nr",
        "text": "post.text",
    },
}


def changed(operation: str, **values: object) -> ServerAdapter:
    """The smallest adapter with other keys in one table; None removes one."""
    table = {**SMALLEST.get(operation, {}), **values}
    kept = {name: value for name, value in table.items() if value is not None}
    return ServerAdapter({"name": "small", **SMALLEST, operation: kept})


def test_requests_are_made_and_answers_read_as_the_file_says() -> None:
    """Values are encoded for their place; numbers come from JSON, a bare body, or a header."""
    adapter = ServerAdapter({"name": "small", "base": "/v2", **SMALLEST})
    send = adapter.endpoint(Operation.SEND)
    method, path, headers, data = send.prepare(
        {"token": "a/b", "chat": 3, "text": 'π "q" {chat}', "more": 1}
    )
    assert (method, path, headers["Authorization"]) == ("POST", "/v2/posts", "Bearer a/b")
    assert json.loads(data or b"") == {"room": 3, "post": {"text": 'π "q" {chat}', "tags": []}}
    assert send.number(ApiAnswer(201, None, {"Location": "/apps/1/posts/42"})) == 42
    chat = adapter.endpoint(Operation.CREATE_CHAT)
    assert chat.prepare({"token": "a/b?"}).path == "/v2/apps/a%2Fb%3F/rooms"
    assert chat.number(ApiAnswer(200, "17")) == 17
    listed = adapter.endpoint(Operation.LIST)
    assert listed.items(ApiAnswer(200, [{"nr": 1, "post": {"text": "x"}}])) == [ListedItem(1, "x")]
    others: list[Any] = [{"rows": []}, [{"nr": True, "post": {"text": ""}}], [{"nr": 1}]]
    for body in others:
        with pytest.raises(UnexpectedAnswer, match=r"list_messages\.(items|number|text)"):
            listed.items(ApiAnswer(200, body))


def test_the_default_adapter_is_this_projects_api() -> None:
    """It can do everything, and its routes have the names of the reports."""
    adapter = default_adapter()
    assert adapter.missing == left_out(adapter) == []
    for operation, route in ROUTE_OF.items():
        endpoint = adapter.endpoint(operation)
        assert endpoint.request.split("?")[0] == ROUTES[route].split("?")[0], operation
    batch = adapter.endpoint(Operation.SEND_BATCH).prepare(
        {"token": "t", "chat": 1, "texts": ["a", "ü"]}
    )
    assert batch.data == '{"messages": [{"text": "a"},{"text": "ü"}]}'.encode()


def test_a_scenario_is_refused_only_without_what_it_is_for() -> None:
    """Everything else that is missing is left out, and named."""
    adapter = ServerAdapter({"name": "small", **SMALLEST})
    refused = {scenario for scenario in Scenario if lacking(adapter, scenario)}
    assert refused == NEEDS.keys()
    assert all("the adapter of small" in str(lacking(adapter, scenario)) for scenario in refused)
    assert len(left_out(adapter)) == len(adapter.missing) == len(LEFT_OUT)


@pytest.mark.parametrize(
    ("operation", "values", "said"),
    [
        ("send_message", {"request": "/posts"}, "`send_message.request` must be a method"),
        ("send_message", {"request": "FETCH /posts"}, "`send_message.request` must be a method"),
        ("send_message", {"number": None}, "`send_message.number` is missing"),
        ("send_message", {"body": {"t": "{text}"}}, "`send_message` lacks the placeholder {chat}"),
        ("send_message", {"body": {"t": "a {text}"}}, "a placeholder is a whole value"),
        ("send_message", {"in_order": "yes"}, "`send_message.in_order` must be true or false"),
        ("send_message", {"numbers": "n"}, "`send_message.numbers` is unknown"),
        ("create_chat", {"request": "POST /{tokens}"}, "known here are {token}"),
        ("create_chat", {"request": "POST /{token"}, "braces that are no placeholder"),
        ("create_chat", {"status": [2000]}, "`create_chat.status` must be a list of statuses"),
        (
            "read_message",
            {"request": "GET /{token}/{chat}/{number}", "pending": 404},
            "must be a l",
        ),
        (
            "send_batch",
            {"request": "POST /{token}/{chat}", "body": "{items}", "first": "0"},
            "`send_batch.item` must be one message",
        ),
        (
            "search",
            {**SMALLEST["list_messages"], "headers": {"Q": "{keyword}"}, "matches": "stems"},
            "`search.matches` is substring or words",
        ),
        ("list_posts", {}, "`list_posts` is unknown; the operations are create_application"),
    ],
)
def test_a_wrong_table_is_refused_by_the_name_of_its_key(
    operation: str, values: dict[str, object], said: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidAdapter) as caught:
        changed(operation, **values)
    assert said in str(caught.value)


def test_a_wrong_file_is_refused_by_its_name(tmp_path: Path) -> None:
    """One that is not there, is no TOML, has no name, or lacks an operation."""
    file = tmp_path / "a.toml"
    missing = DEFAULT_FILE.read_text().replace("[send_message]", "[send_batch_]")
    for text, said in (
        (None, "No such file"),
        ("name = ", "a.toml: Invalid value"),
        ("base = '/'", "`name` is missing"),
        ("name = 3", "`name` must be a text"),
        ("name = 'a'", "`create_application` is missing: no run is possible"),
        (missing, "`send_batch_` is unknown"),
    ):
        if text is not None:
            file.write_text(text)
        with pytest.raises(InvalidAdapter, match=r"a\.toml") as caught:
            load(file)
        assert said in str(caught.value)
