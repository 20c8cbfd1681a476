"""A copy of a test's database, which takes its place later: as if an older dump was restored."""

from backend.bootstrap import Backend
from tests.conftest import Engines

COPY = "older"


class OlderDump:
    """The database of a backend, as it is when this is made. Nothing else may use the database."""

    def __init__(self, engines: Engines, backend: Backend) -> None:
        self._postgres = engines.postgres
        self._backend = backend
        self._name = str(backend.database.engine.url.database)
        self._copy = f"{self._name}_{COPY}"
        self._disconnect()
        self._postgres.execute(f"CREATE DATABASE {self._copy} TEMPLATE {self._name}")

    def restore(self) -> None:
        """Replace the database by the copy: it forgets what was stored since."""
        self._disconnect()
        self._postgres.execute(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._postgres.execute(f"ALTER DATABASE {self._copy} RENAME TO {self._name}")

    def _disconnect(self) -> None:
        self._backend.database.close()
