"""Reconcile, against reading the same sides once with the same drivers; and its memory as they grow."""

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import text

from backend.domain.errors import Failed
from backend.domain.model import Parent
from backend.storage.elasticsearch.index import Document, Index
from backend.storage.postgres import PAGE, message_states, search_indices
from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.memory import peak_memory
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, duel

MESSAGES_A_CHAT = 1_000
COUNTERS_AT_ONCE = 500
GOAL = Goal(must=2.5, at_most=True)
FLAT = Goal(must=1.2, at_most=True)


def measure(ground: Ground) -> Iterator[Row]:
    """PostgreSQL and Valkey, which agree, as nearly always."""
    yield from _measure(ground, "PostgreSQL and Valkey", ground.scale.rows)


def measure_with_index(ground: Ground) -> Iterator[Row]:
    """All three stores; not of the largest size, as indexing that takes minutes."""
    if ground.backend.index is not None:
        rows = [size for size in ground.scale.rows if size <= ground.scale.compared]
        yield from _measure(ground, "all three stores", rows)


def _measure(ground: Ground, sides: str, rows: Sequence[int]) -> Iterator[Row]:
    largest = max(rows)
    sizes = sorted({*rows, ground.scale.compared})
    peaks: dict[int, float] = {}
    for size in sizes:
        _grow(ground, size)
        if size in rows:
            peaks[size] = peak_memory(ground, "reconcile")
        if size == ground.scale.compared:
            yield duel(
                "reconcile",
                f"{size:,} messages in {sides}, {MESSAGES_A_CHAT:,} a chat",
                Side("compare key by key", lambda: compare(ground)),
                Side("read once", lambda: _read(ground)),
                pairs=ground.scale.reads,
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


def compare(ground: Ground) -> None:
    for finding in ground.backend.reconciler.begin().findings():
        raise Failed(f"a benchmark's stores differ: {finding}")


def _read(ground: Ground) -> None:
    """The rows in order, each counter, each document: into Python, and no further."""
    backend = ground.backend
    with backend.database.snapshot() as snapshot:
        for _ in message_states.states(snapshot, None):
            pass
        live = search_indices.live_index(snapshot) if backend.index else None
    pages: dict[int, list[Parent]] = {}
    for parent in backend.log.parents():
        page = pages.setdefault(backend.counters.shard(parent.token), [])
        page.append(parent)
        if len(page) == COUNTERS_AT_ONCE:
            _read_counters(ground, page)
            page.clear()
    for page in pages.values():
        _read_counters(ground, page)
    if backend.index and live:
        for _ in backend.index.states(live.name):
            pass


def _read_counters(ground: Ground, parents: Sequence[Parent]) -> None:
    if parents:
        ground.backend.log.look(ground.backend.counters.shard(parents[0].token), parents)


def _grow(ground: Ground, size: int) -> None:
    """Have so many messages in all stores: past the log, which is not what is measured."""
    token, shard = ground.chat.token, ground.chat.shard
    backend = ground.backend
    chats = max(size // MESSAGES_A_CHAT, 1)
    each = size // chats
    with backend.database.begin() as tx:
        tx.execute(text("TRUNCATE chat, message, outbox"))
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
    backend.log.raise_all(shard, _epoch(ground), counters, create=True)
    if backend.index:
        _index(ground, backend.index)


def _epoch(ground: Ground) -> int:
    return ground.backend.log.look(ground.chat.shard, [])[1].epoch


def _index(ground: Ground, index: Index) -> None:
    with ground.backend.database.snapshot() as snapshot:
        live = search_indices.live_index(snapshot)
        if live is None:
            raise Failed("the benchmark's database has no search index")
        index.drop(live.name)
        index.create(live.name)
        index.read_from(live.name)
        rows = message_states.states(snapshot, None)
        while page := list(islice(rows, 25 * PAGE)):
            index.write(live.name, [Document(*row[:3], "how are you today?") for row in page])
    with ground.backend.database.begin() as tx:
        search_indices.mark_made(tx, live.name)
