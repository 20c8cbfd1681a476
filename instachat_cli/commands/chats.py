"""Chats: numbered within their application."""

from backend.domain.plurals import counted
from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import (
    After,
    Cascade,
    ChatNumber,
    Count,
    DryRunFlag,
    Limit,
    Output,
    Quiet,
    Timeout,
    Token,
    Wait,
    Yes,
)
from instachat_cli.console.output import Printer
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context, reads_context

app = group(
    """
    Chats: numbered within their application.

    $ instachat chats create $TOKEN
    """
)

# What a table shows; JSON has every field.
COLUMNS = ("number", "messages_count", "created_at", "updated_at")


@command(app)
@not_audited
def create(
    token: Token,
    count: Count = 1,
    wait: Wait = None,
    timeout: Timeout = 30.0,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Create a chat and print its number immediately.

    $ instachat chats create $TOKEN

    With --count, each accepted batch prints its first and last number. You can send messages to a chat as
    soon as its number is printed.
    """
    from backend.ingest.requests import AcceptRequest
    from instachat_cli.runtime import bulk_create

    with backend_context() as core:
        token = core.tokens.original(token)
        creator = bulk_create.BulkCreator(core, Printer(output, quiet=quiet), "chats", token)
        if count == 1:
            creator.one(AcceptRequest.chats(token))
        else:
            creator.many(bulk_create.chats(token, count), total=count)
        creator.finish(wait, timeout)


@command(app, "list")
@not_audited
def list_(
    token: Token, limit: Limit = None, after: After = 0, output: Output = None, quiet: Quiet = False
) -> None:
    """List an application's chats by number.

    $ instachat chats list $TOKEN --limit 20

    Without --limit all are listed; on a terminal only the first 50.
    """
    with reads_context() as reads:
        bodies = reads.chats(token, after=after, limit=limit)
        cut = (
            "`--limit N` lists more of them, `--after N` those behind N" if limit is None else None
        )
        Printer(output, quiet=quiet).many(bodies, COLUMNS, "no chats", cut=cut)
        reads.note_unstored(token)


@command(app)
@not_audited
def show(token: Token, chat: ChatNumber, output: Output = None, quiet: Quiet = False) -> None:
    """Show a chat with its live count of messages.

    $ instachat chats show $TOKEN 1
    """
    from backend.domain import serialization

    with reads_context() as reads:
        body = reads.chat(token, chat)
        if body is not None:
            Printer(output, quiet=quiet).one(body)
        else:
            Printer(output, quiet=quiet).outcome(
                serialization.pending(chat), f"chat {chat} is accepted, not stored yet"
            )
            reads.note_unstored(token)


@command(app)
def delete(
    token: Token,
    chat: ChatNumber,
    cascade: Cascade = False,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete a chat. With --cascade, delete its messages as well.

    $ instachat chats delete $TOKEN 1

    The number is never reused. The chat is inaccessible immediately. If a cascade is interrupted, a worker
    deletes the rest, or you can run the same command again.
    """
    from backend.domain.errors import HasChildren
    from backend.domain.model import Chat, Parent
    from instachat_cli.runtime import cascade_delete

    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        token = core.tokens.original(token)
        body, deletion = {"number": chat}, Deletion(Printer(output), yes, dry_run)
        if cascade:
            cascade_delete.delete(
                core,
                Parent(token, chat),
                deletion,
                fetch=lambda: core.catalog.chats.get(token, chat),
                describe=lambda found: (
                    f"chat {chat} and its {counted(found.messages_count, 'message')}"
                    if isinstance(found, Chat)
                    else f"chat {chat} and its messages"
                ),
                delete_parent=lambda: core.catalog.chats.delete(token, chat, cascade=True),
                body=body,
            )
            return
        found = core.catalog.chats.get(token, chat)
        if isinstance(found, Chat) and found.messages_count:
            raise HasChildren(
                f"chat {chat} still has {counted(found.messages_count, 'message')}; nothing was deleted",
                f"`--cascade` deletes them as well; `instachat messages list TOKEN {chat}` lists them",
            )
        deletion.run(f"chat {chat}", body, lambda: core.catalog.chats.delete(token, chat))
