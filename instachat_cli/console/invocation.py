"""The command that runs, as the audit trail names it; and which commands it does not name.

A command is audited unless its function says otherwise, so a new one cannot be forgotten.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., None])
AuditRule = Callable[[Mapping[str, Any]], bool]
"""Whether a run of a command with these arguments is audited."""

TOKENS = {"token", "app", "app_"}
# Other strings may be texts or names of users, and are left out.
SAFE_STRINGS = {"ids", "file", "rate", "age"}
# How a command talks is no part of what it changes.
NO_TARGET = {"output", "quiet", "yes", "verbose", "wait", "timeout"}
MAX_LISTED = 5
LEFT_OUT = "…"


class Invocation:
    """A run of a command."""

    def __init__(self, command: str, target: str, *, audited: bool) -> None:
        self.command = command
        """Such as `messages delete`."""
        self.target = target
        """Its arguments and options, without texts and names, and with abbreviated tokens."""
        self.audited = audited
        self.recorded = False
        """Whether the audit trail has it; set by what records it."""
        self.counts: dict[str, int] = {}
        """What it has changed so far, by kind."""


_running: ContextVar[Invocation | None] = ContextVar("running", default=None)


@contextmanager
def running(invocation: Invocation) -> Iterator[None]:
    """Make it the one that runs. An audited one must be recorded by the end, if it succeeds."""
    token = _running.set(invocation)
    try:
        yield
    finally:
        _running.reset(token)
    assert invocation.recorded or not invocation.audited, f"{invocation.command} is not recorded"


def current() -> Invocation | None:
    """The one that runs; None outside a command."""
    return _running.get()


def note_count(kind: str, count: int) -> None:
    """Note how many things of a kind the command has changed so far, for the audit trail."""
    if invocation := current():
        invocation.counts[kind] = count


def audit_only_changes() -> None:
    """For a command that records each change itself: it is audited only if it has made one."""
    if (invocation := current()) and not invocation.recorded:
        invocation.audited = False


def note_application(token: str) -> None:
    """Note the token of the application that the command has made, or given another one."""
    from backend.domain.model import abbreviate_token

    if invocation := current():
        invocation.target = f"{invocation.target} → {abbreviate_token(token)}".strip()


def not_audited(function: Function) -> Function:
    """For a command that changes nothing, or only creates what the log and the tables have with its time."""
    return _with_rule(function, lambda _: False)


def audited_with(option: str) -> Callable[[Function], Function]:
    """For a command that changes something only with that option."""
    return lambda function: _with_rule(function, lambda values: bool(values.get(option)))


def audited_without(option: str) -> Callable[[Function], Function]:
    """For a command that changes nothing with that option."""
    return lambda function: _with_rule(function, lambda values: not values.get(option))


def is_audited(function: Callable[..., None] | None, values: Mapping[str, Any]) -> bool:
    """Whether a run of a command with these arguments is audited. A dry run never is."""
    rule: AuditRule | None = getattr(function, "audit_rule", None)
    return not values.get("dry_run") and (rule is None or rule(values))


def describe_target(parameters: Sequence[Any], values: Mapping[str, Any]) -> str:
    """What a command was applied to, as it would be typed, without texts and names.

    `parameters` are those of its declaration, `values` the parsed ones by name.
    """
    from backend.domain.times import format_age
    from instachat_cli.console.options import parse_duration

    words: list[str] = []
    for parameter in parameters:
        name, value = parameter.name, values.get(parameter.name)
        if name in NO_TARGET or not value or value == parameter.default:
            continue
        if parameter.param_type_name == "option":
            words.append(max(parameter.opts, key=len))
        if value is not True:
            is_age = parameter.type_descriptor.parameter_info.parser is parse_duration
            words.append(format_age(value) if is_age else _describe(name, value))
    return " ".join(words)


def _describe(name: str, value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        shown = " ".join(_describe(name, each) for each in value[:MAX_LISTED])
        more = len(value) - MAX_LISTED
        return f"{shown} and {more:,} more" if more > 0 else shown
    if name in TOKENS:
        from backend.domain.model import abbreviate_token

        return abbreviate_token(str(value))
    return str(value) if name in SAFE_STRINGS else LEFT_OUT


def _with_rule(function: Function, rule: AuditRule) -> Function:
    function.audit_rule = rule  # type: ignore[attr-defined]
    return function
