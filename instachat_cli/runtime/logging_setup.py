"""The core's log lines on standard error: as notices of a command, or with timestamps for a service."""

import logging

from instachat_cli.console.stderr import stderr


def log_notices_to_stderr() -> None:
    """For a command: write the core's warnings like its own."""
    logging.basicConfig(handlers=[_NoticeHandler()], level=logging.WARNING)


def log_with_timestamps() -> logging.Logger:
    """For a service: one line per event, with its time. Returns the logger of the command line."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=logging.WARNING,  # of libraries: SQLAlchemy would log statements with message texts
    )
    for name in ("backend", "instachat_cli"):
        logging.getLogger(name).setLevel(logging.INFO)
    return logging.getLogger("instachat_cli")


class _NoticeHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stderr.warning(record.getMessage())
