"""Tokens: which application a client's token names.

An application keeps its **original token** for ever as its name in Redis, in the log and in SQL. Its clients
use its **current token**: the same one, until an operator replaces it. So nothing that is stored, in flight,
or a dead letter has to change with a token.

A client's token is translated where it comes in, and the original one where it is shown. A process knows all
applications whose token was replaced, and reads them again when SQL counts another replacement.
"""

import threading
from collections.abc import Mapping

from backend.domain.model import no_application
from backend.storage.postgres import rotations
from backend.storage.postgres.database import Database


class Tokens:
    """What this process knows of tokens that were replaced. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._rotations: int | None = None
        self._current: Mapping[str, str] = {}  # by original token
        self._original: Mapping[str, str] = {}  # by current token
        self._changed: set[str] = set()

    @property
    def is_trivial(self) -> bool:
        """Whether every token that this process knows is its application's original one."""
        return not self._current

    def follow(self) -> None:
        """Read what was replaced, if SQL has counted a replacement since, as the installation was last read.

        Raises EngineDown.
        """
        counted = self._database.installation.rotations
        with self._lock:
            if counted == self._rotations:
                return
            if counted:
                with self._database.connect() as connection:
                    current = rotations.list_rotated(connection)
                self._changed |= {
                    token for token in current if current[token] != self._current.get(token)
                }
                self._original = {now: original for original, now in current.items()}
                self._current = current
            self._rotations = counted

    def is_original(self, token: str) -> bool:
        """Whether that is the original token of an application whose token was replaced."""
        return token in self._current

    def take_changed(self) -> set[str]:
        """The original tokens of the applications whose token was replaced since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def original(self, token: str) -> str:
        """The original token of the application that a client's token names; an unknown token itself.

        Raises NotFound for one that was replaced, and EngineDown if nothing was read yet.
        """
        if self._rotations is None:
            self.follow()
        if (original := self._original.get(token)) is not None:
            return original
        if token in self._current:
            raise no_application()
        return token

    def current(self, original: str) -> str:
        """The token by which clients name the application. Raises EngineDown if nothing was read yet."""
        if self._rotations is None:
            self.follow()
        return self._current.get(original, original)

    def current_or_none(self, original: str | None) -> str | None:
        """As `current`; None for None, which stands for an unknown application."""
        return None if original is None else self.current(original)

    def original_of_any(self, token: str) -> str:
        """As `original`, and the token itself if it was replaced: what was exported before is the same."""
        if self._rotations is None:
            self.follow()
        return self._original.get(token, token)
