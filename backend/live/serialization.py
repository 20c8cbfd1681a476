"""Serializes events into names and JSON objects, which the command line prints and HTTP sends alike."""

from typing import assert_never

from backend.domain import serialization
from backend.domain.serialization import JsonObject
from backend.live.events import Created, Deleted, Edited, Ended, Event, Gone, Started


def event_object(event: Event) -> tuple[str, JsonObject]:
    """An event's name and its object."""
    match event:
        case Created(message):
            return "message", serialization.message(message)
        case Gone(first, number, reason):
            span = {} if first == number else {"first": first}
            return "gone", {"number": number, **span, "reason": reason.value}
        case Edited(message):
            return "edited", serialization.message(message)
        case Deleted(number):
            return "deleted", serialization.number(number)
        case Ended(reason):
            return "end", {"reason": reason.value}
        case Started(after):
            return "start", {"after": after}
        case _:
            assert_never(event)
