"""What the load tool asks of a server, and what an adapter has to say about each operation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

_LISTING = frozenset(("limit", "after", "page", "offset"))


class Operation(StrEnum):
    """An operation, by the name of its table in an adapter's file."""

    CREATE_APPLICATION = "create_application"
    DELETE_APPLICATION = "delete_application"
    CREATE_CHAT = "create_chat"
    LIST_CHATS = "list_chats"
    SEND = "send_message"
    SEND_BATCH = "send_batch"
    READ = "read_message"
    EDIT = "edit_message"
    DELETE = "delete_message"
    LIST = "list_messages"
    LIST_NEWEST = "list_newest"
    LIST_BEFORE = "list_before"
    SEARCH = "search"
    FOLLOW = "follow"


@dataclass(frozen=True)
class OperationRules:
    """What the table of an operation may, and what it must, contain beside its request and status.

    `needed` and `known` are the placeholders of its request, headers and body. `fields` are the keys that say
    where a value is in an answer, each with its default; None: it must be given. `options` are further keys,
    each with its default, whose type is that of the values allowed.
    """

    needed: frozenset[str]
    known: frozenset[str] = frozenset()
    fields: Mapping[str, str | None] = field(default_factory=dict)
    options: Mapping[str, bool | int | str | list[int]] = field(default_factory=dict)
    status: tuple[int, ...] = (200, 201, 202, 204)


def _rules(
    needed: str,
    known: frozenset[str] = frozenset(),
    fields: Mapping[str, str | None] | None = None,
    options: Mapping[str, bool | int | str | list[int]] | None = None,
    status: tuple[int, ...] = (200, 201, 202, 204),
) -> OperationRules:
    return OperationRules(frozenset(needed.split()), known, fields or {}, options or {}, status)


_NEXT = ""  # of `next`: the answer does not say whether there is another page
_ITEMS: dict[str, str | None] = {"items": "", "number": None, "next": _NEXT}
_MESSAGES: dict[str, str | None] = {**_ITEMS, "text": None}

RULES: dict[Operation, OperationRules] = {
    Operation.CREATE_APPLICATION: _rules("", frozenset(["name"]), {"token": None}),
    Operation.DELETE_APPLICATION: _rules("token", status=(200, 202, 204, 404)),
    Operation.CREATE_CHAT: _rules("token", fields={"number": None}),
    Operation.LIST_CHATS: _rules("token", _LISTING, _ITEMS, status=(200,)),
    Operation.SEND: _rules("token chat text", fields={"number": None}, options={"in_order": False}),
    Operation.SEND_BATCH: _rules(
        "token chat items", fields={"first": None}, options={"at_most": 1_000}
    ),
    Operation.READ: _rules("token chat number", options={"pending": []}, status=(200,)),
    Operation.EDIT: _rules("token chat number text"),
    Operation.DELETE: _rules("token chat number"),
    Operation.LIST: _rules("token chat", _LISTING, _MESSAGES, status=(200,)),
    Operation.LIST_NEWEST: _rules(
        "token chat", frozenset(["limit"]), _MESSAGES, {"etag": False}, status=(200,)
    ),
    Operation.LIST_BEFORE: _rules(
        "token chat before", frozenset(["limit"]), _MESSAGES, status=(200,)
    ),
    Operation.SEARCH: _rules(
        "token chat keyword",
        _LISTING,
        _MESSAGES,
        {"matches": "substring", "at_most": 0},
        status=(200,),
    ),
    Operation.FOLLOW: _rules(
        "token chat",
        frozenset(["after"]),
        {"event": "message", "number": None, "text": None},
        status=(200,),
    ),
}

REQUIRED = (
    *(Operation.CREATE_APPLICATION, Operation.CREATE_CHAT, Operation.SEND),
    Operation.LIST,  # the audit compares with it
)
