"""Every field that a client writes of a message can be written and read by the commands."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.api import schemas
from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from tests.cli.conftest import Cli
from tests.support.faults.shortcuts import rejecting_texts
from tests.support.message_fields import (
    EACH_MESSAGE,
    INVALID_FIELDS,
    LIMITS,
    MESSAGE_FIELDS,
    MESSAGES,
    NOT_EDITABLE,
    other_fields,
    without_nulls,
)


def options(fields: dict[str, Any]) -> list[str]:
    """An option for each field beside the text that is not null."""
    return [
        word
        for name, value in without_nulls(fields).items()
        if name != "text"
        for word in (f"--{name}", value)
    ]


@EACH_MESSAGE
def test_a_message_is_shown_with_every_field_that_was_written(
    cli: Cli, token: str, chat: int, fields: dict[str, Any]
) -> None:
    """Created alone, and from standard input; in a list, too."""
    fields = fields | {"text": "a line of a file"}
    create = ("messages", "create", token, chat)
    assert cli(*create, fields["text"], *options(fields)).json == {"number": 1}
    piped = cli(
        *create, "-", *options(fields), "--wait", "stored", stdin=f"{fields['text']}\n".encode()
    )
    assert piped.code == 0, piped
    for number in (1, 2):
        assert cli("messages", "show", token, chat, number).json.items() >= fields.items()
    for line in cli("messages", "list", token, chat).lines:
        assert line.items() >= fields.items()


def test_a_dead_letter_is_shown_with_every_field_that_was_written(
    cli: Cli, core: Backend, token: str, chat: int, drain_application: Callable[[str], None]
) -> None:
    """A field that was not written is null, as in the message itself."""
    new_messages = [
        schemas.MessageInput(**without_nulls(fields)).new_message() for fields in MESSAGES
    ]
    with rejecting_texts(core.database):
        core.acceptor.accept(AcceptRequest.messages(token, chat, new_messages))
        drain_application(token)
    for line, fields in zip(cli("dead", "list").lines, MESSAGES, strict=True):
        assert cli("dead", "show", line["id"]).json.items() >= fields.items()


@EACH_MESSAGE
def test_an_edit_changes_the_fields_that_it_names(
    cli: Cli, token: str, chat: int, fields: dict[str, Any]
) -> None:
    """Without an option the field stays, also if it is null."""
    cli("messages", "create", token, chat, "a text", *options(fields), "--wait", "stored")
    edit = ("messages", "edit", token, chat, 1)
    expected = fields | {"text": "another text"}
    assert cli(*edit, "another text").json.items() >= expected.items()
    changes = {n: v for n, v in other_fields().items() if n not in NOT_EDITABLE} | {"text": "third"}
    edited = cli(*edit, "third", *options(changes)).json
    assert edited.items() >= (fields | changes).items()


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_the_help_states_the_limit_of_each_field(cli: Cli, field: str) -> None:
    """Of each command that writes the field."""
    for command in ("create", "edit"):
        if command == "create" or field not in NOT_EDITABLE:
            shown = " ".join(cli("messages", command, "--help").out.split())
            assert f"1 to {LIMITS[field]:,} characters" in shown


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_a_field_beyond_its_limits_is_refused(cli: Cli, token: str, chat: int, field: str) -> None:
    """Exit code 2; of a field beside the text even before the first line is read."""
    cli("messages", "create", token, chat, "a text", "--wait", "stored")
    for value in INVALID_FIELDS[field]:
        if isinstance(value, str) and value.isprintable():  # others can't be an argument
            text = value if field == "text" else "-"
            create = cli("messages", "create", token, chat, text, *options({field: value}))
            new = value if field == "text" else "new"
            edit = cli("messages", "edit", token, chat, 1, new, *options({field: value}))
            assert (create.code, edit.code) == (2, 2)
    assert cli("messages", "list", token, chat).lines[0]["text"] == "a text"
