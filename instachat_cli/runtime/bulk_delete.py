"""Deletion of many messages, with progress; it can be interrupted and run again."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from backend.catalog.bulk_deletion import BulkDeletion
from backend.domain.model import MAX_NUMBER, MessageRange, Parent
from backend.domain.plurals import counted
from backend.domain.serialization import rfc3339
from instachat_cli.console.confirm import Deletion
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import note_count
from instachat_cli.console.progress import Progress

if TYPE_CHECKING:
    from datetime import datetime

    from backend.bootstrap import Backend


def delete_range(core: "Backend", deletion: Deletion, chat: Parent, within: MessageRange) -> None:
    """Delete a chat's messages of a range. Raises NotFound for an unknown chat."""
    bulk = BulkDeletion(core.catalog.messages)
    total = bulk.count(chat, within)
    deletion.run(
        f"{counted(total, 'message')} of chat {chat.chat}{_describe(within)}",
        {"messages": total},
        lambda: _delete(bulk, [chat], within, total),
    )


def delete_older(core: "Backend", deletion: Deletion, until: "datetime", token: str | None) -> None:
    """Delete the messages from before a time, of one application or of all."""
    bulk, within = BulkDeletion(core.catalog.messages), MessageRange(until=until)
    total = bulk.count_older(until, token)
    deletion.run(
        f"{counted(total, 'message')} created before {rfc3339(until)}",
        {"messages": total},
        lambda: _delete(bulk, bulk.chats_created_before(until, token), within, total),
    )


def _delete(bulk: BulkDeletion, chats: Iterable[Parent], within: MessageRange, total: int) -> None:
    if not total:
        return
    done = 0
    try:
        with Progress("messages deleted", total) as progress:
            for chat in chats:
                for deleted in bulk.delete(chat, within):
                    done += deleted
                    note_count("messages", done)
                    progress.update(done, done)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {counted(done, 'message')} deleted so far: the same command deletes the rest"
        ) from None


def _describe(within: MessageRange) -> str:
    first = f" from number {within.after + 1}" if within.after else ""
    last = f" up to number {within.before - 1}" if within.before <= MAX_NUMBER else ""
    times = f" created before {rfc3339(within.until)}" if within.until else ""
    return f"{first}{last}{times}"
