"""Reads values from a server's answers."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from loadtest.errors import UnexpectedAnswer

NO_ANSWER = 0
HEADER = "header:"  # before the name of a header, the last number in which is meant
_MAX_SHOWN = 120  # characters of an answer, in an error


class ApiAnswer(NamedTuple):
    """The status of an answer, or NO_ANSWER, its JSON and its headers."""

    status: int
    body: Any
    headers: Mapping[str, Any] = {}

    @property
    def tag(self) -> str | None:
        """Its ETag."""
        return self.headers.get("ETag")


class ListedItem(NamedTuple):
    """A message of a list, or a chat, which has no text."""

    number: int
    text: str


def value_at(data: Any, path: str, whose: str) -> Any:
    """The value at a path such as `data.0.number`; the data itself for an empty path.

    Raises UnexpectedAnswer, naming `whose` value it is, if there is none.
    """
    found = data
    for name in path.split(".") if path else ():
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UnexpectedAnswer(
                f"{whose} = {path!r}: the answer has no such value: {str(data)[:_MAX_SHOWN]}"
            ) from None
    return found


def number_at(answer: ApiAnswer, path: str, whose: str) -> int:
    """The number at a path of an answer's JSON, or in a header. Raises UnexpectedAnswer."""
    if path.startswith(HEADER):
        name = path.removeprefix(HEADER)
        found = re.findall(r"[0-9]+", answer.headers.get(name) or "")
        if not found:
            raise UnexpectedAnswer(f"{whose} = {path!r}: the answer has no number in this header")
        return int(found[-1])
    return as_number(value_at(answer.body, path, whose), path, whose)


def as_number(value: Any, path: str, whose: str) -> int:
    """A number, which may be a string of digits. Raises UnexpectedAnswer."""
    try:
        if isinstance(value, int | str) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise UnexpectedAnswer(f"{whose} = {path!r}: {str(value)[:_MAX_SHOWN]!r} is no number")
