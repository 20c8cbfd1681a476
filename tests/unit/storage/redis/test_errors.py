"""What the client library's errors of a Redis Cluster mean: refused for certain, or perhaps executed."""

import pytest
import redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ClusterError,
    InvalidResponse,
    MovedError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)

from backend.domain.errors import EngineDown, Unconfirmed
from backend.storage.redis.errors import NodeAway, translate_errors, unconfirmed_on_lost_reply

URL = "redis+cluster://h1:1,h2:2"


def raised_while_handling(error: Exception, lost: Exception | None) -> Exception:
    """The error as the client library raises it after a lost reply: it has looked for the nodes then."""
    error.__cause__ = redis.ConnectionError("Error 111 connecting to h2:2. Connection refused.")
    error.__context__ = lost
    return error


NO_NODE = "Redis Cluster cannot be connected. Please provide at least one reachable node"


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ClusterError("TTL exhausted."), EngineDown),
        (MovedError("1 h2:2"), EngineDown),
        (AskError("1 h2:2"), EngineDown),
        (TryAgainError("Multiple keys request during rehashing of slot"), EngineDown),
        (ClusterDownError("CLUSTERDOWN Hash slot not served"), EngineDown),
        (SlotNotCoveredError('Slot "1" not covered by the cluster.'), EngineDown),
        (raised_while_handling(RedisClusterException(NO_NODE), None), EngineDown),
        (
            raised_while_handling(
                RedisClusterException(NO_NODE), redis.ConnectionError("Error connecting to h1:1")
            ),
            EngineDown,
        ),
        (
            raised_while_handling(
                RedisClusterException(NO_NODE), redis.TimeoutError("Timeout reading from socket")
            ),
            Unconfirmed,
        ),
        (NodeAway("h1:1 did not answer"), EngineDown),
        (InvalidResponse("Protocol Error"), Unconfirmed),
        (
            ResponseError("Script attempted to access a non local key in a cluster node script: a"),
            EngineDown,
        ),
        (
            ResponseError(
                "Unable to execute command 'exists' in script because undeclared keys were accessed "
                "during rehashing of the slot script: a"
            ),
            EngineDown,
        ),
        (
            ResponseError("Script attempted to execute a write command while the cluster is down"),
            EngineDown,
        ),
    ],
    ids=repr,
)
def test_a_call_is_refused_or_unconfirmed(error: Exception, meaning: type[Exception]) -> None:
    """Unconfirmed only if the call may have been executed; a redirection or a missing node has refused it,
    and a script reads all keys before it writes the first.
    """
    with pytest.raises(meaning), unconfirmed_on_lost_reply(URL), translate_errors(URL):
        raise error


def test_a_reply_that_is_not_valid_is_not_quoted() -> None:
    """It may be a part of a text."""
    with pytest.raises(EngineDown) as caught, translate_errors(URL):
        raise InvalidResponse("Protocol Error: b'a private text'")
    assert "private" not in caught.value.message
