"""Searching over HTTP with Elasticsearch: the fast path against the ordinary route of the same server.

The fast path reads from PostgreSQL for many searches at once. Both ask Elasticsearch for each search, in as
many threads, so that it bounds the ratio. wrk and the engines share the processors with the server.
"""

from collections.abc import Iterator

from backend.search.refresh import Refresher
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row
from instachat_cli.bench.harness.profile import profiled
from instachat_cli.bench.harness.servers import server, wrk
from loadtest.run.processes import free_port

PAGE_SIZE = 20
KEYWORD_LENGTH = 5
KEYWORDS = 200  # from the chat's messages, searched in turn
OURS = "the fast path"
BASELINE = "the ordinary route"
# `after=0`: the fast path leaves an encoded name to the ordinary route, and the search is the same.
ORDINARY = "&%61fter=0"
RATE_GOAL = Goal(1.2, aim=1.5)
P99_GOAL = Goal(1.0, at_most=True)


def measure(env: Environment) -> Iterator[Row]:
    """Rates and latencies of searches for a first page in one chat."""
    elastic = SearchEnvironment(env)
    elastic.reset_index()
    env.accept_batches(env.texts)
    env.drain()
    elastic.publish_all()
    Refresher(env.backend.database, elastic.index).refresh(0)
    paths = _paths(env)
    port = free_port()
    pairs = []
    with server(env.backend.settings, port):
        for _ in range(env.scale.load_pairs + 1):  # the first one warms up
            both = (paths, [path + ORDINARY for path in paths])
            ours, other = (
                wrk(port, each, env.scale.seconds, "GET", env.scale.search_connections)
                for each in both
            )
            pairs.append((ours, other))
    del pairs[0]
    configuration = (
        f"wrk, {env.scale.search_connections} connections, one server process;"
        f" first pages of {PAGE_SIZE} in a chat of {len(env.texts):,} messages"
    )
    for what, unit, goal, values in (
        ("", "requests/s", RATE_GOAL, [(one.rate, two.rate) for one, two in pairs]),
        (", median", "ms", P99_GOAL, [(one.median, two.median) for one, two in pairs]),
        (", 99th percentile", "ms", P99_GOAL, [(one.p99, two.p99) for one, two in pairs]),
    ):
        name = f"search by HTTP, with Elasticsearch{what}"
        row = Row(name, configuration, OURS, BASELINE, unit, values, goal)
        yield profiled(row, env, paths, "GET", env.scale.search_connections)


def _paths(env: Environment) -> list[str]:
    """Searches for the starts of messages that need not be encoded."""
    starts = {text[:KEYWORD_LENGTH] for text in env.texts}
    plain = sorted(start for start in starts if start.isascii() and start.isalpha())
    messages = f"/api/v1/applications/{env.chat.token}/chats/{env.chat.number}/messages"
    step = max(len(plain) // KEYWORDS, 1)
    return [f"{messages}?keyword={keyword}&limit={PAGE_SIZE}" for keyword in plain[::step]]
