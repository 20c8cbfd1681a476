"""The lines of an export: writing and reading are inverse, and lines are split at line feeds only."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain import serialization
from backend.domain.errors import Invalid
from backend.domain.model import MAX_IMPORTED_NUMBER, Application, Chat, Message, Parent
from backend.domain.serialization import rfc3339
from backend.storage.postgres.messages import CONTENT
from backend.transfer import format as line_format
from backend.transfer.format import ApplicationLine, ChatLine, MessageLine
from tests.support.message_fields import EACH_MESSAGE, INVALID_FIELDS, MESSAGE_FIELDS, without_nulls
from tests.support.transfer_lines import application_line, chat_line, message_line

TOKEN = "t" * 24
TIMESTAMP = "2026-01-31T23:59:59.000000Z"
TIME = datetime.fromisoformat(TIMESTAMP)
MESSAGE_LINE = message_line(
    TOKEN, 1, 1, created_at=TIMESTAMP, updated_at=TIMESTAMP, **MESSAGE_FIELDS
)


@pytest.mark.parametrize(
    ("exported", "body", "more"),
    [
        (
            application_line(TOKEN, "n", 1, TIMESTAMP, TIMESTAMP),
            serialization.application(Application(TOKEN, "n", 1, TIME, TIME, 1)),
            {"type"},
        ),
        (
            chat_line(TOKEN, 1, 1, TIMESTAMP, TIMESTAMP),
            serialization.chat(Chat(1, 1, TIME, TIME)),
            {"type", "token"},
        ),
        (
            MESSAGE_LINE,
            serialization.message(
                Message(number=1, created_at=TIME, updated_at=TIME, version=1, **MESSAGE_FIELDS)
            ),
            {"type", "token", "chat"},
        ),
    ],
    ids=["application", "chat", "message"],
)
def test_a_line_has_the_fields_of_the_http_body(
    exported: str, body: dict[str, Any], more: set[str]
) -> None:
    """It also has its type, and the token and the number of its parent; the module's docstring names all."""
    assert json.loads(exported).keys() == body.keys() | more
    assert line_format.__doc__
    described = [re.findall(r'"(\w+)"', line) for line in line_format.__doc__.splitlines()]
    (names,) = (words for words in described if words[:2] == ["type", json.loads(exported)["type"]])
    assert {"type", *names[2:]} == json.loads(exported).keys()


def test_lines_are_split_at_line_feeds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for reads of any size. A line that is too long is cut; later lines keep their numbers."""
    monkeypatch.setattr(line_format, "CHUNK_LINES", 2)
    data = b"a\r\n\xe2\x80\xa8b\n\n" + b"x" * 1_000_000 + b"\nc\nd"
    for size in (1_000, 70_000, 10_000_000):
        chunks = list(line_format.read_chunks(partial(read_at_most, io.BytesIO(data), size)))
        lines = [line for chunk in chunks for line in chunk.lines]
        assert lines[:3] == [b"a\r", b"\xe2\x80\xa8b", b""]
        assert line_format.MAX_LINE_BYTES < len(lines[3]) <= 1_000_000
        assert lines[4:] == [b"c", b"d"]
        assert [chunk.first for chunk in chunks] == [1, 3, 5]
        assert chunks[-1].read == len(data)


def test_a_chunk_is_bounded_whatever_its_lines_are() -> None:
    """The longest lines, very many short ones, and one that does not end."""
    longest = b"x" * (line_format.MAX_LINE_BYTES - 1) + b"\n"
    for data in (longest * 64, b"\n" * 50_000, b"x" * 20_000_000):
        chunks = list(line_format.read_chunks(io.BytesIO(data).read))
        for chunk in chunks:
            size = sum(map(len, chunk.lines))
            assert len(chunk.lines) <= line_format.CHUNK_LINES
            assert size <= line_format.CHUNK_BYTES + line_format.MAX_LINE_BYTES
        assert chunks[-1].read == len(data)


def read_at_most(source: io.BytesIO, most: int, size: int) -> bytes:
    return source.read(min(most, size))


TIMES = st.integers(0, 253_370_764_799_999_999).map(
    lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
)
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255
)
TOKENS = st.from_regex(r"[A-Za-z0-9_-]{22,64}", fullmatch=True)
NUMBERS = st.integers(1, MAX_IMPORTED_NUMBER)


@given(TOKENS, NUMBERS, NUMBERS, WORDS | st.none(), TIMES, TIMES)
def test_reading_is_the_inverse_of_writing(
    token: str,
    chat_number: int,
    number: int,
    words: str | None,
    created: datetime,
    updated: datetime,
) -> None:
    """This holds for any content, token, number and time; a line has one line feed, at its end."""
    times = rfc3339(created), rfc3339(updated)
    written = message_line(token, chat_number, number, words, *times)
    content: dict[str, Any] = dict.fromkeys(CONTENT) | {"text": words}
    expected: line_format.TransferLine = MessageLine(
        parent=Parent(token, chat_number),
        number=number,
        created_at=created,
        updated_at=updated,
        **content,
    )
    assert line_format.parse(written.encode()) == expected
    assert written.splitlines() == [written.removesuffix("\n")]
    written = chat_line(token, number, None if words is None else 7, *times)
    assert line_format.parse(written.encode()) == ChatLine(
        Parent(token), number, words is None, created, updated
    )
    written = application_line(token, words, 7, *times)
    assert line_format.parse(written.encode()) == ApplicationLine(token, words, created, updated)


@EACH_MESSAGE
def test_a_line_of_a_message_has_the_value_of_each_field(fields: dict[str, Any]) -> None:
    """Read as JSON, and as an import reads it; a tool that reads lines finds one.

    A field that is null is left out: exports of previous releases have none of the fields that were added
    later.
    """
    line = message_line(TOKEN, 1, 1, created_at=TIMESTAMP, updated_at=TIMESTAMP, **fields)
    decoded = json.loads(line)
    assert {name: decoded[name] for name in decoded.keys() & fields.keys()} == without_nulls(fields)
    read = line_format.parse(line.encode())
    assert isinstance(read, MessageLine)
    assert {name: getattr(read, name) for name in CONTENT} == fields
    assert line.splitlines() == [line.removesuffix("\n")]


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_a_line_of_a_message_with_an_invalid_field_is_refused(field: str) -> None:
    """The limits of a field are the same as in a request."""
    for value in INVALID_FIELDS[field]:
        line = json.dumps(json.loads(MESSAGE_LINE) | {field: value})
        with pytest.raises(Invalid):
            line_format.parse(line.encode())
