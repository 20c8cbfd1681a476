"""The health of an installation at one moment, which the status page, the metrics and `status` judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from backend.domain.errors import WrongRedis
from backend.monitoring.status import Rates, Status


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """One engine: the seconds until it answered; None if it did not, and then `problem` says so."""

    name: str
    product: str  # for example Valkey, where the name is Redis
    seconds: float | None
    problem: str = ""
    shards_away: Sequence[int] = ()
    """Shards of Redis that do not answer, if others do."""
    shards: int = 0


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """The health at one moment. `status` is None if there is no recent report.

    `rates` are averages since the poll before; unknown in the first poll after a pause.
    """

    at: datetime
    engines: list[EngineHealth]
    status: Status | None
    rates: Rates

    @property
    def away(self) -> list[str]:
        """The names of the engines, and of the shards of Redis, that do not answer in time.

        Also Redis, if it is not this installation's.
        """
        engines = [
            engine.name
            for engine in self.engines
            if engine.seconds is None or (engine.name == "Redis" and self.wrong_redis)
        ]
        shards = [f"shard {shard}" for engine in self.engines for shard in engine.shards_away]
        return engines + shards

    @property
    def unusable(self) -> bool:
        """Whether an engine does not answer, or is refused, without which no application can be served."""
        needed = (engine for engine in self.engines if engine.name != "Elasticsearch")
        return self.wrong_redis is not None or any(engine.seconds is None for engine in needed)

    @property
    def wrong_redis(self) -> WrongRedis | None:
        """Why Redis is refused, by the last report; None if it is not."""
        return self.status.wrong_redis if self.status else None

    @property
    def incompatible(self) -> bool:
        """Whether the database, by the last report, is not one that this program may use."""
        schema = self.status and self.status.schema
        return bool(schema and schema.mismatch())

    @classmethod
    def of(cls, status: Status, rates: Rates) -> "HealthSnapshot":
        """The health that a report which was just read shows. How long the engines took is not known: 0."""
        engines = [
            EngineHealth(
                "Redis" if engine.engine == "Valkey" else engine.engine,
                engine.engine,
                None if engine.problem else 0.0,
                "is away" if engine.problem else "",
                engine.shards_away,
                engine.shards,
            )
            for engine in status.engines
        ]
        return cls(datetime.now(UTC), engines, status, rates)
