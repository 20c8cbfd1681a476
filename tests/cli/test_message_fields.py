"""Every field that a client writes of a message can be written and read by the commands."""

from tests.cli.conftest import Cli
from tests.support.message_fields import MESSAGE_FIELDS


def test_a_message_is_shown_with_every_field_that_was_written(
    cli: Cli, token: str, chat: int
) -> None:
    """Created alone, and from standard input, by an option for each field beside the text."""
    fields = MESSAGE_FIELDS | {"text": "a line of a file"}
    options = [
        word for name, value in fields.items() if name != "text" for word in (f"--{name}", value)
    ]
    create = ("messages", "create", token, chat)
    assert cli(*create, fields["text"], *options).json == {"number": 1}
    piped = cli(*create, "-", *options, "--wait", "stored", stdin=f"{fields['text']}\n".encode())
    assert piped.code == 0, piped
    for number in (1, 2):
        assert cli("messages", "show", token, chat, number).json.items() >= fields.items()
