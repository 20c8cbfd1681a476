"""Everything that can go wrong on purpose, in one tree.

    InstaChatError
    ├── Failed              the operation could not be done, and it is nobody's input
    │   └── SchemaMismatch  the database's schema is not the one this program knows
    ├── Invalid             the input or the usage is wrong; nothing was changed
    ├── NotFound            no such application, chat or message
    │   └── Gone            the number was issued, but its creation was rejected (a dead letter tells why)
    ├── CheckFailed         a check found something (drift, lag, a missed threshold)
    │   └── WaitTimedOut    what was accepted is not stored or searchable yet
    ├── Unavailable         a dependency can't be reached, or refuses for now; try again
    │   ├── EngineDown      Redis, PostgreSQL, … does not answer
    │   ├── LogFull         the log or Redis's memory is at its limit; nothing was accepted
    │   ├── Unconfirmed     it is not known whether it was accepted: the answer was lost
    │   ├── Closing         the parent is being deleted at this moment
    │   ├── NotStoredYet    what shall be changed is accepted, and not stored yet
    │   └── NoIndex         searching needs an index that is not built yet (`search.py`)
    └── Conflict            the request contradicts what is there
        ├── HasChildren     deleting needs the children deleted first
        ├── StaleVersion    somebody else changed it meanwhile
        └── KeyReused       an idempotency key came with another body

Each edge maps these once: the CLI to exit codes, HTTP to statuses.
"""


class InstaChatError(Exception):
    """Base of all expected errors.

    `message` says what happened and to what; `hint`, if any, what to do next. Neither holds a secret,
    a message's text or a database id.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Failed(InstaChatError):
    """The operation could not be done, and no input is to blame."""


class SchemaMismatch(Failed):
    """The database's schema is older or newer than the one this program knows."""


class Invalid(InstaChatError):
    """The input or the usage is wrong; nothing was changed."""


class NotFound(InstaChatError):
    """There is no such application, chat or message."""


class Gone(NotFound):
    """The number was issued, but its creation was rejected: a dead letter tells why."""


class CheckFailed(InstaChatError):
    """A check found something."""


class WaitTimedOut(CheckFailed):
    """What was accepted is not stored or searchable yet; it stays accepted."""


class Unavailable(InstaChatError):
    """A dependency can't serve this now; the same call may succeed later."""


class Busy(Unavailable):
    """Too much waits already; nothing was accepted."""


class EngineDown(Unavailable):
    """Redis, PostgreSQL or another engine does not answer."""


class LogFull(Unavailable):
    """The log of a shard or the memory of Redis is at its limit; nothing was accepted."""


class Unconfirmed(Unavailable):
    """The answer was lost: it is not known whether the creation was accepted."""


class Closing(Unavailable):
    """The application or the chat is being deleted at this moment; the drain decides."""


class NotStoredYet(Unavailable):
    """What shall be changed is accepted, and not stored yet; nothing was changed."""


class Conflict(InstaChatError):
    """The request contradicts what is there; nothing was changed."""


class HasChildren(Conflict):
    """An application with chats, or a chat with messages, is not deleted by itself."""


class StaleVersion(Conflict):
    """Somebody else changed it meanwhile."""


class KeyReused(Conflict):
    """An idempotency key was used before with another body."""
