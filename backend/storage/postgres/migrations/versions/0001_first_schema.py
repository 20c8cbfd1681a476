"""First schema: applications, chats, messages, the shards' cursors, outbox, dead letters."""

from alembic import op

revision = "0001"
down_revision = None

SHARDS = 64
FIRST_SHARD = 16  # see 0010


def upgrade() -> None:
    """Create every table; the shards are fixed here, once."""
    op.execute(
        """
        CREATE TYPE row_state AS ENUM ('stored', 'removed', 'dead', 'lost');

        -- One row. publishing: whether changes are named in the outbox, for every process alike.
        CREATE TABLE installation (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            shards smallint NOT NULL,
            publishing boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT now()
        );

        -- epoch: the authority over lives of Redis. cursor: the last log entry that is stored.
        -- dropped: events that belonged to a tombstone.
        CREATE TABLE shard (
            number smallint PRIMARY KEY,
            epoch bigint NOT NULL DEFAULT 0,
            cursor_epoch bigint NOT NULL DEFAULT 0,
            cursor_sequence bigint NOT NULL DEFAULT 0,
            dropped bigint NOT NULL DEFAULT 0,
            drained_at timestamptz
        );

        -- *_issued follows Redis within the hour (sync-counters); *_removed is exact at all times.
        CREATE TABLE application (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            chats_issued bigint NOT NULL DEFAULT 0,
            chats_removed bigint NOT NULL DEFAULT 0,
            chats_count bigint GENERATED ALWAYS AS (greatest(chats_issued - chats_removed, 0)) STORED,
            version bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            removed_at timestamptz,
            token text COLLATE "C" NOT NULL UNIQUE,
            name text NOT NULL
        );

        CREATE TABLE chat (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            application_id bigint NOT NULL REFERENCES application,
            number bigint NOT NULL CHECK (number > 0),
            messages_issued bigint NOT NULL DEFAULT 0,
            messages_removed bigint NOT NULL DEFAULT 0,
            messages_count bigint
                GENERATED ALWAYS AS (greatest(messages_issued - messages_removed, 0)) STORED,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            removed_at timestamptz,
            state row_state NOT NULL DEFAULT 'stored',
            UNIQUE (application_id, number)
        );

        -- No foreign key to chat: checking it for each row of a COPY costs more than the COPY.
        -- The drain looks each chat up under the shard's lock, the only place that removes chats.
        CREATE TABLE message (
            chat_id bigint NOT NULL,
            number bigint NOT NULL CHECK (number > 0),
            version bigint NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            removed_at timestamptz,
            state row_state NOT NULL DEFAULT 'stored',
            text text NOT NULL,
            folded text NOT NULL,
            PRIMARY KEY (chat_id, number)
        );

        -- messages: [[chat_id, number, version], …] changed by one transaction.
        CREATE TABLE outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT now(),
            leased_until timestamptz,
            messages jsonb NOT NULL
        );

        -- key names a letter towards operators, and makes keeping it idempotent. The event is kept
        -- as bytes: it may be what PostgreSQL refuses as text.
        CREATE TABLE dead_letter (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            key text COLLATE "C" NOT NULL UNIQUE,
            kind text NOT NULL CHECK (kind IN ('drain', 'publish')),
            reason text NOT NULL,
            token text,
            chat bigint,
            number bigint,
            event bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        """
    )
    op.execute(f"INSERT INTO installation (shards) VALUES ({SHARDS})")
    last = FIRST_SHARD + SHARDS - 1
    op.execute(f"INSERT INTO shard (number) SELECT generate_series({FIRST_SHARD}, {last})")
