"""The tables, declared once: the columns, types, keys and indexes that the statements are built from.

Migrations create and change the tables; nothing here does. A test compares this module with a migrated
database. Importing it takes some milliseconds, so neither the package nor `database` imports it: commands
that do not read SQL start without it.
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.sql.naming import conv

metadata = MetaData(
    naming_convention={  # PostgreSQL's own names: the migrations name no constraint
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
    }
)
row_state = ENUM("stored", "removed", "dead", "lost", name="row_state", metadata=metadata)
TIME = DateTime(timezone=True)
C_TEXT = Text(collation="C")
NOW = text("now()")


def _identity() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _of_application() -> Column[int]:
    """The key of a table with at most one row for each application."""
    return Column(
        "application_id",
        BigInteger,
        ForeignKey("application.id"),
        primary_key=True,
        autoincrement=False,
    )


def _singleton(table: str) -> Column[bool]:
    """The key of a table that has at most one row."""
    return Column(
        "singleton",
        Boolean,
        CheckConstraint("singleton", name=conv(f"{table}_singleton_check")),
        primary_key=True,
        server_default=text("true"),
    )


def _time(name: str) -> Column[Any]:
    return Column(name, TIME, nullable=False, server_default=NOW)


def _live_count(children: str) -> Column[int]:
    # The expression as PostgreSQL prints it, else Alembic cannot compare it.
    expression = f"GREATEST(({children}_issued - {children}_removed), (0)::bigint)"
    return Column(f"{children}_count", BigInteger, Computed(expression, persisted=True))


installation = Table(
    "installation",
    metadata,
    _singleton("installation"),
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("shards", SmallInteger, nullable=False),
    Column("publishing", Boolean, nullable=False, server_default=text("false")),
    _time("created_at"),
    Column("compatible_since", Text, nullable=False, server_default=text("'0007'")),
    Column("first_shard", SmallInteger, nullable=False, server_default=text("0")),
    Column("hash_first_shard", SmallInteger),
    Column("hash_shards", SmallInteger),
    Column("target_first_shard", SmallInteger),
    Column("target_shards", SmallInteger),
    Column("moved_at", TIME),
    _count("rotations"),
)
shard = Table(
    "shard",
    metadata,
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    _count("epoch"),
    _count("cursor_epoch"),
    _count("cursor_sequence"),
    _count("dropped"),
    Column("drained_at", TIME),
    _count("stored"),
    _count("synced_epoch"),
    Column("synced_at", TIME),
    _count("lost"),
    Column("rewound_at", TIME),
    _count("ahead_epoch"),
    _count("ahead_sequence"),
    Column("deferred", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("epoch_server", Text),
)
application = Table(
    "application",
    metadata,
    _identity(),
    _count("chats_issued"),
    _count("chats_removed"),
    _live_count("chats"),
    Column("version", BigInteger, nullable=False),
    _time("created_at"),
    _time("updated_at"),
    Column("removed_at", TIME),
    Column("token", C_TEXT, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("rows_left", Boolean, nullable=False, server_default=text("false")),
    Column("shard", SmallInteger),
    _count("moves"),
    Column("moved_from", ARRAY(SmallInteger), nullable=False, server_default=text("'{}'")),
    Column("moved_at", TIME),
    _count("moved_epoch"),
    _count("moved_sequence"),
    Column("counters_left", Boolean, nullable=False, server_default=text("false")),
    Column("current_token", C_TEXT),
    Index("application_rows_left", "id", postgresql_where=text("rows_left")),
    Index("application_created_at", "created_at", "id"),
    Index("application_counters_left", "id", postgresql_where=text("counters_left")),
    Index("application_moved_at", "moved_at", postgresql_where=text("moved_from <> '{}'")),
    Index(
        "application_current_token",
        "current_token",
        postgresql_where=text("current_token IS NOT NULL"),
    ),
)
chat = Table(
    "chat",
    metadata,
    _identity(),
    Column("application_id", BigInteger, ForeignKey("application.id"), nullable=False),
    Column(
        "number",
        BigInteger,
        CheckConstraint("number > 0", name=conv("chat_number_check")),
        nullable=False,
    ),
    _count("messages_issued"),
    _count("messages_removed"),
    _live_count("messages"),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    Column("removed_at", TIME),
    Column("state", row_state, nullable=False, server_default=text("'stored'")),
    Column("rows_left", Boolean, nullable=False, server_default=text("false")),
    Column("first_lost", BigInteger),
    UniqueConstraint("application_id", "number"),
    Index("chat_rows_left", "id", postgresql_where=text("rows_left")),
)
message = Table(
    "message",
    metadata,
    # No foreign key: checking it for each row of a COPY costs more than the COPY.
    Column("chat_id", BigInteger),
    Column("number", BigInteger, CheckConstraint("number > 0", name=conv("message_number_check"))),
    Column("version", BigInteger, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    Column("removed_at", TIME),
    Column("state", row_state, nullable=False, server_default=text("'stored'")),
    Column("text", Text, nullable=False),
    Column("folded", Text, nullable=False),
    Column("first_lost", BigInteger),
    PrimaryKeyConstraint("chat_id", "number"),
)
message_block = Table(
    "message_block",
    metadata,
    Column("chat_id", BigInteger),
    Column("block", BigInteger),
    Column("earliest", TIME, nullable=False),
    Column("latest", TIME, nullable=False),
    PrimaryKeyConstraint("chat_id", "block"),
)
outbox = Table(
    "outbox",
    metadata,
    _identity(),
    _time("created_at"),
    Column("leased_until", TIME),
    Column("size", BigInteger, Computed("cardinality(numbers)", persisted=True)),
    Column("chats", ARRAY(BigInteger), nullable=False),
    Column("numbers", ARRAY(BigInteger), nullable=False),
    Column("versions", ARRAY(BigInteger), nullable=False),
    Column("published_at", TIME),
    Index(
        "outbox_chats",
        "chats",
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 256},
    ),
)
dead_letter = Table(
    "dead_letter",
    metadata,
    _identity(),
    Column("key", C_TEXT, nullable=False, unique=True),
    Column(
        "kind",
        Text,
        CheckConstraint("kind IN ('drain', 'publish')", name=conv("dead_letter_kind_check")),
        nullable=False,
    ),
    Column("reason", Text, nullable=False),
    Column("token", Text),
    Column("chat", BigInteger),
    Column("number", BigInteger),
    Column("event", LargeBinary, nullable=False),
    _time("created_at"),
    Index(
        "dead_letter_unpublished",
        "token",
        "chat",
        "number",
        postgresql_where=text("kind = 'publish'"),
    ),
)
search_index = Table(
    "search_index",
    metadata,
    Column("name", C_TEXT, primary_key=True),
    Column(
        "state",
        Text,
        CheckConstraint(
            "state IN ('building', 'live', 'previous')", name=conv("search_index_state_check")
        ),
        nullable=False,
    ),
    Column("mapping", SmallInteger, nullable=False),
    _count("copied_chat"),
    _count("copied_number"),
    Column("made_at", TIME),
    _time("created_at"),
    UniqueConstraint("state", deferrable=True),
)
reconciliation = Table(
    "reconciliation",
    metadata,
    _singleton("reconciliation"),
    Column("finished_at", TIME, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("findings", BigInteger, nullable=False),
    Column("mended", BigInteger, nullable=False),
)
reshard = Table(
    "reshard",
    metadata,
    _singleton("reshard"),
    Column("to_move", BigInteger, nullable=False),
)
lease = Table(
    "lease",
    metadata,
    Column("name", C_TEXT, primary_key=True),
    Column("term", Uuid, nullable=False),
    Column("taken_at", TIME, nullable=False),
    Column("expires_at", TIME, nullable=False),
    Column("holder", Text, nullable=False),
)
operator_change = Table(
    "operator_change",
    metadata,
    _identity(),
    _time("started_at"),
    Column("finished_at", TIME),
    Column("actor", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("result", Text),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)
retention = Table(
    "retention",
    metadata,
    _of_application(),
    Column("seconds", BigInteger, nullable=False),
    Column("pass_until", TIME),
    _count("pass_chat"),
    Column("passed_at", TIME),
)
rate_limit = Table(
    "rate_limit",
    metadata,
    _of_application(),
    Column("per_second", BigInteger, nullable=False),
)
