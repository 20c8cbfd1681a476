"""Commands that are sent together to one server, by the synchronous client."""

from collections.abc import Sequence
from typing import Any

import redis

Command = tuple[str | int | bytes, ...]
"""The words of a command."""


def execute(
    server: redis.Redis, commands: Sequence[Command], then: Sequence[Command] = ()
) -> list[Any]:
    """The replies to commands; Redis's error takes the place of a reply.

    `then` are commands for the same connection that are sent after these replies, or not at all if the last
    of these is an error. Raises ConnectionError and TimeoutError.
    """
    if not then:
        pipe = server.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return pipe.execute(raise_on_error=False)
    connection = server.connection_pool.get_connection()
    try:
        replies = _exchange(connection, commands)
        if not isinstance(replies[-1], Exception):
            replies += _exchange(connection, then)
        return replies
    finally:
        server.connection_pool.release(connection)


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [_read(connection) for _ in commands]


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
