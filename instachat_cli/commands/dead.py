"""Dead letters: events that could not be stored or published."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import Failed, Invalid
from backend.domain.plurals import counted
from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.invocation import not_audited, note_count
from instachat_cli.console.options import App, DryRunFlag, Limit, Output, Yes, parse_time
from instachat_cli.console.output import Body, Printer, StatusView
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.bootstrap import Backend
    from backend.storage.postgres.dead_letters import DeadLetterFilter, StoredDeadLetter


class DeadLetterKind(StrEnum):
    """What could not be done with an event."""

    DRAIN = "drain"
    PUBLISH = "publish"


app = group(
    """
    Dead letters: events that could not be stored or published.

    $ instachat dead list
    """
)
Id = Annotated[
    str, typer.Argument(metavar="ID", help="The ID of the dead letter (see `dead list`).")
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="IDs of dead letters (see `dead list`)."),
]
All = Annotated[bool, typer.Option("--all", help="All dead letters that the filters leave.")]
Kind = Annotated[
    DeadLetterKind | None, typer.Option(help="Only what could not be stored, or published.")
]
Reason = Annotated[
    str | None, typer.Option(metavar="PART", help="Only those whose reason contains this.")
]
Since = Annotated[
    datetime | None,
    typer.Option(
        metavar="T",
        help="Only those of this time or later: RFC 3339, or an age such as 2h.",
        parser=parse_time,
    ),
]


@command(app, "list")
@not_audited
def list_(
    kind: Kind = None,
    app_: App = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = None,
    output: Output = None,
) -> None:
    """List the dead letters, oldest first.

    $ instachat dead list
    $ instachat dead list --kind publish --since 2h

    Without --limit all are listed; on a terminal only the first 50.
    """
    with backend_context() as core:
        selected = _filter(core, kind, app_, reason, since)
        bodies = (_body(core, stored) for stored in core.dead_letters.all(selected, limit))
        cut = "`--limit N` lists more of them, `--kind`, `--app` and `--since` others"
        columns = ["id", "kind", "created_at", "reason"]
        Printer(output).many(bodies, columns, "no dead letters", cut=None if limit else cut)


@command(app)
@not_audited
def show(id_: Id, output: Output = None) -> None:
    """Show a dead letter, with the text of its message.

    $ instachat dead show 3-1-17-2
    $ instachat dead show 3-1-17-2 -o json

    The event from the log may have many messages, which were sent together. A terminal shows what it is; as
    JSON all of it is printed.
    """
    with backend_context() as core:
        stored = core.dead_letters.get(id_)
        body = _full_body(core, stored)
        Printer(output).view(StatusView(body, body | {"event": _describe_event(stored)}))


@command(app)
def retry(
    ids: Ids = None,
    all_: All = False,
    kind: Kind = None,
    app_: App = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = None,
    output: Output = None,
) -> None:
    """Retry dead letters under their original numbers.

    $ instachat dead retry 3-1-17-2
    $ instachat dead retry --all --reason "the chat does not exist"

    Retrying is idempotent. A dead letter that fails again is kept with the reason, and the command exits
    with 1.
    """
    with backend_context() as core, Printer(output).stream(_sentence, flush=True) as emit:
        done = failed = 0
        for key in _select_ids(core, ids, all_, _filter(core, kind, app_, reason, since), limit):
            failure = core.dead_letters.retry(key)
            emit({"id": key, "retried": failure is None, "reason": failure})
            done, failed = (done + 1, failed) if failure is None else (done, failed + 1)
            note_count("retried", done)
            note_count("failed", failed)
        if failed:
            raise Failed(
                f"{failed:,} of {counted(done + failed, 'dead letter')} still can't be stored or published",
                "see `instachat dead show ID`; `instachat dead purge ID` discards one",
            )


@command(app)
def purge(
    ids: Ids = None,
    all_: All = False,
    kind: Kind = None,
    app_: App = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = None,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Discard dead letters permanently. Their numbers stay rejected.

    $ instachat dead purge 3-1-17-2
    $ instachat dead purge --all
    """
    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        selected = list(
            _select_ids(core, ids, all_, _filter(core, kind, app_, reason, since), limit)
        )

        def purge_all() -> None:
            for done, key in enumerate(selected, 1):
                core.dead_letters.purge(key)
                note_count("dead letters", done)

        Deletion(Printer(output), yes, dry_run).run(
            f"{counted(len(selected), 'dead letter')} permanently",
            {"letters": len(selected)},
            purge_all,
        )


def _filter(
    core: "Backend",
    kind: DeadLetterKind | None,
    token: str | None,
    reason: str | None,
    since: datetime | None,
) -> "DeadLetterFilter":
    from backend.storage.postgres.dead_letters import DeadLetterFilter

    original = None if token is None else core.tokens.original(token)
    return DeadLetterFilter(kind.value if kind else None, original, reason, since)


def _select_ids(
    core: "Backend",
    ids: list[str] | None,
    all_: bool,
    selected: "DeadLetterFilter",
    limit: int | None,
) -> "Iterable[str]":
    """The keys of the given dead letters, all known to exist, or of all that the filter leaves."""
    if bool(ids) == all_:
        raise Invalid("give IDs of dead letters, or `--all`")
    if not ids:
        return (stored.letter.key for stored in core.dead_letters.all(selected, limit))
    if any(selected) or limit is not None:
        raise Invalid("filters apply to `--all`, not to dead letters named by their IDs")
    return [core.dead_letters.get(id_).letter.key for id_ in ids]


def _body(core: "Backend", stored: "StoredDeadLetter") -> Body:
    from backend.domain.serialization import rfc3339

    letter = stored.letter
    return {
        "id": letter.key,
        "kind": stored.kind,
        "reason": letter.reason,
        "token": core.tokens.current_or_none(letter.token),
        "chat": letter.chat,
        "number": letter.number,
        "created_at": rfc3339(stored.created_at),
    }


def _full_body(core: "Backend", stored: "StoredDeadLetter") -> Body:
    """The body with the event as it was in the log; bytes that are not UTF-8 become `\\x..`."""
    from backend.domain import serialization
    from backend.domain.events import MessagesCreated, unpack

    body = _body(core, stored)
    number = stored.letter.number
    try:
        event = unpack(stored.letter.event)
    except ValueError:
        event = None
    if isinstance(event, MessagesCreated) and number is not None:
        body |= serialization.new_message(event.message(number))
    return body | {"event": stored.letter.event.decode(errors="backslashreplace")}


def _describe_event(stored: "StoredDeadLetter") -> str:
    """What a dead letter's event is, in a few words."""
    from backend.domain.events import ChatsCreated, DeletionRequested, MessagesCreated, unpack

    if stored.kind == DeadLetterKind.PUBLISH:
        return "the publication of a version of this message"
    try:
        event = unpack(stored.letter.event)
    except ValueError:
        return (
            f"{counted(len(stored.letter.event), 'byte')} that are no event; `-o json` prints them"
        )
    match event:
        case MessagesCreated(chat=chat, messages=messages, first=first, last=last):
            if len(messages) == 1:
                return f"the creation of message {first} of chat {chat}"
            return (
                f"the creation of {len(messages):,} messages of chat {chat}, {first} to {last}; `-o json`"
                " prints all of them"
            )
        case ChatsCreated(first=first, last=last):
            chats = f"chat {first}" if first == last else f"the chats {first} to {last}"
            return f"the creation of {chats}"
        case DeletionRequested(chat=chat):
            return f"the deletion of {'the application' if chat is None else f'chat {chat}'}"
    return "a row of the application, or its move to another shard"


def _sentence(body: Body) -> str:
    return f"{body['id']}: {'done' if body['retried'] else body['reason']}"
