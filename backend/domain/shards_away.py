"""Shards of a Redis Cluster whose node does not answer: what a task passes over, and reports."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from backend.domain.errors import NodeDown

MAX_NAMED_SHARDS = 8


class ShardsAway(dict[int, NodeDown]):
    """The shards that a task passes over, each with its error. Not thread-safe."""

    @contextmanager
    def noting(self, shard: int) -> Iterator[None]:
        """End a block that raises NodeDown without an error, and note the shard."""
        try:
            yield
        except NodeDown as error:
            self[shard] = error

    def error(self, shards: int, consequence: str) -> NodeDown:
        """The error for what was not done. `shards` is how many there are in all."""
        return NodeDown(
            f"no answer from {format_shards(self, shards)}, so {consequence}",
            "`instachat doctor` names the nodes; repeat the command once they are back",
        )


def format_shards(away: Iterable[int], shards: int) -> str:
    """Shards, with the share of the applications that they have, and the numbers of the first ones.

    Tokens are spread over the shards by a hash, so each shard has about as many applications.
    """
    numbers = sorted(away)
    names = ", ".join(map(str, numbers[:MAX_NAMED_SHARDS]))
    if len(numbers) > MAX_NAMED_SHARDS:
        names += ", …"
    share = f"{len(numbers) / shards:.0%}"
    return f"{len(numbers)} of {shards} shards ({names}; about {share} of the applications)"
