"""What a log line says of an event and of an exception: no message's text, no token, no database id.

The message of a library's exception may quote data. PostgreSQL's names the line that COPY was reading, and
the key that is there twice; asyncio's names the arguments of a callback. So a line has the type of an
exception, its SQLSTATE and its place. Only an InstaChatError has a message that is made for a log.
"""

import logging
import re
import sys
import threading
import traceback
from types import TracebackType

from backend.domain.errors import InstaChatError

OWN_LOGGERS = ("backend", "instachat_cli")
MAX_FRAMES = 8
_until_quoted = re.compile(r"[^\n(<]*").match
"""The part of a library's message before it names an object."""


class LineFormatter(logging.Formatter):
    """The lines of a service on a terminal: an exception is the end of its line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = logging.makeLogRecord({**record.__dict__, "msg": event_text(record), "args": None})
        if error := exception_of(record):
            line.msg += f": {describe_exception(error)}, at {describe_place(error)}"
        line.exc_info = line.exc_text = line.stack_info = None
        return super().format(line)


def event_text(record: logging.LogRecord) -> str:
    """The message of a record."""
    if not isinstance(record.args, tuple):
        return record.getMessage()
    args = tuple(map(_quotable, record.args))
    text = str(record.msg) % args if args else str(record.msg)
    if exception_of(record) is None or record.name.partition(".")[0] in OWN_LOGGERS:
        return text
    quotable = _until_quoted(text)
    return f"{record.name}: {quotable[0].strip() if quotable else ''}"


def exception_of(record: logging.LogRecord) -> BaseException | None:
    """The exception that a record is about, if any."""
    return record.exc_info[1] if record.exc_info else None


def describe_exception(error: BaseException) -> str:
    """The type of an exception, and those that have caused it; with the SQLSTATE of PostgreSQL's."""
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < MAX_FRAMES:
        code = getattr(cause, "pgcode", None)
        names.append(type(cause).__qualname__ + (f" {code}" if code else ""))
        hidden = cause.__suppress_context__
        cause = cause.__cause__ or (None if hidden else cause.__context__)
    return " from ".join(names)


def describe_place(error: BaseException) -> str:
    """Where an exception was raised: the innermost functions first."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))


def log_uncaught_exceptions(logger: logging.Logger) -> None:
    """Log what Python would print with its message: what ends a thread, and what a library reports.

    psycopg2 reports an exception by `PyErr_Print` if a connection is lost during COPY, and raises another.
    """

    def log_end_of_thread(args: threading.ExceptHookArgs) -> None:
        logger.error("a thread failed", exc_info=args.exc_value)

    def log_report(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        logger.info("a library has reported an exception", exc_info=error)

    threading.excepthook = log_end_of_thread
    sys.excepthook = log_report


def _quotable(argument: object) -> object:
    """An argument of a message; of another program's exception only the type."""
    if isinstance(argument, InstaChatError):
        return argument.message
    return type(argument).__qualname__ if isinstance(argument, BaseException) else argument
