"""Log lines quote no data, whatever an exception's message says."""

import logging
import sys
import threading
from collections.abc import Callable

import pytest

from backend.domain.errors import EngineDown
from backend.runtime import log_format
from backend.runtime.log_format import LineFormatter

SECRET = "a private text"


class DriverError(Exception):
    """As psycopg2's."""

    pgcode = "57P01"


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    """The error, as it is after it was raised from its cause."""
    try:
        try:
            if cause:
                raise cause
        finally:
            raise error
    except Exception as caught:  # noqa: BLE001
        return caught


def record(
    name: str, message: str, *args: object, error: Exception | None = None
) -> logging.LogRecord:
    """A record as a logger makes it."""
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(name, logging.ERROR, "file", 1, message, args, info)


def test_an_exception_is_logged_by_its_type_and_its_place() -> None:
    """With its causes and their SQLSTATE, in one line, and without their messages."""
    error = raised(
        ValueError(SECRET), DriverError(f"ended\nCONTEXT: COPY message, line 1: {SECRET}")
    )
    line = LineFormatter("%(levelname)s %(message)s").format(
        record("backend.worker", "it failed", error=error)
    )
    assert line.startswith("ERROR it failed: ValueError from DriverError 57P01, at ")
    assert line.endswith(" raised")
    assert SECRET not in line
    assert len(line.splitlines()) == 1


def test_an_exception_that_another_handler_has_formatted_is_not_repeated() -> None:
    """Handlers share records, and the standard formatter keeps its text in them."""
    shared = record("backend", "it failed", error=raised(ValueError(SECRET)))
    assert SECRET in logging.Formatter().format(shared)
    assert SECRET not in LineFormatter().format(shared)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (ValueError(SECRET), "ValueError"),
        (EngineDown("PostgreSQL is away"), "PostgreSQL is away"),
        ("a word", "a word"),
        (7, "7"),
    ],
)
def test_an_exception_in_a_message_is_named(argument: object, shown: str) -> None:
    """Only the program's own errors have messages for a log."""
    assert log_format.event_text(record("backend", "seen: %s", argument)) == f"seen: {shown}"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            f"Task exception was never retrieved\nfuture: <Task {SECRET}>",
            "Task exception was never retrieved",
        ),
        (
            f"Exception in callback Connection.parse({SECRET!r})",
            "Exception in callback Connection.parse",
        ),
    ],
)
def test_a_library_names_no_arguments(message: str, shown: str) -> None:
    """As asyncio does, beside an exception."""
    library = record("asyncio", message, error=raised(ValueError(SECRET)))
    assert log_format.event_text(library) == f"asyncio: {shown}"


def test_a_thread_that_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where Python would print the message."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def fail() -> None:
        raise ValueError(SECRET)

    fails: Callable[[], None] = fail
    log_format.log_uncaught_exceptions(logging.getLogger("backend.test"))
    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    assert [entry.message for entry in caplog.records] == ["a thread failed"]
    assert SECRET not in capsys.readouterr().err
    assert sys.exc_info() == (None, None, None)
