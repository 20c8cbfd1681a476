"""The core's log lines on standard error: as notices of a command, or with timestamps for a service."""

import logging

from backend.runtime.log_format import (
    OWN_LOGGERS,
    LineFormatter,
    event_text,
    log_uncaught_exceptions,
)
from instachat_cli.console.stderr import stderr


def log_notices_to_stderr() -> None:
    """For a command: write the core's warnings like its own, and with `--verbose` all of its lines."""
    logging.basicConfig(handlers=[_NoticeHandler()], level=logging.WARNING)
    log_uncaught_exceptions(logging.getLogger("instachat_cli"))
    if stderr.verbose:
        for name in OWN_LOGGERS:
            logging.getLogger(name).setLevel(logging.INFO)


def log_with_timestamps() -> logging.Logger:
    """For a service: one line per event, with its time. Returns the logger of the command line."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        LineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    # Only warnings of libraries: SQLAlchemy would log statements with message texts.
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    logger = logging.getLogger("instachat_cli")
    log_uncaught_exceptions(logger)
    return logger


class _NoticeHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            stderr.detail(event_text(record))
        else:
            stderr.warning(event_text(record))
