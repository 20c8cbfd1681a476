"""Checks that a program repeats while it runs, in a thread of its own."""

import logging
import time
from collections.abc import Callable

from backend.domain.errors import InstaChatError, SchemaMismatch

CHECK_INTERVAL_SECONDS = 1.0
logger = logging.getLogger(__name__)


class RepeatedChecks:
    """Functions that are called once a second, until one finds that the program has to end."""

    def __init__(self, *checks: Callable[[], object]) -> None:
        self.failure: SchemaMismatch | None = None
        """Why the program has to end."""
        self._checks = checks

    def run(self) -> None:
        """Repeat the checks until one raises SchemaMismatch. Any other error is logged."""
        while self.failure is None:
            time.sleep(CHECK_INTERVAL_SECONDS)
            for check in self._checks:
                self._call(check)

    def _call(self, check: Callable[[], object]) -> None:
        try:
            check()
        except SchemaMismatch as error:
            self.failure = error
        except InstaChatError as error:
            logger.warning("%s", error.message)
        except Exception:
            logger.exception("a check failed; it is repeated")
