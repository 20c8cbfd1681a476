"""The expected errors, in one tree.

    InstaChatError
    ├── Failed              the operation could not be done, and the input is not the cause
    ├── Invalid             the input or the usage is wrong; nothing was changed
    ├── NotFound            the application, chat or message does not exist
    │   └── Gone            the number was issued, its creation was rejected (see the dead letter)
    ├── CheckFailed         a check found a problem (drift, lag, a missed threshold)
    │   └── WaitTimedOut    an accepted message is not stored or searchable yet
    ├── Unavailable         a dependency can't serve this now; try again
    │   ├── RateLimited     the application creates more than its rate limit; nothing was accepted
    │   ├── Busy            too many requests are waiting; nothing was accepted
    │   ├── WrongRedis      Redis has the numbers of another installation
    │   │   └── UnknownRedis   it has none of this one, and an operator has not adopted it
    │   ├── EngineDown      Redis, PostgreSQL or Elasticsearch does not answer
    │   │   └── NodeDown    a node of a Redis Cluster does not answer; other shards are not affected
    │   ├── LogFull         the log or Redis's memory is at its limit; nothing was accepted
    │   ├── Unconfirmed     the reply was lost: what was requested may have been done
    │   ├── Closing         the application or chat is being deleted
    │   ├── NotStoredYet    the message to change is accepted, but not stored yet
    │   ├── NoIndex         Elasticsearch is configured, but its index has not been built
    │   ├── SchemaMismatch  the database's schema is too old or too new for this program
    │   └── NewerLogFormat  the log has an event that only a newer program can read
    └── Conflict            the request contradicts the current state
        ├── HasChildren     the children have to be deleted first
        ├── StaleVersion    another request changed it
        ├── KeyReused       an idempotency key was used with another body
        └── NumbersExhausted   the application or chat has issued its last number

The command line maps these to exit codes, HTTP to statuses, each in one place.
"""

from backend.domain.plurals import counted


class InstaChatError(Exception):
    """Base of all expected errors.

    `message` says what happened, `hint`, if any, what to do next. Neither contains a secret, a message's text
    or a database id.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Failed(InstaChatError):
    """The operation could not be done, and the input is not the cause."""


class Invalid(InstaChatError):
    """The input or the usage is wrong; nothing was changed."""


class NotFound(InstaChatError):
    """The application, chat or message does not exist."""


class Gone(NotFound):
    """The number was issued, but its creation was rejected: a dead letter has the reason."""


class CheckFailed(InstaChatError):
    """A check found a problem."""


class WaitTimedOut(CheckFailed):
    """An accepted message is not stored or searchable yet; it stays accepted."""


class Unavailable(InstaChatError):
    """A dependency can't serve this now; the same call may succeed later."""


class RateLimited(Unavailable):
    """The application creates more than its rate limit allows; nothing was accepted."""

    def __init__(self, per_second: int, wait_seconds: float) -> None:
        super().__init__(
            f"the application may create {counted(per_second, 'chat or message', 'chats and messages')} a"
            " second; nothing was accepted",
            f"try again in {wait_seconds:,.1f} s; an operator can change that by `instachat apps limit`",
        )
        self.per_second = per_second
        self.wait_seconds = wait_seconds


class Busy(Unavailable):
    """Too many requests are waiting; nothing was accepted."""


class EngineDown(Unavailable):
    """Redis, PostgreSQL or another engine does not answer."""


class WrongRedis(Unavailable):
    """Redis has the numbers of another installation; nothing was changed."""


class UnknownRedis(WrongRedis):
    """Redis has nothing of this installation, and was not recognised or adopted; nothing was changed."""


class NodeDown(EngineDown):
    """A node of a Redis Cluster does not answer; the shards of the other nodes are not affected."""


class LogFull(Unavailable):
    """The log of a shard or the memory of Redis is at its limit; nothing was accepted."""


class Unconfirmed(Unavailable):
    """The reply was lost: what was requested may have been done.

    No other Unavailable leaves this open: after it, nothing was changed.
    """


class Closing(Unavailable):
    """The application or chat is being deleted; the drain decides whether it is."""


class NotStoredYet(Unavailable):
    """The message to change is accepted, but not stored yet; nothing was changed."""


class NoIndex(Unavailable):
    """Elasticsearch is configured, but no index of the messages stored before has been built."""

    def __init__(self) -> None:
        super().__init__(
            "INSTACHAT_ELASTICSEARCH_URL is set, but there is no search index of this installation's"
            " messages yet",
            "build it with `instachat reindex`; without that setting, PostgreSQL searches",
        )


class SchemaMismatch(Unavailable):
    """The database lacks something that this program needs, or admits newer programs only.

    Programs that run until they are stopped end with this error.
    """


class NewerLogFormat(Unavailable):
    """The log has an event in a format of a later release: it stays there for a program of that release."""


class Conflict(InstaChatError):
    """The request contradicts the current state; nothing was changed."""


class HasChildren(Conflict):
    """An application with chats, or a chat with messages, is only deleted with its children."""


class StaleVersion(Conflict):
    """Another request changed it since the caller read it."""


class KeyReused(Conflict):
    """An idempotency key was used before with another body."""


class NumbersExhausted(Conflict):
    """The application or chat has issued its last number, so nothing can be created in it any more."""
