"""The lines of a file that an import rejects, and unusual lines that it accepts."""

import json
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Invalid
from backend.domain.model import MAX_IMPORTED_NUMBER
from tests.support.transfer import (
    STORED_LINES,
    TIMESTAMP,
    TOKEN,
    application_body,
    chat_body,
    decode_lines,
    describe_faults,
    dry_run,
    export,
    import_lines,
    message_body,
    read_everything,
    to_bytes,
)


def with_raw_json(line: dict[str, Any], **texts: str) -> bytes:
    """A line with some of its values replaced by raw JSON."""
    parts = [f'"{k}": {texts.get(k) or json.dumps(v)}' for k, v in (line | texts).items()]
    return ("{" + ", ".join(parts) + "}").encode()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"", "the line is empty"),
        (b"  ", "the line is empty"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"type": "application"} {}', "not JSON: extra data at 25"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff", "not valid UTF-8 at byte 1"),
        (b'{"text": "caf\xe9"}', "not valid UTF-8 at byte 14"),
        (b"[" * 100_000, "too deep"),
        (with_raw_json(message_body(), number="9" * 5_000), "a number too long"),
        (with_raw_json(message_body(), number="NaN"), "not JSON"),
        (b'"' + b"x" * 1_000_000 + b'"', "longer than"),
        (b"{}", '"type"'),
        (with_raw_json(message_body(), type='"user"'), '"type"'),
        (with_raw_json(message_body(), type="[1]"), '"type"'),
        (with_raw_json(message_body(), type="null"), '"type"'),
        (with_raw_json(message_body(), removed='"yes"'), '"removed" is neither true nor false'),
        (with_raw_json(message_body(), removed="1"), '"removed" is neither true nor false'),
        (with_raw_json(message_body(), version="1"), '"version" unknown'),
        (with_raw_json(message_body(), messages_count="1"), '"messages_count" unknown'),
        (with_raw_json(message_body(), removed="true"), '"text" unknown'),
        (with_raw_json(application_body(), removed="true"), '"name" unknown'),
        (with_raw_json(application_body(), **{"x" * 100: "1"}), "x…"),
        (to_bytes([message_body(text=None)]), '"text" missing'),
        (to_bytes([message_body(chat=None)]), '"chat" missing'),
        (
            to_bytes([message_body(created_at=None, updated_at=None)]),
            '"created_at", "updated_at" missing',
        ),
        (to_bytes([chat_body(number=None)]), '"number" missing'),
        (to_bytes([application_body(token=None)]), '"token" missing'),
        (with_raw_json(message_body(), token="1"), '"token" is not a string'),
        (with_raw_json(message_body(), token='"short"'), '"token" is none'),
        (with_raw_json(message_body(), token=f'"{TOKEN}!"'), '"token" is none'),
        (with_raw_json(message_body(), token=f'"{TOKEN}\\n"'), '"token" is none'),
        (with_raw_json(message_body(), number="0"), '"number" is not a whole number'),
        (with_raw_json(message_body(), number="-1"), '"number" is not a whole number'),
        (with_raw_json(message_body(), number="1.0"), '"number" is not a whole number'),
        (with_raw_json(message_body(), number="true"), '"number" is not a whole number'),
        (with_raw_json(message_body(), number='"1"'), '"number" is not a whole number'),
        (
            with_raw_json(message_body(), number=str(MAX_IMPORTED_NUMBER + 1)),
            '"number" is above 10,000,000,000,000',
        ),
        (with_raw_json(message_body(), chat="null"), '"chat" is not a whole number'),
        (with_raw_json(message_body(), text="1"), '"text" is not a string'),
        (with_raw_json(message_body(), text='""'), "the text of a message is empty"),
        (with_raw_json(message_body(), text=f'"{"x" * 10_001}"'), "10,001 characters"),
        (with_raw_json(message_body(), text='"a\\u0000b"'), "NUL"),
        (with_raw_json(message_body(), text='"\\ud800"'), "lone surrogate"),
        (with_raw_json(application_body(), name=f'"{"x" * 256}"'), "256 characters"),
        (with_raw_json(application_body(), retention='"soon"'), "'soon' is not an age"),
        (with_raw_json(application_body(), retention='"0d"'), "between 1s and 36600d"),
        (with_raw_json(application_body(), limit='"9/m"'), "'9/m' is not a limit"),
        (with_raw_json(application_body(), limit="9"), '"limit" is not a string'),
        (with_raw_json(application_body(), name='""'), "the name of an application is empty"),
        (with_raw_json(message_body(), created_at="1"), '"created_at" is not a string'),
        (
            with_raw_json(message_body(), updated_at='"yesterday"'),
            '"updated_at" is not a time of RFC 3339',
        ),
        (
            with_raw_json(message_body(), updated_at='"2026-01-31"'),
            '"updated_at" is not a time of RFC 3339',
        ),
        (with_raw_json(message_body(), updated_at='"2026-01-31T23:59:59"'), "with its zone"),
        (with_raw_json(message_body(), updated_at='"2026-01-31T23:59:59.1234567Z"'), "RFC 3339"),
        (with_raw_json(message_body(), updated_at='"20260131T235959Z"'), "RFC 3339"),
        (with_raw_json(message_body(), updated_at='"2026-02-30T23:59:59Z"'), "does not exist"),
        (with_raw_json(message_body(), updated_at='"9999-12-31T23:59:59-01:00"'), "does not exist"),
        (with_raw_json(message_body(), updated_at='"1969-12-31T23:59:59Z"'), "before 1970"),
        (to_bytes([chat_body(token="u" * 24)]), "the application is not known"),
        (to_bytes([message_body(chat=7)]), "chat 7 is not known"),
        (to_bytes([message_body(token="u" * 24)]), "the application is not known"),
        (to_bytes([message_body(chat=2)]), "chat 2 is removed, so nothing belongs to it"),
        (
            to_bytes([chat_body(token="v" * 24)]),
            "the application is removed, so nothing belongs to it",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("is_dry_run", [False, True], ids=["import", "dry run"])
def test_an_import_stops_at_an_invalid_line(
    stored_lines_backend: Backend, line: bytes, what: str, is_dry_run: bool
) -> None:
    """The fault names the line; the lines before it are stored. A dry run continues with the next line."""
    before = read_everything(stored_lines_backend)
    data = to_bytes(STORED_LINES) + line.removesuffix(b"\n") + b"\n{\n"
    if is_dry_run:
        first, second = describe_faults(dry_run(stored_lines_backend, data))
        assert second[:2] == (8, Invalid)
    else:
        first = describe_faults(import_lines(stored_lines_backend, data)[1])[0]
    assert first[:2] == (7, Invalid)
    assert what in first[2]
    assert read_everything(stored_lines_backend) == before


@pytest.mark.parametrize(
    "line",
    [
        with_raw_json(message_body(3), text='"\\ud83d\\ude42"') + b"\r\n",
        with_raw_json(message_body(3), text=f'"{chr(92)}ud83d{chr(92)}ude42"' * 1),
        to_bytes([message_body(3, text="🙂" * 10_000)]),
        to_bytes(
            [
                message_body(
                    3, created_at="2026-01-31t23:59:59z", updated_at="2026-01-31 23:59:59.5+05:30"
                )
            ]
        ),
        to_bytes([message_body(MAX_IMPORTED_NUMBER)]),
    ],
)
def test_an_import_accepts_unusual_but_valid_lines(backend: Backend, line: bytes) -> None:
    """Valid are any JSON escapes, CRLF, the longest text, the highest number, and times of any zone."""
    _, faults = import_lines(backend, to_bytes([application_body(), chat_body()]) + line)
    assert describe_faults(faults) == []
    (stored,) = decode_lines(export(backend))[2:]
    assert stored["text"] in ("🙂", "🙂" * 10_000, "text 3", f"text {MAX_IMPORTED_NUMBER}")
    assert stored["created_at"] == TIMESTAMP
    assert stored["updated_at"] in (TIMESTAMP, "2026-01-31T18:29:59.500000Z")
