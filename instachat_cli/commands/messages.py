"""Messages: numbered within their chat."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.invocation import not_audited
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
    Quiet,
    Since,
    Timeout,
    Token,
    Until,
    Wait,
    Yes,
    at_least_one,
    parse_integer,
    parse_time,
)
from instachat_cli.console.output import Printer
from instachat_cli.console.stderr import stderr
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context, note_unstored, reads_context

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
        help="1 to 10,000 characters; - reads standard input, one message per line (LF or CRLF).",
    ),
]

OneMessage = Annotated[
    int | None, typer.Argument(metavar="N", help="The message's number.", parser=parse_integer)
]
FirstMessage = Annotated[
    int | None,
    typer.Option(
        "--from",
        metavar="N",
        help="Delete from this number on.",
        parser=parse_integer,
        callback=at_least_one("--from"),
    ),
]
LastMessage = Annotated[
    int | None,
    typer.Option(
        "--to",
        metavar="M",
        help="Delete up to this number.",
        parser=parse_integer,
        callback=at_least_one("--to"),
    ),
]
BeforeTime = Annotated[
    datetime | None,
    typer.Option(
        "--before",
        metavar="T",
        help="Delete what was created before this time: RFC 3339, or an age such as 90d.",
        parser=parse_time,
    ),
]

# What a table shows; JSON has every field.
COLUMNS = ("number", "created_at", "text")


@command(app)
@not_audited
def create(
    token: Token,
    chat: ChatNumber,
    text: TextOrDash,
    wait: Wait = None,
    timeout: Timeout = 30.0,
    output: Output = None,
    quiet: Quiet = False,
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
        token = core.tokens.original(token)
        creator = BulkCreator(core, Printer(output, quiet=quiet), "messages", token, chat)
        if text == "-":
            _from_standard_input(creator, token, chat)
        else:
            creator.one(AcceptRequest.messages(token, chat, [text]))
        creator.finish(wait, timeout)


@command(app, "list")
@not_audited
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
    quiet: Quiet = False,
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
            from instachat_cli.runtime.follow_messages import follow_messages

            token = core.tokens.original(token)
            note_unstored(core, token)
            follow_messages(core, Printer(output, quiet=quiet), token, chat, selection)
        return
    with reads_context() as reads:
        printer = Printer(output, quiet=quiet)
        selection.print(
            reads, token, chat, lambda bodies: printer.many(bodies, COLUMNS, "no messages")
        )
        reads.note_unstored(token)


@command(app)
@not_audited
def show(
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Show a message.

    $ instachat messages show $TOKEN 1 12
    """
    from backend.domain import serialization

    with reads_context() as reads:
        body = reads.message(token, chat, number)
        if body is not None:
            Printer(output, quiet=quiet).one(body)
        else:
            Printer(output, quiet=quiet).outcome(
                serialization.pending(number), f"message {number} is accepted, not stored yet"
            )
            reads.note_unstored(token)


@command(app)
@not_audited
def trace(token: Token, chat: ChatNumber, number: MessageNumber, output: Output = None) -> None:
    """Show what became of a message's number: each step, when, and how long it took.

    $ instachat messages trace $TOKEN 1 12

    Accepted, stored, published, searchable, edited, deleted; or pending, rejected, lost or never given. Also
    for what is deleted, with its chat or application, too.
    """
    from instachat_cli.runtime.message_trace import print_trace

    with backend_context() as core:
        original = core.tokens.original(token)
        print_trace(Printer(output), core.message_tracer.trace(original, chat, number))


@command(app)
def edit(
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    text: Text,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Change a message.

    $ instachat messages edit $TOKEN 1 12 "Good evening"
    """
    from backend.domain import serialization

    with backend_context() as core:
        token = core.tokens.original(token)
        Printer(output, quiet=quiet).one(
            serialization.message(core.catalog.messages.edit(token, chat, number, {"text": text}))
        )


@command(app)
def delete(
    token: Token,
    chat: ChatNumber,
    number: OneMessage = None,
    first: FirstMessage = None,
    last: LastMessage = None,
    before: BeforeTime = None,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete a message, or many at once. Their numbers are never reused.

    $ instachat messages delete $TOKEN 1 12
    $ instachat messages delete $TOKEN 1 --from 100 --to 199
    $ instachat messages delete $TOKEN 1 --before 90d

    Many messages are deleted in transactions of at most 500. After an interruption, the same command deletes
    the rest.
    """
    from backend.domain.errors import Invalid
    from backend.domain.model import MAX_NUMBER, MessageRange, Parent
    from instachat_cli.runtime.bulk_delete import delete_range

    is_range = (first, last, before) != (None, None, None)
    if (number is None) != is_range:
        raise Invalid("give the number of a message, or --from and --to, or --before")
    if first is not None and last is not None and first > last:
        raise Invalid("--from is above --to")
    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        token = core.tokens.original(token)
        deletion = Deletion(Printer(output), yes, dry_run)
        if number is None:
            beyond = MAX_NUMBER + 1 if last is None else last + 1
            within = MessageRange((first or 1) - 1, beyond, until=before)
            delete_range(core, deletion, Parent(token, chat), within)
            return
        core.catalog.messages.get(token, chat, number)
        deletion.run(
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
