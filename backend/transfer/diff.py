"""Compares lines with what is stored, and with the lines before them: finds what is new and what is wrong.

A line whose content is stored already is neither. A line that differs from what is stored is a conflict. A
line that cannot be parsed, or whose parent does not exist, is invalid.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from backend.domain.errors import Conflict, Invalid
from backend.domain.model import Parent
from backend.storage.postgres import imports
from backend.storage.postgres.database import Database
from backend.storage.postgres.imports import StoredContent, StoredParent
from backend.storage.postgres.messages import CONTENT
from backend.storage.postgres.statements import field_names
from backend.transfer.format import (
    ApplicationLine,
    ChatLine,
    LineChunk,
    MessageLine,
    TransferLine,
    parse,
    parse_subject,
)


class InvalidLine(NamedTuple):
    """An invalid line; `subject` is the application or the chat that it seems to describe."""

    error: Invalid
    subject: Parent | None


@dataclass(frozen=True, slots=True)
class LineFault:
    """What is wrong with the line of a number: Invalid, or a Conflict with what is stored."""

    line: int
    error: Invalid | Conflict


NumberedLine = tuple[int, TransferLine | InvalidLine]


class ComparedLines(NamedTuple):
    """The lines that bring something new, and the faults, both in the order of the lines.

    `highest` is the highest stored number under each parent of the lines that is stored.
    """

    new: list[tuple[int, TransferLine]]
    faults: list[LineFault]
    highest: dict[Parent, int]


def parse_chunk(chunk: LineChunk, *, collect_all: bool) -> list[NumberedLine]:
    """A chunk's lines with their numbers; unless `collect_all`, the first bad one is the last."""
    lines: list[NumberedLine] = []
    for number, line in enumerate(chunk.lines, chunk.first):
        try:
            lines.append((number, parse(line)))
        except Invalid as error:
            lines.append((number, InvalidLine(error, parse_subject(line))))
            if not collect_all:
                break
    return lines


def compare(database: Database, lines: Sequence[NumberedLine], seen: "SeenLines") -> ComparedLines:
    """Compare lines with what is stored, and with the lines before them.

    `seen` holds the earlier lines, which need not be stored; these lines are added to it.
    """
    comparison = _Comparison(database, [line for _, line in lines], seen)
    new: list[tuple[int, TransferLine]] = []
    faults: list[LineFault] = []
    for number, line in lines:
        try:
            if isinstance(line, InvalidLine):
                comparison.reject(line)
            elif comparison.is_new(line):
                new.append((number, line))
        except (Invalid, Conflict) as error:
            faults.append(LineFault(number, error))
    return ComparedLines(new, faults, comparison.highest)


class SeenLines:
    """The earlier lines, without their texts.

    A digest represents a line's content, and is odd if the line is a tombstone's. Two contents have the same
    digest once in 2**63 times. `invalid_subjects` are the subjects of invalid lines: a line whose parent is
    one of them is not reported as a fault.
    """

    def __init__(self) -> None:
        self.invalid_subjects: set[Parent] = set()
        self._applications: dict[str, int] = {}
        self._children: dict[Parent, NumberDigests] = {}

    def get_or_set(self, line: TransferLine, digest: int) -> int | None:
        """The digest of the first line of this name; None, recording this one, if this line is the first."""
        if isinstance(line, ApplicationLine):
            first = self._applications.get(line.token)
            if first is None:
                self._applications[line.token] = digest
            return first
        numbers = self._children.get(line.parent)
        if numbers is None:
            numbers = self._children[line.parent] = NumberDigests()
        return numbers.get_or_set(line.number, digest)

    def is_removed(self, parent: Parent) -> bool | None:
        """Whether the line of an application or a chat is a tombstone's; None if there was no line."""
        token, chat = parent
        if chat is None:
            digest = self._applications.get(token)
        else:
            numbers = self._children.get(Parent(token))
            digest = None if numbers is None else numbers.get(chat)
        return None if digest is None else bool(digest & 1)


class NumberDigests:
    """Digests by number, in eight bytes each for consecutive numbers."""

    __slots__ = ("_runs", "_starts")

    def __init__(self) -> None:
        self._starts = [1]
        self._runs = [array("q")]

    def get(self, number: int) -> int | None:
        """The digest of a number; None if it has none."""
        i = bisect_right(self._starts, number) - 1
        offset = number - self._starts[i]
        return self._runs[i][offset] if offset < len(self._runs[i]) else None

    def get_or_set(self, number: int, digest: int) -> int | None:
        """The digest that a number has; None if it had none, in which case this one is recorded."""
        i = bisect_right(self._starts, number) - 1
        offset = number - self._starts[i]
        if offset < len(self._runs[i]):
            return self._runs[i][offset]
        if offset == len(self._runs[i]):
            self._runs[i].append(digest)
        else:
            self._starts.insert(i + 1, number)
            self._runs.insert(i + 1, array("q", [digest]))
        return None


class _Comparison:
    """Some lines, what is stored under their names and their parents', and the lines before them."""

    def __init__(
        self, database: Database, lines: Sequence[TransferLine | InvalidLine], seen: SeenLines
    ) -> None:
        self._seen = seen
        self._open_parents: set[Parent] = set()  # known to exist and not to be removed
        good = [line for line in lines if not isinstance(line, InvalidLine)]
        messages = [line for line in good if isinstance(line, MessageLine)]
        chats = {line.parent for line in messages}
        chats.update(Parent(line.token, line.number) for line in good if isinstance(line, ChatLine))
        with database.connect() as connection:
            self._parents = imports.find_stored_parents(
                connection, [*{Parent(line.token) for line in good}, *chats]
            )
            self._messages = imports.find_stored_messages(
                connection, self._candidate_keys(messages)
            )

    def _candidate_keys(self, messages: Sequence[MessageLine]) -> list[tuple[int, int]]:
        """The keys of messages that may have a row: none, if their chat is new."""
        return [
            (chat.id, line.number)
            for line in messages
            if (chat := self._parents.get(line.parent)) and line.number <= chat.highest
        ]

    @property
    def highest(self) -> dict[Parent, int]:
        """The highest stored number under each parent."""
        return {parent: stored.highest for parent, stored in self._parents.items()}

    def is_new(self, line: TransferLine) -> bool:
        """Whether a line brings something new; False if its content is stored already. Raises its fault."""
        if not isinstance(line, ApplicationLine):
            self._check_parent(line.parent)
        digest = hash(line) & ~1 | line.removed
        first = self._seen.get_or_set(line, digest)
        if first is not None:
            if first != digest:
                raise Conflict(f"{_describe(line)} differs from an earlier line")
            return False
        stored = self._stored(line)
        if stored is None:
            return True
        if differing := _differing(line, stored):
            raise Conflict(
                f"{_describe(line)} differs from what is there in {', '.join(differing)}"
            )
        return False

    def reject(self, line: InvalidLine) -> None:
        """Raise an invalid line's fault."""
        if line.subject is not None:
            self._seen.invalid_subjects.add(line.subject)
        raise line.error

    def _stored(self, line: TransferLine) -> StoredParent | StoredContent | None:
        stored: StoredParent | StoredContent | None
        match line:
            case ApplicationLine():
                stored = self._parents.get(Parent(line.token))
            case ChatLine():
                stored = self._parents.get(Parent(line.token, line.number))
            case MessageLine():
                chat = self._parents.get(line.parent)
                stored = None if chat is None else self._messages.get((chat.id, line.number))
        # A line may bring a number that was left out before, also the one whose row stands for them all.
        return None if _is_range(stored) and not line.removed else stored

    def _check_parent(self, parent: Parent) -> None:
        """Raise the fault of a line whose parent is removed or unknown."""
        if parent in self._open_parents or parent in self._seen.invalid_subjects:
            return
        if parent.chat is not None:
            self._check_parent(Parent(parent.token))
        stored = self._parents.get(parent)
        if _is_range(stored):
            stored = None
        removed_in_sql = None if stored is None else stored.removed
        removed_in_file = self._seen.is_removed(parent)
        if removed_in_sql is False or (removed_in_sql is None and removed_in_file is False):
            self._open_parents.add(parent)
        elif removed_in_sql and removed_in_file is False:
            # The parent's own line is a conflict, and this one follows from it.
            raise Conflict(f"{parent} is removed here")
        elif removed_in_sql or removed_in_file:
            raise Invalid(f"{parent} is removed, so nothing belongs to it")
        else:
            raise Invalid(f"{parent} is not known: its line has to come before")


def _is_range(stored: StoredParent | StoredContent | None) -> bool:
    return stored is not None and stored.first is not None


# The fields of a line that say which row it describes, or are compared by digest; all others are compared.
_NOT_COMPARED = {"token", "parent", "number", "removed", *CONTENT}
_OPTIONAL = {"retention", "limit"}  # a line without one of them says nothing about it
_COMPARED = {
    line_type: [name for name in field_names(line_type) if name not in _NOT_COMPARED]
    for line_type in (ApplicationLine, ChatLine, MessageLine)
}


def _differing(line: TransferLine, stored: StoredParent | StoredContent) -> list[str]:
    """The fields in which a line differs from what is stored."""
    equal = {"removed": line.removed == stored.removed}
    if isinstance(stored, StoredContent):
        for name, digest in zip(CONTENT, stored.digests, strict=True):
            value: str | None = getattr(line, name)
            equal[name] = digest == (None if value is None else sha256(value.encode()).digest())
    for name in _COMPARED[type(line)]:
        value = getattr(line, name)
        equal[name] = value == getattr(stored, name) or (name in _OPTIONAL and value is None)
    return [field for field, same in equal.items() if not same]


def _describe(line: TransferLine) -> str:
    match line:
        case ApplicationLine():
            return "the application"
        case ChatLine(number=number):
            return f"chat {number}"
    return f"message {line.number} of {line.parent}"
