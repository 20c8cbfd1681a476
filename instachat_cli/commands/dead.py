"""Dead letters: events that could not be stored or published."""

from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import Failed, Invalid
from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.options import DryRunFlag, Output, Yes
from instachat_cli.console.output import Body, Printer, counted
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.bootstrap import Backend
    from backend.storage.postgres.dead_letters import StoredDeadLetter

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
    typer.Argument(metavar="[ID…]", help="IDs of dead letters (see `dead list`)."),
]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@command(app, "list")
def list_(output: Output = None) -> None:
    """List the dead letters, oldest first.

    $ instachat dead list
    """
    with backend_context() as core:
        bodies = map(_body, core.dead_letters.all())
        Printer(output).many(bodies, ["id", "kind", "created_at", "reason"], "no dead letters")


@command(app)
def show(id_: Id, output: Output = None) -> None:
    """Show a dead letter and its event, including message texts.

    $ instachat dead show 3-1-17-2
    """
    with backend_context() as core:
        Printer(output).one(_full_body(core.dead_letters.get(id_)))


@command(app)
def retry(ids: Ids = None, all_: All = False, output: Output = None) -> None:
    """Retry dead letters under their original numbers.

    $ instachat dead retry 3-1-17-2
    $ instachat dead retry --all

    Retrying is idempotent. A dead letter that fails again is kept with the reason, and the command exits
    with 1.
    """
    with backend_context() as core, Printer(output).stream(_sentence, flush=True) as emit:
        done = failed = 0
        for key in _select_ids(core, ids, all_):
            reason = core.dead_letters.retry(key)
            emit({"id": key, "retried": reason is None, "reason": reason})
            done, failed = (done + 1, failed) if reason is None else (done, failed + 1)
        if failed:
            raise Failed(
                f"{failed:,} of {done + failed:,} dead letters still can't be stored or published",
                "see `instachat dead show ID`; `instachat dead purge ID` discards one",
            )


@command(app)
def purge(
    ids: Ids = None,
    all_: All = False,
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
        selected = list(_select_ids(core, ids, all_))

        def purge_all() -> None:
            for key in selected:
                core.dead_letters.purge(key)

        Deletion(Printer(output), yes, dry_run).run(
            f"{counted(len(selected), 'dead letter')} permanently",
            {"letters": len(selected)},
            purge_all,
        )


def _select_ids(core: "Backend", ids: list[str] | None, all_: bool) -> "Iterable[str]":
    """The keys of the given dead letters, all known to exist, or of all dead letters."""
    if bool(ids) == all_:
        raise Invalid("give IDs of dead letters, or `--all`")
    if ids:
        return [core.dead_letters.get(id_).letter.key for id_ in ids]
    return (stored.letter.key for stored in core.dead_letters.all())


def _body(stored: "StoredDeadLetter") -> Body:
    from backend.domain.serialization import rfc3339

    letter = stored.letter
    return {
        "id": letter.key,
        "kind": stored.kind,
        "reason": letter.reason,
        "token": letter.token,
        "chat": letter.chat,
        "number": letter.number,
        "created_at": rfc3339(stored.created_at),
    }


def _full_body(stored: "StoredDeadLetter") -> Body:
    """The body with the event as it was in the log; bytes that are not UTF-8 become `\\x..`."""
    from backend.domain import serialization
    from backend.domain.events import MessagesCreated, unpack

    body = _body(stored)
    number = stored.letter.number
    try:
        event = unpack(stored.letter.event)
    except ValueError:
        event = None
    if isinstance(event, MessagesCreated) and number is not None:
        body |= serialization.new_message(event.message(number))
    return body | {"event": stored.letter.event.decode(errors="backslashreplace")}


def _sentence(body: Body) -> str:
    return f"{body['id']}: {'done' if body['retried'] else body['reason']}"
