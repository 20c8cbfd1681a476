"""Messages: numbered within their chat."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.options import (
    AfterMessage,
    AroundMessage,
    BeforeMessage,
    ChatNumber,
    DryRunFlag,
    FollowFlag,
    LastMessages,
    Limit,
    MessageNumber,
    Output,
    Since,
    Timeout,
    Token,
    Until,
    Wait,
    Yes,
)
from instachat_cli.console.output import Printer
from instachat_cli.console.stderr import stderr
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context, note_unstored

if TYPE_CHECKING:
    from instachat_cli.runtime.bulk_create import BulkCreator

app = group(
    """
    Messages: numbered within their chat.

    $ instachat messages create $TOKEN 1 "Good morning"
    """
)
Text = Annotated[str, typer.Argument(metavar="TEXT", help="1 to 10,000 characters.")]
TextOrDash = Annotated[
    str,
    typer.Argument(
        metavar="TEXT",
        help="1 to 10,000 characters; - reads standard input, one message per line.",
    ),
]

# What a table shows; JSON has every field.
COLUMNS = ("number", "created_at", "text")


@command(app)
def create(
    token: Token,
    chat: ChatNumber,
    text: TextOrDash,
    wait: Wait = None,
    timeout: Timeout = 30.0,
    output: Output = None,
) -> None:
    """Create a message and print its number immediately.

    $ instachat messages create $TOKEN 1 "Good morning"
    $ instachat messages create $TOKEN 1 - < lines.txt

    With -, lines are accepted in batches of at most 1,000; each batch prints its first and last number. The
    first invalid line stops the command; earlier lines stay accepted.
    """
    from backend.ingest.requests import AcceptRequest
    from instachat_cli.runtime.bulk_create import BulkCreator

    with backend_context() as core:
        creator = BulkCreator(core, Printer(output), "messages", token, chat)
        if text == "-":
            _from_standard_input(creator, token, chat)
        else:
            creator.one(AcceptRequest.messages(token, chat, [text]))
        creator.finish(wait, timeout)


@command(app, "list")
def list_(
    token: Token,
    chat: ChatNumber,
    after: AfterMessage = None,
    before: BeforeMessage = None,
    around: AroundMessage = None,
    last: LastMessages = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    follow: FollowFlag = False,
    output: Output = None,
) -> None:
    """List a chat's messages by number.

    $ instachat messages list $TOKEN 1 --last 20
    $ instachat messages list $TOKEN 1 --since 2h
    $ instachat messages list $TOKEN 1 --around 120 --limit 9
    $ instachat messages list $TOKEN 1 --last 5 --follow

    Without an option all messages are listed; on a terminal only the newest 50. --last counts among the
    messages that --after, --before, --since and --until leave. --follow prints new messages until Ctrl-C. It
    begins after the number of --after, with the messages of --last or --since, or else after the newest
    message.
    """
    from backend.domain import serialization
    from instachat_cli.runtime.message_selection import MessageSelection

    selection = MessageSelection(
        after=after,
        before=before,
        around=around,
        last=last,
        limit=limit,
        since=since,
        until=until,
    )
    if follow:
        selection.check_can_follow()
    with backend_context() as core:
        if follow:
            from instachat_cli.runtime.follow_messages import follow_messages

            note_unstored(core, token)
            follow_messages(core, Printer(output), token, chat, selection)
            return
        selection.print(
            core.catalog.messages,
            token,
            chat,
            lambda messages: Printer(output).many(
                map(serialization.message, messages), COLUMNS, "no messages"
            ),
        )
        note_unstored(core, token)


@command(app)
def show(token: Token, chat: ChatNumber, number: MessageNumber, output: Output = None) -> None:
    """Show a message.

    $ instachat messages show $TOKEN 1 12
    """
    from backend.domain import serialization
    from backend.domain.model import Message

    with backend_context() as core:
        found = core.catalog.messages.get(token, chat, number)
        if isinstance(found, Message):
            Printer(output).one(serialization.message(found))
        else:
            Printer(output).outcome(
                serialization.pending(number), f"message {number} is accepted, not stored yet"
            )
            note_unstored(core, token)


@command(app)
def edit(
    token: Token, chat: ChatNumber, number: MessageNumber, text: Text, output: Output = None
) -> None:
    """Change a message.

    $ instachat messages edit $TOKEN 1 12 "Good evening"
    """
    from backend.domain import serialization

    with backend_context() as core:
        Printer(output).one(
            serialization.message(core.catalog.messages.edit(token, chat, number, {"text": text}))
        )


@command(app)
def delete(
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete a message. Its number is never reused.

    $ instachat messages delete $TOKEN 1 12
    """
    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        core.catalog.messages.get(token, chat, number)
        Deletion(Printer(output), yes, dry_run).run(
            f"message {number} of chat {chat}",
            {"number": number},
            lambda: core.catalog.messages.delete(token, chat, number),
        )


def _from_standard_input(creator: "BulkCreator", token: str, chat: int) -> None:
    from instachat_cli.runtime import stdin_messages

    if typed := sys.stdin.isatty():
        stderr.note("reading messages from the terminal, one per line; press Ctrl-D to finish")
    source = sys.stdin.fileno()
    requests = stdin_messages.chunks(source, token, chat, new_message=str)
    if not creator.many(requests, total=stdin_messages.size(source), typed=typed):
        stderr.note("standard input was empty: no message was created")
