"""Cuts the power at 1,000 points of loads under `strict`, on Valkey and on Redis 7.

    .venv/bin/python -m tests.support.power_loss.run --points 1000 --machine-points 50 --seed 7

Then it cuts the power of a machine that has PostgreSQL, too, at some points. Exits with 4 if an answer is
lost, or a server does not start.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.engines import (
    PostgresServer,
    redis_binary,
    running,
    valkey_binary,
    wheel_postgres,
)
from tests.support.power_loss.machine import Machine
from tests.support.power_loss.points import (
    ReadMessages,
    choose_points,
    count_kinds,
    lost_answers,
    read_log,
)
from tests.support.power_loss.recording import Recording, recorded_load

FAILED_EXIT_CODE = 4
POINTS_OF_A_LOAD = 100
SECONDS_OF_A_LOAD = 2.0


@dataclass
class Result:
    """What was cut. It has passed if there are no `faults`."""

    points: int = 0
    answers: int = 0
    messages: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        operations = ", ".join(f"{n:,} {kind}" for kind, n in sorted(self.operations.items()))
        line = (
            f"{self.points:,} points, {self.answers:,} answers with {self.messages:,} messages"
            f" ({operations}); {len(self.faults)} faults"
        )
        return "\n".join([line, *self.faults[:30]])


def cut_power(
    settings: Settings, binary: Path, *options: str, points: int, seconds: float, seed: int
) -> Result:
    """Record a load on a new server, and cut the power at so many points. `settings` have a new database."""
    with (
        tempfile.TemporaryDirectory(prefix="instachat-power-") as folder,
        recorded_load(
            settings, binary, *options, seconds=seconds, seed=seed, folder=Path(folder)
        ) as recording,
    ):
        return _cut(recording, points, seed, partial(read_log, binary))


def _cut(recording: Recording, points: int, seed: int, read: ReadMessages) -> Result:
    dice = random.Random(seed)
    chosen = choose_points(recording, points, dice)
    return Result(
        len(chosen),
        len(recording.answers),
        sum(len(answer.texts) for answer in recording.answers),
        count_kinds(recording),
        list(lost_answers(recording, chosen, dice, read)),
    )


def run(points: int, seed: int, binaries: Mapping[str, Path]) -> Sequence[Result]:
    """Cut the power of each of these servers at its share of the points; prints the results."""
    results: list[Result] = []
    with running(PostgresServer(wheel_postgres())) as postgres:
        for name, binary in binaries.items():
            for nth in range(points // len(binaries) // POINTS_OF_A_LOAD or 1):
                database = f"power_{len(results)}"
                postgres.execute(f"CREATE DATABASE {database}")
                settings = Settings(database_url=postgres.url(database))
                with_schema = Database(postgres.url(database))
                upgrade(with_schema)
                with_schema.close()
                result = cut_power(
                    settings,
                    binary,
                    points=min(points, POINTS_OF_A_LOAD),
                    seconds=SECONDS_OF_A_LOAD,
                    seed=seed + nth,
                )
                results.append(result)
                sys.stdout.write(f"{name}, seed {seed + nth}: {result}\n")
                sys.stdout.flush()
    return results


def run_machine(points: int, seed: int) -> Result:
    """Cut the power of a machine with Valkey and PostgreSQL at so many points; prints the result."""
    postgres = PostgresServer(wheel_postgres())
    try:
        machine = Machine(postgres, valkey_binary())
        with (
            tempfile.TemporaryDirectory(prefix="instachat-power-") as folder,
            machine.recorded_load(SECONDS_OF_A_LOAD, seed, Path(folder)) as recording,
        ):
            result = _cut(recording, points, seed, machine.read)
    finally:
        postgres.remove()
    sys.stdout.write(f"Valkey and PostgreSQL, seed {seed}: {result}\n")
    return result


def main() -> None:
    """Cut the power, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=1_000)
    parser.add_argument("--machine-points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    binaries = {"Valkey": valkey_binary()}
    if (redis := redis_binary()) is not None:
        binaries["Redis"] = redis
    results = [*run(options.points, options.seed, binaries)]
    if options.machine_points:
        results.append(run_machine(options.machine_points, options.seed))
    faults = sum(len(result.faults) for result in results)
    sys.stdout.write(f"{sum(result.points for result in results):,} points, {faults} faults\n")
    sys.exit(FAILED_EXIT_CODE if faults else 0)


if __name__ == "__main__":
    main()
