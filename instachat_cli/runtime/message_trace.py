"""How `messages trace` shows what became of a number."""

from datetime import UTC
from typing import TYPE_CHECKING

from backend.domain.serialization import rfc3339
from backend.monitoring.summary import format_duration
from instachat_cli.console.output import Body, Printer

if TYPE_CHECKING:
    from datetime import datetime

    from backend.catalog.message_trace.trace import MessageTrace, TraceStep

COLUMNS = ("time", "step", "took", "about")


def print_trace(printer: Printer, trace: "MessageTrace") -> None:
    """Print a trace: the state, and a table of the steps."""
    body = {
        "chat": trace.chat,
        "number": trace.number,
        "state": str(trace.state),
        "detail": trace.detail,
        "version": trace.version,
        "shard": trace.shard,
        "entry": trace.entry,
        "dead_letters": list(trace.dead_letters),
        "steps": [_step_body(step) for step in trace.steps],
    }
    state = str(trace.state).replace("_", " ")
    lines = [f"message {trace.number} of chat {trace.chat}: {state}", trace.detail]
    printer.report(body, lines, [_step_row(step) for step in trace.steps], COLUMNS)


def _step_body(step: "TraceStep") -> Body:
    return {
        "step": step.step,
        "at": None if step.at is None else rfc3339(step.at),
        "until": None if step.until is None else rfc3339(step.until),
        "seconds": None if step.seconds is None else round(step.seconds, 6),
        "detail": step.detail,
    }


def _step_row(step: "TraceStep") -> Body:
    at = step.until or step.at
    limit = "≤ " if step.until and step.seconds is not None else ""
    return {
        "time": "-" if at is None else _milliseconds(at),
        "step": step.step,
        "took": "-" if step.seconds is None else limit + format_duration(step.seconds),
        "about": step.detail,
    }


def _milliseconds(at: "datetime") -> str:
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}"
