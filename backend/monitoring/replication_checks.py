"""Checks of PostgreSQL's replication: the role of the server, and the standbys that could take over."""

from collections.abc import Iterator

from backend.domain.plurals import counted
from backend.monitoring.checks import CheckResult, Severity, ok_result
from backend.storage.postgres.database import Database
from backend.storage.postgres.replication import Standby, read_replication

CHECK = "PostgreSQL's replication"
MAX_BEHIND_BYTES = 256 << 20


def check_replication(database: Database, retention_seconds: float) -> Iterator[CheckResult]:
    """Check that the server takes writes, and that a standby could take over without a loss.

    `retention_seconds` is how long the log keeps what is stored, which fills a standby that was behind.
    """
    with database.connect() as connection:
        found = read_replication(connection)
    if found.is_standby:
        yield CheckResult(
            CHECK,
            Severity.ERROR,
            "the server is a standby: it takes no writes",
            "name all hosts in INSTACHAT_DATABASE_URL, so that the primary among them is used; or promote"
            " this one",
        )
        return
    standbys = found.standbys
    unreadable = any(standby.sync_state is None for standby in standbys)
    waited_for = [one for one in standbys if one.sync_state in ("sync", "quorum")]
    if found.synchronous_names and not waited_for and not unreadable:
        yield CheckResult(
            CHECK,
            Severity.ERROR,
            f"synchronous_standby_names is {found.synchronous_names}, and no such standby is connected:"
            " commits wait, so nothing is stored",
            "start the standby, or take its name out of the setting and reload",
        )
    behind = [standby for standby in standbys if _is_behind(standby, retention_seconds)]
    if behind:
        yield CheckResult(
            CHECK,
            Severity.WARNING,
            f"{'; '.join(map(_describe, behind))}: if it is promoted, the log may lack what it has not"
            f" (INSTACHAT_LOG_RETENTION keeps {retention_seconds:,.0f} s)",
            "check its log and the network to it",
        )
    if unreadable:
        yield CheckResult(
            CHECK,
            Severity.UNKNOWN,
            f"{counted(len(standbys), 'standby is', 'standbys are')} connected; their lag is not readable",
            "GRANT pg_monitor to the user of INSTACHAT_DATABASE_URL",
        )
    elif not behind and (waited_for or not found.synchronous_names):
        standbys_text = "; ".join(map(_describe, standbys)) or "no standby is connected"
        yield ok_result(CHECK, f"the server is the primary; {standbys_text}")


def _is_behind(standby: Standby, retention_seconds: float) -> bool:
    if standby.state is None:
        return False
    return (
        standby.state != "streaming"
        or (standby.behind_seconds or 0.0) > retention_seconds / 2
        or (standby.behind_bytes or 0) > MAX_BEHIND_BYTES
    )


def _describe(standby: Standby) -> str:
    mib = (standby.behind_bytes or 0) / (1 << 20)
    return (
        f"{standby.name} is {standby.state}, {standby.sync_state},"
        f" {standby.behind_seconds or 0:,.1f} s and {mib:,.1f} MiB behind"
    )
