"""`instachat chats`: the chats of an application."""

from instachat_cli.console import confirm
from instachat_cli.console.options import (
    After,
    Cascade,
    ChatNumber,
    Count,
    DryRunFlag,
    Limit,
    Output,
    Timeout,
    Token,
    Wait,
    Yes,
)
from instachat_cli.console.output import Printer
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context, note_unstored

app = group(
    """
    Chats: numbered within their application.

    $ instachat chats create $TOKEN
    """
)


@command(app)
def create(
    token: Token,
    count: Count = 1,
    wait: Wait = None,
    timeout: Timeout = 30.0,
    output: Output = None,
) -> None:
    """Create a chat, and print its number at once.

    $ instachat chats create $TOKEN

    With --count each part that was accepted prints its first and last number. A chat takes messages from
    the moment its number is known.
    """
    from backend.ingest.requests import AcceptRequest
    from instachat_cli.runtime import bulk_create

    with backend_context() as core:
        creator = bulk_create.BulkCreator(core, Printer(output), "chats", token)
        if count == 1:
            creator.one(AcceptRequest.chats(token))
        else:
            creator.many(bulk_create.chats(token, count), total=count)
        creator.finish(wait, timeout)


@command(app, "list")
def list_(token: Token, limit: Limit = None, after: After = 0, output: Output = None) -> None:
    """List an application's chats by number.

    $ instachat chats list $TOKEN --limit 20
    """
    from backend.domain import serialization

    with backend_context() as core:
        found = map(serialization.chat, core.catalog.chats(token, after=after, limit=limit))
        Printer(output).many(
            found, ["number", "messages_count", "created_at", "updated_at"], "no chats"
        )
        note_unstored(core, token)


@command(app)
def show(token: Token, chat: ChatNumber, output: Output = None) -> None:
    """Show a chat, with its live count of messages.

    $ instachat chats show $TOKEN 1
    """
    from backend.domain import serialization
    from backend.domain.model import Chat

    with backend_context() as core:
        found = core.catalog.chat(token, chat)
        if isinstance(found, Chat):
            Printer(output).one(serialization.chat(found))
        else:
            Printer(output).outcome(
                serialization.pending(chat), f"chat {chat} is accepted, not stored yet"
            )
            note_unstored(core, token)


@command(app)
def delete(
    token: Token,
    chat: ChatNumber,
    cascade: Cascade = False,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete a chat that has no messages; with --cascade also one that has.

    $ instachat chats delete $TOKEN 1

    Its number is not used again. A cascade can be interrupted: the chat is gone at once, and what is left
    of it goes by a worker, or when the same command is given again.
    """
    from backend.domain.errors import HasChildren
    from backend.domain.model import Chat, Parent
    from instachat_cli.runtime import cascade_delete

    confirm.check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        body, printer = {"number": chat}, Printer(output)
        if not cascade:
            found = core.catalog.chat(token, chat)
            if isinstance(found, Chat) and found.messages_count:
                raise HasChildren(
                    f"chat {chat} still has {found.messages_count:,} messages; nothing was deleted",
                    f"`--cascade` deletes them, too; `instachat messages list TOKEN {chat}` lists them",
                )
            confirm.delete(
                f"chat {chat}",
                body,
                lambda: core.catalog.delete_chat(token, chat),
                printer=printer,
                yes=yes,
                dry_run=dry_run,
            )
            return
        parent = Parent(token, chat)
        target = cascade_delete.find_target(core, parent, lambda: core.catalog.chat(token, chat))
        count = (
            f"its {target.messages_count:,} messages"
            if isinstance(target, Chat)
            else "its messages"
        )
        cascade_delete.delete(
            core,
            parent,
            f"chat {chat} and {count}" if target else f"what is left of chat {chat}",
            body,
            lambda: core.catalog.delete_chat(token, chat, cascade=True) if target else None,
            printer=printer,
            yes=yes,
            dry_run=dry_run,
        )
