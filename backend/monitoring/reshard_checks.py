"""Whether a reshard is under way, or was interrupted, and how much of it is left."""

from collections.abc import Iterator
from dataclasses import dataclass

from backend.domain.plurals import counted
from backend.monitoring.checks import CheckResult, Severity, ok_result
from backend.storage.postgres import leases, placements
from backend.storage.postgres.database import Connection, Database

CHECK = "reshard"


@dataclass(frozen=True, slots=True)
class ReshardStatus:
    """A reshard that has begun and not ended."""

    shards: int
    """The number of shards before it."""
    target: int
    """The number of shards that it leads to."""
    to_move: int | None
    """How many applications are left to move; None if that is not known. Those created since may be more."""
    running: bool
    """Whether the command runs; otherwise it was interrupted, and continues when it is repeated."""

    @property
    def command(self) -> str:
        """The command that continues it."""
        return f"instachat reshard {self.target}"


def read_reshard(connection: Connection) -> ReshardStatus | None:
    """The reshard that has begun and not ended; None if there is none."""
    state = placements.reshard_state(connection)
    if state.target is None:
        return None
    running = leases.is_held(connection, placements.RESHARD_LEASE)
    return ReshardStatus(state.shards, state.target.size, state.to_move, running)


def check_reshard(database: Database) -> Iterator[CheckResult]:
    """Check that a reshard that has begun goes on. Yields nothing if none has begun."""
    with database.connect() as connection:
        reshard = read_reshard(connection)
    if reshard is None:
        return
    if reshard.running:
        yield ok_result(
            CHECK, f"applications move to {counted(reshard.target, 'shard')} at this moment"
        )
        return
    yield CheckResult(
        CHECK,
        Severity.WARNING,
        f"the move of the applications to {counted(reshard.target, 'shard')} was interrupted: some are where"
        " they were, and everything works",
        f"run `{reshard.command}`, which continues",
    )
