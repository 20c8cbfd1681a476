"""`messages list --follow`: prints what becomes of each number of a chat, as it comes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend.domain import serialization
from backend.live.events import Ended, Event, Started
from backend.live.follow import follow
from backend.live.serialization import event_object
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from backend.bootstrap import Backend
    from instachat_cli.runtime.message_selection import MessageSelection

# All other fields are what a client wrote.
_FRAME_FIELDS = {"event", "number", "created_at", "updated_at"}


def follow_messages(
    core: "Backend", printer: Printer, token: str, chat: int, selection: "MessageSelection"
) -> None:
    """Print the selected messages, then what comes, until the chat is deleted."""
    core.catalog.chats.find_row(token, chat)  # raises NotFound
    with printer.stream(_sentence, flush=True) as emit:
        after = selection.after
        if after is None and (start := core.live_reader.start((token, chat))):
            after = start.newest  # before the list is read: nothing is missed between the two
        if selection.last is not None or selection.since is not None:
            for message in selection.read(core.catalog.messages, token, chat):
                emit(serialization.message(message))
                after = message.number
        for body in _bodies(follow(core.live_reader, core.log.url, (token, chat), after)):
            emit(body)
    stderr.note("the chat was deleted")


def _bodies(events: Iterator[Event]) -> Iterator[Body]:
    for event in events:
        if not isinstance(event, Started | Ended):
            name, body = event_object(event)
            yield body if name == "message" else {"event": name} | body


def _sentence(body: Body) -> str:
    """A line of a terminal."""
    written = "  ".join(
        str(value)
        for name, value in body.items()
        if name not in _FRAME_FIELDS and value is not None
    )
    match body.get("event"):
        case None:
            return f"{body['number']}  {body['created_at']}  {written}"
        case "edited":
            return f"{body['number']}  {body['updated_at']}  edited: {written}"
        case "deleted":
            return f"{body['number']}  deleted"
        case _:
            first = f"{body['first']} to " if "first" in body else ""
            return f"{first}{body['number']}  {body['reason']}"
