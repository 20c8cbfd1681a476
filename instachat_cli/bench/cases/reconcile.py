"""reconcile, against reading the same stores once with the same drivers; and its memory as they grow."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from sqlalchemy import text

from backend.domain.model import Parent
from backend.search.index_walk import PAGE_ROWS
from backend.storage.postgres import message_states, search_indices
from backend.storage.postgres.reindex_state import START_KEY
from backend.storage.search_index import Document
from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.memory import peak_memory
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

MESSAGES_PER_CHAT = 1_000
COUNTERS_PER_CALL = 500
DOCUMENTS_PER_CALL = 25_000
GOAL = Goal(must=2.5, at_most=True)
FLAT = Goal(must=1.2, at_most=True)


def measure(env: Environment) -> Iterator[Row]:
    """Reconcile PostgreSQL and Valkey without differences, the usual case."""
    yield from _measure(env, "PostgreSQL and Valkey", env.scale.rows)


def measure_with_index(env: Environment) -> Iterator[Row]:
    """Reconcile all three stores, without the largest size, which takes minutes to index."""
    if env.backend.index is not None:
        rows = [size for size in env.scale.rows if size <= env.scale.compared]
        yield from _measure(env, "all three stores", rows)


def _measure(env: Environment, sides: str, rows: Sequence[int]) -> Iterator[Row]:
    largest = max(rows)
    sizes = sorted({*rows, env.scale.compared})
    peaks: dict[int, float] = {}
    for size in sizes:
        _fill_stores(env, size)
        if size in rows:
            peaks[size] = peak_memory(env, "reconcile")
        if size == env.scale.compared:
            yield run_pairs(
                "reconcile",
                f"{size:,} messages in {sides}, {MESSAGES_PER_CHAT:,} a chat",
                Side("compare key by key", env.check_consistent),
                Side("read once", lambda: _read_all(env)),
                pairs=env.scale.slow_pairs,
                goal=GOAL,
            )
    curve = ", ".join(f"{peak:.0f} MiB for {size:,}" for size, peak in peaks.items())
    smallest = min(peaks)
    pairs = [(peaks[largest], peaks[smallest])]
    yield Row(
        "memory of reconcile",
        f"{sides}; {curve}",
        f"{largest:,} messages",
        f"{smallest:,} messages",
        "MB",
        pairs,
        FLAT,
    )


def _read_all(env: Environment) -> None:
    """Read the rows in order, each counter and each document into Python, and discard them."""
    backend = env.backend
    with backend.database.snapshot() as snapshot:
        for _ in message_states.iter_states(snapshot, None):
            pass
        live = search_indices.live_index(snapshot) if backend.index else None
    pages: dict[int, list[Parent]] = {}
    servers = backend.log.group_by_server(backend.database.installation.all_shards)
    for parent in chain.from_iterable(map(backend.log.scan_parents, servers)):
        page = pages.setdefault(backend.counters.shard(parent.token), [])
        page.append(parent)
        if len(page) == COUNTERS_PER_CALL:
            _read_counters(env, page)
            page.clear()
    for page in pages.values():
        _read_counters(env, page)
    if backend.index and live:
        with backend.index.point_in_time(live.name) as read_documents:
            after, more = START_KEY, True
            while more:
                documents, more = read_documents(after, None, PAGE_ROWS)
                if documents:
                    after = documents[-1][:2]


def _read_counters(env: Environment, parents: Sequence[Parent]) -> None:
    if parents:
        env.backend.log.inspect(env.backend.counters.shard(parents[0].token), parents)


def _fill_stores(env: Environment, size: int) -> None:
    """Fill all stores with `size` messages directly, since accept and drain are not measured here."""
    token, shard = env.chat.token, env.chat.shard
    backend = env.backend
    chats = max(size // MESSAGES_PER_CHAT, 1)
    each = size // chats
    with backend.database.begin() as tx:
        tx.execute(text("TRUNCATE chat, message, message_block, outbox"))
        tx.execute(
            text(
                """
                INSERT INTO chat (application_id, number, created_at, updated_at)
                SELECT id, n, now(), now() FROM application, generate_series(1, :chats) n
                WHERE token = :token ORDER BY n;
                INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
                SELECT id, n, 1, now(), now(), :words, :words
                FROM chat, generate_series(1, :each) n ORDER BY id, n"""
            ),
            {"token": token, "chats": chats, "each": each, "words": "how are you today? " * 4},
        )
    with backend.database.connect() as connection:
        connection.execute(text("ANALYZE chat, message"))
    counters = {Parent(token, n): each for n in range(1, chats + 1)} | {Parent(token): chats}
    backend.log.raise_all(shard, _epoch(env), counters, create=True)
    if backend.index:
        _fill_index(SearchEnvironment(env))


def _epoch(env: Environment) -> int:
    return env.backend.log.inspect(env.chat.shard, [])[1].epoch


def _fill_index(elastic: SearchEnvironment) -> None:
    """Recreate the live index, and write a document for each stored message."""
    index, name, database = elastic.index, elastic.live_name, elastic.env.backend.database
    index.drop(name)
    index.create(name)
    index.set_read_alias(name)
    with database.snapshot() as snapshot:
        rows = message_states.iter_states(snapshot, None)
        while page := list(islice(rows, DOCUMENTS_PER_CALL)):
            index.write(name, [Document(*row[:3], "how are you today?") for row in page])
    with database.begin() as tx:
        search_indices.mark_made(tx, name)
