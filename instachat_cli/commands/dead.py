"""`instachat dead`: the dead letters, events that could not be stored or published."""

from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import Failed, Invalid
from instachat_cli.console import confirm
from instachat_cli.console.options import DryRunFlag, Output, Yes
from instachat_cli.console.output import Body, Printer
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
Id = Annotated[str, typer.Argument(metavar="ID", help="The letter's ID, as the list shows it.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="As the list shows them.")]
All = Annotated[bool, typer.Option("--all", help="All that there are.")]


@command(app, "list")
def list_(output: Output = None) -> None:
    """List the dead letters, oldest first.

    $ instachat dead list
    """
    with backend_context() as core:
        found = map(_body, core.dead_letters.all())
        Printer(output).many(found, ["id", "kind", "created_at", "reason"], "no dead letters")


@command(app)
def show(id_: Id, output: Output = None) -> None:
    """Show a dead letter with its whole event, texts of users included.

    $ instachat dead show 3-1-17-2
    """
    with backend_context() as core:
        Printer(output).one(_full_body(core.dead_letters.get(id_)))


@command(app)
def retry(ids: Ids = None, all_: All = False, output: Output = None) -> None:
    """Store or publish dead letters after all, under their own numbers.

    $ instachat dead retry 3-1-17-2
    $ instachat dead retry --all

    It happens once, however often it is asked for. A letter that still can't be stored stays, and says why;
    then the exit code is 1.
    """
    with backend_context() as core, Printer(output).stream(_sentence, flush=True) as emit:
        done = failed = 0
        for key in _select_ids(core, ids, all_):
            reason = core.dead_letters.retry(key)
            emit({"id": key, "retried": reason is None, "reason": reason})
            done, failed = (done + 1, failed) if reason is None else (done, failed + 1)
        if failed:
            raise Failed(
                f"{failed:,} of {done + failed:,} dead letters can't be stored or published still",
                "see `instachat dead show ID`; `instachat dead purge ID` gives one up",
            )


@command(app)
def purge(
    ids: Ids = None,
    all_: All = False,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Give dead letters up. A number that one tells of stays rejected.

    $ instachat dead purge 3-1-17-2
    $ instachat dead purge --all
    """
    confirm.check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        selected = list(_select_ids(core, ids, all_))

        def purge_all() -> None:
            for key in selected:
                core.dead_letters.purge(key)

        confirm.delete(
            f"{len(selected):,} dead letter{'' if len(selected) == 1 else 's'} for good",
            {"letters": len(selected)},
            purge_all,
            printer=Printer(output),
            yes=yes,
            dry_run=dry_run,
        )


def _select_ids(core: "Backend", ids: list[str] | None, all_: bool) -> "Iterable[str]":
    """The letters that are named, all known to be there; or all that there are."""
    if bool(ids) == all_:
        raise Invalid("name dead letters by their ID, or all of them by `--all`")
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
    """With the event as it was in the log: bytes that are no UTF-8 are shown as `\\x..`."""
    from backend.domain.events import MessagesCreated, unpack

    body = _body(stored)
    number = stored.letter.number
    try:
        event = unpack(stored.letter.event)
    except ValueError:
        event = None
    if isinstance(event, MessagesCreated) and number is not None:
        body["text"] = event.texts[number - event.first]
    return body | {"event": stored.letter.event.decode(errors="backslashreplace")}


def _sentence(body: Body) -> str:
    return f"{body['id']}: {'done' if body['retried'] else body['reason']}"
