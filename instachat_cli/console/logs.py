"""Where the core's log lines go: to standard error, as talk or as a worker's diary."""

import logging

from instachat_cli.console.stderr import stderr


def log_notices_to_stderr() -> None:
    """For a command: warnings, said as every other notice."""
    logging.basicConfig(handlers=[_NoticeHandler()], level=logging.WARNING)


def log_with_timestamps() -> logging.Logger:
    """For what runs on and on: a line for each event, with its time. Returns the command line's own."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=logging.WARNING,  # of libraries: SQLAlchemy would log statements, with people's texts
    )
    for name in ("backend", "instachat_cli"):
        logging.getLogger(name).setLevel(logging.INFO)
    return logging.getLogger("instachat_cli")


class _NoticeHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stderr.warning(record.getMessage())
