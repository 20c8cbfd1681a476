"""Every field that a client writes of a message can be written and read by the commands."""

from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.support.message_fields import (
    INVALID_FIELDS,
    MESSAGE_FIELDS,
    NOT_EDITABLE,
    other_fields,
)


def options(fields: dict[str, Any]) -> list[str]:
    """An option for each field beside the text."""
    return [
        word for name, value in fields.items() if name != "text" for word in (f"--{name}", value)
    ]


def test_a_message_is_shown_with_every_field_that_was_written(
    cli: Cli, token: str, chat: int
) -> None:
    """Created alone, and from standard input."""
    fields = MESSAGE_FIELDS | {"text": "a line of a file"}
    create = ("messages", "create", token, chat)
    assert cli(*create, fields["text"], *options(fields)).json == {"number": 1}
    piped = cli(
        *create, "-", *options(fields), "--wait", "stored", stdin=f"{fields['text']}\n".encode()
    )
    assert piped.code == 0, piped
    for number in (1, 2):
        assert cli("messages", "show", token, chat, number).json.items() >= fields.items()


def test_an_edit_changes_the_fields_that_it_names(cli: Cli, token: str, chat: int) -> None:
    """Without an option the field stays."""
    written = options(MESSAGE_FIELDS)
    cli("messages", "create", token, chat, "a text", *written, "--wait", "stored")
    edit = ("messages", "edit", token, chat, 1)
    expected = MESSAGE_FIELDS | {"text": "another text"}
    assert cli(*edit, "another text").json.items() >= expected.items()
    changes = {n: v for n, v in other_fields().items() if n not in NOT_EDITABLE} | {"text": "third"}
    edited = cli(*edit, "third", *options(changes)).json
    assert edited.items() >= (MESSAGE_FIELDS | changes).items()


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
