"""A power loss of a machine that has Redis and PostgreSQL: what was answered is in the log, or stored.

While clients are busy, a drain stores what they create and deletes it from the log at once, the log is
rewritten, and PostgreSQL makes checkpoints and new files of its write-ahead log.
"""

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.ingest import kept_log
from backend.settings import Settings
from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.engines import PostgresServer, RedisServer
from tests.support.power_loss.disk import Disk
from tests.support.power_loss.points import Messages
from tests.support.power_loss.recording import Recording, Traced, merged, rewrite, run_load

DATABASE = "power"
TRIM_SECONDS = 0.1  # between two trims of the log


class Machine:
    """Its engines: a Redis for each load, and a PostgreSQL that the caller removes."""

    def __init__(self, postgres: PostgresServer, binary: Path) -> None:
        """`postgres` is new, and not started."""
        self._postgres = postgres
        self._binary = binary

    @contextmanager
    def recorded_load(self, seconds: float, seed: int, folder: Path) -> Iterator[Recording]:
        """See `recording.recorded_load`. `folder` is for the traces."""
        self._create_database()
        server = RedisServer(self._binary)
        traces = [
            Traced(server, server.folder, folder / "redis"),
            Traced(self._postgres, self._postgres.data, folder / "postgres"),
        ]
        if self._postgres.user:
            shutil.chown(folder, self._postgres.user)
        recording = Recording(
            [server.folder, self._postgres.data], [Disk(), Disk(self._postgres.data)]
        )
        try:
            for traced in traces:
                traced.start()
            with open_backend(self._settings(server)) as backend:
                self._run(backend, server, recording, seconds, seed)
            server.stop()
            self._postgres.stop()
            recording.steps += merged(traces)
            yield recording
        finally:
            server.remove()

    def read(self, folders: Sequence[Path]) -> Messages:
        """All messages, once what is in the log is stored. See `points.ReadMessages`."""
        of_redis, of_postgres = folders
        server = RedisServer(self._binary, folder=of_redis)
        self._put_back(of_postgres)
        try:
            server.start()
            self._postgres.start()
            with open_backend(self._settings(server)) as backend:
                backend.drainer.drain_all()
                with backend.database.connect() as connection:
                    rows = connection.execute(
                        text(
                            "SELECT a.token, c.number AS chat, m.number, m.text FROM message m"
                            " JOIN chat c ON c.id = m.chat_id"
                            " JOIN application a ON a.id = c.application_id"
                            " WHERE m.state = 'stored'"
                        )
                    ).all()
            return {(row.token, row.chat, row.number): row.text for row in rows}
        finally:
            server.stop()
            self._postgres.stop()

    def _create_database(self) -> None:
        self._postgres.start()
        self._postgres.execute(f"CREATE DATABASE {DATABASE}")
        database = Database(self._postgres.url(DATABASE))
        upgrade(database)
        database.close()
        self._postgres.stop()

    def _settings(self, server: RedisServer) -> Settings:
        return Settings(
            database_url=self._postgres.url(DATABASE), redis_url=server.url, log_retention="0"
        )

    def _run(
        self,
        backend: Backend,
        server: RedisServer,
        recording: Recording,
        seconds: float,
        seed: int,
    ) -> None:
        is_over = threading.Event()

        def drain() -> None:
            while not is_over.wait(TRIM_SECONDS / 5):
                backend.drainer.drain_all()
                backend.kept_log.trim_all()

        def disturb() -> bool:
            self._postgres.execute("SELECT pg_switch_wal()")
            self._postgres.execute("CHECKPOINT")
            return rewrite(server)

        interval = kept_log.TRIM_INTERVAL_SECONDS
        kept_log.TRIM_INTERVAL_SECONDS = TRIM_SECONDS
        drainer = threading.Thread(target=drain)
        drainer.start()
        try:
            run_load(backend, recording, seconds, seed, disturb)
        finally:
            is_over.set()
            drainer.join()
            kept_log.TRIM_INTERVAL_SECONDS = interval

    def _put_back(self, left: Path) -> None:
        """Have PostgreSQL's data be what is left of them, with all their folders."""
        data, user = self._postgres.data, self._postgres.user
        for path in data.rglob("*"):
            if path.is_dir():
                (left / path.relative_to(data)).mkdir(parents=True, exist_ok=True)
        (left / "postmaster.pid").unlink(missing_ok=True)  # of a process before the machine's start
        shutil.rmtree(data)
        shutil.copytree(left, data)
        for path in (data, *data.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
            if user:
                shutil.chown(path, user)
