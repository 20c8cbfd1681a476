"""The audit trail's row of the command that runs."""

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from instachat_cli.console.confirm import NotConfirmed
from instachat_cli.console.exit_codes import error_name
from instachat_cli.console.invocation import current

if TYPE_CHECKING:
    from backend.monitoring.audit_trail import AuditTrail


@contextmanager
def recorded(trail: "Callable[[], AuditTrail]") -> Iterator[None]:
    """Record what is done inside as a change, if the command that runs is audited.

    `trail` returns where; it is called only then.
    """
    invocation = current()
    if invocation is None or not invocation.audited:
        yield
        return
    with trail().recorded(_actor(), invocation.command, invocation.target) as change:
        invocation.recorded = True
        try:
            yield
            change.result = "done"
        except NotConfirmed:
            change.result = "not_confirmed"
            raise
        except BaseException as error:
            change.result = error_name(error)
            raise
        finally:
            change.target, change.counts = invocation.target, invocation.counts


def _actor() -> str:
    """Such as `ann@db1`, or `root@db1 (sudo by ann)`."""
    actor = f"{_user_name()}@{socket.gethostname()}"
    by = os.environ.get("SUDO_USER")
    return f"{actor} (sudo by {by})" if by and os.getuid() == 0 else actor


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container that runs under any id
        return f"uid {os.getuid()}"
